#include "commands/stages.h"

#include <stdio.h>
#include <string.h>

#include "infra/base/error.h"
#include "infra/base/memory.h"
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

json_t *waiting_read(const struct run_directory *run, struct text *text)
{
    enum { WAITING_MAX_BYTES = 1 << 20 };
    char path[HONE_PATH_MAX], *data;
    size_t bytes;
    run_directory_file(run, path, sizeof path, "rl/waiting.json");
    if (!file_exists(path) || file_read(path, WAITING_MAX_BYTES, &data, &bytes) < 0) {
        error_clear();
        return NULL;
    }
    json_t *json = json_loadb(data, bytes, JSON_REJECT_DUPLICATES, NULL);
    text_clear(text);
    if (json_is_object(json))
        text_append_bytes(text, data, bytes);
    memory_free(data);
    if (json_is_object(json))
        return json;
    json_decref(json);
    return NULL;
}
