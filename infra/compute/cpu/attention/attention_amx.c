#include "infra/compute/cpu/attention/attention_amx.h"

#define HONE_ATTENTION_TILES
#include "infra/compute/cpu/attention/attention.h"

void attention_amx(struct parallel *pool, const struct attention_kv *kv, int64_t rows,
                   int32_t heads, const float *q, int64_t ldq, const struct attention_row *table,
                   void *out, float *lse)
{
    attention(pool, kv, rows, heads, q, ldq, table, out, lse);
}

void attention_backward_amx(struct parallel *pool, const struct attention_kv *kv, int64_t rows,
                            int32_t heads, const float *q, int64_t ldq,
                            const struct attention_row *table, const void *out, const float *lse,
                            const float *d_out, float *dq, int64_t lddq, float *dk, float *dv,
                            int64_t lddk)
{
    attention_backward(pool, kv, rows, heads, q, ldq, table, out, lse, d_out, dq, lddq, dk, dv,
                       lddk);
}
