#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "commands/commands.h"
#include "commands/evaluate.h"
#include "commands/pipeline.h"
#include "commands/workers.h"
#include "infra/base/error.h"
#include "infra/base/memory.h"
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

/* Loads the recipe named first on the command line with its overrides: `--set a.b=c` and bare
 * `a.b=c`. Every problem is printed; the error counts them. has_files: whether this machine should
 * have the files that it names. */
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

static int load_recipe(const struct command_line *line, const char *const *more, int more_count,
                       struct recipe *recipe)
{
    return read_recipe(line, more, more_count, true, recipe);
}

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
        rc = load_recipe(line, more, more_count, &recipe);
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
    int rc = load_recipe(line, NULL, 0, &recipe);
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
    struct cpu_set_list cpus;
    int threads;
    int rc = load_recipe(line, NULL, 0, &recipe);
    if (rc < 0)
        return rc;
    if ((rc = worker_placement(&recipe, WORKER_OFFLINE, 0, &cpus, &threads)) == 0 &&
        (rc = placement_pin(&cpus)) == 0)
        rc = evaluate(&recipe, model != NULL ? model : recipe.model.path,
                      command_value(line, "samples"), threads, &result);
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
    rc = read_recipe(line, NULL, 0, false, &recipe);
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
