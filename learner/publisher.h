/* A trained version as an immutable snapshot for the actors (G5): the values that the engine
 * multiplies with, in the compute dtype, so that an actor holds the learner's bits. */
#ifndef HONE_LEARNER_PUBLISHER_H
#define HONE_LEARNER_PUBLISHER_H

#include "infra/model/model.h"
#include "infra/wire/weight_channel.h"

/* Copies the model's tensors; released by whoever takes it. */
void snapshot_of_model(const struct model *model, int64_t version, struct snapshot *snapshot);

#endif
