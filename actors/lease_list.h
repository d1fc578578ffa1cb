/* The leases an actor holds and the trajectories it has not been rid of: plain lists, no messages.
 * Owned by the actor stage. */
#ifndef HONE_ACTORS_LEASE_LIST_H
#define HONE_ACTORS_LEASE_LIST_H

#include "infra/data/trajectory.h"

/* What the hub has of one sample while it is sampled. */
struct sample_progress {
    int32_t durable;          /* completion tokens that the hub has acknowledged */
    int32_t sent;             /* that it was sent, acknowledged or not */
    int64_t sent_ms;          /* monotonic */
    struct trajectory prefix; /* where an earlier holder of the sample stopped; until submitted */
};

/* Samples [sample_first, sample_first + sample_count) of one group. */
struct lease {
    struct lease *next;
    uint64_t user; /* names the lease in the engine */
    uint64_t lease_id, fence, group_id, prompt_id;
    int32_t sample_first, sample_count;
    int32_t submitted, finished;      /* samples */
    struct sample_progress *progress; /* [sample_count] */
    int32_t *prompt_tokens;
    int32_t prompt_token_count;
    struct sampling sampling;
    int64_t min_policy_version;
    int64_t deadline_ms, leased_ms, started_ms; /* unix; 0 = none */
};

/* Oldest first. */
struct lease_list {
    struct lease *first, **last; /* last: where the next one is linked */
    int32_t samples;             /* leased and not finished */
};

void lease_list_init(struct lease_list *list);
void lease_list_release(struct lease_list *list);
void lease_list_append(struct lease_list *list, struct lease *lease); /* takes it */
struct lease *lease_list_find(const struct lease_list *list, uint64_t user);
bool lease_list_holds(const struct lease_list *list, uint64_t lease_id, uint64_t fence);
struct lease *lease_list_find_id(const struct lease_list *list, uint64_t lease_id, uint64_t fence);
/* Not in a list. */
void lease_free(struct lease *lease);
/* Unlinks and frees. */
void lease_list_remove(struct lease_list *list, struct lease *lease);

/* A trajectory until the hub acknowledges it. */
struct parcel {
    struct parcel *next;
    struct trajectory trajectory;
    int64_t sent_ms; /* monotonic; -1: send now */
};

struct parcel_list {
    struct parcel *first, **last;
    int32_t count;
};

void parcel_list_init(struct parcel_list *list);
void parcel_list_release(struct parcel_list *list);
/* Takes what *trajectory owns. */
void parcel_list_append(struct parcel_list *list, const struct trajectory *trajectory);
/* Frees the parcel of that id; false when there is none. */
bool parcel_list_remove(struct parcel_list *list, uint64_t id);
/* All are to be sent again. */
void parcel_list_resend(struct parcel_list *list);
bool parcel_list_holds(const struct parcel_list *list, uint64_t lease_id, uint64_t fence);

#endif
