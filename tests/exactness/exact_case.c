#include "tests/exactness/exact_case.h"

#include <math.h>
#include <string.h>

#include "infra/base/memory.h"
#include "infra/model/model.h"

#define WIDE_EVERY   25 /* one case in so many is wide */
#define POISON_EVERY 5

static void draw_config(struct draws *d, struct exact_case *c)
{
    int32_t kv_heads = draw_between(d, 1, c->wide ? 2 : 3);
    c->config = (struct model_config){
        .vocab_size = c->wide ? draw_between(d, 150, 400) : draw_between(d, 9, 80),
        .hidden_size = c->wide ? draw_between(d, 60, 100) : draw_between(d, 3, 40),
        .layers = c->wide ? 1 : draw_between(d, 1, 2),
        .heads = kv_heads * draw_between(d, 1, c->wide ? 2 : 3),
        .kv_heads = kv_heads,
        .head_dim = 2 * (c->wide ? draw_between(d, 8, 20) : draw_between(d, 1, 9)),
        .intermediate_size = c->wide ? draw_between(d, 60, 130) : draw_between(d, 1, 45),
        .max_positions = 256,
        .rms_eps = 1e-5f,
        .rope_theta = 10000.0,
        .tied_head = draw_between(d, 0, 1) != 0,
        .stored_dtype = DTYPE_F32,
        .bos_id = -1,
    };
    c->dtype = draw_between(d, 0, 1) != 0 ? DTYPE_BF16 : DTYPE_F32;
}

static void draw_weights(struct draws *d, struct exact_case *c)
{
    float factor = 4.0f + 16.0f * draw_unit(d);
    c->parameters = model_config_parameter_count(&c->config);
    c->flat = MEMORY_ARRAY(float, c->parameters);
    model_init_flat(&c->config, c->seed * 7919 + c->index, c->flat);
    for (int64_t i = 0; i < c->parameters; i++) {
        uint32_t words[4];
        if (c->flat[i] != 1.0f) /* a norm's weights start at one */
            c->flat[i] *= factor;
        if (i % 4 != 0)
            continue;
        rng_words(&d->key, d->position++, words);
        if (words[0] % 16 == 0)
            c->flat[i] = (words[1] & 1) != 0 ? -0.0f : 0.0f;
        else if (words[0] % 16 == 1)
            c->flat[i] *= 1e-38f;
        else if (words[0] % 64 == 2)
            c->flat[i] *= 30.0f;
    }
}

/* The embedding is first in the flat vector. */
static void draw_poison(struct draws *d, struct exact_case *c)
{
    const float poisons[] = {NAN, INFINITY, -INFINITY, 3e38f};
    c->poison_id = -1;
    if (draw_between(d, 1, POISON_EVERY) != 1)
        return;
    c->poison_id = draw_between(d, 0, c->config.vocab_size - 1);
    float *row = c->flat + (int64_t)c->poison_id * c->config.hidden_size;
    float poison = poisons[draw_between(d, 0, 3)];
    for (int32_t i = draw_between(d, 0, 2); i < c->config.hidden_size; i += draw_between(d, 1, 9))
        row[i] = poison;
}

/* One sequence may contain the poisoned token; the others avoid it, so that they stay finite
 * (unless the head is tied, which spreads it to every row's logits). */
static void draw_sequences(struct draws *d, struct exact_case *c)
{
    int32_t poisoned = draw_between(d, 0, EXACT_SEQUENCES_MAX - 1);
    c->sequences = c->wide ? EXACT_SEQUENCES_MAX : draw_between(d, 1, EXACT_SEQUENCES_MAX);
    c->shared = draw_between(d, 0, 40);
    for (int32_t s = 0; s < c->sequences; s++) {
        int32_t count = c->wide ? draw_between(d, 15, 50) : draw_between(d, 1, 34);
        if (draw_between(d, 0, 7) == 0)
            count = 31 + draw_between(d, 0, 2); /* at the edge of a key block */
        c->counts[s] = count;
        for (int32_t i = 0; i < count; i++) {
            int32_t id = draw_between(d, 0, c->config.vocab_size - 1);
            if (id == c->poison_id && s != poisoned)
                id = (id + 1) % c->config.vocab_size;
            c->tokens[s][i] = s == 1 && i < c->shared ? c->tokens[0][i] : id;
            c->mask[s][i] = i > 0 && draw_between(d, 0, 3) != 0;
            c->weight[s][i] = draw_unit(d) - 0.4f;
        }
        if (s == 1)
            c->shared = c->shared < c->counts[0] ? c->shared : c->counts[0];
        if (s == 1)
            c->shared = c->shared < count ? c->shared : count;
    }
    if (c->sequences < 2)
        c->shared = 0;
}

static void draw_generation(struct draws *d, struct exact_case *c)
{
    c->groups = c->sequences < EXACT_GROUPS_MAX ? c->sequences : EXACT_GROUPS_MAX;
    c->group_size = draw_between(d, 1, EXACT_SAMPLES_MAX);
    c->allowed_vocab = draw_between(d, 0, 2) == 0 ? draw_between(d, 1, c->config.vocab_size) : 0;
    for (int32_t g = 0; g < c->groups; g++) {
        c->prompt_counts[g] = draw_between(d, 1, c->counts[g]);
        struct sampling *sampling = &c->sampling[g];
        *sampling = (struct sampling){.temperature = 0.4f + draw_unit(d),
                                      .top_p = 1.0f,
                                      .max_completion_tokens = draw_between(d, 1, 12),
                                      .seed = c->seed,
                                      .stop_count = 1};
        if (draw_between(d, 0, 4) == 0)
            sampling->temperature = 0.0f;
        if (draw_between(d, 0, 2) == 0)
            sampling->top_k = draw_between(d, 1, c->config.vocab_size + 3);
        if (draw_between(d, 0, 2) == 0)
            sampling->top_p = 0.05f + 0.94f * draw_unit(d);
        if (draw_between(d, 0, 2) == 0)
            sampling->min_p = 0.3f * draw_unit(d);
        sampling->keep_support = draw_between(d, 0, 1) != 0;
        sampling->stop_ids[0] = draw_between(d, 0, c->config.vocab_size - 1);
    }
}

void exact_case_init(struct exact_case *c, uint64_t seed, uint64_t index)
{
    struct draws d = {.key = {.seed = seed, .purpose = RNG_SIM, .a = index}};
    memset(c, 0, sizeof *c);
    c->seed = seed;
    c->index = index;
    c->wide = index % WIDE_EVERY == WIDE_EVERY - 1;
    draw_config(&d, c);
    draw_weights(&d, c);
    draw_poison(&d, c);
    draw_sequences(&d, c);
    draw_generation(&d, c);
    c->temperature = 0.5f + draw_unit(&d);
    c->entropy = draw_between(&d, 0, 1) != 0;
    c->micro_batch_tokens = EXACT_TOKENS_MAX * draw_between(&d, 1, 3);
}

void exact_case_release(struct exact_case *c)
{
    memory_free(c->flat);
    c->flat = NULL;
}
