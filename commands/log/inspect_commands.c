#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "commands/commands.h"
#include "commands/log/logged_run.h"
#include "commands/log/pools_report.h"
#include "commands/pipeline.h"
#include "commands/stage_options.h"
#include "commands/stages.h"
#include "commands/log/time_report.h"
#include "curriculum/audit.h"
#include "curriculum/hub_store.h"
#include "infra/base/error.h"
#include "infra/config/problem.h"
#include "infra/store/trajectory_log.h"
#include "infra/text/tokenizer.h"
#include "infra/wire/codec.h"
#include "infra/wire/envelope.h"

/* What the visits of one `hone inspect` share. */
struct inspection {
    struct run_log *log;
    const char *status;          /* filter; NULL: any */
    struct tokenizer *tokenizer; /* NULL: ids are shown */
    int64_t limit, shown;
    int64_t prompt, version; /* filters; -1: any */
    uint64_t id;             /* 0: any */
    double reward_min, reward_max;
    bool tokens;
};

/* What became of a group. */
struct fate {
    enum group_state state;
    int64_t batch;
    const char *reason; /* when dropped; else "" */
};

static const char *const state_words[] = {
    [GROUP_LEASED] = "leased",   [GROUP_SCORED] = "scored",   [GROUP_BATCHED] = "batched",
    [GROUP_TRAINED] = "trained", [GROUP_DROPPED] = "dropped",
};

static int read_fate(struct run_log *log, uint64_t group_id, struct fate *fate)
{
    Hone__GroupRecord *group;
    *fate = (struct fate){.reason = ""};
    int rc = hub_read_group(log, group_id, &group);
    if (rc <= 0)
        return rc;
    if ((int)group->state >= GROUP_LEASED && (int)group->state <= GROUP_DROPPED)
        fate->state = (enum group_state)group->state;
    fate->batch = group->has_batch ? group->batch : 0;
    int reason = group->reason != NULL ? drop_reason_find(group->reason) : -1;
    if (reason >= 0)
        fate->reason = drop_reason_name((enum drop_reason)reason);
    wire_free(&group->base);
    return 0;
}

/* The words of --status: of the reward, of the group, why the group was dropped. */
static bool is_status_word(const char *word)
{
    bool known = strcmp(word, "unscored") == 0 || drop_reason_find(word) >= 0;
    for (int i = REWARD_OK; i <= REWARD_ERROR; i++)
        known = known || strcmp(word, reward_status_name((enum reward_status)i)) == 0;
    for (int i = GROUP_LEASED; i <= GROUP_DROPPED; i++)
        known = known || strcmp(word, state_words[i]) == 0;
    return known;
}

static bool has_status(const char *word, const struct trajectory *t, const struct fate *fate)
{
    const char *reward = t->scored_ms == 0 ? "unscored" : reward_status_name(t->reward.status);
    return strcmp(word, reward) == 0 || strcmp(word, state_words[fate->state]) == 0 ||
           strcmp(word, fate->reason) == 0;
}

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

static int32_t mixed_tokens(const struct trajectory *t)
{
    int32_t count = 0;
    for (int32_t i = 0; t->kv_mixed != NULL && i < t->token_count; ++i)
        count += t->kv_mixed[i];
    return count;
}

static void print_trajectory(const struct inspection *inspection, const struct trajectory *t,
                             const struct fate *fate)
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
    printf("  its group is %s", state_words[fate->state]);
    if (fate->reason[0] != '\0')
        printf(" (%s)", fate->reason);
    if (fate->batch > 0)
        printf("%s batch %" PRId64, fate->state == GROUP_DROPPED ? ", meant for" : " in",
               fate->batch);
    printf("\n  waited %" PRId64 " ms, sampled in %" PRId64 " ms, scored after %" PRId64 " ms",
           t->started_ms - t->leased_ms, t->finished_ms - t->started_ms,
           t->scored_ms > 0 ? t->scored_ms - t->finished_ms : 0);
    int32_t mixed = mixed_tokens(t);
    if (mixed > 0)
        printf("; %d tokens sampled with keys and values of older weights", mixed);
    printf("\n");
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

static int visit_trajectory(void *context, uint64_t id, const Hone__Trajectory *message,
                            bool own_reward)
{
    struct inspection *inspection = context;
    struct trajectory trajectory;
    (void)id;
    (void)own_reward;
    int rc = wire_trajectory_read(message, &trajectory);
    if (rc < 0)
        return rc;
    struct fate fate = {.reason = ""};
    bool shown = matches(inspection, &trajectory);
    if (shown && (rc = read_fate(inspection->log, trajectory.group_id, &fate)) == 0)
        shown = inspection->status == NULL || has_status(inspection->status, &trajectory, &fate);
    if (shown && rc == 0) {
        print_trajectory(inspection, &trajectory, &fate);
        inspection->shown++;
    }
    trajectory_release(&trajectory);
    return rc < 0 ? rc : inspection->shown >= inspection->limit;
}

