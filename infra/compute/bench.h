/* Speed of the matmul on this machine, against the multiply-add peak measured in the same run. */
#ifndef HONE_COMPUTE_BENCH_H
#define HONE_COMPUTE_BENCH_H

#include <stdio.h>

/* Prints a table for every available instruction set and a few shapes: GFLOP/s with `threads`
 * threads and its share of the measured peak of as many. json: one object per line to that stream,
 * or NULL. Takes a few seconds. 0 or a negative error (a stream that cannot be written). */
int bench_gemm_to(FILE *out, FILE *json, int threads);
int bench_gemm(FILE *out, int threads);

#endif
