/* Leases: who samples what, and the trajectories that come back.
 *
 *   D1 (G3)  A new group is dispatched only while fewer than (staleness_max + 1) *
 *       prompts_per_step groups are dispatched and not yet trained or dropped, and only as many as
 *       the run still needs.
 *   D2  A lease demands the oldest version that the group's batch can still use. With
 *       staleness_max 0 that is exactly the published one (G7).
 *   D4  A lease past its deadline, or given back, is made again after a back-off (with new fence
 * and id: what the first holder still brings is refused), at most lease_retries times in a row;
 *       then its group is dropped (abandoned). The death of a worker costs no try; with
 *       staleness_max 0 a deadline drops nothing (G7).
 *   D3  A trajectory counts when its lease is out, the fence matches, and it fits its group; all
 *       else is refused. One that is in the log already is acknowledged again. */
#ifndef HONE_CURRICULUM_DISPATCH_H
#define HONE_CURRICULUM_DISPATCH_H

#include "curriculum/hub.h"

void dispatch_on_credit(struct curriculum_stage *hub, struct peer *peer, int32_t samples);
/* Takes the message over when it counts. false: it breaks the rules of a trajectory; the caller
 * drops the peer (error_message says why). */
bool dispatch_on_trajectory(struct curriculum_stage *hub, struct peer *peer,
                            Hone__Trajectory **message);
/* An actor gives a lease back. Negative: see dispatch_expire. */
int dispatch_on_return(struct curriculum_stage *hub, const struct peer *peer,
                       const Hone__LeaseReturn *message);
/* The worker said Hello: leases of an earlier process of that name go back, its own are sent again.
 */
void dispatch_peer_back(struct curriculum_stage *hub, const struct wire_peer *wire,
                        uint64_t incarnation);
/* The worker is gone: its leases go back. */
void dispatch_peer_lost(struct curriculum_stage *hub, const struct wire_peer *wire);
/* Leases past their deadline, or held by workers that never came back after a restart of the hub.
 * Negative (HONE_EGUARD): group after group had to be dropped because its leases came to nothing.
 */
int dispatch_expire(struct curriculum_stage *hub, int64_t silent_ms);
/* Gives free samples, then new groups, to actors with credit. */
void dispatch_plan(struct curriculum_stage *hub);
/* Sends the leases that were committed. */
int dispatch_send(struct curriculum_stage *hub);

#endif
