/* The reference's logprobs of every pair on disk, so that a stage that is continued does not
 * compute them again: one file, a key that names the weights and the pairs, the values, and a
 * checksum over all of it. */
#ifndef HONE_DPO_REFERENCE_CACHE_H
#define HONE_DPO_REFERENCE_CACHE_H

#include <stdint.h>

#include "infra/base/hash.h"

/* 1 read into values[count]; 0 there is none, or one that is torn or of something else, which a
 * line of the log says. */
int reference_cache_read(const char *path, const struct hash *key, double *values, int64_t count);
int reference_cache_write(const char *path, const struct hash *key, const double *values,
                          int64_t count);

#endif
