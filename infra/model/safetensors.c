/* Rules checked on read (https://github.com/huggingface/safetensors, "Format"):
 *  S1  8 bytes little-endian header length N; N <= 100,000,000; 8 + N <= file length.
 *  S2  The header is a UTF-8 JSON object that begins with '{'; only spaces may follow it; no key
 * twice. S3  __metadata__, when present, maps strings to strings. S4  A tensor has exactly dtype (a
 * known name), shape (integers >= 0) and data_offsets (two integers). S5  product(shape) * bits
 * does not overflow and is a multiple of 8; end - begin is that many bytes. S6  Sorted by offset,
 * the first tensor begins at 0, each begins where the last ended, and the last ends at the end of
 * the file. S7  index: weight_map names bare files of the directory; every tensor it lists is in
 * the shard it names and in no other, and no shard holds a tensor it does not list. */
#include "infra/model/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/memory.h"
#include "infra/base/text.h"

#define HEADER_BYTES_MAX 100000000u
#define INDEX_BYTES_MAX  (64u << 20)
#define SHARDS_MAX       4096
#define NAME_LENGTH_MAX  255 /* of a shard's file name */

struct shard {
    struct file_map map;
    json_t *header; /* owns the tensors' names and the metadata strings */
    char *name;     /* file name for messages */
};

struct safetensors {
    struct shard *shards;
    int32_t shard_count;
    struct safetensor *tensors; /* sorted by name */
    int32_t *tensor_shards;     /* parallel to tensors until they are sorted */
    int32_t tensor_count;
};

/* Every dtype the format declares, so that a legal but unusable file is told from a broken one. */
static const struct {
    const char *name;
    int32_t bits;
    int32_t dtype; /* enum dtype, or -1 */
} dtype_names[] = {
    {"F32", 32, DTYPE_F32}, {"BF16", 16, DTYPE_BF16},
    {"F16", 16, DTYPE_F16}, {"I32", 32, DTYPE_I32},
    {"I64", 64, DTYPE_I64}, {"U8", 8, DTYPE_U8},
    {"BOOL", 8, -1},        {"I8", 8, -1},
    {"I16", 16, -1},        {"U16", 16, -1},
    {"U32", 32, -1},        {"U64", 64, -1},
    {"F64", 64, -1},        {"C64", 64, -1},
    {"F8_E5M2", 8, -1},     {"F8_E4M3", 8, -1},
    {"F8_E8M0", 8, -1},     {"F8_E4M3FNUZ", 8, -1},
    {"F8_E5M2FNUZ", 8, -1}, {"F6_E2M3", 6, -1},
    {"F6_E3M2", 6, -1},     {"F4", 4, -1},
};

/* A tensor's place in its file while the layout is checked. */
struct extent {
    size_t begin, end;
    const char *name;
};

static int tensor_error(int code, const struct shard *shard, const char *tensor, const char *what)
{
    return error_set(code, "%s: tensor \"%s\": %s", shard->name, tensor, what);
}

static int parse_shape(const struct shard *shard, const char *name, const json_t *shape,
                       struct safetensor *tensor, size_t *count)
{
    const json_t *value;
    size_t index;
    *count = 1;
    if (!json_is_array(shape))
        return tensor_error(HONE_EFORMAT, shard, name, "shape is not an array");
    if (json_array_size(shape) > SAFETENSORS_RANK_MAX)
        return tensor_error(HONE_EUNSUPPORTED, shard, name, "more than 8 dimensions");
    json_array_foreach(shape, index, value)
    {
        if (!json_is_integer(value) || json_integer_value(value) < 0)
            return tensor_error(HONE_EFORMAT, shard, name,
                                "shape holds something that is not an integer >= 0");
        tensor->shape[index] = json_integer_value(value);
        if (checked_mul(*count, (size_t)tensor->shape[index], count) < 0 || *count > INT64_MAX)
            return tensor_error(HONE_EFORMAT, shard, name, "the product of its shape overflows");
    }
    tensor->rank = (int32_t)json_array_size(shape);
    tensor->count = (int64_t)*count;
    return 0;
}

