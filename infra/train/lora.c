#include "infra/train/lora.h"

#include <math.h>
#include <string.h>

#include "infra/base/error.h"
#include "infra/base/memory.h"
#include "infra/base/rng.h"
#include "infra/base/text.h"

#define LANES 16

static const struct {
    const char *name;
    unsigned target;
} target_names[] = {{"q_proj.weight", LORA_Q},       {"k_proj.weight", LORA_K},
                    {"v_proj.weight", LORA_V},       {"o_proj.weight", LORA_O},
                    {"gate_proj.weight", LORA_GATE}, {"up_proj.weight", LORA_UP},
                    {"down_proj.weight", LORA_DOWN}};

static bool is_target(unsigned targets, const char *tensor)
{
    for (size_t i = 0; i < sizeof target_names / sizeof target_names[0]; i++)
        if ((targets & target_names[i].target) != 0 && text_ends_with(tensor, target_names[i].name))
            return true;
    return false;
}

int lora_init(struct lora *lora, const struct lora_options *options, const struct model *model)
{
    int32_t tensors = model_tensor_count(model);
    memset(lora, 0, sizeof *lora);
    lora->options = *options;
    lora->matrices = MEMORY_ARRAY(struct lora_matrix, tensors);
    for (int32_t i = 0; i < tensors; i++) {
        const struct model_tensor *tensor = model_tensor_at(model, i);
        if (!is_target(options->targets, tensor->name))
            continue;
        lora->matrices[lora->matrix_count++] = (struct lora_matrix){.offset = tensor->offset,
                                                                    .rows = tensor->rows,
                                                                    .columns = tensor->columns,
                                                                    .at = lora->count};
        lora->count += options->rank * (tensor->rows + tensor->columns);
    }
    if (lora->count == 0) {
        lora_release(lora);
        return error_set(HONE_EINVAL, "lora: no weight of the model is among the targets");
    }
    lora->values = memory_map((size_t)(4 * lora->count) * sizeof(float));
    lora->m = lora->values + lora->count;
    lora->v = lora->m + lora->count;
    lora->gradient = lora->v + lora->count;
    lora_reset(lora);
    return 0;
}

void lora_release(struct lora *lora)
{
    memory_unmap(lora->values, (size_t)(4 * lora->count) * sizeof(float));
    memory_free(lora->matrices);
    memset(lora, 0, sizeof *lora);
}

int64_t lora_count(const struct lora_options *options, const struct model_config *config)
{
    int64_t hidden = config->hidden_size, ff = config->intermediate_size;
    int64_t query = (int64_t)config->heads * config->head_dim;
    int64_t kv = (int64_t)config->kv_heads * config->head_dim;
    const int64_t sides[] = {query + hidden, kv + hidden, kv + hidden, hidden + query,
                             ff + hidden,    ff + hidden, hidden + ff};
    int64_t sum = 0;
    for (size_t i = 0; i < sizeof sides / sizeof sides[0]; i++)
        sum += (options->targets & target_names[i].target) != 0 ? sides[i] : 0;
    return sum * options->rank * config->layers;
}

int64_t lora_stored(const struct lora *lora)
{
    return 3 * lora->count;
}

static float *a_of(const struct lora *lora, const struct lora_matrix *matrix, float *values)
{
    (void)lora;
    return values + matrix->at;
}

static float *b_of(const struct lora *lora, const struct lora_matrix *matrix, float *values)
{
    return values + matrix->at + lora->options.rank * matrix->columns;
}

static float scale_of(const struct lora *lora)
{
    return lora->options.alpha / (float)lora->options.rank;
}

void lora_reset(struct lora *lora)
{
    if (lora->count > 0)
        memset(lora->values, 0, (size_t)(4 * lora->count) * sizeof(float));
    for (int32_t i = 0; i < lora->matrix_count; i++) {
        const struct lora_matrix *matrix = &lora->matrices[i];
        const struct rng_key key = {
            .seed = lora->options.seed, .purpose = RNG_INIT, .a = (uint64_t)i, .b = 1};
        float *a = a_of(lora, matrix, lora->values);
        float bound = (float)(1.0 / sqrt((double)matrix->columns));
        for (int64_t k = 0; k < lora->options.rank * matrix->columns; k++)
            a[k] = bound * (2.0f * rng_uniform(&key, (uint64_t)k) - 1.0f);
    }
}

/* ---- merging ---- */

