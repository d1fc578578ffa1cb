#include "commands/command_recipe.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "infra/base/error.h"
#include "infra/base/text.h"
#include "infra/config/preflight.h"
#include "infra/config/problem.h"
#include "reward/reward_set.h"

/* The verifier with the name nearest to one that does not exist. */
static const char *nearest_verifier(const char *name)
{
    const char *nearest = "";
    int best = INT32_MAX;
    for (int i = 0; verifier_at(i) != NULL; ++i) {
        int distance = text_distance(name, verifier_at(i)->name);
        if (distance < best) {
            best = distance;
            nearest = verifier_at(i)->name;
        }
    }
    return nearest;
}

/* What the recipe's own checks cannot see: which verifiers this program has. */
static void check_verifiers(const struct recipe *recipe, struct problems *problems)
{
    for (int32_t i = 0; i < recipe->reward.parts.count; ++i) {
        const char *verifier = recipe->reward.parts.items[i].verifier;
        if (strcmp(verifier, "command") == 0 || verifier_find(verifier) != NULL)
            continue;
        char key[64];
        snprintf(key, sizeof key, "reward.parts.%d.verifier", i);
        struct source_place place = recipe_place_of(recipe, key);
        problems_add(problems, &place, "%s: unknown verifier '%s' (did you mean '%s'?)", key,
                     verifier, nearest_verifier(verifier));
    }
}

/* That, and whether the files are there. */
static void check_machine(const struct recipe *recipe, struct problems *problems)
{
    preflight_check(recipe, problems);
    check_verifiers(recipe, problems);
}

static int read_recipe(const struct command_line *line, const char *const *more, int more_count,
                       bool has_files, struct recipe *recipe)
{
    const char *overrides[COMMAND_VALUES_MAX * 2];
    int count = 0;
    const char *value;
    for (int i = 0; (value = command_value_at(line, "set", i)) != NULL; ++i)
        overrides[count++] = value;
    for (int i = 1; i < line->positional_count; ++i)
        overrides[count++] = line->positional[i];
    for (int i = 0; i < more_count; ++i)
        overrides[count++] = more[i];
    struct problems problems;
    problems_init(&problems);
    struct recipe_source source = {.path = line->positional[0],
                                   .overrides = overrides,
                                   .override_count = count,
                                   .check = has_files ? check_machine : check_verifiers};
    int rc = recipe_read(recipe, &source, &problems);
    if (problems.count > 0) {
        fputs(problems.text.data, stderr);
        error_set(HONE_EINVAL, "%s: %d problem%s", line->positional[0], problems.count,
                  problems.count == 1 ? "" : "s");
    }
    problems_release(&problems);
    return rc;
}

int command_recipe(const struct command_line *line, const char *const *more, int more_count,
                   struct recipe *recipe)
{
    return read_recipe(line, more, more_count, true, recipe);
}

int command_recipe_anywhere(const struct command_line *line, struct recipe *recipe)
{
    return read_recipe(line, NULL, 0, false, recipe);
}
