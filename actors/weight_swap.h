/* Puts a verified snapshot's tensors into a model (G5). */
#ifndef HONE_ACTORS_WEIGHT_SWAP_H
#define HONE_ACTORS_WEIGHT_SWAP_H

#include "infra/model/model.h"
#include "infra/wire/weight_channel.h"

/* A snapshot with an image: the model adopts it, nothing is copied; the image must stay as it is
 * until the next swap or weight_swap_leave. Otherwise the values are copied and packed.
 * HONE_EINVAL when the image's layout, or without one the snapshot's tensors (names, order, dtype,
 * shapes), are not the model's: nothing is changed then. HONE_ECORRUPT when what the model holds
 * afterwards is not what the snapshot says: the model must not be used. */
int weight_swap(struct model *model, const struct snapshot *snapshot);
/* Before an image goes away: the model holds no version any more. */
void weight_swap_leave(struct model *model);

#endif
