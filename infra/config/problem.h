/* Problems found while reading input: all of them, each one line, in the order found.
 *
 *     recipe.yaml:12:5: unknown key 'lerning_rate' (did you mean 'learning_rate'?)
 *     --set rl.steps=many: rl.steps: expected an integer, got 'many'
 *
 * Owned by one caller; problems_init before, problems_release after. */
#ifndef HONE_CONFIG_PROBLEM_H
#define HONE_CONFIG_PROBLEM_H

#include <stdbool.h>
#include <stdint.h>

#include "infra/base/text.h"

#define PROBLEMS_MAX 100 /* lines kept; further ones are counted */

/* Where a value came from. line 0: not from a file (an override); source is then its text. */
struct source_place {
    const char *source; /* borrowed: file path or "--set a.b=c" */
    int32_t line, column;
};

struct problems {
    struct text text; /* lines, each ended by a newline */
    int32_t count;
};

/* Where each given key stands, for the messages of later checks. Keys are owned, sources are not.
 */
struct key_place {
    char *key; /* "rl.group_size", "reward.parts.0.weight" */
    struct source_place place;
    bool bad; /* a problem was reported for its value, which is then the default */
};

struct place_list {
    struct key_place *items;
    int32_t count, capacity;
};

void problems_init(struct problems *problems);
void problems_release(struct problems *problems);
void problems_add(struct problems *problems, const struct source_place *place, const char *format,
                  ...) __attribute__((format(printf, 3, 4)));
/* 0 when there are none; else sets the error record to the first problem and the number of further
 * ones, and returns HONE_EINVAL. */
int problems_result(const struct problems *problems);

void place_list_add(struct place_list *list, const char *key, const struct source_place *place);
/* Place of the key, else of its nearest enclosing key; NULL when none was given. */
const struct source_place *place_list_find(const struct place_list *list, const char *key);
/* Whether the key itself was given. */
bool place_list_has(const struct place_list *list, const char *key);
/* Whether the key itself was given and bad. */
bool place_list_is_bad(const struct place_list *list, const char *key);
void place_list_release(struct place_list *list);

#endif
