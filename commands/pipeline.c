#include "commands/pipeline.h"

#include <jansson.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "commands/measure/evaluate.h"
#include "commands/follow.h"
#include "commands/stages.h"
#include "commands/step_evals.h"
#include "commands/workers.h"
#include "infra/base/error.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"
#include "infra/launch/stack_dump.h"
#include "infra/launch/supervisor.h"
#include "infra/store/rocks_store.h"
#include "infra/telemetry/table.h"

enum { LOOK_MS = 1000, STATUS_MS = 2000, DISK_FULL_MS = 3000 };
enum { HUB_DONE_MS = 5000 }; /* a learner has no more to do than to hear of it */
enum { TICK_MS = 20, STOP_GRACE_MS = 3000, RESTARTS_MAX = 5, RESTART_WINDOW_MS = 60000 };

static volatile sig_atomic_t interrupted;

static void on_signal(int number)
{
    (void)number;
    interrupted = 1;
}

struct pipeline {
    const struct recipe *recipe;
    const char *binary;
    struct run_directory run;
    struct text waiting; /* who waits for whom, as the hub wrote it last; empty: not in RL */
    int64_t looked_ms, status_ms; /* monotonic */
    char stall_root[96];          /* who was named in the stall that lasts; "" none */
    bool disk_full;               /* and said so */
    int64_t hub_done_ms;          /* monotonic: when the hub was first seen to have finished; 0 */
};

/* ---- status.json ---- */

static int write_status(struct pipeline *p, const char *running, const char *state)
{
    char path[HONE_PATH_MAX];
    struct text json;
    text_init(&json);
    text_printf(&json, "{\n  \"run_id\": \"%s\",\n  \"state\": \"%s\",\n  \"stages\": {",
                p->run.run_id, state);
    for (int32_t i = 0; i < p->recipe->stages.count; ++i) {
        const char *stage = p->recipe->stages.items[i];
        const char *word = stage_is_done(&p->run, stage)                ? "done"
                           : running != NULL && !strcmp(stage, running) ? "running"
                                                                        : "pending";
        text_printf(&json, "%s\n    \"%s\": \"%s\"", i == 0 ? "" : ",", stage, word);
    }
    text_append(&json, "\n  }");
    if (p->waiting.length > 0)
        text_printf(&json, ",\n  \"waiting\": %s", p->waiting.data);
    text_append(&json, "\n}\n");
    int rc = file_write_atomic(path_join(path, sizeof path, p->run.path, "status.json"), json.data,
                               json.length);
    text_release(&json);
    return rc;
}

/* ---- processes ---- */

/* Adds `hone COMMAND --run RUN [more ...]` as a worker. */
static int add_worker(struct pipeline *p, struct supervisor *supervisor, const char *name,
                      const char *const *arguments, bool essential)
{
    struct worker_spec spec = {.essential = essential,
                               .restart_max = RESTARTS_MAX,
                               .restart_window_ms = RESTART_WINDOW_MS};
    char relative[128];
    int count = 0;
    snprintf(spec.name, sizeof spec.name, "%s", name);
    snprintf(relative, sizeof relative, "logs/%s.log", name);
    run_directory_file(&p->run, spec.log_path, sizeof spec.log_path, relative);
    spec.argv[count++] = memory_strdup(p->binary);
    for (int i = 0; arguments[i] != NULL; ++i)
        spec.argv[count++] = memory_strdup(arguments[i]);
    int rc = supervisor_add(supervisor, &spec);
    for (int i = 0; i < count; ++i)
        memory_free(spec.argv[i]);
    return rc;
}

