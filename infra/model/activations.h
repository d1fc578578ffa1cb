/* What a transformer holds between and inside passes, shared by forward and backward only.
 *
 * "act" is the activation dtype (the model's), T is max_rows. By what is kept:
 *   all            one set of layer activations per layer;
 *   layer inputs   input and output per layer, the rest one set that the layers share;
 *   none           all layers share one set; input, middle and output are one residual stream. */
#ifndef HONE_MODEL_ACTIVATIONS_H
#define HONE_MODEL_ACTIVATIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "infra/model/transformer.h"
#include "infra/model/weights.h"

struct layer_activations {
    float *input;         /* [T, hidden] residual entering the layer */
    void *input_norm;     /* act [T, hidden] */
    float *input_rms;     /* [T] 1 / rms; NULL when nothing is kept */
    float *qkv;           /* [T, qkv] queries and keys after rotation, then values */
    void *attention;      /* act [T, query] */
    float *attention_lse; /* [T, heads]; NULL when nothing is kept */
    float *middle;        /* [T, hidden] residual after attention */
    void *middle_norm;    /* act [T, hidden] */
    float *middle_rms;    /* [T]; NULL when nothing is kept */
    float *gate_up;       /* [T, 2 * intermediate] */
    void *swiglu;         /* act [T, intermediate] */
    float *output;        /* [T, hidden] residual leaving the layer: the next one's input */
};

/* Scratch of the backward pass; all NULL when nothing is kept. */
struct backward_buffers {
    float *residual;     /* [T, hidden] gradient of the residual stream */
    float *wide;         /* [T, max(qkv, 2 * intermediate)] */
    float *narrow;       /* [T, max(hidden, query, intermediate)] */
    void *cast;          /* act [max rows x columns of any dy]; NULL in fp32 */
    void *transposed;    /* act: a dy turned, rows padded to 32 */
    void *packed;        /* a matmul input packed over the token axis */
    float *head_hidden;  /* [head_rows, hidden] */
    float *head_lse;     /* [head_rows] */
    float *head_logprob; /* [head_rows] */
    float *head_entropy; /* [head_rows] */
};

struct transformer {
    struct model *model;
    struct kv_cache *cache;
    int32_t max_rows;
    enum activation_keep keep;
    size_t bytes; /* of the one block that holds this struct and everything below */
    int64_t hidden, query, kv, qkv, intermediate, vocab;

    struct layer_activations *layers; /* [layers] */
    const float *noise;               /* of the pass: struct forward_rows */
    int32_t computed_layer;           /* whose activations a shared set holds */
    void *final_norm;                 /* act [T, hidden] */
    float *final_rms;                 /* [T]; NULL when nothing is kept */

    /* The latest forward's rows. */
    int32_t row_count;
    int32_t *tokens, *positions;  /* [T] */
    int32_t *block_ids, *offsets; /* [T] where each row's key and value go */
    struct attention_row *table;  /* [T] */
    int32_t *runs; /* [T + 1] first row of each run of one sequence's rows, then the end */
    int32_t run_count;
    bool whole_runs;     /* each sequence is one run */
    bool from_beginning; /* and every run starts at position 0 */

    /* The head works through rows in chunks of head_rows, a multiple of 32 unless T is smaller, so
     * that weight gradients do not depend on the chunk. */
    int32_t head_rows;
    void *head_input; /* act [head_rows, hidden] gathered rows */
    float *logits;    /* [head_rows, vocab] */

    struct backward_buffers backward;
};

/* Logits of `count` <= head_rows rows into transformer->logits; *input gets their hidden states,
 * act [count, hidden]. */
void transformer_head_chunk(struct transformer *transformer, int32_t count, const int32_t *rows,
                            const void **input);
/* The same of targets [done, done + count), cut to their support. */
void transformer_target_chunk(struct transformer *transformer, const struct head_targets *targets,
                              int32_t done, int32_t count, const void **input);

/* Makes layers[layer] hold that layer's activations of the latest forward, computing them again
 * from the layer's input when they are not kept. */
void transformer_restore_layer(struct transformer *transformer, int32_t layer);

/* One value of a row's final normed hidden state. */
static inline float transformer_final_state(const struct transformer *t, int32_t row, int64_t k)
{
    int64_t at = (int64_t)row * t->hidden + k;
    if (t->model->dtype == DTYPE_F32)
        return ((const float *)t->final_norm)[at];
    return bf16_to_f32(((const bf16 *)t->final_norm)[at]);
}

#endif
