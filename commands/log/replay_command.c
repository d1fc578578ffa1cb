/* hone replay: every version of a run made again from its log. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "commands/commands.h"
#include "commands/log/logged_run.h"
#include "commands/pipeline.h"
#include "commands/stage_options.h"
#include "commands/stages.h"
#include "curriculum/hub_store.h"
#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/memory.h"
#include "infra/launch/placement.h"
#include "learner/policy.h"

/* What one `hone replay` shares. */
struct replay {
    struct run_log *log;
    struct policy policy;
    int64_t unlogged;       /* versions whose hash the log does not have */
    int64_t unequal_tokens; /* G6, over all batches */
    /* Versions that the run went back to: saved when they are made, in a directory of their own. */
    int64_t *targets;
    int32_t target_count;
    char directory[HONE_PATH_MAX]; /* "" none */
};

static const char *saved_path(const struct replay *replay, int64_t version, char *buffer,
                              size_t capacity)
{
    char name[32];
    snprintf(name, sizeof name, "step-%" PRId64, version);
    return path_join(buffer, capacity, replay->directory, name);
}

/* What the log says of going back. */
static int find_targets(struct replay *replay)
{
    const char *temporary = getenv("TMPDIR");
    struct logged_batch batch;
    int rc;
    for (int64_t number = 1; (rc = hub_read_batch_record(replay->log, number, &batch)) > 0;
         number++) {
        if (batch.rolled_back_to < 0)
            continue;
        replay->targets = memory_resize(replay->targets, (size_t)replay->target_count,
                                        (size_t)replay->target_count + 1, sizeof *replay->targets);
        replay->targets[replay->target_count++] = batch.rolled_back_to;
    }
    if (rc < 0 || replay->target_count == 0)
        return rc;
    snprintf(replay->directory, sizeof replay->directory, "%s/hone-replay-XXXXXX",
             temporary != NULL && *temporary != '\0' ? temporary : "/tmp");
    if (mkdtemp(replay->directory) != NULL)
        return 0;
    replay->directory[0] = '\0';
    return error_set(HONE_EIO, "no temporary directory for the versions that the run went back to "
                               "(TMPDIR)");
}

static int save_target(struct replay *replay)
{
    char path[HONE_PATH_MAX];
    struct policy *policy = &replay->policy;
    for (int32_t i = 0; i < replay->target_count; i++) {
        if (replay->targets[i] != policy->state.batch || policy->state.batch == 0)
            continue;
        return trainer_save(policy->trainer,
                            saved_path(replay, policy->state.batch, path, sizeof path),
                            policy->options->model_directory, &policy->state);
    }
    return 0;
}

static int go_back(struct replay *replay, const struct logged_batch *logged)
{
    char path[HONE_PATH_MAX];
    const struct guard_verdict *verdict = &replay->policy.verdict;
    if (verdict->action != GUARD_GO_BACK)
        return 0;
    if (logged->rolled_back_to != verdict->back_to)
        return error_set(HONE_ECORRUPT,
                         "batch %" PRId64 ": replay goes back to version %" PRId64
                         ", the log has %" PRId64 " (-1: it went on)",
                         logged->message.number, verdict->back_to, logged->rolled_back_to);
    return policy_go_back(&replay->policy, saved_path(replay, verdict->back_to, path, sizeof path));
}

static void replay_close(struct replay *replay)
{
    policy_close(&replay->policy);
    run_log_close(replay->log);
    memory_free(replay->targets);
    if (replay->directory[0] != '\0')
        (void)file_remove_tree(replay->directory);
}

