/* Backend tables that exist for the exactness tests only: instruction sets that this machine lacks,
 * emulated; a matmul written straight from the contract; and kernels that break the contract, which
 * the comparison must find. */
#ifndef HONE_TESTS_EXACTNESS_EXACT_TABLES_H
#define HONE_TESTS_EXACTNESS_EXACT_TABLES_H

#include "infra/compute/ops.h"

/* The AVX-512 kernels through SIMDe; NULL where it is not installed. Needs AVX2 and FMA. */
const struct backend_ops *exact_table_avx512(void);

/* `base` with bf16 matmuls and attention from the AMX source, its tile instructions emulated. One
 * thread. Needs AVX2 and FMA. */
struct backend_ops exact_table_amx(const struct backend_ops *base);

enum exact_kernels {
    EXACT_BY_THE_CONTRACT,   /* N3 and N4 in a plain loop: equal bits are expected */
    EXACT_SPLIT_K,           /* halves of k added up separately, then together */
    EXACT_PAIR_ORDER,        /* the AVX-512 bf16 instruction: c += odd product, c += even product */
    EXACT_SPLIT_K_FEW_ROWS,  /* split-k when a matmul has fewer than 4 rows */
    EXACT_EIGHT_LANES,       /* a row's sum of squares in the lanes of a 256-bit vector */
    EXACT_ATTENTION_ONE_PASS /* softmax over all keys at once instead of block by block */
};

/* `base` with the matmul, norm or attention that `kernels` names. Works inline. */
struct backend_ops exact_table_plain(const struct backend_ops *base, enum exact_kernels kernels);

#endif
