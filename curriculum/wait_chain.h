/* Who waits for whom, from the learner down to whoever does not wait for anyone: the root.
 *
 *   learner waits for batch 7 from curriculum
 *   curriculum waits for the reward of a trajectory of group 31 from scorer-0
 *   scorer-0 is busy                                    <- the root
 *
 *   C1  The chain follows what the hub itself lacks for its next step, and then what each worker
 * says in its heartbeat that it waits for. A worker that is not heard is the root: it cannot wait.
 *   C2  The same state is a file (JSON), renewed every second while the hub ticks, for `hone run`
 * and `hone inspect --waiting`; a file that is not renewed says that the hub itself stands still.
 */
#ifndef HONE_CURRICULUM_WAIT_CHAIN_H
#define HONE_CURRICULUM_WAIT_CHAIN_H

#include "curriculum/hub.h"

#define WAIT_LINKS_MAX 8

struct wait_link {
    char who[WIRE_IDENTITY_MAX];
    char what[224]; /* "waits for ...", "is busy ...", "is silent ..." */
    int64_t for_ms; /* how long; 0: not known */
};

/* The last link is the root. */
struct wait_chain {
    struct wait_link links[WAIT_LINKS_MAX];
    int32_t count;
};

void wait_chain_find(const struct curriculum_stage *hub, struct wait_chain *chain);
/* "a waits for b for 3 s; b is busy for 3 s" */
void wait_chain_print(const struct wait_chain *chain, struct text *out);
/* C2. Written when a second has passed; a failure is logged once and does not end the run. */
void wait_chain_publish(struct curriculum_stage *hub);
/* The file's content. */
void wait_chain_json(const struct curriculum_stage *hub, struct text *out);

#endif
