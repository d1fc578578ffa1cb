/* Rollouts that go on: what their actors have reported so far is in the log, so that another actor
 * can go on from there after a death.
 *
 *   Q1  A report counts while its lease is out, the fence matches, its sample has not arrived and
 * it continues what the log has; versions do not go back (G2) and are none the lease forbids. Else
 *       it is answered with what the log has.
 *   Q2  It is acknowledged after the commit with the number of tokens that the log has; the sender
 *       goes on from there. Each one extends the lease's deadline.
 *   Q3  Pieces are deleted with the arrival of their sample's trajectory, and when a lease is made
 *       that may no longer use their oldest version (G3). */
#ifndef HONE_CURRICULUM_PARTIAL_H
#define HONE_CURRICULUM_PARTIAL_H

#include "curriculum/hub.h"

/* false: it breaks the rules of a report; the caller drops the peer (error_message says why). */
bool partial_on_progress(struct curriculum_stage *hub, struct peer *peer,
                         const Hone__Progress *message);
/* Deletes what the log has of a sample. */
void partial_forget(struct curriculum_stage *hub, const struct group *group, int32_t index);
/* Puts the committed pieces of a sample together; released by the caller. HONE_ECORRUPT when one is
 * not there. */
int partial_load(struct curriculum_stage *hub, const struct group *group, int32_t index,
                 struct trajectory *prefix);
/* Fills the samples' partials after a restart; groups and samples are recovered before. */
int partial_recover(struct curriculum_stage *hub);

#define PARTIAL_KEY_BYTES 16

struct partial_key {
    uint64_t group_id;
    int32_t sample_index, offset;
};
/* false: not a key of LOG_PARTIALS. */
bool partial_key_read(struct partial_key *key, const void *bytes, size_t count);

#endif
