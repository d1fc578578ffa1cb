/* safetensors files, every rule of the format checked on read (see safetensors.c for the list).
 * A reader maps the file; tensors point into the mapping. A writer streams to path.tmp, fsyncs and
 * renames. Owned by one thread. */
#ifndef HONE_MODEL_SAFETENSORS_H
#define HONE_MODEL_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "infra/compute/dtype.h"

#define SAFETENSORS_RANK_MAX 8

struct safetensor {
    const char *name;
    enum dtype dtype;
    int32_t rank;
    int64_t shape[SAFETENSORS_RANK_MAX];
    int64_t count; /* elements */
    const void *data;
    size_t bytes;
};

struct safetensors; /* one open file, or the set of shards of one directory */

int safetensors_open(struct safetensors **file, const char *path);
/* model.safetensors, or every shard named by model.safetensors.index.json; index rules checked. */
int safetensors_open_directory(struct safetensors **file, const char *directory);
void safetensors_close(struct safetensors *file);

int32_t safetensors_count(const struct safetensors *file);
const struct safetensor *safetensors_at(const struct safetensors *file, int32_t index);
const struct safetensor *safetensors_find(const struct safetensors *file, const char *name);
/* Value of a __metadata__ key, or NULL. */
const char *safetensors_metadata(const struct safetensors *file, const char *key);

/* Writes tensors (any order; stored by alignment then name) atomically. metadata: key/value pairs,
 * NULL-terminated list, or NULL; {"format": "pt"} is always written. */
int safetensors_write(const char *path, const struct safetensor *tensors, int32_t count,
                      const char *const *metadata);

#endif
