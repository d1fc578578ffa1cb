/* What the hub tells people: figures of each batch, and who waits for whom when nothing moves. */
#ifndef HONE_CURRICULUM_HUB_REPORT_H
#define HONE_CURRICULUM_HUB_REPORT_H

#include "curriculum/hub.h"

/* The record of the batch just formed (number hub->batch_count) from its groups. */
int hub_report_batch(struct curriculum_stage *hub, const struct group *const *groups,
                     int32_t count);
/* Where a worker's time has gone since its start, as its heartbeat says: a record of the workers'
 * metrics. At most ten a second of all workers, but for the last one of each. */
void hub_report_worker(struct curriculum_stage *hub, struct peer *peer,
                       const Hone__Heartbeat *beat);
/* One line when nothing has moved for stall_ms, and again after each further stall_ms. */
void hub_report_stall(struct curriculum_stage *hub);
/* The line's text. */
void hub_describe_wait(struct curriculum_stage *hub, struct text *out);

#endif