static int add_role(struct pipeline *p, struct supervisor *supervisor, enum worker_role role,
                    const char *command, bool essential)
{
    int count = worker_is_remote(p->recipe, role) ? 0 : worker_count(p->recipe, role);
    int rc = 0;
    if (count == 0)
        log_info("waiting for %ss to join at %s", command, p->recipe->wire.hub);
    for (int i = 0; i < count && rc == 0; ++i) {
        char name[64], index[16];
        bool single = role == WORKER_CURRICULUM || (role == WORKER_LEARNER && i == 0);
        snprintf(index, sizeof index, "%d", i);
        if (single)
            snprintf(name, sizeof name, "%s", command);
        else
            snprintf(name, sizeof name, "%s-%d", command, i);
        const char *arguments[] = {command, "--run", p->run.path, "--index", index, NULL};
        rc = add_worker(p, supervisor, name, arguments, essential);
    }
    return rc;
}

static void say_processes(const struct pipeline *p, const struct supervisor *supervisor)
{
    for (int i = 0; i < supervisor_count(supervisor); ++i) {
        const char *name = supervisor_name(supervisor, i);
        enum worker_role role = WORKER_OFFLINE;
        int index = 0, threads;
        if (strcmp(name, "curriculum") == 0)
            role = WORKER_CURRICULUM;
        else if (strcmp(name, "learner") == 0 || sscanf(name, "learner-%d", &index) == 1)
            role = WORKER_LEARNER;
        else if (sscanf(name, "actor-%d", &index) == 1)
            role = WORKER_ACTOR;
        else if (sscanf(name, "scorer-%d", &index) == 1)
            role = WORKER_SCORER;
        struct cpu_set_list cpus;
        char where[256];
        if (worker_placement(p->recipe, role, index, &cpus, &threads) < 0)
            continue;
        placement_format(&cpus, where, sizeof where);
        log_info("%-12s pid %-7d cpu %-8s %d thread%s", name, (int)supervisor_pid(supervisor, i),
                 where, threads, threads == 1 ? "" : "s");
    }
}

/* ---- stalls ---- */

/* Tells what the kernel says of the worker at the root of a stall, and asks it for its stack. */
static void examine(const struct pipeline *p, const struct supervisor *supervisor, const char *root)
{
    char state[96], relative[128], path[HONE_PATH_MAX];
    int index = supervisor_find(supervisor, root);
    if (index < 0) {
        log_warn("stall: %s is at the root of it; no such process runs here", root);
        return;
    }
    stack_dump_state(supervisor_pid(supervisor, index), state, sizeof state);
    snprintf(relative, sizeof relative, "logs/%s.log", root);
    log_warn("stall: %s (pid %d) is at the root of it; the process %s; its stack goes to %s", root,
             (int)supervisor_pid(supervisor, index), state,
             run_directory_file(&p->run, path, sizeof path, relative));
    supervisor_ask_stack(supervisor, index);
}

/* A hub that cannot write its log waits for room, and cannot write that down either. */
static void watch_disk(struct pipeline *p, int64_t silent_ms)
{
    int64_t free_bytes = file_free_bytes(p->run.path);
    bool full = silent_ms >= DISK_FULL_MS && free_bytes >= 0 && free_bytes < ROCKS_STORE_ROOM_BYTES;
    if (full && !p->disk_full)
        log_warn("the disk of %s is full (%lld MB are free) and the run waits: free %lld MB and it "
                 "goes on",
                 p->run.path, (long long)(free_bytes >> 20),
                 (long long)(ROCKS_STORE_ROOM_BYTES >> 20));
    if (!full && p->disk_full)
        log_info("the disk has room again, or the run does without: it goes on");
    p->disk_full = full;
}

/* Once a second: the hub's file. It names the root of a stall; a file that is not renewed makes the
 * hub itself the root. */
