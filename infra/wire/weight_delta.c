#include "infra/wire/weight_delta.h"

#include <string.h>
#include <zstd.h>

#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/memory.h"

#define HEADER_BYTES ((size_t)24)
#define VARINT_MAX   10
#define LEVEL        1 /* of zstd; higher ones gain a few per cent at several times the time */
#define BLOCK_BYTES  64

void weight_delta_release(struct weight_delta *delta)
{
    memory_free(delta->data);
    memset(delta, 0, sizeof *delta);
}

size_t weight_delta_raw_max(const struct snapshot *snapshot)
{
    return snapshot->bytes + HEADER_BYTES + 2 * VARINT_MAX * (size_t)snapshot->tensor_count;
}

/* ---- values as integers ---- */

/* Wider values do not occur in weights; a version that has some is sent whole. */
static bool is_narrow(const struct snapshot *snapshot)
{
    for (int32_t i = 0; i < snapshot->tensor_count; i++) {
        if (dtype_bytes(snapshot->tensors[i].dtype) > sizeof(uint32_t))
            return false;
    }
    return true;
}

static uint32_t load_value(const unsigned char *at, size_t width)
{
    uint32_t value = 0;
    memcpy(&value, at, width);
    return value;
}

static uint32_t mask_of(size_t width)
{
    return width == 4 ? UINT32_MAX : (UINT32_C(1) << (8 * width)) - 1;
}

/* Zigzag of a difference modulo 2^(8 width): the sign moves to bit 0. */
static uint32_t zigzag(uint32_t difference, size_t width)
{
    uint32_t sign = difference >> (8 * width - 1) & 1;
    return ((difference << 1) ^ (sign ? UINT32_MAX : 0)) & mask_of(width);
}

static uint32_t unzigzag(uint32_t coded, size_t width)
{
    return ((coded >> 1) ^ (coded & 1 ? UINT32_MAX : 0)) & mask_of(width);
}

/* ---- growing bytes ---- */

struct bytes {
    unsigned char *data;
    size_t length, capacity;
};

static void reserve(struct bytes *bytes, size_t more)
{
    if (bytes->capacity - bytes->length >= more)
        return;
    size_t capacity = bytes->capacity * 2 + more + 4096;
    unsigned char *grown = memory_alloc(capacity, 1);
    if (bytes->length > 0)
        memcpy(grown, bytes->data, bytes->length);
    memory_free(bytes->data);
    bytes->data = grown;
    bytes->capacity = capacity;
}

static void put_varint(struct bytes *bytes, uint64_t value)
{
    reserve(bytes, VARINT_MAX);
    for (; value >= 0x80; value >>= 7)
        bytes->data[bytes->length++] = (unsigned char)(value | 0x80);
    bytes->data[bytes->length++] = (unsigned char)value;
}

static void append(struct bytes *bytes, const void *data, size_t length)
{
    reserve(bytes, length);
    if (length > 0)
        memcpy(bytes->data + bytes->length, data, length);
    bytes->length += length;
}

/* ---- encoding ---- */

struct encoder {
    struct bytes head, gaps, planes;
    struct bytes coded; /* of one tensor: uint32 each */
    size_t raw_limit;
    int64_t changes;
};

static bool differs(const unsigned char *a, const unsigned char *b)
{
    uint64_t left[BLOCK_BYTES / 8], right[BLOCK_BYTES / 8], any = 0;
    memcpy(left, a, sizeof left);
    memcpy(right, b, sizeof right);
    for (size_t i = 0; i < sizeof left / sizeof *left; i++)
        any |= left[i] ^ right[i];
    return any != 0;
}

static void add_change(struct encoder *encoder, uint64_t gap, uint32_t coded)
{
    put_varint(&encoder->gaps, gap);
    append(&encoder->coded, &coded, sizeof coded);
}

