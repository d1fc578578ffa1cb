/* Adapters as a version on the weight channel: instead of a model's tensors each matrix's A and B
 * in fp32, and what they are added to by its hash. */
#ifndef HONE_TRAIN_ADAPTER_SNAPSHOT_H
#define HONE_TRAIN_ADAPTER_SNAPSHOT_H

#include "infra/train/lora.h"
#include "infra/wire/weight_channel.h"

/* SHA-256 of the fp32 weights [parameter_count] that adapters are added to. */
void adapter_base_hash(const float *base, int64_t parameters, struct hash *hash);

/* Copies the adapters into a new snapshot's tensors and data. */
void adapter_snapshot_fill(const struct lora *lora, const struct model *model,
                           const struct hash *base, int64_t version, struct snapshot *snapshot);
/* The other way. HONE_EINVAL when the snapshot is not of these adapters or of this base: nothing is
 * changed then. */
int adapter_snapshot_read(struct lora *lora, const struct model *model, const struct hash *base,
                          const struct snapshot *snapshot);

#endif