static void watch_stalls(struct pipeline *p, const struct supervisor *supervisor, const char *stage)
{
    int64_t now = clock_now_ms(clock_system());
    int64_t stall_ms = (int64_t)(p->recipe->log.stall_s * 1000.0);
    char path[HONE_PATH_MAX];
    json_t *file;
    if (now - p->looked_ms < LOOK_MS)
        return;
    p->looked_ms = now;
    file = waiting_read(&p->run, &p->waiting);
    if (file == NULL)
        return;
    int64_t age_ms =
        clock_unix_ms(clock_system()) - json_integer_value(json_object_get(file, "time_ms"));
    watch_disk(p, age_ms);
    bool hub_stands = stall_ms > 0 && age_ms >= stall_ms;
    bool stalled = hub_stands || json_is_true(json_object_get(file, "stalled"));
    const char *root = json_string_value(json_object_get(file, "root"));
    root = !stalled ? "" : hub_stands ? "curriculum" : root != NULL ? root : "?";
    if (stalled && strcmp(p->stall_root, root) != 0) {
        if (hub_stands)
            log_warn("stall: the hub has not said anything for %lld s", (long long)age_ms / 1000);
        else
            log_warn("stall: who waits for whom is in %s and `hone inspect %s --waiting`",
                     run_directory_file(&p->run, path, sizeof path, "logs/curriculum.log"),
                     p->run.path);
        examine(p, supervisor, root);
    }
    snprintf(p->stall_root, sizeof p->stall_root, "%s", root);
    json_decref(file);
    if (now - p->status_ms >= STATUS_MS) {
        p->status_ms = now;
        if (write_status(p, stage, stalled ? "stalled" : "running") < 0)
            log_warn("%s", error_message());
    }
}

/* A hub that has finished knows that every batch is durable. A learner that died before it heard so
 * would wait for it for ever: with its result on the disk nothing is left to do. */
static bool learner_is_late(struct pipeline *p, const struct supervisor *supervisor)
{
    int64_t now = clock_now_ms(clock_system());
    bool done = false;
    for (int i = 0; i < supervisor_count(supervisor); ++i)
        done = done || (strcmp(supervisor_name(supervisor, i), "curriculum") == 0 &&
                        supervisor_status(supervisor, i) == WORKER_DONE);
    if (!done)
        return false;
    if (p->hub_done_ms == 0)
        p->hub_done_ms = now;
    if (now - p->hub_done_ms < HUB_DONE_MS)
        return false;
    p->hub_done_ms = now; /* if the result is not there yet */
    if (!stage_is_done(&p->run, "rl"))
        return false;
    log_info("the hub has finished and rl/final is there: the learner is not waited for");
    return true;
}

/* Ticks until the essential workers are done; `follow` shows progress. */
static int watch(struct pipeline *p, struct supervisor *supervisor, struct follow *follow,
                 struct step_evals *evals, const char *stage)
{
    bool said = false;
    for (;;) {
        int rc = supervisor_tick(supervisor);
        bool evaluating = evals != NULL && step_evals_tick(evals, rc == 1);
        if (rc == 1 && !evaluating)
            return 0;
        if (rc < 0)
            return rc;
        if (interrupted)
            return error_set(HONE_EINTERRUPTED,
                             "interrupted; `hone run` with the same recipe continues");
        if (!said) {
            say_processes(p, supervisor);
            said = true;
        }
        if (strcmp(stage, "rl") == 0 && rc == 0) {
            watch_stalls(p, supervisor, stage);
            if (!evaluating && learner_is_late(p, supervisor))
                return 0;
        }
        follow_tick(follow);
        clock_sleep_ms(TICK_MS);
    }
}

static int64_t stage_total(const struct recipe *recipe, const char *stage)
{
    if (strcmp(stage, "rl") == 0)
        return recipe->rl.steps;
    return strcmp(stage, "sft") == 0 ? recipe->sft.max_steps : recipe->dpo.max_steps;
}

