/* Compares two backend tables bit for bit on random inputs. Used by the start-up self-test, and by
 * tests for tables that this machine runs only by emulation. */
#ifndef HONE_COMPUTE_SELF_TEST_H
#define HONE_COMPUTE_SELF_TEST_H

#include <stdint.h>

#include "infra/compute/ops.h"

/* Runs every operation of both tables, inline, on shapes and values drawn from `seed` (with zeros
 * of both signs and denormals among them). 0, or HONE_EUNSUPPORTED naming the operation that
 * differs. Two NaNs count as equal. */
int backend_compare(const struct backend_ops *reference, const struct backend_ops *other,
                    uint64_t seed);

#endif
