/* Checks of a recipe that concern several values or the file system; single values are checked by
 * the field tables. Every problem names its key and, where it was given, file, line and column. */
#ifndef HONE_CONFIG_PREFLIGHT_H
#define HONE_CONFIG_PREFLIGHT_H

#include "infra/config/problem.h"
#include "infra/config/recipe.h"

/* What the recipe alone shows. recipe_load calls it. */
void preflight_values(const struct recipe *recipe, struct problems *problems);
/* What the recipe's paths point to: the model directory and data files of the stages that will run.
 */
void preflight_check(const struct recipe *recipe, struct problems *problems);

#endif
