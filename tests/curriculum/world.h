/* A run in one process: the real hub, and actors, scorers and a learner that keep its protocol but
 * sample, score and train by arithmetic. Time is fake; every choice comes from one seed; faults
 * happen when a test asks for them or at given rates. A broken promise of the hub fails the test on
 * the spot. The log is RocksDB and the wire inproc; the simulator (tests/sim) gives it a disk of
 * its own and links a network of its own. */
#ifndef HONE_TESTS_CURRICULUM_WORLD_H
#define HONE_TESTS_CURRICULUM_WORLD_H

#include "curriculum/curriculum_stage.h"
#include "infra/store/log_store.h"

#define WORLD_PER_SECOND  50 /* ticks */
#define WORLD_ACTORS_MAX  4
#define WORLD_SCORERS_MAX 3
#define WORLD_HELD_MAX    256
#define WORLD_BATCHES_MAX 64
#define WORLD_HASH_SIZE   17
#define WORLD_ACKED_MAX   4096

struct held_sample { /* one sample of a lease that an actor works on, or one it has finished */
    bool used, finished, acked_refused;
    uint64_t lease_id, fence, group_id, prompt_id, id, seed;
    int32_t index;
    int64_t min_version, first_version, last_version;
    int32_t reported, durable; /* completion tokens */
    bool resumed;              /* from what another reported */
    int wait_ticks;
    int64_t sent_tick; /* -1: not yet */
};

struct held_score {
    bool used, finished;
    uint64_t id, attempt, group_id, text_hash;
    int wait_ticks;
    int64_t sent_tick;
};

struct fake_worker {
    char name[16];
    Hone__Role role;
    bool alive; /* false: a killed process; tests start it again */
    bool welcomed, stopped, refused;
    uint64_t incarnation;
    struct wire_client *client;
    int64_t heard_tick, beat_tick, hello_tick, worked_tick;
    int64_t stalled_until; /* a tick: it does nothing before it */
    int32_t credit;        /* granted and not used */
    int64_t version;       /* actors: weights held */
    struct held_sample samples[WORLD_HELD_MAX];
    struct held_score scores[WORLD_HELD_MAX];
};

struct fake_learner {
    struct fake_worker worker;
    int64_t trained, durable;
    int64_t queue[4];
    int queue_count;
    int train_ticks; /* left of the batch in training */
    uint64_t weights, durable_weights, weights_at[WORLD_BATCHES_MAX];
};

struct world_rates { /* per tick, out of 1000 */
    int actor_death, scorer_death, learner_death, hub_death, duplicate, score_error, score_timeout;
    int progress; /* a rollout in progress is reported */
};

struct world_options {
    struct curriculum_options hub;
    uint64_t seed; /* of timing and faults; what is sampled depends on hub.seed only */
    int actors, scorers;
    int slots; /* samples an actor holds */
    int checkpoint_every;
    int late_hashes; /* out of 100: versions announced before their hash is known */
    int zero_groups; /* out of 100: groups whose rewards are all equal */
    struct world_rates rates;
    /* A simulated disk: makes the store for each process of the hub. NULL: RocksDB in a directory,
     * and inproc sockets that a death of the hub takes along. */
    struct log_store *(*store)(void *context);
    void *store_context;
};

struct world {
    struct world_options options;
    char directory[64];
    int64_t now_ns, tick;
    struct clock clock;
    struct wire_context *context;
    struct run_log *log;
    struct curriculum_stage *hub; /* NULL while it is down */
    int64_t hub_stalled_until;    /* a tick */
    struct prompt *prompts;
    struct fake_worker actors[WORLD_ACTORS_MAX], scorers[WORLD_SCORERS_MAX];
    struct fake_learner learner;
    uint64_t draws, incarnations;
    bool finished;
    /* What the learner saw of each batch, by number: batches must be the same whenever they are
     * sent. */
    uint64_t batch_hash[WORLD_BATCHES_MAX];
    uint64_t acked[WORLD_ACKED_MAX]; /* trajectories that the hub acknowledged */
    int64_t acked_count;
    int64_t batches_out_of_turn;    /* sent to a learner that had them, or was not there yet */
    int64_t reports, resumed, over; /* progress sent; samples continued; told that it is over */
    int64_t deaths, hub_restarts, duplicates_sent, refusals, staleness_seen, trajectories_sent;
    bool hub_may_stop; /* an error of the hub ends the run instead of failing the test */
    int hub_error;
    bool faults_off;                              /* rates are not applied */
    bool hold_learner, hold_scorers, hold_actors; /* they do nothing while set */
};

struct world_options world_defaults(void);
struct filter_options world_filter(void); /* FILTER_ON */
void world_start(struct world *world, const struct world_options *options);
void world_end(struct world *world); /* removes the log too */
void world_tick(struct world *world);
/* Ticks until the hub has finished; fails after limit ticks. */
void world_run(struct world *world, int64_t limit);

void world_kill_hub(struct world *world); /* and starts it again from the log */
void world_stop_hub(struct world *world);
int world_start_hub(struct world *world); /* negative: it cannot start now */
void world_kill(struct world *world, struct fake_worker *worker); /* and starts a new process */
void world_kill_learner(struct world *world);
/* The audit holds, every group has left, and the learner's weights are those of batches 1..steps.
 */
void world_check_books(struct world *world, bool all_left);
/* What was trained, in one number. */
uint64_t world_result(const struct world *world);
uint64_t world_draw(struct world *world, uint64_t bound);
/* The reward that a trajectory ends up with, whoever scores it and however often. */
void world_expected_reward(const struct world *world, uint64_t group_id, uint64_t text_hash,
                           struct reward *reward);
/* Sends an actor's finished sample as it is. */
void world_send_sample(struct world *world, struct fake_worker *actor, struct held_sample *sample);

#endif
