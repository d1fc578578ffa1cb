#include <stdint.h>
#include <stdio.h>

#include "commands/command_recipe.h"
#include "commands/commands.h"
#include "commands/measure/critique.h"
#include "commands/measure/evaluate.h"
#include "commands/measure/filter.h"
#include "commands/workers.h"
#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/text.h"

/* The recipe, and this process on the cpus of offline work; the caller releases the recipe. out:
 * where the result goes; NULL: to stdout. */
static int begin(const struct command_line *line, const char *out, struct recipe *recipe,
                 int *threads)
{
    struct cpu_set_list cpus;
    int rc = out != NULL ? file_can_write(out) : 0;
    if (rc < 0 || (rc = command_recipe(line, NULL, 0, recipe)) < 0)
        return rc;
    rc = worker_placement(recipe, WORKER_OFFLINE, 0, &cpus, threads);
    if (rc == 0)
        rc = placement_pin(&cpus);
    if (rc < 0)
        recipe_release(recipe);
    return rc;
}

int command_eval(const struct command_line *line)
{
    const char *run = command_value(line, "run"), *model = command_value(line, "model");
    const char *label = command_value(line, "label");
    if (run != NULL) {
        if (model == NULL)
            return error_set(HONE_EINVAL, "eval --run needs --model and --label");
        return worker_run_eval(run, label, model);
    }
    if (line->positional_count == 0)
        return error_set(HONE_EINVAL, "eval: name a recipe (and --model DIR to evaluate another "
                                      "checkpoint than its model.path)");
    struct recipe recipe;
    struct evaluate_result result;
    int threads;
    int rc = begin(line, command_value(line, "samples"), &recipe, &threads);
    if (rc < 0)
        return rc;
    const struct evaluate_options options =
        evaluate_as_asked(&recipe, model != NULL ? model : recipe.model.path,
                          command_value(line, "samples"), threads);
    rc = evaluate(&recipe, &options, &result);
    if (rc == 0) {
        struct text json;
        text_init(&json);
        evaluate_print_json(&result, &json);
        fputs(json.data, stdout);
        text_release(&json);
    }
    recipe_release(&recipe);
    return rc;
}

int command_filter(const struct command_line *line)
{
    const char *model = command_value(line, "model"), *out = command_value(line, "out");
    struct recipe recipe;
    int64_t samples, limit;
    int threads;
    int rc = command_int(line, "samples", 1, 65536, &samples);
    if (rc < 0 || (rc = command_int(line, "limit", 0, INT64_MAX, &limit)) < 0)
        return rc;
    if (out == NULL)
        return error_set(HONE_EINVAL, "filter: --out FILE is needed: where the pools are written");
    if ((rc = begin(line, out, &recipe, &threads)) < 0)
        return rc;
    rc = filter_prompts(&recipe, model != NULL ? model : recipe.model.path, out, (int32_t)samples,
                        limit, threads);
    recipe_release(&recipe);
    return rc;
}

int command_critique(const struct command_line *line)
{
    const char *run = command_value(line, "run"), *out = command_value(line, "out");
    struct recipe recipe;
    int threads;
    if (run != NULL)
        return worker_run_critique(run);
    if (line->positional_count == 0 || out == NULL)
        return error_set(HONE_EINVAL, "critique: name a recipe and --out FILE for the votes");
    int rc = begin(line, out, &recipe, &threads);
    if (rc < 0)
        return rc;
    rc = critique_rows(&recipe, recipe.model.path, out, threads);
    recipe_release(&recipe);
    return rc;
}
