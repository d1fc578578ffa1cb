/* The world's actors, scorers and learner: they keep the hub's protocol as the real ones do, but
 * sample, score and train by arithmetic. */
#ifndef HONE_TESTS_CURRICULUM_FAKE_WORKER_H
#define HONE_TESTS_CURRICULUM_FAKE_WORKER_H

#include "tests/curriculum/world.h"

/* Receives, keeps contact with the hub, works. Checks what it receives. */
void fake_worker_tick(struct world *world, struct fake_worker *worker);
uint64_t fake_mix(uint64_t a, uint64_t b);

#endif