static int parse_offsets(const struct shard *shard, const char *name, const json_t *offsets,
                         struct extent *extent)
{
    const json_t *begin = json_array_get(offsets, 0);
    const json_t *end = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end) ||
        json_integer_value(begin) < 0 || json_integer_value(end) < 0)
        return tensor_error(HONE_EFORMAT, shard, name, "data_offsets is not two integers >= 0");
    if (json_integer_value(end) < json_integer_value(begin))
        return tensor_error(HONE_EFORMAT, shard, name, "data_offsets end before they begin");
    *extent = (struct extent){.begin = (size_t)json_integer_value(begin),
                              .end = (size_t)json_integer_value(end),
                              .name = name};
    return 0;
}

/* S4 and S5. */
static int parse_tensor(const struct shard *shard, const char *name, const json_t *entry,
                        struct safetensor *tensor, struct extent *extent)
{
    const char *type = json_string_value(json_object_get(entry, "dtype"));
    size_t kind = 0, count, bits;
    int rc;
    if (json_object_size(entry) != 3 || !type)
        return tensor_error(HONE_EFORMAT, shard, name,
                            "is not an object of dtype, shape and data_offsets");
    while (kind < sizeof dtype_names / sizeof *dtype_names &&
           strcmp(type, dtype_names[kind].name) != 0)
        kind++;
    if (kind == sizeof dtype_names / sizeof *dtype_names)
        return error_set(HONE_EFORMAT, "%s: tensor \"%s\": unknown dtype \"%s\"", shard->name, name,
                         type);
    if ((rc = parse_shape(shard, name, json_object_get(entry, "shape"), tensor, &count)) < 0 ||
        (rc = parse_offsets(shard, name, json_object_get(entry, "data_offsets"), extent)) < 0)
        return rc;
    if (checked_mul(count, (size_t)dtype_names[kind].bits, &bits) < 0)
        return tensor_error(HONE_EFORMAT, shard, name, "its size in bits overflows");
    if (bits % 8 != 0)
        return tensor_error(HONE_EFORMAT, shard, name, "does not fill whole bytes");
    if (extent->end - extent->begin != bits / 8)
        return error_set(HONE_EFORMAT,
                         "%s: tensor \"%s\": data_offsets span %zu bytes, its shape needs %zu",
                         shard->name, name, extent->end - extent->begin, bits / 8);
    if (dtype_names[kind].dtype < 0)
        return error_set(HONE_EUNSUPPORTED, "%s: tensor \"%s\": dtype %s is not supported",
                         shard->name, name, type);
    tensor->name = name;
    tensor->dtype = (enum dtype)dtype_names[kind].dtype;
    tensor->bytes = bits / 8;
    return 0;
}

static int compare_extents(const void *a, const void *b)
{
    const struct extent *left = a, *right = b;
    if (left->begin != right->begin)
        return left->begin < right->begin ? -1 : 1;
    if (left->end != right->end)
        return left->end < right->end ? -1 : 1;
    return strcmp(left->name, right->name);
}

/* S6. */
static int check_layout(const struct shard *shard, struct extent *extents, size_t count,
                        size_t data_bytes)
{
    size_t end = 0;
    if (count > 1)
        qsort(extents, count, sizeof *extents, compare_extents);
    for (size_t i = 0; i < count; i++) {
        if (extents[i].begin != end)
            return error_set(HONE_EFORMAT,
                             "%s: tensor \"%s\" begins at byte %zu, %s the end of the one before "
                             "it (%zu)",
                             shard->name, extents[i].name, extents[i].begin,
                             extents[i].begin < end ? "overlapping" : "leaving a hole after", end);
        end = extents[i].end;
    }
    if (end != data_bytes)
        return error_set(HONE_EFORMAT, "%s: tensors need %zu bytes of data, the file has %zu%s",
                         shard->name, end, data_bytes, data_bytes < end ? ": it is truncated" : "");
    return 0;
}