static int run_stage(struct pipeline *p, const char *stage)
{
    struct supervisor *supervisor = NULL;
    struct follow *follow = NULL;
    struct step_evals evals;
    char relative[64], path[HONE_PATH_MAX];
    bool is_rl = strcmp(stage, "rl") == 0;
    step_evals_init(&evals, p->recipe, &p->run, p->binary);
    int rc = write_status(p, stage, "running");
    if (rc == 0)
        rc = supervisor_create(&supervisor, clock_system());
    if (rc < 0)
        goto out;
    if (is_rl) {
        if ((rc = add_role(p, supervisor, WORKER_CURRICULUM, "curriculum", true)) < 0 ||
            (rc = add_role(p, supervisor, WORKER_LEARNER, "learner", true)) < 0 ||
            (rc = add_role(p, supervisor, WORKER_SCORER, "scorer", false)) < 0 ||
            (rc = add_role(p, supervisor, WORKER_ACTOR, "actor", false)) < 0)
            goto out;
    } else {
        const char *arguments[] = {stage, "--run", p->run.path, NULL};
        if ((rc = add_worker(p, supervisor, stage, arguments, true)) < 0)
            goto out;
    }
    snprintf(relative, sizeof relative, "metrics/%s.jsonl", stage);
    follow = follow_create(stage, run_directory_file(&p->run, path, sizeof path, relative),
                           stage_total(p->recipe, stage));
    rc = watch(p, supervisor, follow, is_rl ? &evals : NULL, stage);
out:
    step_evals_stop(&evals);
    text_clear(&p->waiting);
    follow_destroy(follow);
    if (supervisor != NULL)
        supervisor_stop(supervisor, STOP_GRACE_MS);
    supervisor_destroy(supervisor);
    return rc < 0 ? error_prefix("stage %s", stage) : 0;
}

/* One process that has the machine to itself. */
static int run_alone(struct pipeline *p, const char *name, const char *const *arguments)
{
    struct supervisor *supervisor = NULL;
    struct follow *follow = NULL;
    int rc = supervisor_create(&supervisor, clock_system());
    if (rc == 0)
        rc = add_worker(p, supervisor, name, arguments, true);
    if (rc == 0) {
        follow = follow_create(name, NULL, 0);
        rc = watch(p, supervisor, follow, NULL, name);
    }
    follow_destroy(follow);
    if (supervisor != NULL)
        supervisor_stop(supervisor, STOP_GRACE_MS);
    supervisor_destroy(supervisor);
    return rc;
}

static int run_eval(struct pipeline *p, const char *label, const char *model_directory)
{
    char relative[64], path[HONE_PATH_MAX];
    snprintf(relative, sizeof relative, "eval/%s.json", label);
    if (!p->recipe->eval.enabled ||
        file_exists(run_directory_file(&p->run, path, sizeof path, relative)))
        return 0;
    char name[64];
    snprintf(name, sizeof name, "eval-%s", label);
    const char *arguments[] = {"eval", "--run",   p->run.path,     "--label",
                               label,  "--model", model_directory, NULL};
    return run_alone(p, name, arguments) < 0 ? error_prefix("eval of %s", label) : 0;
}

/* What a stage needs before it starts. */
static int prepare_stage(struct pipeline *p, const char *stage)
{
    const char *arguments[] = {"critique", "--run", p->run.path, NULL};
    char path[HONE_PATH_MAX];
    if (strcmp(stage, "sft") != 0 || p->recipe->sft.prune.method != RECIPE_PRUNE_VOTES)
        return 0;
    int rc = file_make_directories(run_directory_file(&p->run, path, sizeof path, "sft"));
    if (rc == 0)
        rc = run_alone(p, "critique", arguments);
    return rc < 0 ? error_prefix("critique") : 0;
}

/* ---- the final table ---- */

