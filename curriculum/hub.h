/* What the modules of the hub share: its tables and what it knows of the run.
 *
 * A tick has five steps, and each fact goes through them in this order:
 *   receive   messages change the tables and stage records
 *   decide    time-outs, drops, batches, new leases: the same
 *   commit    one synced write makes all of it durable
 *   send      acknowledgements, leases, requests, batches, notices: only of what is durable
 *   report    who waits for whom, when nothing moves
 *
 *   H1  Nothing that was not committed is sent or acknowledged.
 *   H2  The tables equal what recovery would read from the log, but for time-outs, attempts and
 *       credit.
 *   H3  After a failed commit nothing is received, sent or acknowledged until one succeeds.
 *
 * Owned by the thread that ticks the stage. */
#ifndef HONE_CURRICULUM_HUB_H
#define HONE_CURRICULUM_HUB_H

#include "curriculum/curriculum_options.h"
#include "curriculum/group_table.h"
#include "curriculum/lease_table.h"
#include "curriculum/outbox.h"
#include "curriculum/peer_table.h"
#include "curriculum/pools/prompt_pools.h"
#include "curriculum/prompt_order.h"
#include "curriculum/reward_window.h"
#include "infra/base/assert.h"
#include "infra/base/clock.h"
#include "infra/base/hash.h"
#include "infra/store/run_log.h"
#include "infra/telemetry/metrics.h"

/* Bugs that the tests must find. The product has none of them: a second copy of this library, built
 * for the tests with HONE_PLANT_BUG, has them all, and planted_bug says which one is on. */
enum planted_bug {
    PLANTED_NONE,
    PLANTED_DOUBLE_COUNT, /* a sample that has arrived counts again when it is sent again */
    PLANTED_LOST_LEASE,   /* a lease that is taken back leaves its samples behind */
    PLANTED_STALE_BATCH,  /* groups are not checked for their age when a batch is formed */
    PLANTED_EARLY_FOLD,   /* measurements take effect as they come, not with the next batch */
    PLANTED_COUNT
};

#ifdef HONE_PLANT_BUG
extern enum planted_bug planted_bug;
#define PLANTED(bug) (planted_bug == (bug))
#else
#define PLANTED(bug) ((bug) == PLANTED_NONE)
#endif

/* A batch's life:
 *
 *   from \ to    TRAINED  DURABLE
 *   0 FORMED      yes      -          its version is, or was, published
 *   1 TRAINED     -        yes        a checkpoint has it; its groups are TRAINED
 *   2 DURABLE     -        -
 *
 * A learner that died may train a batch that is past FORMED again: that is no move (N2). */
enum batch_state { BATCH_FORMED, BATCH_TRAINED, BATCH_DURABLE };

/* A formed batch. number == its index in the array + 1. */
#define GUARD_NAME_MAX 24

struct batch_entry {
    enum batch_state state;
    uint64_t *group_ids;              /* [prompts_per_step], in dispatch order */
    char weights_hash[HASH_HEX_SIZE]; /* of the version it made; "" unknown */
    char guard[GUARD_NAME_MAX];       /* signal of the learner's guards; "" none */
    int64_t rolled_back_to;           /* version whose weights it made again; -1 none */
};

struct learner_view {
    uint64_t serial; /* of the peer; 0: none has reported since the hub started */
    bool ready;      /* LearnerReady came: endpoint and version are known */
    char endpoint[256];
    int64_t version;  /* published by this process now; -1 none */
    int64_t sent;     /* newest batch sent to this process */
    int64_t trained;  /* newest batch this process has trained */
    int64_t retry_ms; /* monotonic: its queue was full, not before */
};

/* A dropped group whose trajectories are in the log, to be trimmed with its batch. */
struct dropped_group {
    uint64_t id;
    int64_t batch;
};

struct curriculum_stage {
    struct curriculum_options options;
    struct run_log *log;
    struct clock *clock;
    struct metrics *metrics;
    struct wire_server *server;

    struct prompt_order prompts;
    struct prompt_pools pools;
    struct group_table groups;
    struct lease_table leases;
    struct peer_table peers;
    struct outbox outbox;
    struct reward_window rewards;
    struct learner_view learner;

    /* In the log as HubState; state_changed: to be staged with the next commit. */
    uint64_t next_order, next_lease, fence;
    int64_t durable_batch;
    int64_t trimmed_batch; /* trajectories of batches up to this one are deleted */
    bool state_changed;

    struct batch_entry *batches; /* [batch_count] formed so far */
    int64_t batch_count, batch_capacity;
    int64_t done_batch; /* batches 1..done_batch are trained: version done_batch was published */
    struct dropped_group *dropped; /* [dropped_count], while old batches are trimmed */
    int32_t dropped_count, dropped_capacity;
    int64_t zero_drops; /* zero-advantage groups dropped for the batch being formed */

    int64_t partial_reports, partial_stale, resumed_tokens; /* since the last batch */
    int64_t dropped_tokens;           /* completion tokens of groups dropped since the last batch */
    int32_t abandoned_running;        /* groups dropped as abandoned since a trajectory last came */
    int64_t drops[DROP_REASON_COUNT]; /* in the whole run */
    int64_t statuses[REWARD_ERROR + 1];                      /* rewards since the last batch */
    int64_t start_ms, formed_ms, progress_ms, stall_told_ms; /* monotonic */
    int64_t stalls;                                          /* since the last batch: told */
    int64_t stalled_ms;                                      /* and their time over the limit */
    int64_t leases_expired_ms, scores_expired_ms; /* monotonic: when all were last looked through */
    int64_t published_ms;                         /* monotonic: the waiting file */
    bool publish_failed;
    int32_t commit_failures; /* in a row; > 0: the hub waits for its disk (H3) */
    int64_t commit_retry_ms; /* monotonic */
    int64_t stop_ms;         /* 0: going on; else everyone was told to stop at */
    bool resumed_finished;   /* started on a finished log: workers may yet say Hello */
    bool told_first;         /* this process has logged its first trajectory and said so */
    int32_t write_error;     /* a negative code when a record could not be read or written */
};

/* The batch that the next formation makes. */
static inline int64_t hub_next_batch(const struct curriculum_stage *hub)
{
    return hub->batch_count + 1;
}

/* Only the moves of the table above exist; any other is a bug. */
static inline void batch_move(struct batch_entry *batch, enum batch_state state)
{
    HONE_ASSERT(batch->state != BATCH_DURABLE && state == batch->state + 1);
    batch->state = state;
}

static inline void hub_progress(struct curriculum_stage *hub)
{
    hub->progress_ms = hub->stall_told_ms = clock_now_ms(hub->clock);
}

#endif
