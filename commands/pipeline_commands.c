#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "commands/command_recipe.h"
#include "commands/commands.h"
#include "commands/pipeline.h"
#include "commands/workers.h"
#include "infra/base/error.h"

static int own_binary(char *buffer, size_t capacity)
{
    ssize_t length = readlink("/proc/self/exe", buffer, capacity - 1);
    if (length < 0)
        return error_errno("readlink /proc/self/exe");
    buffer[length] = '\0';
    return 0;
}

static int run_recipe(const struct command_line *line, const char *const *more, int more_count)
{
    struct recipe recipe;
    char binary[HONE_PATH_MAX];
    int rc = own_binary(binary, sizeof binary);
    if (rc == 0)
        rc = command_recipe(line, more, more_count, &recipe);
    if (rc < 0)
        return rc;
    rc = pipeline_run(&recipe, binary);
    recipe_release(&recipe);
    return rc;
}

int command_run(const struct command_line *line)
{
    return run_recipe(line, NULL, 0);
}

int command_check(const struct command_line *line)
{
    struct recipe recipe;
    struct text text;
    if (command_flag(line, "schema") || command_flag(line, "reference")) {
        text_init(&text);
        if (command_flag(line, "schema"))
            recipe_schema_json(&text);
        else
            recipe_reference_markdown(&text);
        fputs(text.data, stdout);
        text_release(&text);
        return 0;
    }
    if (line->positional_count == 0)
        return error_set(HONE_EINVAL, "check: name a recipe, or --schema or --reference");
    int rc = command_recipe(line, NULL, 0, &recipe);
    if (rc < 0)
        return rc;
    text_init(&text);
    recipe_print(&recipe, &text);
    fputs(text.data, stdout);
    text_release(&text);
    recipe_release(&recipe);
    return 0;
}

/* sft, rl, dpo: with --run a worker of a run directory; with a recipe, a run of that one stage. */
static int single_stage(const struct command_line *line, const char *stage,
                        int (*worker)(const char *run_path))
{
    const char *run = command_value(line, "run");
    if (run != NULL)
        return worker(run);
    if (line->positional_count == 0)
        return error_set(HONE_EINVAL, "%s: name a recipe", stage);
    char stages[32];
    snprintf(stages, sizeof stages, "stages=[%s]", stage);
    const char *more[] = {stages};
    return run_recipe(line, more, 1);
}

int command_sft(const struct command_line *line)
{
    return single_stage(line, "sft", worker_run_sft);
}

static int learner_of_run(const char *run_path)
{
    return worker_run_learner(&(struct worker_start){.run_path = run_path});
}

int command_rl(const struct command_line *line)
{
    return single_stage(line, "rl", learner_of_run);
}

int command_dpo(const struct command_line *line)
{
    return single_stage(line, "dpo", worker_run_dpo);
}

int command_curriculum(const struct command_line *line)
{
    const char *run = command_value(line, "run");
    if (run == NULL)
        return error_set(HONE_EINVAL, "curriculum: --run DIR is needed: the run directory");
    return worker_run_curriculum(run);
}

/* A worker of a run directory, or one that joins a hub with a recipe and keys. */
static int run_worker(const struct command_line *line,
                      int (*worker)(const struct worker_start *start))
{
    const char *word = line->command->name;
    struct recipe recipe;
    int64_t index;
    struct worker_start start = {.run_path = command_value(line, "run"),
                                 .join = command_value(line, "join"),
                                 .keys = command_value(line, "keys"),
                                 .name = command_value(line, "name"),
                                 .model = command_value(line, "model"),
                                 .recipe = &recipe};
    int rc = command_int(line, "index", 0, 100000, &index);
    if (rc < 0)
        return rc;
    start.index = (int)index;
    if ((start.run_path != NULL) == (start.join != NULL))
        return error_set(HONE_EINVAL,
                         "%s: either --run DIR, or --join tcp://HOST:PORT --keys DIR RECIPE", word);
    if (start.run_path != NULL && line->positional_count == 0)
        return worker(&start);
    if (start.run_path != NULL || line->positional_count == 0 || start.keys == NULL)
        return error_set(HONE_EINVAL, "%s: --run takes no recipe, --join needs one and --keys DIR",
                         word);
    if (!text_starts_with(start.join, "tcp://"))
        return error_set(HONE_EINVAL, "%s: --join %s: expected tcp://HOST:PORT", word, start.join);
    rc = command_recipe_anywhere(line, &recipe);
    return rc < 0 ? rc : worker(&start);
}

int command_actor(const struct command_line *line)
{
    return run_worker(line, worker_run_actor);
}

int command_scorer(const struct command_line *line)
{
    return run_worker(line, worker_run_scorer);
}

int command_learner(const struct command_line *line)
{
    return run_worker(line, worker_run_learner);
}