/* S3. */
static int check_metadata(const struct shard *shard)
{
    const json_t *metadata = json_object_get(shard->header, "__metadata__");
    const char *key;
    json_t *value;
    if (metadata && !json_is_object(metadata))
        return error_set(HONE_EFORMAT, "%s: __metadata__ is not an object", shard->name);
    void *iterator = json_object_iter(json_object_get(shard->header, "__metadata__"));
    for (; iterator; iterator = json_object_iter_next(
                         json_object_get(shard->header, "__metadata__"), iterator)) {
        key = json_object_iter_key(iterator);
        value = json_object_iter_value(iterator);
        if (!json_is_string(value))
            return error_set(HONE_EFORMAT, "%s: __metadata__ \"%s\" is not a string", shard->name,
                             key);
    }
    return 0;
}

/* S1 and S2. */
static int parse_header(struct shard *shard, size_t *data_begin)
{
    const unsigned char *data = shard->map.data;
    uint64_t length = 0;
    json_error_t error;
    if (shard->map.bytes < 8)
        return error_set(HONE_EFORMAT, "%s: %zu bytes, too short for a safetensors file",
                         shard->name, shard->map.bytes);
    for (int i = 7; i >= 0; i--)
        length = length << 8 | data[i];
    if (length > HEADER_BYTES_MAX)
        return error_set(HONE_EFORMAT, "%s: header of %llu bytes is longer than 100,000,000",
                         shard->name, (unsigned long long)length);
    if (length > shard->map.bytes - 8)
        return error_set(HONE_EFORMAT, "%s: header of %llu bytes does not fit: it is truncated",
                         shard->name, (unsigned long long)length);
    if (length == 0 || data[8] != '{')
        return error_set(HONE_EFORMAT, "%s: the header does not begin with '{'", shard->name);
    size_t used = (size_t)length;
    while (data[8 + used - 1] == ' ')
        used--;
    if (data[8 + used - 1] != '}')
        return error_set(HONE_EFORMAT, "%s: the header is padded with something else than spaces",
                         shard->name);
    shard->header = json_loadb((const char *)data + 8, used, JSON_REJECT_DUPLICATES, &error);
    if (!shard->header)
        return error_set(HONE_EFORMAT, "%s: header: %s at byte %d", shard->name, error.text,
                         error.position);
    *data_begin = 8 + (size_t)length;
    return 0;
}

/* Adds the tensors of one mapped shard to the set. */
static int add_tensors(struct safetensors *file, int32_t shard_index, size_t data_begin)
{
    const struct shard *shard = &file->shards[shard_index];
    size_t entries = json_object_size(shard->header), count = 0;
    size_t total = (size_t)file->tensor_count + entries;
    if (total > INT32_MAX / 2)
        return error_set(HONE_EUNSUPPORTED, "%s: too many tensors", shard->name);
    struct extent *extents = MEMORY_ARRAY(struct extent, entries);
    file->tensors =
        memory_resize(file->tensors, (size_t)file->tensor_count, total, sizeof *file->tensors);
    file->tensor_shards = memory_resize(file->tensor_shards, (size_t)file->tensor_count, total,
                                        sizeof *file->tensor_shards);
    int rc = 0;
    void *iterator = json_object_iter(shard->header);
    for (; iterator; iterator = json_object_iter_next(shard->header, iterator)) {
        const char *name = json_object_iter_key(iterator);
        struct safetensor *tensor = &file->tensors[file->tensor_count];
        if (strcmp(name, "__metadata__") == 0)
            continue;
        rc = parse_tensor(shard, name, json_object_iter_value(iterator), tensor, &extents[count]);
        if (rc < 0)
            goto out;
        /* Only formed when inside the file; check_layout refuses the rest. */
        if (extents[count].end <= shard->map.bytes - data_begin)
            tensor->data = shard->map.data + data_begin + extents[count].begin;
        file->tensor_shards[file->tensor_count++] = shard_index;
        count++;
    }
    rc = check_layout(shard, extents, count, shard->map.bytes - data_begin);
out:
    memory_free(extents);
    return rc;
}

static int open_shard(struct safetensors *file, const char *path)
{
    struct shard *shard = &file->shards[file->shard_count++];
    size_t data_begin;
    int rc;
    shard->name = memory_strdup(path);
    if ((rc = file_map_open(&shard->map, path)) < 0 ||
        (rc = parse_header(shard, &data_begin)) < 0 || (rc = check_metadata(shard)) < 0)
        return rc;
    return add_tensors(file, file->shard_count - 1, data_begin);
}

