/* Puts a verified snapshot's tensors into a model (G5). */
#ifndef HONE_ACTORS_WEIGHT_SWAP_H
#define HONE_ACTORS_WEIGHT_SWAP_H

#include "infra/model/model.h"
#include "infra/wire/weight_channel.h"

/* HONE_EINVAL when the snapshot's tensors (names, order, dtype, shapes) are not the model's:
 * nothing is changed then. HONE_ECORRUPT when what the model holds afterwards is not what the
 * snapshot says: the model must not be used. */
int weight_swap(struct model *model, const struct snapshot *snapshot);

#endif