/* row[columns] of the merged weight. */
static void merge_row(const struct lora *lora, const struct lora_matrix *matrix, int64_t row,
                      const float *base, float *merged)
{
    const float *a = a_of(lora, matrix, lora->values);
    const float *b = b_of(lora, matrix, lora->values) + row * lora->options.rank;
    float scale = scale_of(lora);
    memcpy(merged, base, (size_t)matrix->columns * sizeof *merged);
    for (int32_t r = 0; r < lora->options.rank; r++) {
        float factor = scale * b[r];
        const float *a_row = a + r * matrix->columns;
        for (int64_t k = 0; k < matrix->columns; k++)
            merged[k] += factor * a_row[k];
    }
}

struct merging {
    const struct lora *lora;
    const float *base;
    float *merged;
};

static void merge_matrices(void *context, int64_t begin, int64_t end, int thread)
{
    const struct merging *merging = context;
    (void)thread;
    for (int64_t i = begin; i < end; i++) {
        const struct lora_matrix *matrix = &merging->lora->matrices[i];
        for (int64_t row = 0; row < matrix->rows; row++) {
            int64_t at = matrix->offset + row * matrix->columns;
            merge_row(merging->lora, matrix, row, merging->base + at, merging->merged + at);
        }
    }
}

void lora_merge(const struct lora *lora, struct parallel *pool, const float *base,
                int64_t parameters, float *merged)
{
    struct merging merging = {.lora = lora, .base = base, .merged = merged};
    parallel_copy(pool, merged, base, (size_t)parameters * sizeof *merged);
    parallel_for(pool, lora->matrix_count, 1, merge_matrices, &merging);
}

void lora_apply(const struct lora *lora, const struct compute *compute, const float *base,
                float *scratch, struct model *model)
{
    lora_merge(lora, compute->pool, base, model_parameter_count(model), scratch);
    model_set_flat(model, scratch);
}

/* ---- the gradient ---- */

/* Dot product in LANES chains, added in ascending order. */
static float dot(const float *x, const float *y, int64_t count)
{
    float lanes[LANES] = {0};
    float sum = 0.0f;
    int64_t k = 0;
    for (; k + LANES <= count; k += LANES)
        for (int l = 0; l < LANES; l++)
            lanes[l] += x[k + l] * y[k + l];
    for (int l = 0; k + l < count; l++)
        lanes[l] += x[k + l] * y[k + l];
    for (int l = 0; l < LANES; l++)
        sum += lanes[l];
    return sum;
}

struct gathering {
    struct lora *lora;
    const float *gradient;
};

static void matrix_gradient(void *context, int64_t begin, int64_t end, int thread)
{
    const struct gathering *gathering = context;
    struct lora *lora = gathering->lora;
    int32_t rank = lora->options.rank;
    float scale = scale_of(lora);
    (void)thread;
    for (int64_t i = begin; i < end; i++) {
        const struct lora_matrix *matrix = &lora->matrices[i];
        const float *a = a_of(lora, matrix, lora->values), *b = b_of(lora, matrix, lora->values);
        float *da = a_of(lora, matrix, lora->gradient), *db = b_of(lora, matrix, lora->gradient);
        memset(da, 0, (size_t)(rank * matrix->columns) * sizeof *da);
        for (int64_t row = 0; row < matrix->rows; row++) {
            const float *dw = gathering->gradient + matrix->offset + row * matrix->columns;
            for (int32_t r = 0; r < rank; r++) {
                float factor = scale * b[row * rank + r];
                float *da_row = da + r * matrix->columns;
                db[row * rank + r] = scale * dot(dw, a + r * matrix->columns, matrix->columns);
                for (int64_t k = 0; k < matrix->columns; k++)
                    da_row[k] += factor * dw[k];
            }
        }
    }
}

void lora_gradient(struct lora *lora, struct parallel *pool, const float *gradient)
{
    struct gathering gathering = {.lora = lora, .gradient = gradient};
    parallel_for(pool, lora->matrix_count, 1, matrix_gradient, &gathering);
}

double lora_sum_squares(const struct lora *lora, const struct compute *compute)
{
    return compute->ops->sum_squares(compute->pool, lora->count, lora->gradient);
}

void lora_step(struct lora *lora, const struct compute *compute,
               const struct adamw_options *options)
{
    struct adamw_vectors vectors = {.parameters = lora->values,
                                    .m = lora->m,
                                    .v = lora->v,
                                    .moments_dtype = DTYPE_F32,
                                    .gradient = lora->gradient};
    compute->ops->adamw(compute->pool, lora->count, options, &vectors);
}
