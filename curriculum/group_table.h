/* The groups that are in flight: leased, scored or batched, and not yet trained or dropped.
 *
 *            every sample has a reward     goes into batch n      batch n is durable
 *   0 LEASED ------------------------> 1 SCORED ---------> 2 BATCHED --------------> 3 TRAINED
 *       |                                |
 *       | its leases fail too often      +--> 4 DROPPED (reward_failed, zero_advantage, stale,
 * probe)
 *       +--------------------------------------> 4 DROPPED (abandoned, probe)
 *
 *   state       samples                                      leaves by
 *   0 LEASED    any mixture of free, leased, arrived ...     SCORED, or DROPPED for `abandoned`;
 *                                                            a probe, when the run ends
 *   1 SCORED    all scored; the group's fate is open         BATCHED or DROPPED
 *   2 BATCHED   all scored; `batch` is set for good          TRAINED
 *   3 TRAINED   (the record in the log; not in the table)    -
 *   4 DROPPED   (the record in the log; not in the table)    -
 *
 * A sample of a LEASED group:
 *
 *   from \ to   FREE  LEASED  ARRIVED  SCORING  SCORED
 *   0 FREE       -     yes     -        -        -       a lease with it is made
 *   1 LEASED     yes   -       yes      -        yes     taken back; arrived; arrived given up
 *   2 ARRIVED    -     -       -        yes      yes     asked for; a result that was late
 *   3 SCORING    -     -       yes      -        yes     the request came to nothing; a result
 *   4 SCORED     -     -       -        -        -
 *
 *  T1  Only the moves above exist; any other is a bug (G1).
 *  T2  Groups are kept in dispatch order; id == order + 1.
 *  T3  A sample may hold its trajectory as it arrived, so that asking for its reward and sending
 * its batch reads no log: at most GROUP_MESSAGES_BYTES in all, and no later than its group. Nothing
 *      but speed depends on it.
 *
 * The table owns its groups. Owned by one thread. */
#ifndef HONE_CURRICULUM_GROUP_TABLE_H
#define HONE_CURRICULUM_GROUP_TABLE_H

#include <stdbool.h>
#include <stdint.h>

#include "curriculum/pools/difficulty.h"
#include "infra/base/id_map.h"
#include "infra/data/trajectory.h"
#include "infra/wire/hone.pb-c.h"

#define GROUP_MESSAGES_BYTES ((size_t)64 << 20)

enum group_state { GROUP_LEASED, GROUP_SCORED, GROUP_BATCHED, GROUP_TRAINED, GROUP_DROPPED };

enum drop_reason {
    DROP_REWARD_FAILED,
    DROP_ZERO_ADVANTAGE,
    DROP_STALE,
    DROP_ABANDONED,
    DROP_PROBE, /* it was to measure its prompt, not to be trained */
    DROP_REASON_COUNT
};

enum sample_state { SAMPLE_FREE, SAMPLE_LEASED, SAMPLE_ARRIVED, SAMPLE_SCORING, SAMPLE_SCORED };

/* What the log has of a rollout that goes on (curriculum/partial.h). */
struct sample_partial {
    int32_t tokens; /* 0: nothing */
    int64_t oldest_version, newest_version;
    int32_t *offsets; /* [piece_count] where each logged piece begins */
    int32_t piece_count, piece_capacity;
};

struct sample {
    enum sample_state state;
    uint64_t trajectory_id;    /* from ARRIVED on; 0 before */
    uint64_t lease_id;         /* while LEASED */
    uint64_t scorer;           /* while SCORING: the peer's serial */
    int64_t asked_ms;          /* while SCORING: monotonic */
    int32_t attempt;           /* scoring attempts that ended in a timeout or an error */
    enum reward_status status; /* when SCORED */
    float total;
    int64_t oldest_version; /* from ARRIVED on; -1: no token was sampled */
    int32_t completion_tokens;
    struct sample_partial partial; /* until ARRIVED */
    Hone__Trajectory *message;     /* T3; NULL: in the log alone */
    size_t message_bytes;
};

struct group_table;

struct group {
    struct group_table *table; /* it is in */
    uint64_t id, prompt_id, order;
    enum group_state state;
    enum drop_reason reason; /* when DROPPED */
    int64_t batch;           /* BATCHED, TRAINED: its batch; DROPPED: the one it was meant for; 0 */
    bool decided;            /* SCORED and found fit for a batch */
    bool probe;              /* measures its prompt; never SCORED for longer than a tick */
    int32_t failures; /* leases past their deadline or given back since a sample last arrived */
    int64_t not_before_ms; /* monotonic: back-off after a failure; nothing is leased before */
    int32_t size;
    struct sample *samples;                  /* [size] */
    int32_t sample_count[SAMPLE_SCORED + 1]; /* how many of them are in each state */
};

struct group_table {
    struct group **items; /* by order */
    int32_t count, capacity;
    struct id_map by_trajectory;             /* -> group id */
    int32_t state_count[GROUP_DROPPED + 1];  /* how many of the items are in each state */
    int32_t sample_count[SAMPLE_SCORED + 1]; /* the same of their samples */
    int32_t probe_count;                     /* how many of the items are probes */
    size_t message_bytes;                    /* T3 */
};

void group_table_init(struct group_table *table);
void group_table_release(struct group_table *table);
/* A new LEASED group; orders must come ascending. */
struct group *group_table_add(struct group_table *table, uint64_t order, uint64_t prompt_id,
                              int32_t size);
/* A group that was just added measures only. */
void group_table_make_probe(struct group_table *table, struct group *group);
struct group *group_table_find(const struct group_table *table, uint64_t id); /* NULL: not there */
/* Groups LEASED or SCORED that are to be trained. */
int32_t group_table_waiting(const struct group_table *table);
/* T1. TRAINED and DROPPED groups stay valid until they are removed. */
void group_table_move(struct group_table *table, struct group *group, enum group_state state);
void group_table_remove(struct group_table *table, struct group *group); /* frees it */
/* T1, for a sample of the group. */
void sample_move(struct group *group, struct sample *sample, enum sample_state state);
/* Into any state: the moves up to it were made before the hub's process started. */
void sample_restore(struct group *group, struct sample *sample, enum sample_state state);
/* The sample holds this trajectory from now on. */
void group_table_hold(struct group_table *table, struct group *group, int32_t index,
                      uint64_t trajectory_id);
/* T3: takes the message over when there is room for it. */
void group_table_keep(struct group_table *table, struct sample *sample, Hone__Trajectory **message);
/* The message that a sample keeps, for the caller (wire_free); NULL: none. */
Hone__Trajectory *group_table_take(struct group_table *table, struct sample *sample);
/* Finds the sample that holds a trajectory; NULL: none in flight does. */
struct sample *group_table_sample(const struct group_table *table, uint64_t trajectory_id,
                                  struct group **group);

bool group_all_scored(const struct group *group);
bool group_may_lack_samples(enum drop_reason reason); /* when it is dropped for it */
int32_t group_ok_count(const struct group *group);    /* samples whose reward is OK */
bool group_zero_advantage(const struct group *group); /* all OK totals are equal */
/* OK rewards and, of these, totals of at least pass_threshold; the version is the oldest. */
struct measurement group_measurement(const struct group *group, double pass_threshold);
int64_t group_completion_tokens(const struct group *group);
/* Oldest version over the samples; INT64_MAX when no token was sampled. */
int64_t group_oldest_version(const struct group *group);

const char *drop_reason_name(enum drop_reason reason);
int drop_reason_find(const char *name); /* -1: none */

#endif
