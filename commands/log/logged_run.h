/* A run's directory as the commands that read its log see it. */
#ifndef HONE_COMMANDS_LOGGED_RUN_H
#define HONE_COMMANDS_LOGGED_RUN_H

#include "infra/config/recipe.h"
#include "infra/launch/run_directory.h"
#include "infra/store/run_log.h"

/* The run and the recipe that it was started with; both are released by the caller. */
int logged_run_open(const char *path, struct run_directory *run, struct recipe *recipe);
/* Its log, read-only. */
int logged_run_log(const struct run_directory *run, struct run_log **log);

#endif
