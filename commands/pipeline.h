/* `hone run`: the stages of a recipe one after another, each in processes of its own, with
 * evaluation between them, in a run directory that can be continued after any kill. */
#ifndef HONE_COMMANDS_PIPELINE_H
#define HONE_COMMANDS_PIPELINE_H

#include "infra/config/recipe.h"

/* Runs what is not done yet and prints the final table. binary: path of this program, for the
 * workers. */
int pipeline_run(const struct recipe *recipe, const char *binary);
/* Prints the final table of a run directory from its eval files, and writes RUN/summary.json. */
struct run_directory;
int pipeline_summary(const struct recipe *recipe, const struct run_directory *run);

#endif
