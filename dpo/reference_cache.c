#include "dpo/reference_cache.h"

#include <inttypes.h>
#include <string.h>

#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"

#define MAGIC "hone dpo reference 1"

struct header {
    char magic[24];
    struct hash key;
    int64_t count;
};

static size_t file_bytes(int64_t count)
{
    return sizeof(struct header) + (size_t)count * sizeof(double) + sizeof(struct hash);
}

/* What is wrong with a file's bytes; NULL: nothing. */
static const char *check(const char *data, size_t bytes, const struct hash *key, int64_t count)
{
    struct header header;
    struct hash sum;
    if (bytes < sizeof header + sizeof sum)
        return "is torn";
    memcpy(&header, data, sizeof header);
    if (memcmp(header.magic, MAGIC, sizeof MAGIC) != 0)
        return "is not one";
    hash_sha256(data, bytes - sizeof sum, &sum);
    if (memcmp(&sum, data + bytes - sizeof sum, sizeof sum) != 0)
        return "is torn";
    if (memcmp(&header.key, key, sizeof *key) != 0 || header.count != count ||
        bytes != file_bytes(count))
        return "is of other weights or pairs";
    return NULL;
}

int reference_cache_read(const char *path, const struct hash *key, double *values, int64_t count)
{
    char *data;
    size_t bytes;
    if (!file_exists(path))
        return 0;
    if (file_read(path, file_bytes(count), &data, &bytes) < 0) {
        log_info("dpo: %s: the reference's logprobs are computed again", error_message());
        error_clear();
        return 0;
    }
    const char *wrong = check(data, bytes, key, count);
    if (wrong)
        log_info("dpo: %s %s: the reference's logprobs are computed again", path, wrong);
    else
        memcpy(values, data + sizeof(struct header), (size_t)count * sizeof *values);
    memory_free(data);
    return wrong ? 0 : 1;
}

int reference_cache_write(const char *path, const struct hash *key, const double *values,
                          int64_t count)
{
    struct header header = {.magic = MAGIC, .key = *key, .count = count};
    struct hash sum;
    size_t bytes = file_bytes(count);
    char *data = MEMORY_ARRAY(char, bytes);
    memcpy(data, &header, sizeof header);
    memcpy(data + sizeof header, values, (size_t)count * sizeof *values);
    hash_sha256(data, bytes - sizeof sum, &sum);
    memcpy(data + bytes - sizeof sum, &sum, sizeof sum);
    int rc = file_write_atomic(path, data, bytes);
    memory_free(data);
    return rc;
}