static int read_filters(const struct command_line *line, struct inspection *inspection)
{
    int rc;
    const char *id = command_value(line, "id");
    inspection->id = id != NULL ? strtoull(id, NULL, 16) : 0;
    inspection->tokens = command_flag(line, "tokens");
    inspection->status = command_value(line, "status");
    if (inspection->status != NULL && !is_status_word(inspection->status))
        return error_set(
            HONE_EINVAL,
            "--status %s: expected unscored, ok, abstain, timeout or error (the "
            "reward); leased, scored, batched, trained or dropped (its group); or why "
            "the group was dropped: reward_failed, zero_advantage, stale, abandoned, probe",
            inspection->status);
    if ((rc = command_int(line, "limit", 1, INT64_MAX, &inspection->limit)) < 0 ||
        (rc = command_int(line, "prompt", -1, INT64_MAX, &inspection->prompt)) < 0 ||
        (rc = command_int(line, "version", -1, INT64_MAX, &inspection->version)) < 0 ||
        (rc = command_float(line, "reward-min", -1e30, 1e30, &inspection->reward_min)) < 0 ||
        (rc = command_float(line, "reward-max", -1e30, 1e30, &inspection->reward_max)) < 0)
        return rc;
    return 0;
}

/* Who waits for whom: the hub's own account. */
static int print_waiting(const struct run_directory *run)
{
    struct text text;
    size_t i;
    json_t *link, *worker, *value;
    const char *name;
    text_init(&text);
    json_t *file = waiting_read(run, &text);
    text_release(&text);
    if (file == NULL)
        return error_set(HONE_ENOENT, "%s: the RL stage has not said who waits for whom",
                         run->path);
    double age_s = (double)(clock_unix_ms(clock_system()) -
                            json_integer_value(json_object_get(file, "time_ms"))) /
                   1000.0;
    printf("%s %.1f s ago; nothing has moved for %.1f s\n",
           json_is_true(json_object_get(file, "stalled")) ? "STALLED" : "as of", age_s,
           (double)json_integer_value(json_object_get(file, "quiet_ms")) / 1000.0);
    json_array_foreach(json_object_get(file, "chain"), i, link)
    {
        printf("  %s %s for %.1f s\n", json_string_value(json_object_get(link, "who")),
               json_string_value(json_object_get(link, "what")),
               (double)json_integer_value(json_object_get(link, "ms")) / 1000.0);
    }
    json_array_foreach(json_object_get(file, "workers"), i, worker)
    {
        const char *waits = json_string_value(json_object_get(worker, "waiting_for"));
        const char *doing = json_string_value(json_object_get(worker, "doing"));
        printf("worker %-12s heard %.1f s ago, credit %lld, %s%s\n",
               json_string_value(json_object_get(worker, "name")),
               (double)json_integer_value(json_object_get(worker, "heard_ms_ago")) / 1000.0,
               json_integer_value(json_object_get(worker, "credit")),
               doing && doing[0]   ? doing
               : waits && waits[0] ? "waits for "
                                   : "busy",
               doing && doing[0] ? ""
               : waits           ? waits
                                 : "");
    }
    json_object_foreach(json_object_get(file, "queues"), name, value)
    {
        printf("queue  %-20s %lld\n", name, json_integer_value(value));
    }
    json_decref(file);
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
    if (rc < 0 || (rc = logged_run_open(line->positional[0], &run, &recipe)) < 0)
        return rc;
    if (command_flag(line, "summary")) {
        rc = pipeline_summary(&recipe, &run);
        goto out;
    }
    if (command_flag(line, "waiting")) {
        rc = print_waiting(&run);
        goto out;
    }
    if (command_flag(line, "time")) {
        rc = time_report_print(&run, stdout);
        goto out;
    }
    if ((rc = logged_run_log(&run, &log)) < 0)
        goto out;
    inspection.log = log;
    bool has_model = stage_input_model(&recipe, &run, "rl", model, sizeof model) == 0;
    if (command_flag(line, "pools")) {
        rc = inspection.prompt >= 0 ? pools_report_prompt(log, inspection.prompt, stdout)
             : has_model            ? pools_report_print(&run, &recipe, model, log, stdout)
                                    : error_last();
        goto out;
    }
    if (has_model && tokenizer_load(&inspection.tokenizer, model) < 0)
        fprintf(stderr, "hone: %s: text is not shown\n", error_message());
    rc = trajectory_log_scan(log, visit_trajectory, &inspection);
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
    int rc = logged_run_open(line->positional[0], &run, &recipe);
    if (rc < 0)
        return rc;
    text_init(&report);
    if ((rc = logged_run_log(&run, &log)) == 0) {
        rc = curriculum_audit(log, &report);
        fputs(report.data, stdout);
    }
    text_release(&report);
    run_log_close(log);
    recipe_release(&recipe);
    run_directory_close(&run);
    return rc;
}