/* Gaps and differences of one tensor; returns how many. Stops early above the limit. */
static int64_t compare_tensor(struct encoder *encoder, const unsigned char *from,
                              const unsigned char *to, const struct snapshot_tensor *tensor)
{
    size_t width = dtype_bytes(tensor->dtype), next = 0;
    encoder->coded.length = 0;
    for (size_t at = 0; at < tensor->bytes; at += BLOCK_BYTES) {
        size_t end = at + BLOCK_BYTES;
        if (end <= tensor->bytes && !differs(from + at, to + at))
            continue;
        if (end > tensor->bytes)
            end = tensor->bytes;
        for (size_t i = at / width; i < end / width; i++) {
            uint32_t old = load_value(from + i * width, width);
            uint32_t now = load_value(to + i * width, width);
            if (old == now)
                continue;
            add_change(encoder, i - next, zigzag((now - old) & mask_of(width), width));
            next = i + 1;
        }
        if (encoder->gaps.length + encoder->planes.length > encoder->raw_limit)
            break;
    }
    return (int64_t)(encoder->coded.length / sizeof(uint32_t));
}

static void add_planes(struct encoder *encoder, int64_t count, size_t width)
{
    reserve(&encoder->planes, (size_t)count * width);
    for (size_t byte = 0; byte < width; byte++) {
        unsigned char *out = encoder->planes.data + encoder->planes.length;
        for (int64_t i = 0; i < count; i++) {
            uint32_t coded;
            memcpy(&coded, encoder->coded.data + (size_t)i * sizeof coded, sizeof coded);
            out[i] = (unsigned char)(coded >> (8 * byte));
        }
        encoder->planes.length += (size_t)count;
    }
}

static size_t raw_bytes_of(const struct encoder *encoder)
{
    return HEADER_BYTES + encoder->head.length + encoder->gaps.length + encoder->planes.length;
}

static int compress(const struct encoder *encoder, size_t limit_bytes, struct weight_delta *delta)
{
    struct bytes raw = {0};
    uint64_t sizes[3] = {encoder->head.length, encoder->gaps.length, encoder->planes.length};
    append(&raw, sizes, sizeof sizes);
    append(&raw, encoder->head.data, encoder->head.length);
    append(&raw, encoder->gaps.data, encoder->gaps.length);
    append(&raw, encoder->planes.data, encoder->planes.length);
    size_t bound = ZSTD_compressBound(raw.length);
    unsigned char *out = memory_alloc(bound, 1);
    size_t length = ZSTD_compress(out, bound, raw.data, raw.length, LEVEL);
    HONE_ASSERT(!ZSTD_isError(length)); /* within the bound it cannot fail */
    int made = length <= limit_bytes;
    if (made)
        *delta = (struct weight_delta){.data = memory_dup(out, length),
                                       .bytes = length,
                                       .raw_bytes = raw.length,
                                       .changes = encoder->changes};
    memory_free(out);
    memory_free(raw.data);
    return made;
}

int weight_delta_encode(const unsigned char *from, const struct snapshot *to, size_t limit_bytes,
                        struct weight_delta *delta)
{
    struct encoder encoder = {.raw_limit = weight_delta_raw_max(to)};
    uint64_t passed = 0;
    int made = is_narrow(to);
    memset(delta, 0, sizeof *delta);
    for (int32_t i = 0; made && i < to->tensor_count; i++) {
        const struct snapshot_tensor *tensor = &to->tensors[i];
        int64_t count =
            compare_tensor(&encoder, from + tensor->offset, to->data + tensor->offset, tensor);
        if (count == 0) {
            passed++;
            continue;
        }
        put_varint(&encoder.head, passed);
        put_varint(&encoder.head, (uint64_t)count);
        passed = 0;
        add_planes(&encoder, count, dtype_bytes(tensor->dtype));
        encoder.changes += count;
        made = raw_bytes_of(&encoder) <= encoder.raw_limit;
    }
    if (made)
        made = compress(&encoder, limit_bytes, delta);
    memory_free(encoder.head.data);
    memory_free(encoder.gaps.data);
    memory_free(encoder.planes.data);
    memory_free(encoder.coded.data);
    return made;
}

/* ---- decoding ---- */

struct reader {
    const unsigned char *at, *end;
};

