#include "actors/adapter_swap.h"

#include "infra/base/error.h"
#include "infra/base/memory.h"
#include "infra/model/checkpoint.h"
#include "infra/train/adapter_snapshot.h"

struct adapter_swap {
    struct model *model;
    const struct compute *compute;
    struct lora lora;
    float *base, *scratch; /* [parameter_count] */
    struct hash hash;
};

static size_t vector_bytes(const struct adapter_swap *swap)
{
    return (size_t)model_parameter_count(swap->model) * sizeof(float);
}

int adapter_swap_create(struct adapter_swap **swap, const struct lora_options *options,
                        const char *directory, struct model *model, const struct compute *compute)
{
    struct adapter_swap *s = MEMORY_NEW(struct adapter_swap);
    *swap = NULL;
    s->model = model;
    s->compute = compute;
    s->base = memory_map(vector_bytes(s));
    s->scratch = memory_map(vector_bytes(s));
    int rc = model_read_flat(model_config_of(model), directory, s->base);
    if (rc == 0)
        rc = lora_init(&s->lora, options, model);
    if (rc < 0) {
        adapter_swap_destroy(s);
        return error_prefix("the base that adapters are added to");
    }
    adapter_base_hash(s->base, model_parameter_count(model), &s->hash);
    *swap = s;
    return 0;
}

void adapter_swap_destroy(struct adapter_swap *swap)
{
    if (!swap)
        return;
    lora_release(&swap->lora);
    memory_unmap(swap->base, vector_bytes(swap));
    memory_unmap(swap->scratch, vector_bytes(swap));
    memory_free(swap);
}

int adapter_swap_apply(struct adapter_swap *swap, const struct snapshot *snapshot)
{
    int rc = adapter_snapshot_read(&swap->lora, swap->model, &swap->hash, snapshot);
    if (rc < 0)
        return rc;
    model_adopt(swap->model, NULL);
    lora_apply(&swap->lora, swap->compute, swap->base, swap->scratch, swap->model);
    return 0;
}
