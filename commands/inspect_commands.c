#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "commands/commands.h"
#include "commands/pipeline.h"
#include "commands/stages.h"
#include "curriculum/audit.h"
#include "infra/base/error.h"
#include "infra/config/problem.h"
#include "infra/store/run_log.h"
#include "infra/text/tokenizer.h"
#include "infra/wire/codec.h"

/* What the visits of one `hone inspect` share. */
struct inspection {
    struct tokenizer *tokenizer; /* NULL: ids are shown */
    int64_t limit, shown;
    int64_t prompt, version; /* filters; -1: any */
    uint64_t id;             /* 0: any */
    double reward_min, reward_max;
    bool tokens;
};

static void print_tokens(const struct inspection *inspection, const struct trajectory *t)
{
    printf("  %5s %8s %8s %12s %s\n", "index", "token", "version", "logprob", "piece");
    for (int32_t i = 0; i < t->token_count; ++i) {
        const char *piece = inspection->tokenizer != NULL
                                ? tokenizer_piece(inspection->tokenizer, t->tokens[i])
                                : NULL;
        printf("  %5d %8d %8" PRId64 " %12.6f %s\n", i, t->tokens[i], t->policy_version[i],
               (double)t->behavior_logprob[i], piece != NULL ? piece : "");
    }
}

static void print_text(const struct inspection *inspection, const char *label, const int32_t *ids,
                       int32_t count)
{
    struct text text;
    if (inspection->tokenizer == NULL)
        return;
    text_init(&text);
    if (tokenizer_decode(inspection->tokenizer, ids, count, true, &text) == 0)
        printf("  %s: %s\n", label, text.data);
    text_release(&text);
}

static void print_trajectory(const struct inspection *inspection, const struct trajectory *t)
{
    printf("trajectory %016" PRIx64 " group %" PRIu64 " sample %d prompt %" PRIu64
           " versions %" PRId64 "..%" PRId64 " tokens %d+%d finish %s reward ",
           t->id, t->group_id, t->sample_index, t->prompt_id, trajectory_oldest_version(t),
           trajectory_newest_version(t), t->prompt_tokens, t->token_count - t->prompt_tokens,
           finish_reason_name(t->finish));
    if (t->scored_ms == 0)
        printf("not scored yet\n");
    else if (t->reward.status == REWARD_OK)
        printf("%g\n", (double)t->reward.total);
    else
        printf("%s\n", reward_status_name(t->reward.status));
    for (int32_t i = 0; i < t->reward.part_count; ++i) {
        const struct reward_part *part = &t->reward.parts[i];
        printf("  part %s: %s %g x %g\n", part->name, reward_status_name(part->status),
               (double)part->value, (double)part->weight);
    }
    printf("  sampled in %" PRId64 " ms, scored after %" PRId64 " ms\n",
           t->finished_ms - t->started_ms, t->scored_ms > 0 ? t->scored_ms - t->finished_ms : 0);
    print_text(inspection, "prompt", t->tokens, t->prompt_tokens);
    print_text(inspection, "completion", t->tokens + t->prompt_tokens,
               t->token_count - t->prompt_tokens);
    if (inspection->tokens)
        print_tokens(inspection, t);
}

static bool matches(const struct inspection *inspection, const struct trajectory *t)
{
    if (inspection->id != 0)
        return t->id == inspection->id;
    if (inspection->prompt >= 0 && t->prompt_id != (uint64_t)inspection->prompt)
        return false;
    if (inspection->version >= 0 && (trajectory_oldest_version(t) > inspection->version ||
                                     trajectory_newest_version(t) < inspection->version))
        return false;
    double reward = (double)t->reward.total;
    return t->reward.status != REWARD_OK ||
           (reward >= inspection->reward_min && reward <= inspection->reward_max);
}

