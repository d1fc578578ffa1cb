/* Trained versions out of the trainer's hands: to the actors (infra/wire/weight_channel.h), and as
 * the SHA-256 that the log keeps.
 *
 * Who owns what. The trainer writes every version into a slot of shared memory (model_move), so
 * publishing copies nothing: publisher_publish marks the slot as finished, hands it to the
 * publisher and gives the trainer the next one. A finished slot is never written again while the
 * channel, a recorder or a reader holds it. With `threaded`:
 *  - the caller's thread owns the model and calls everything here;
 *  - the channel thread owns the weight channel's socket: checksums, deltas and chunks are its
 * work;
 *  - two recorder threads make the SHA-256 of each version, in order, a piece at a time: one at the
 *    lowest priority, and instead of it one with more when somebody waits for a hash or the next
 *    version is there already: at most one version lags behind for want of a core.
 * Without, both are done by the caller inside publisher_publish and publisher_tick, in an order
 * that depends on nothing (simulators). The caller waits for the threads in one case: when they
 * lag behind by so many versions that they hold every slot.
 *
 * Where the system has no room for slots, versions are copied, and readers get chunks. */
#ifndef HONE_LEARNER_PUBLISHER_H
#define HONE_LEARNER_PUBLISHER_H

#include "infra/base/hash.h"
#include "infra/model/model.h"
#include "infra/train/lora.h"
#include "infra/wire/weight_channel.h"

struct publisher_options {
    const char *endpoint; /* bound here */
    struct weight_options weights;
    bool threaded;
    /* What is sent to receivers that do not share the image; NULL: the model's tensors. With the
     * hash of what they are added to (adapter_snapshot.h). Outlives the publisher. */
    const struct lora *adapters;
    struct hash base;
};

struct publisher;
/* The model must be freed before the publisher: it lies in a slot. Clock and context outlive it. */
int publisher_create(struct publisher **publisher, struct model *model,
                     struct wire_context *context, struct clock *clock,
                     const struct publisher_options *options);
void publisher_destroy(struct publisher *publisher);
/* The model holds `version`. Negative when a slot cannot be had. */
int publisher_publish(struct publisher *publisher, int64_t version);
/* Serves the channel when there is no thread for it: 0, 1 more to do, negative an error; an error
 * of the channel thread too. */
int publisher_tick(struct publisher *publisher);
/* For wire_poll; NULL when a thread polls it. */
struct wire_server *publisher_socket(struct publisher *publisher);
const char *publisher_endpoint(const struct publisher *publisher);
/* model_hash of a version; false when it is not known (yet). The latest 64 are kept. */
bool publisher_hash(struct publisher *publisher, int64_t version, char hex[HASH_HEX_SIZE]);
/* Waits for the recorders to reach the newest version. */
void publisher_wait(struct publisher *publisher);

struct publisher_report {
    struct weight_publish_report channel; /* of the version that was published last by then */
    double held_ms;                       /* what the latest publisher_publish took */
};
void publisher_report(struct publisher *publisher, struct publisher_report *report);

/* Copies the model's tensors; released by whoever takes it. */
void snapshot_of_model(const struct model *model, int64_t version, struct snapshot *snapshot);

#endif
