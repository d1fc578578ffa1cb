#include "commands/stages.h"

#include <stdio.h>
#include <string.h>

#include "infra/base/error.h"
#include "infra/model/checkpoint.h"

const char *stage_output_model(const struct run_directory *run, const char *stage, char *buffer,
                               size_t capacity)
{
    char relative[64];
    snprintf(relative, sizeof relative, "%s/final", stage);
    return path_join(buffer, capacity, run->path, relative);
}

int stage_input_model(const struct recipe *recipe, const struct run_directory *run,
                      const char *stage, char *buffer, size_t capacity)
{
    const char *previous = NULL;
    for (int32_t i = 0; i < recipe->stages.count; ++i) {
        if (strcmp(recipe->stages.items[i], stage) == 0)
            break;
        previous = recipe->stages.items[i];
    }
    if (previous == NULL) {
        const char *path = recipe->model.init.method == RECIPE_INIT_NONE
                               ? recipe->model.path
                               : recipe->model.init.tokenizer;
        snprintf(buffer, capacity, "%s", path);
        return 0;
    }
    stage_output_model(run, previous, buffer, capacity);
    if (checkpoint_verify(buffer) < 0)
        return error_prefix("stage %s starts from %s, which is not there: run stage %s first",
                            stage, buffer, previous);
    return 0;
}

bool stage_is_done(const struct run_directory *run, const char *stage)
{
    char path[HONE_PATH_MAX];
    return checkpoint_verify(stage_output_model(run, stage, path, sizeof path)) == 0;
}