static int compare_tensors(const void *a, const void *b)
{
    return strcmp(((const struct safetensor *)a)->name, ((const struct safetensor *)b)->name);
}

static void sort_tensors(struct safetensors *file)
{
    if (file->tensor_count > 1)
        qsort(file->tensors, (size_t)file->tensor_count, sizeof *file->tensors, compare_tensors);
}

int safetensors_open(struct safetensors **result, const char *path)
{
    struct safetensors *file = MEMORY_NEW(struct safetensors);
    *result = NULL;
    file->shards = MEMORY_ARRAY(struct shard, 1);
    int rc = open_shard(file, path);
    if (rc < 0) {
        safetensors_close(file);
        return rc;
    }
    sort_tensors(file);
    *result = file;
    return 0;
}

/* A shard may be a link inside the directory, or into the blobs folder of the hub's cache layout
 * (models--x/snapshots/<revision>/file -> ../../blobs/<hash>); anything else escapes. */
static int check_shard_link(const char *directory, const char *path)
{
    char root[PATH_MAX], target[PATH_MAX], blobs[PATH_MAX], relative[HONE_PATH_MAX];
    if (!realpath(directory, root))
        return error_errno("resolve %s", directory);
    if (!realpath(path, target))
        return error_errno("open %s", path);
    size_t length = strlen(root);
    if (strncmp(target, root, length) == 0 && target[length] == '/')
        return 0;
    path_join(relative, sizeof relative, directory, "../../blobs");
    length = realpath(relative, blobs) ? strlen(blobs) : 0;
    if (length > 0 && strncmp(target, blobs, length) == 0 && target[length] == '/')
        return 0;
    return error_set(HONE_EFORMAT, "%s links to a file outside the model directory", path);
}

static int open_listed_shard(struct safetensors *file, const char *directory, const char *name)
{
    char path[HONE_PATH_MAX];
    if (strlen(name) > NAME_LENGTH_MAX || strchr(name, '/') || strchr(name, '\\') ||
        !text_ends_with(name, ".safetensors") || name[0] == '.')
        return error_set(HONE_EFORMAT,
                         "%s: index names \"%.255s\", which is not a bare .safetensors file name",
                         directory, name);
    path_join(path, sizeof path, directory, name);
    if (!file_exists(path))
        return error_set(HONE_ENOENT, "%s: the index names %s, which is missing", directory, name);
    int rc = check_shard_link(directory, path);
    return rc < 0 ? rc : open_shard(file, path);
}

static int32_t shard_by_name(const struct safetensors *file, const char *name)
{
    for (int32_t i = 0; i < file->shard_count; i++) {
        const char *slash = strrchr(file->shards[i].name, '/');
        if (strcmp(slash ? slash + 1 : file->shards[i].name, name) == 0)
            return i;
    }
    return -1;
}

