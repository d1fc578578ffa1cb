#include "infra/compute/compute.h"

#include <stddef.h>

#include "infra/base/assert.h"

int compute_open(struct compute *compute, int threads)
{
    HONE_ASSERT(threads >= 1);
    compute->pool = NULL;
    int rc = backend_select(&compute->ops);
    if (rc < 0)
        return rc;
    compute->pool = parallel_create(threads);
    return 0;
}

void compute_close(struct compute *compute)
{
    parallel_destroy(compute->pool);
    compute->pool = NULL;
    compute->ops = NULL;
}
