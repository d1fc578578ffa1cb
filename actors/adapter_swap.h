/* Puts adapters that came over the weight channel into a model (G5): added to the base that this
 * actor has on its own disk, as the learner adds them, so that both compute with the same bits. */
#ifndef HONE_ACTORS_ADAPTER_SWAP_H
#define HONE_ACTORS_ADAPTER_SWAP_H

#include "infra/train/lora.h"
#include "infra/wire/weight_channel.h"

struct adapter_swap;
/* directory: the base's checkpoint. The model and compute outlive it. Holds 8 bytes a parameter. */
int adapter_swap_create(struct adapter_swap **swap, const struct lora_options *options,
                        const char *directory, struct model *model, const struct compute *compute);
void adapter_swap_destroy(struct adapter_swap *swap);
/* As weight_swap of a snapshot without an image. */
int adapter_swap_apply(struct adapter_swap *swap, const struct snapshot *snapshot);

#endif
