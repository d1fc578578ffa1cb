/* `hone bench decode|train`: whole-engine speed of one model on this machine, as tokens a second
 * and GFLOP/s. */
#ifndef HONE_COMMANDS_BENCH_H
#define HONE_COMMANDS_BENCH_H

#include "infra/compute/compute.h"

struct bench_figures {
    double tokens_per_second;
    double gflops; /* 2 x parameters a decoded token, 6 x parameters a trained one; attention not
                      counted */
    int64_t tokens;
    double seconds;
};

/* 64 sequences of 64 sampled tokens each from a one-token prompt. */
int bench_decode(const char *model_directory, enum dtype dtype, const struct compute *compute,
                 struct bench_figures *figures);
/* 8 optimiser steps of 4096 tokens in sequences of 64. */
int bench_train(const char *model_directory, enum dtype dtype, const struct compute *compute,
                struct bench_figures *figures);

#endif
