/* The recipe that a command line names first, with its overrides: `--set a.b=c` and bare `a.b=c`.
 */
#ifndef HONE_COMMANDS_COMMAND_RECIPE_H
#define HONE_COMMANDS_COMMAND_RECIPE_H

#include "infra/config/command.h"
#include "infra/config/recipe.h"

/* more: overrides of the command itself, applied last. Every problem is printed to stderr; the
 * error counts them. What the recipe names must be on this machine. */
int command_recipe(const struct command_line *line, const char *const *more, int more_count,
                   struct recipe *recipe);
/* The same of a recipe whose files are elsewhere. */
int command_recipe_anywhere(const struct command_line *line, struct recipe *recipe);

#endif
