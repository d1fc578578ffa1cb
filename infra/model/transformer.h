/* The forward and backward pass: one function for prefill, decode and training (G6).
 *
 * A pass takes rows (token, position, sequence). Rows of one sequence are in position order and
 * continue what its kv_sequence already holds (or start at 0); the caller has reserved blocks for
 * them. The pass stores keys and values, attends, and leaves the final normed hidden state of every
 * row. A row's bits depend on its sequence's tokens up to it and on the weights, on nothing else.
 *
 * A training transformer keeps what the backward needs of the latest forward: every activation, or
 * each layer's input alone, from which the backward computes the rest again (the same bits).
 * Memory is planned in transformer_create and nothing is allocated afterwards. Owned by one thread.
 */
#ifndef HONE_MODEL_TRANSFORMER_H
#define HONE_MODEL_TRANSFORMER_H

#include "infra/model/kv_cache.h"
#include "infra/model/model.h"

struct transformer;

struct forward_rows {
    int32_t count;
    const int32_t *tokens;    /* [count] */
    const int32_t *positions; /* [count] */
    const int32_t *sequence;  /* [count] index into sequences */
    struct kv_sequence *const *sequences;
    const float *noise; /* [count, hidden] added to the embeddings; NULL: none */
};

/* What a pass leaves for a backward pass. */
enum activation_keep { ACTIVATIONS_NONE, ACTIVATIONS_ALL, ACTIVATIONS_LAYER_INPUTS };

/* max_rows: most rows of one pass. */
int transformer_create(struct transformer **transformer, struct model *model,
                       struct kv_cache *cache, int32_t max_rows, enum activation_keep keep);
void transformer_free(struct transformer *transformer);
/* Bytes transformer_create would allocate: for the memory plan. */
size_t transformer_bytes(const struct model_config *config, enum dtype dtype, int32_t max_rows,
                         enum activation_keep keep);

/* Advances each sequence's length past its last row. */
void transformer_forward(struct transformer *transformer, const struct forward_rows *rows);

/* Most rows of one transformer_head. */
int32_t transformer_head_rows(const struct transformer *transformer);
/* logits fp32 [count, vocab] of the given rows of the latest forward, in the transformer's own tile
 * of transformer_head_rows rows: valid until its next call. */
const float *transformer_head(struct transformer *transformer, int32_t count, const int32_t *rows);
/* The same for any number of rows into `logits`. */
void transformer_logits(struct transformer *transformer, int32_t count, const int32_t *rows,
                        float *logits);
/* Which tokens' logprobs are asked for: of targets[i] after row rows[i], each row at most once and
 * ascending; count <= max_rows. */
struct head_targets {
    int32_t count;
    const int32_t *rows, *targets;
    float temperature;
    const struct logit_support *support; /* [count] the distributions are cut to; NULL: none is */
};
/* logprob[i] = log p(targets[i] | row rows[i]); entropy may be NULL. The head runs in chunks, so no
 * [count, vocab] matrix exists. */
void transformer_logprob(struct transformer *transformer, const struct head_targets *targets,
                         float *logprob, float *entropy);
/* A linear head beside the vocabulary's: values[i] = weights[hidden] + sum_k weights[k] h[k] of the
 * final normed hidden state h of row rows[i], summed in double in ascending k. weights [hidden +
 * 1], the bias last. */
void transformer_values(const struct transformer *transformer, int32_t count, const int32_t *rows,
                        const float *weights, float *values);
/* What a backward pass adds for such a head: the gradient of sum_i d_values[i] values[i], into the
 * states and into gradient [hidden + 1]. */
struct value_gradient {
    const float *weights;  /* [hidden + 1] */
    const float *d_values; /* [count] */
    float *gradient;       /* [hidden + 1] */
};
/* Adds the gradient of sum_i d_logprob[i] * logprob[i] + d_entropy[i] * entropy[i] over the latest
 * (training) forward into gradient fp32 [parameter_count], canonical order. Every sequence of that
 * forward must have started at position 0. d_entropy may be NULL, and so may values, whose rows are
 * the same. */
void transformer_backward(struct transformer *transformer, const struct head_targets *targets,
                          const float *d_logprob, const float *d_entropy,
                          const struct value_gradient *values, float *gradient);

#endif
