#include "infra/train/embedding_noise.h"

#include <math.h>

#include "infra/base/rng.h"

#define GRAIN_ROWS 16

struct filling {
    const struct embedding_noise_options *options;
    int64_t step;
    const struct train_batch *batch;
    const struct micro_batch *micro;
    int32_t hidden;
    float *noise;
};

/* 24 bits of a word, in (-1, 1). */
static float centered(uint32_t word)
{
    return ((float)(word >> 8) + 0.5f) * 0x1p-23f - 1.0f;
}

static void fill_row(const struct filling *f, int64_t row)
{
    const struct micro_batch *micro = f->micro;
    const struct train_sequence *sequence =
        &f->batch->sequences[micro->first + micro->sequence[row]];
    float scale = f->options->alpha / sqrtf((float)sequence->count * (float)f->hidden);
    struct rng_key key = {.seed = f->options->seed,
                          .purpose = RNG_NOISE,
                          .a = (uint64_t)f->step << 32 | (uint32_t)sequence->unit,
                          .b = (uint32_t)micro->positions[row]};
    float *out = f->noise + row * f->hidden;
    for (int32_t i = 0; i < f->hidden; i += 4) {
        uint32_t words[4];
        rng_words(&key, (uint64_t)i, words);
        for (int32_t k = 0; k < 4 && i + k < f->hidden; k++)
            out[i + k] = scale * centered(words[k]);
    }
}

static void fill_rows(void *context, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    for (int64_t row = begin; row < end; row++)
        fill_row(context, row);
}

void embedding_noise_fill(const struct embedding_noise_options *options, int64_t step,
                          const struct train_batch *batch, const struct micro_batch *micro,
                          int32_t hidden, struct parallel *pool, float *noise)
{
    struct filling filling = {options, step, batch, micro, hidden, noise};
    parallel_for(pool, micro->row_count, GRAIN_ROWS, fill_rows, &filling);
}
