/* Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685): of each chosen weight W [out, in]
 * only B [out, rank] and A [rank, in] are trained, and the model computes with
 *
 *     W + (alpha / rank) B A,
 *
 * added in fp32 and rounded once to the compute dtype. So there is one set of weights and one
 * engine, the merged model and the adapted one are the same bits, and everything that knows a
 * version by its weights goes on knowing it. B starts from 0, A from uniform(+-1/sqrt(in)).
 *
 * Gradients come from the gradient of W: dB = (alpha / rank) dW A^T, dA = (alpha / rank) B^T dW.
 *
 *  A1  Every result is a function of the values alone, for any number of threads: matrices are
 *      shared out whole.
 *
 * A zeroed one is none. Owned by its trainer. */
#ifndef HONE_TRAIN_LORA_H
#define HONE_TRAIN_LORA_H

#include <stdbool.h>
#include <stdint.h>

#include "infra/model/model.h"

enum lora_target {
    LORA_Q = 1,
    LORA_K = 2,
    LORA_V = 4,
    LORA_O = 8,
    LORA_GATE = 16,
    LORA_UP = 32,
    LORA_DOWN = 64
};

struct lora_options {
    int32_t rank; /* 0: everything is trained */
    float alpha;
    unsigned targets; /* of enum lora_target */
    uint64_t seed;    /* of A */
};

/* One adapted weight; its A [rank, columns], row-major, and after it its B [rows, rank]. */
struct lora_matrix {
    int64_t offset; /* of W in the flat parameter vector */
    int64_t rows, columns;
    int64_t at; /* of A in the adapters' vectors */
};

struct lora {
    struct lora_options options;
    struct lora_matrix *matrices;
    int32_t matrix_count;
    int64_t count;   /* values of all adapters; 0: none */
    float *values;   /* [count], and after them the moments: what a checkpoint stores */
    float *m, *v;    /* [count] */
    float *gradient; /* [count] */
};

/* The adapters of a model of this shape. HONE_EINVAL when no weight is chosen. */
int lora_init(struct lora *lora, const struct lora_options *options, const struct model *model);
void lora_release(struct lora *lora);
/* How many values the adapters of such a model have. */
int64_t lora_count(const struct lora_options *options, const struct model_config *config);
/* Values that a checkpoint stores from `values` on; 0 when there are none. */
int64_t lora_stored(const struct lora *lora);
/* A and B as at the start, moments 0. */
void lora_reset(struct lora *lora);

/* merged [parameter_count] = base with the adapters added. */
void lora_merge(const struct lora *lora, struct parallel *pool, const float *base,
                int64_t parameters, float *merged);
/* The same into the model, in its dtype; scratch [parameter_count] is overwritten. */
void lora_apply(const struct lora *lora, const struct compute *compute, const float *base,
                float *scratch, struct model *model);
/* The adapters' gradient from that of all weights [parameter_count]. */
void lora_gradient(struct lora *lora, struct parallel *pool, const float *gradient);
double lora_sum_squares(const struct lora *lora, const struct compute *compute);
void lora_step(struct lora *lora, const struct compute *compute,
               const struct adamw_options *options);

#endif