static int open_all_shards(struct safetensors *file, const char *directory, json_t *weight_map)
{
    void *iterator = json_object_iter(weight_map);
    for (; iterator; iterator = json_object_iter_next(weight_map, iterator)) {
        const char *name = json_string_value(json_object_iter_value(iterator));
        if (!name)
            return error_set(HONE_EFORMAT, "%s: index: weight_map \"%s\" is not a string",
                             directory, json_object_iter_key(iterator));
        if (shard_by_name(file, name) >= 0)
            continue;
        if (file->shard_count == SHARDS_MAX)
            return error_set(HONE_EUNSUPPORTED, "%s: more than %d shards", directory, SHARDS_MAX);
        int rc = open_listed_shard(file, directory, name);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* S7, the agreement of index and shards; sorts. */
static int check_index(struct safetensors *file, const char *directory, json_t *weight_map)
{
    for (int32_t i = 0; i < file->tensor_count; i++) {
        const char *name = file->tensors[i].name;
        const char *listed = json_string_value(json_object_get(weight_map, name));
        const struct shard *shard = &file->shards[file->tensor_shards[i]];
        if (!listed)
            return tensor_error(HONE_EFORMAT, shard, name, "is not listed in the index");
        if (shard_by_name(file, listed) != file->tensor_shards[i])
            return error_set(HONE_EFORMAT, "%s: holds tensor \"%s\", which the index places in %s",
                             shard->name, name, listed);
    }
    sort_tensors(file);
    void *iterator = json_object_iter(weight_map);
    for (; iterator; iterator = json_object_iter_next(weight_map, iterator)) {
        const char *name = json_object_iter_key(iterator);
        if (!safetensors_find(file, name))
            return error_set(HONE_EFORMAT,
                             "%s: the index places tensor \"%s\" in %s, which does "
                             "not hold it",
                             directory, name, json_string_value(json_object_iter_value(iterator)));
    }
    return 0;
}

static int open_index(struct safetensors *file, const char *directory, const char *path)
{
    char *text;
    size_t length;
    json_error_t error;
    int rc = file_read(path, INDEX_BYTES_MAX, &text, &length);
    if (rc < 0)
        return rc;
    json_t *root = json_loadb(text, length, JSON_REJECT_DUPLICATES, &error);
    json_t *weight_map = json_object_get(root, "weight_map");
    if (!root)
        rc = error_set(HONE_EFORMAT, "%s:%d: %s", path, error.line, error.text);
    else if (!json_is_object(weight_map) || json_object_size(weight_map) == 0)
        rc = error_set(HONE_EFORMAT, "%s: no \"weight_map\" object with entries", path);
    else if ((rc = open_all_shards(file, directory, weight_map)) == 0)
        rc = check_index(file, directory, weight_map);
    json_decref(root);
    memory_free(text);
    return rc;
}

static int visit_pickle(void *context, const char *name)
{
    (void)context;
    return text_ends_with(name, ".bin") || text_ends_with(name, ".pt") ||
           text_ends_with(name, ".pth");
}

int safetensors_open_directory(struct safetensors **result, const char *directory)
{
    char path[HONE_PATH_MAX];
    *result = NULL;
    if (strlen(directory) > HONE_PATH_MAX - 300)
        return error_set(HONE_EINVAL, "path too long: %.100s...", directory);
    path_join(path, sizeof path, directory, "model.safetensors");
    if (file_exists(path))
        return safetensors_open(result, path);
    path_join(path, sizeof path, directory, "model.safetensors.index.json");
    if (!file_exists(path)) {
        int found = file_list(directory, visit_pickle, NULL);
        if (found < 0)
            return found;
        return error_set(HONE_ENOENT, "%s has no model.safetensors and no index of shards%s",
                         directory, found ? " (pickle weights are not read: convert them)" : "");
    }
    struct safetensors *file = MEMORY_NEW(struct safetensors);
    file->shards = MEMORY_ARRAY(struct shard, SHARDS_MAX);
    int rc = open_index(file, directory, path);
    if (rc < 0) {
        safetensors_close(file);
        return rc;
    }
    *result = file;
    return 0;
}

void safetensors_close(struct safetensors *file)
{
    if (!file)
        return;
    for (int32_t i = 0; i < file->shard_count; i++) {
        file_map_close(&file->shards[i].map);
        json_decref(file->shards[i].header);
        memory_free(file->shards[i].name);
    }
    memory_free(file->shards);
    memory_free(file->tensors);
    memory_free(file->tensor_shards);
    memory_free(file);
}

int32_t safetensors_count(const struct safetensors *file)
{
    return file->tensor_count;
}

const struct safetensor *safetensors_at(const struct safetensors *file, int32_t index)
{
    HONE_ASSERT(index >= 0 && index < file->tensor_count);
    return &file->tensors[index];
}

const struct safetensor *safetensors_find(const struct safetensors *file, const char *name)
{
    const struct safetensor key = {.name = name};
    if (file->tensor_count == 0)
        return NULL;
    return bsearch(&key, file->tensors, (size_t)file->tensor_count, sizeof key, compare_tensors);
}

const char *safetensors_metadata(const struct safetensors *file, const char *key)
{
    for (int32_t i = 0; i < file->shard_count; i++) {
        const json_t *metadata = json_object_get(file->shards[i].header, "__metadata__");
        const char *value = json_string_value(json_object_get(metadata, key));
        if (value)
            return value;
    }
    return NULL;
}

/* ---- writing ---- */

static int compare_for_writing(const void *a, const void *b)
{
    const struct safetensor *left = *(const struct safetensor *const *)a;
    const struct safetensor *right = *(const struct safetensor *const *)b;
    size_t left_bytes = dtype_bytes(left->dtype), right_bytes = dtype_bytes(right->dtype);
    if (left_bytes != right_bytes)
        return left_bytes > right_bytes ? -1 : 1;
    return strcmp(left->name, right->name);
}

static void append_string(struct text *text, const char *string)
{
    text_append_json_string(text, string, strlen(string));
}

static void build_header(struct text *header, const struct safetensor *const *order, int32_t count,
                         const char *const *metadata)
{
    size_t offset = 0;
    text_append(header, "{\"__metadata__\":{\"format\":\"pt\"");
    for (; metadata && metadata[0]; metadata += 2) {
        text_append_char(header, ',');
        append_string(header, metadata[0]);
        text_append_char(header, ':');
        append_string(header, metadata[1]);
    }
    text_append_char(header, '}');
    for (int32_t i = 0; i < count; i++) {
        const struct safetensor *tensor = order[i];
        text_append_char(header, ',');
        append_string(header, tensor->name);
        text_printf(header, ":{\"dtype\":\"%s\",\"shape\":[",
                    dtype_safetensors_name(tensor->dtype));
        for (int32_t d = 0; d < tensor->rank; d++)
            text_printf(header, "%s%lld", d ? "," : "", (long long)tensor->shape[d]);
        text_printf(header, "],\"data_offsets\":[%zu,%zu]}", offset, offset + tensor->bytes);
        offset += tensor->bytes;
    }
    text_append_char(header, '}');
    while (header->length % 8 != 0)
        text_append_char(header, ' ');
}

static int write_fully(int fd, const char *path, const void *data, size_t bytes)
{
    const char *next = data;
    while (bytes > 0) {
        ssize_t written = write(fd, next, bytes);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return error_errno("write %s", path);
        next += written;
        bytes -= (size_t)written;
    }
    return 0;
}

static int write_contents(int fd, const char *path, const struct text *header,
                          const struct safetensor *const *order, int32_t count)
{
    unsigned char prefix[8];
    for (int i = 0; i < 8; i++)
        prefix[i] = (unsigned char)((uint64_t)header->length >> (8 * i));
    int rc = write_fully(fd, path, prefix, sizeof prefix);
    if (rc == 0)
        rc = write_fully(fd, path, header->data, header->length);
    for (int32_t i = 0; rc == 0 && i < count; i++)
        rc = write_fully(fd, path, order[i]->data, order[i]->bytes);
    if (rc == 0 && fsync(fd) != 0)
        rc = error_errno("fsync %s", path);
    return rc;
}

int safetensors_write(const char *path, const struct safetensor *tensors, int32_t count,
                      const char *const *metadata)
{
    char temporary[HONE_PATH_MAX];
    struct text header;
    int rc;
    if (strlen(path) > HONE_PATH_MAX - 8)
        return error_set(HONE_EINVAL, "path too long: %.100s...", path);
    const struct safetensor **order = MEMORY_ARRAY(const struct safetensor *, count);
    for (int32_t i = 0; i < count; i++) {
        HONE_ASSERT(tensors[i].bytes == (size_t)tensors[i].count * dtype_bytes(tensors[i].dtype));
        order[i] = &tensors[i];
    }
    if (count > 1)
        qsort(order, (size_t)count, sizeof *order, compare_for_writing);
    text_init(&header);
    build_header(&header, order, count, metadata);
    snprintf(temporary, sizeof temporary, "%s.tmp", path);
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) {
        rc = error_errno("create %s", temporary);
        goto out;
    }
    rc = write_contents(fd, temporary, &header, order, count);
    if (close(fd) != 0 && rc == 0)
        rc = error_errno("close %s", temporary);
    if (rc == 0)
        rc = file_rename_synced(temporary, path);
    if (rc < 0)
        unlink(temporary);
out:
    text_release(&header);
    memory_free(order);
    return rc;
}
