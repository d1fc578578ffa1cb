/* The hub: owns prompts, leases, groups, batches and the log. Single writer. Ticked.
 *
 *  G1  Every leased group leaves exactly once: trained, dropped with a counted reason, or it is in
 *      flight.
 *  G3  At batch formation: learner version - oldest token's version <= staleness_max. Dispatch
 *      stops early enough: the number of groups dispatched and not yet trained or dropped never
 *      exceeds (staleness_max + 1) * prompts_per_step. (Batch n trains version n-1 into n.)
 *  G4  Batches are numbered 1, 2, 3 ...; a group is in at most one; a batch is stored before it is
 *      sent and re-sent, unchanged, until the learner says it is durable.
 *  G7  With staleness_max 0 a batch is made of groups in dispatch order, dispatched only after the
 *      learner's version for it is published, each lease demanding exactly that version: batches
 *      do not depend on timing.
 *
 * Everything acknowledged is committed first (group commit: one synced write per tick covers what
 * arrived). Every Hello is answered with a Welcome (or Refused, or Stop), every Heartbeat with a
 * Heartbeat; a worker that is not heard for ten seconds counts as gone. Credit counts from the last
 * Hello on. */
#ifndef HONE_CURRICULUM_CURRICULUM_STAGE_H
#define HONE_CURRICULUM_CURRICULUM_STAGE_H

#include "curriculum/curriculum_options.h"
#include "infra/launch/stage_loop.h"
#include "infra/store/run_log.h"
#include "infra/telemetry/metrics.h"

struct curriculum_stage;
/* Continues from what the log holds. */
int curriculum_stage_create(struct curriculum_stage **stage,
                            const struct curriculum_options *options, struct run_log *log,
                            struct wire_context *context, struct clock *clock,
                            struct metrics *metrics);
int curriculum_stage_tick(void *stage,
                          struct stage_wait *wait); /* finished when batch `steps` is durable */
void curriculum_stage_destroy(struct curriculum_stage *stage);

#endif