static void add_cell(struct table *table, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static void add_cell(struct table *table, const char *format, ...)
{
    char cell[64];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(cell, sizeof cell, format, arguments);
    va_end(arguments);
    table_cell(table, cell);
}

static int read_eval(const struct run_directory *run, const char *label,
                     struct evaluate_result *result)
{
    char relative[64], path[HONE_PATH_MAX];
    snprintf(relative, sizeof relative, "eval/%s.json", label);
    return evaluate_read_json(run_directory_file(run, path, sizeof path, relative), result);
}

static void add_stage(struct table *table, struct text *json, const char *label,
                      const struct evaluate_result *r)
{
    table_cell(table, label);
    add_cell(table, "%.1f %%", r->pass1 * 100.0);
    add_cell(table, "+- %.1f", r->pass1_error * 100.0);
    add_cell(table, "%.1f %%", r->passk * 100.0);
    add_cell(table, "%.3f", r->reward_mean);
    add_cell(table, "%.1f", r->length_mean);
    add_cell(table, "%.1f %%", r->truncated * 100.0);
    add_cell(table, "%.0f", (double)r->prompts);
    add_cell(table, "%.0f", (double)r->unscored);
    table_end_row(table);
    text_printf(json, "%s\n    \"%s\": ", json->data[json->length - 1] == '{' ? "" : ",", label);
    evaluate_print_json(r, json);
    while (json->length > 0 && json->data[json->length - 1] == '\n')
        json->data[--json->length] = '\0';
}

int pipeline_summary(const struct recipe *recipe, const struct run_directory *run)
{
    struct evaluate_result result;
    struct text json;
    char path[HONE_PATH_MAX], passk[32];
    snprintf(passk, sizeof passk, "pass@%lld", (long long)recipe->eval.k);
    const char *const titles[] = {"stage",  "pass@1",    "error",   passk,     "reward",
                                  "tokens", "truncated", "prompts", "unscored"};
    struct table *table = table_create(titles, (int)(sizeof titles / sizeof titles[0]));
    text_init(&json);
    text_printf(&json, "{\n  \"name\": ");
    text_append_json_string(&json, recipe->name, strlen(recipe->name));
    text_printf(&json, ",\n  \"run_id\": \"%s\",\n  \"recipe_hash\": \"%s\",\n  \"seed\": %lld,\n",
                run->run_id, run->recipe_hash, (long long)recipe->seed);
    text_append(&json, "  \"stages\": {");
    if (read_eval(run, "base", &result) == 0)
        add_stage(table, &json, "base", &result);
    for (int32_t i = 0; i < recipe->stages.count; ++i)
        if (read_eval(run, recipe->stages.items[i], &result) == 0)
            add_stage(table, &json, recipe->stages.items[i], &result);
    text_append(&json, "\n  }\n}\n");
    table_print(table, stdout);
    int rc = file_write_atomic(path_join(path, sizeof path, run->path, "summary.json"), json.data,
                               json.length);
    table_destroy(table);
    text_release(&json);
    return rc;
}

/* ---- the run ---- */

static int run_all(struct pipeline *p)
{
    const struct recipe *recipe = p->recipe;
    char model[HONE_PATH_MAX];
    int rc;
    if (recipe->model.init.method == RECIPE_INIT_NONE &&
        (rc = run_eval(p, "base", recipe->model.path)) < 0)
        return rc;
    for (int32_t i = 0; i < recipe->stages.count; ++i) {
        const char *stage = recipe->stages.items[i];
        if (stage_is_done(&p->run, stage))
            log_info("stage %s is done already", stage);
        else if ((rc = prepare_stage(p, stage)) < 0 || (rc = run_stage(p, stage)) < 0)
            return rc;
        stage_output_model(&p->run, stage, model, sizeof model);
        if ((rc = run_eval(p, stage, model)) < 0)
            return rc;
    }
    return write_status(p, NULL, "done");
}

int pipeline_run(const struct recipe *recipe, const char *binary)
{
    struct pipeline p = {.recipe = recipe, .binary = binary};
    struct sigaction action = {.sa_handler = on_signal};
    struct text resolved;
    char hash[HASH_HEX_SIZE];
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    text_init(&resolved);
    text_init(&p.waiting);
    recipe_print(recipe, &resolved);
    recipe_hash(recipe, hash);
    int rc = run_directory_open(&p.run, recipe->output_dir, resolved.data, hash);
    text_release(&resolved);
    if (rc < 0)
        return rc;
    log_info("run %s in %s", p.run.run_id, p.run.path);
    rc = run_all(&p);
    if (rc == 0) {
        rc = pipeline_summary(recipe, &p.run);
    } else {
        char *message = memory_strdup(error_message());
        write_status(&p, NULL, rc == HONE_EINTERRUPTED ? "interrupted" : "failed");
        error_set(rc, "%s", message); /* why the run failed, not what writing its status met */
        memory_free(message);
    }
    text_release(&p.waiting);
    run_directory_close(&p.run);
    return rc;
}
