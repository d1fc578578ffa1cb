/* Overrides, one a line, over a recipe that is complete: each is applied or named in a problem. */
#include "infra/config/recipe.h"
#include "tests/fuzz/input_file.h"

enum { OVERRIDES_MAX = 32 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    const char *overrides[OVERRIDES_MAX] = {"model.path=base", "sft.data.path=a.jsonl",
                                            "rl.data.path=b.jsonl", "eval.data.path=c.jsonl",
                                            "reward.parts.0.verifier=exact"};
    int count = 5;
    struct recipe recipe;
    struct problems problems;
    struct text printed;
    char *text = input_string(&data, &bytes), *save = NULL;
    for (char *line = strtok_r(text, "\n", &save); line != NULL && count < OVERRIDES_MAX;
         line = strtok_r(NULL, "\n", &save))
        overrides[count++] = line;
    problems_init(&problems);
    text_init(&printed);
    if (recipe_load(&recipe, NULL, overrides, count, &problems) == 0) {
        HONE_ASSERT(problems.count == 0);
        recipe_print(&recipe, &printed);
        HONE_ASSERT(printed.length > 0);
        recipe_release(&recipe);
    } else {
        HONE_ASSERT(problems.count > 0);
    }
    text_release(&printed);
    problems_release(&problems);
    memory_free(text);
    return 0;
}