static int compare_hash(struct replay *replay, const struct logged_batch *batch, int64_t unequal)
{
    const char *made = replay->policy.state.weights_hash;
    int64_t version = replay->policy.state.batch;
    if (batch->weights_hash[0] != '\0' && strcmp(batch->weights_hash, made) != 0)
        return error_set(HONE_ECORRUPT,
                         "version %" PRId64 " differs: its hash was %s when it was trained, "
                         "replay makes %s; its batch, the recipe or the checkpoint that the stage "
                         "started from is not what it was",
                         version, batch->weights_hash, made);
    replay->unlogged += batch->weights_hash[0] == '\0';
    printf("version %" PRId64 " %s %s, %zu trajectories, %" PRId64 " unequal tokens\n", version,
           made, batch->weights_hash[0] != '\0' ? "as logged" : "not in the log",
           batch->message.n_trajectories, unequal);
    return 0;
}

/* 1 trained and compared, 0 there is no such batch, or it was never trained. */
static int replay_batch(struct replay *replay, int64_t number)
{
    struct logged_batch logged;
    struct rl_batch batch;
    struct rl_step_result result;
    int rc = hub_read_batch(replay->log, number, &logged);
    if (rc <= 0)
        return rc;
    if (!logged.done) {
        hub_release_batch(&logged);
        return 0;
    }
    if ((rc = policy_read_batch(&replay->policy, &logged.message, &batch)) == 0) {
        rc = policy_train(&replay->policy, &batch, NULL, NULL, &result);
        rl_batch_release(&batch);
    }
    if (rc == 0)
        rc = go_back(replay, &logged);
    if (rc == 0)
        rc = save_target(replay);
    if (rc == 0) {
        policy_note_hash(&replay->policy);
        rc = compare_hash(replay, &logged, result.before.unequal_tokens);
    }
    if (rc == 0)
        replay->unequal_tokens += result.before.unequal_tokens;
    hub_release_batch(&logged);
    return rc < 0 ? rc : 1;
}

static int replay_all(struct replay *replay, int64_t to, const char *out)
{
    int rc = 1;
    while (rc == 1 && (to < 0 || replay->policy.state.batch < to))
        rc = replay_batch(replay, replay->policy.state.batch + 1);
    int64_t version = replay->policy.state.batch;
    if (rc >= 0 && version < to)
        return error_set(HONE_ENOENT,
                         "version %" PRId64 ": the log has %" PRId64 " trained batches", to,
                         version);
    if (rc < 0)
        return rc;
    replay->policy.state.policy_version = version;
    if (out != NULL && (rc = policy_export(&replay->policy, out)) < 0)
        return rc;
    printf("replayed %" PRId64 " versions, every logged hash is the same", version);
    if (replay->unlogged > 0)
        printf(" (%" PRId64 " have none)", replay->unlogged);
    printf("; %" PRId64 " unequal tokens\n", replay->unequal_tokens);
    return 0;
}

int command_replay(const struct command_line *line)
{
    struct run_directory run;
    struct recipe recipe;
    struct replay replay = {0};
    struct compute compute = {0};
    struct learner_options options;
    char model[HONE_PATH_MAX];
    int64_t to, threads;
    struct cpu_set_list cpus;
    int rc;
    placement_available(&cpus);
    if ((rc = command_int(line, "to", -1, INT64_MAX, &to)) < 0 ||
        (rc = command_int(line, "threads", 0, 1024, &threads)) < 0 ||
        (rc = logged_run_open(line->positional[0], &run, &recipe)) < 0)
        return rc;
    if ((rc = stage_input_model(&recipe, &run, "rl", model, sizeof model)) < 0 ||
        (rc = logged_run_log(&run, &replay.log)) < 0 ||
        (rc = compute_open(&compute, threads > 0 ? (int)threads : cpus.count)) < 0)
        goto out;
    learner_options_from(&options, &recipe, model, run.path, run.recipe_hash);
    options.reference_directory = learner_reference(&recipe, model);
    if ((rc = policy_open(&replay.policy, &options, &compute)) == 0 &&
        (rc = policy_open_reference(&replay.policy, &compute)) == 0 &&
        (rc = find_targets(&replay)) == 0)
        rc = replay_all(&replay, to, command_value(line, "out"));
out:
    replay_close(&replay);
    compute_close(&compute);
    recipe_release(&recipe);
    run_directory_close(&run);
    return rc;
}