static int visit_trajectory(void *context, const void *key, size_t key_bytes, const void *value,
                            size_t value_bytes)
{
    struct inspection *inspection = context;
    struct trajectory trajectory;
    (void)key;
    (void)key_bytes;
    Hone__Trajectory *message = hone__trajectory__unpack(NULL, value_bytes, value);
    if (message == NULL)
        return error_set(HONE_ECORRUPT, "a trajectory in the log does not parse");
    int rc = wire_trajectory_read(message, &trajectory);
    hone__trajectory__free_unpacked(message, NULL);
    if (rc < 0)
        return rc;
    if (matches(inspection, &trajectory)) {
        print_trajectory(inspection, &trajectory);
        inspection->shown++;
    }
    trajectory_release(&trajectory);
    return inspection->shown >= inspection->limit;
}

/* Opens RUN's recipe, and its RL log when there is one. */
static int open_run(const char *path, struct run_directory *run, struct recipe *recipe)
{
    char file[HONE_PATH_MAX];
    struct problems problems;
    int rc = run_directory_attach(run, path);
    if (rc < 0)
        return rc;
    problems_init(&problems);
    rc = recipe_load(recipe, path_join(file, sizeof file, run->path, "recipe.yaml"), NULL, 0,
                     &problems);
    problems_release(&problems);
    if (rc < 0)
        run_directory_close(run);
    return rc;
}

static int open_log(const struct run_directory *run, struct run_log **log)
{
    char path[HONE_PATH_MAX];
    path_join(path, sizeof path, run->path, "rl/log");
    if (!file_is_directory(path))
        return error_set(HONE_ENOENT, "%s: this run has no RL log", run->path);
    return run_log_open(log, path, true);
}

static int read_filters(const struct command_line *line, struct inspection *inspection)
{
    int rc;
    const char *id = command_value(line, "id");
    inspection->id = id != NULL ? strtoull(id, NULL, 16) : 0;
    inspection->tokens = command_flag(line, "tokens");
    if ((rc = command_int(line, "limit", 1, INT64_MAX, &inspection->limit)) < 0 ||
        (rc = command_int(line, "prompt", -1, INT64_MAX, &inspection->prompt)) < 0 ||
        (rc = command_int(line, "version", -1, INT64_MAX, &inspection->version)) < 0 ||
        (rc = command_float(line, "reward-min", -1e30, 1e30, &inspection->reward_min)) < 0 ||
        (rc = command_float(line, "reward-max", -1e30, 1e30, &inspection->reward_max)) < 0)
        return rc;
    return 0;
}

int command_inspect(const struct command_line *line)
{
    struct run_directory run;
    struct recipe recipe;
    struct run_log *log = NULL;
    struct inspection inspection = {0};
    char model[HONE_PATH_MAX];
    int rc = read_filters(line, &inspection);
    if (rc < 0 || (rc = open_run(line->positional[0], &run, &recipe)) < 0)
        return rc;
    if (command_flag(line, "summary")) {
        rc = pipeline_summary(&recipe, &run);
        goto out;
    }
    if ((rc = open_log(&run, &log)) < 0)
        goto out;
    if (stage_input_model(&recipe, &run, "rl", model, sizeof model) == 0 &&
        tokenizer_load(&inspection.tokenizer, model) < 0)
        fprintf(stderr, "hone: %s: text is not shown\n", error_message());
    rc = run_log_scan(log, LOG_TRAJECTORIES, visit_trajectory, &inspection);
    if (rc >= 0)
        rc = 0;
    if (rc == 0 && inspection.shown == 0)
        printf("no trajectory matches\n");
out:
    tokenizer_free(inspection.tokenizer);
    run_log_close(log);
    recipe_release(&recipe);
    run_directory_close(&run);
    return rc;
}

int command_audit(const struct command_line *line)
{
    struct run_directory run;
    struct recipe recipe;
    struct run_log *log = NULL;
    struct text report;
    int rc = open_run(line->positional[0], &run, &recipe);
    if (rc < 0)
        return rc;
    text_init(&report);
    if ((rc = open_log(&run, &log)) == 0) {
        rc = curriculum_audit(log, &report);
        fputs(report.data, stdout);
    }
    text_release(&report);
    run_log_close(log);
    recipe_release(&recipe);
    run_directory_close(&run);
    return rc;
}
