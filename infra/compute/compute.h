/* A backend table and the threads it runs on: what every computing module is handed. */
#ifndef HONE_COMPUTE_COMPUTE_H
#define HONE_COMPUTE_COMPUTE_H

#include "infra/compute/ops.h"

struct compute {
    const struct backend_ops *ops;
    struct parallel *pool;
};

/* Selects the backend (HONE_ISA or the best), starts threads - 1 workers. threads >= 1. */
int compute_open(struct compute *compute, int threads);
void compute_close(struct compute *compute);

#endif