/* False at the end, or when more than 64 bits come. */
static bool get_varint(struct reader *reader, uint64_t *value)
{
    *value = 0;
    for (int shift = 0; shift < 64 && reader->at < reader->end; shift += 7) {
        unsigned char byte = *reader->at++;
        if (shift == 63 && byte > 1)
            return false;
        *value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80)
            return true;
    }
    return false;
}

static int apply_tensor(unsigned char *values, const struct snapshot_tensor *tensor, uint64_t count,
                        struct reader *gaps, const unsigned char *planes)
{
    size_t width = dtype_bytes(tensor->dtype), next = 0, total = tensor->bytes / width;
    for (uint64_t k = 0; k < count; k++) {
        uint64_t gap;
        uint32_t coded = 0;
        if (!get_varint(gaps, &gap) || gap >= total - next)
            return error_set(HONE_EFORMAT, "a delta of %s reaches past its %zu values",
                             tensor->name, total);
        next += (size_t)gap;
        for (size_t byte = 0; byte < width; byte++)
            coded |= (uint32_t)planes[byte * count + k] << (8 * byte);
        uint32_t value = load_value(values + next * width, width) + unzigzag(coded, width);
        memcpy(values + next * width, &value, width);
        next++;
    }
    return 0;
}

static int apply_raw(struct snapshot *snapshot, const unsigned char *raw, size_t bytes)
{
    uint64_t sizes[3], index = 0, passed, count;
    memcpy(sizes, raw, sizeof sizes);
    size_t left = bytes - HEADER_BYTES;
    if (sizes[0] > left || sizes[1] > left - sizes[0] || sizes[2] != left - sizes[0] - sizes[1])
        return error_set(HONE_EFORMAT, "a delta whose parts are not its whole");
    struct reader head = {raw + HEADER_BYTES, raw + HEADER_BYTES + sizes[0]};
    struct reader gaps = {head.end, head.end + sizes[1]};
    const unsigned char *planes = gaps.end, *end = raw + bytes;
    for (; head.at < head.end; index++) {
        if (!get_varint(&head, &passed) || !get_varint(&head, &count) ||
            passed >= (uint64_t)snapshot->tensor_count - index)
            return error_set(HONE_EFORMAT, "a delta of more than %d tensors",
                             snapshot->tensor_count);
        index += passed;
        const struct snapshot_tensor *tensor = &snapshot->tensors[index];
        size_t width = dtype_bytes(tensor->dtype);
        if (count == 0 || count > tensor->bytes / width || count * width > (size_t)(end - planes))
            return error_set(HONE_EFORMAT, "a delta with %llu changes of %s",
                             (unsigned long long)count, tensor->name);
        int rc = apply_tensor(snapshot->data + tensor->offset, tensor, count, &gaps, planes);
        if (rc < 0)
            return rc;
        planes += count * width;
        if (index + 1 == (uint64_t)snapshot->tensor_count)
            break;
    }
    if (head.at != head.end || gaps.at != gaps.end || planes != end)
        return error_set(HONE_EFORMAT, "a delta with more than its changes");
    return 0;
}

int weight_delta_apply(struct snapshot *snapshot, const void *data, size_t bytes, size_t raw_bytes)
{
    if (!is_narrow(snapshot) || raw_bytes < HEADER_BYTES ||
        raw_bytes > weight_delta_raw_max(snapshot))
        return error_set(HONE_EFORMAT, "a delta of %zu bytes", raw_bytes);
    unsigned char *raw = memory_alloc(raw_bytes, 1);
    size_t length = ZSTD_decompress(raw, raw_bytes, data, bytes);
    int rc;
    if (ZSTD_isError(length))
        rc = error_set(HONE_EFORMAT, "a delta that does not decompress: %s",
                       ZSTD_getErrorName(length));
    else if (length != raw_bytes)
        rc = error_set(HONE_EFORMAT, "a delta of %zu bytes, not %zu", length, raw_bytes);
    else
        rc = apply_raw(snapshot, raw, raw_bytes);
    memory_free(raw);
    return rc;
}
