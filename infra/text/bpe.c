#include "infra/text/bpe.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "infra/base/error.h"
#include "infra/base/hash.h"
#include "infra/base/memory.h"
#include "infra/text/json_field.h"
#include "infra/text/unicode.h"

#define ASCII_COUNT 128

struct entry {
    char *piece; /* NULL: no entry has this id */
    uint32_t length;
};

struct merge {
    int32_t left; /* -1: an empty slot */
    int32_t right;
    int32_t rank;
    int32_t result;
};

struct bpe {
    struct entry *entries; /* [size] by id */
    int32_t size;
    int32_t entry_count;
    int32_t *slots; /* [slot_mask + 1] open addressing, id or -1 */
    uint32_t slot_mask;
    struct merge *merges; /* [merge_mask + 1] open addressing */
    uint32_t merge_mask;
    int32_t ascii_ids[ASCII_COUNT];
    int32_t byte_ids[256]; /* <0xXX> */
    int32_t unk_id;
    bool fuse_unk;
    bool byte_fallback;
    bool ignore_merges;
};

struct symbol {
    int32_t id;
    int32_t previous; /* -1: first */
    int32_t next;     /* -1: last */
    bool is_gone;     /* merged into the one before */
};

struct candidate {
    int32_t rank;
    int32_t position;
    int32_t result;
};

struct bpe_scratch {
    struct symbol *symbols;
    size_t symbol_capacity;
    struct candidate *heap;
    size_t heap_count;
    size_t heap_capacity;
};

static uint32_t table_mask(size_t count)
{
    uint32_t slots = 16;
    while (slots < count * 2)
        slots *= 2;
    return slots - 1;
}

int32_t bpe_id(const struct bpe *bpe, const char *piece, size_t length)
{
    uint32_t slot = (uint32_t)hash_u64(piece, length) & bpe->slot_mask;
    for (; bpe->slots[slot] >= 0; slot = (slot + 1) & bpe->slot_mask) {
        const struct entry *entry = &bpe->entries[bpe->slots[slot]];
        if (entry->length == length && memcmp(entry->piece, piece, length) == 0)
            return bpe->slots[slot];
    }
    return -1;
}

int32_t bpe_size(const struct bpe *bpe)
{
    return bpe->size;
}

int32_t bpe_entry_count(const struct bpe *bpe)
{
    return bpe->entry_count;
}

const char *bpe_piece(const struct bpe *bpe, int32_t id, size_t *length)
{
    if (id < 0 || id >= bpe->size)
        return NULL;
    *length = bpe->entries[id].length;
    return bpe->entries[id].piece;
}

static uint32_t merge_slot(const struct bpe *bpe, int32_t left, int32_t right)
{
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    key *= 0x9E3779B97F4A7C15u;
    return (uint32_t)(key >> 32) & bpe->merge_mask;
}

/* The slot of a pair, or the empty slot where it belongs. */
static struct merge *find_merge(const struct bpe *bpe, int32_t left, int32_t right)
{
    uint32_t slot = merge_slot(bpe, left, right);
    while (bpe->merges[slot].left >= 0 &&
           (bpe->merges[slot].left != left || bpe->merges[slot].right != right))
        slot = (slot + 1) & bpe->merge_mask;
    return &bpe->merges[slot];
}

static int parse_vocab(struct bpe *bpe, json_t *vocab, const char *where)
{
    const char *piece = NULL;
    json_t *value = NULL;
    json_int_t largest = -1;
    json_object_foreach(vocab, piece, value)
    {
        if (!json_is_integer(value))
            return error_set(HONE_EFORMAT, "%s.vocab: the id of \"%s\" is of type %s", where, piece,
                             json_field_type_name(value));
        json_int_t id = json_integer_value(value);
        if (id < 0 || id > BPE_ID_MAX)
            return error_set(HONE_EFORMAT, "%s.vocab: \"%s\" has id %" PRId64 ", outside 0 to %d",
                             where, piece, (int64_t)id, BPE_ID_MAX);
        if (id > largest)
            largest = id;
    }
    if (largest < 0)
        return error_set(HONE_EFORMAT, "%s.vocab is empty", where);
    bpe->size = (int32_t)largest + 1;
    bpe->entries = MEMORY_ARRAY(struct entry, bpe->size);
    bpe->entry_count = (int32_t)json_object_size(vocab);
    bpe->slot_mask = table_mask((size_t)bpe->entry_count);
    bpe->slots = MEMORY_ARRAY(int32_t, (size_t)bpe->slot_mask + 1);
    memset(bpe->slots, 0xFF, ((size_t)bpe->slot_mask + 1) * sizeof(int32_t));
    json_object_foreach(vocab, piece, value)
    {
        int32_t id = (int32_t)json_integer_value(value);
        size_t length = strlen(piece);
        if (bpe->entries[id].piece != NULL)
            return error_set(HONE_EFORMAT, "%s.vocab: id %d belongs to \"%s\" and to \"%s\"", where,
                             id, bpe->entries[id].piece, piece);
        bpe->entries[id] = (struct entry){memory_strndup(piece, length), (uint32_t)length};
        uint32_t slot = (uint32_t)hash_u64(piece, length) & bpe->slot_mask;
        while (bpe->slots[slot] >= 0)
            slot = (slot + 1) & bpe->slot_mask;
        bpe->slots[slot] = id;
    }
    return 0;
}

static int add_merge(struct bpe *bpe, int32_t rank, const char *left, size_t left_length,
                     const char *right, size_t right_length, const char *where)
{
    char joined[4096];
    if (left_length + right_length > sizeof(joined))
        return error_set(HONE_EFORMAT, "%s.merges[%d]: parts of %zu bytes", where, rank,
                         left_length + right_length);
    memcpy(joined, left, left_length);
    memcpy(joined + left_length, right, right_length);
    int32_t left_id = bpe_id(bpe, left, left_length);
    int32_t right_id = bpe_id(bpe, right, right_length);
    int32_t result = bpe_id(bpe, joined, left_length + right_length);
    if (left_id < 0 || right_id < 0 || result < 0)
        return error_set(HONE_EFORMAT,
                         "%s.merges[%d]: \"%.*s\" + \"%.*s\": %s is not in the vocabulary", where,
                         rank, (int)left_length, left, (int)right_length, right,
                         left_id < 0    ? "the left part"
                         : right_id < 0 ? "the right part"
                                        : "the result");
    *find_merge(bpe, left_id, right_id) = (struct merge){left_id, right_id, rank, result};
    return 0;
}

static int parse_merge(struct bpe *bpe, int32_t rank, const json_t *merge, const char *where)
{
    if (json_is_array(merge) && json_array_size(merge) == 2) {
        const json_t *left = json_array_get(merge, 0), *right = json_array_get(merge, 1);
        if (json_is_string(left) && json_is_string(right))
            return add_merge(bpe, rank, json_string_value(left), json_string_length(left),
                             json_string_value(right), json_string_length(right), where);
    }
    if (json_is_string(merge)) {
        const char *text = json_string_value(merge);
        const char *space = strchr(text, ' ');
        if (space != NULL && strchr(space + 1, ' ') == NULL)
            return add_merge(bpe, rank, text, (size_t)(space - text), space + 1, strlen(space + 1),
                             where);
        return error_set(HONE_EFORMAT, "%s.merges[%d]: \"%s\" is not two parts and one space",
                         where, rank, text);
    }
    return error_set(HONE_EFORMAT, "%s.merges[%d]: neither \"a b\" nor [\"a\", \"b\"]", where,
                     rank);
}

static int parse_merges(struct bpe *bpe, const json_t *merges, const char *where)
{
    size_t count = json_array_size(merges);
    if (count > 1u << 24)
        return error_set(HONE_EFORMAT, "%s.merges: %zu of them", where, count);
    bpe->merge_mask = table_mask(count);
    bpe->merges = MEMORY_ARRAY(struct merge, (size_t)bpe->merge_mask + 1);
    for (size_t i = 0; i <= bpe->merge_mask; i++)
        bpe->merges[i].left = -1;
    int rc = 0;
    for (size_t i = 0; i < count && rc == 0; i++)
        rc = parse_merge(bpe, (int32_t)i, json_array_get(merges, i), where);
    return rc;
}

static int refuse_options(const json_t *model, const char *where)
{
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    const json_t *dropout = json_object_get(model, "dropout");
    if (dropout != NULL && !json_is_null(dropout) && json_number_value(dropout) != 0.0)
        return error_set(HONE_EUNSUPPORTED, "%s: dropout is not supported", where);
    for (size_t i = 0; i < 2; i++) {
        const char *affix = NULL;
        int rc = json_field_string_or(model, where, affixes[i], "", &affix);
        if (rc < 0)
            return rc;
        if (affix[0] != '\0')
            return error_set(HONE_EUNSUPPORTED, "%s: %s \"%s\" is not supported", where, affixes[i],
                             affix);
    }
    return 0;
}

static int parse_options(struct bpe *bpe, const json_t *model, const char *where)
{
    const char *unk = NULL;
    int rc = json_field_bool_or(model, where, "fuse_unk", false, &bpe->fuse_unk);
    if (rc == 0)
        rc = json_field_bool_or(model, where, "byte_fallback", false, &bpe->byte_fallback);
    if (rc == 0)
        rc = json_field_bool_or(model, where, "ignore_merges", false, &bpe->ignore_merges);
    if (rc == 0)
        rc = json_field_string_or(model, where, "unk_token", NULL, &unk);
    if (rc < 0)
        return rc;
    bpe->unk_id = unk == NULL ? -1 : bpe_id(bpe, unk, strlen(unk));
    if (unk != NULL && bpe->unk_id < 0)
        return error_set(HONE_EFORMAT, "%s: unk_token \"%s\" is not in the vocabulary", where, unk);
    for (int i = 0; i < ASCII_COUNT; i++) {
        char character = (char)i;
        bpe->ascii_ids[i] = bpe_id(bpe, &character, 1);
    }
    for (int i = 0; i < 256; i++) {
        char name[8];
        snprintf(name, sizeof(name), "<0x%02X>", (unsigned)i);
        bpe->byte_ids[i] = bpe_id(bpe, name, 6);
    }
    return 0;
}

int bpe_parse(struct bpe **out, const json_t *model, const char *where)
{
    *out = NULL;
    const char *type = NULL;
    json_t *vocab = NULL, *merges = NULL;
    int rc = json_field_string_or(model, where, "type", "BPE", &type);
    if (rc < 0)
        return rc;
    if (strcmp(type, "BPE") != 0)
        return error_set(HONE_EUNSUPPORTED, "%s: model type \"%s\" is not supported, only BPE",
                         where, type);
    if ((rc = refuse_options(model, where)) < 0 ||
        (rc = json_field_object(model, where, "vocab", &vocab)) < 0 ||
        (rc = json_field_array(model, where, "merges", &merges)) < 0)
        return rc;
    struct bpe *bpe = MEMORY_NEW(struct bpe);
    if ((rc = parse_vocab(bpe, vocab, where)) < 0 || (rc = parse_merges(bpe, merges, where)) < 0 ||
        (rc = parse_options(bpe, model, where)) < 0) {
        bpe_free(bpe);
        return rc;
    }
    *out = bpe;
    return 0;
}

void bpe_free(struct bpe *bpe)
{
    if (bpe == NULL)
        return;
    for (int32_t id = 0; bpe->entries != NULL && id < bpe->size; id++)
        memory_free(bpe->entries[id].piece);
    memory_free(bpe->entries);
    memory_free(bpe->slots);
    memory_free(bpe->merges);
    memory_free(bpe);
}

struct bpe_scratch *bpe_scratch_create(void)
{
    return MEMORY_NEW(struct bpe_scratch);
}

void bpe_scratch_destroy(struct bpe_scratch *scratch)
{
    if (scratch == NULL)
        return;
    memory_free(scratch->symbols);
    memory_free(scratch->heap);
    memory_free(scratch);
}

static bool candidate_before(const struct candidate *a, const struct candidate *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->position < b->position;
}

static void heap_push(struct bpe_scratch *scratch, struct candidate candidate)
{
    if (scratch->heap_count == scratch->heap_capacity) {
        size_t grown = scratch->heap_capacity == 0 ? 64 : scratch->heap_capacity * 2;
        scratch->heap = scratch->heap == NULL ? MEMORY_ARRAY(struct candidate, grown)
                                              : memory_resize(scratch->heap, scratch->heap_capacity,
                                                              grown, sizeof(struct candidate));
        scratch->heap_capacity = grown;
    }
    size_t at = scratch->heap_count++;
    while (at > 0) {
        size_t parent = (at - 1) / 2;
        if (!candidate_before(&candidate, &scratch->heap[parent]))
            break;
        scratch->heap[at] = scratch->heap[parent];
        at = parent;
    }
    scratch->heap[at] = candidate;
}

static struct candidate heap_pop(struct bpe_scratch *scratch)
{
    struct candidate top = scratch->heap[0];
    struct candidate moved = scratch->heap[--scratch->heap_count];
    size_t at = 0, count = scratch->heap_count;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= count)
            break;
        if (child + 1 < count && candidate_before(&scratch->heap[child + 1], &scratch->heap[child]))
            child++;
        if (!candidate_before(&scratch->heap[child], &moved))
            break;
        scratch->heap[at] = scratch->heap[child];
        at = child;
    }
    scratch->heap[at] = moved;
    return top;
}

static void offer_pair(const struct bpe *bpe, struct bpe_scratch *scratch, int32_t position)
{
    const struct symbol *left = &scratch->symbols[position];
    const struct merge *merge = find_merge(bpe, left->id, scratch->symbols[left->next].id);
    if (merge->left >= 0)
        heap_push(scratch, (struct candidate){merge->rank, position, merge->result});
}

static void merge_symbols(const struct bpe *bpe, struct bpe_scratch *scratch, int32_t count)
{
    struct symbol *symbols = scratch->symbols;
    scratch->heap_count = 0;
    for (int32_t i = 0; i + 1 < count; i++)
        offer_pair(bpe, scratch, i);
    while (scratch->heap_count > 0) {
        struct candidate top = heap_pop(scratch);
        struct symbol *left = &symbols[top.position];
        if (left->is_gone || left->next < 0)
            continue;
        struct symbol *right = &symbols[left->next];
        const struct merge *merge = find_merge(bpe, left->id, right->id);
        if (merge->left < 0 || merge->result != top.result)
            continue; /* one of the two has changed since the offer */
        left->id = top.result;
        left->next = right->next;
        right->is_gone = true;
        if (left->next >= 0)
            symbols[left->next].previous = top.position;
        if (left->previous >= 0)
            offer_pair(bpe, scratch, left->previous);
        if (left->next >= 0)
            offer_pair(bpe, scratch, top.position);
    }
}

static void add_symbol(struct symbol *symbols, int32_t *count, int32_t id)
{
    if (*count > 0)
        symbols[*count - 1].next = *count;
    symbols[*count] = (struct symbol){.id = id, .previous = *count - 1, .next = -1};
    (*count)++;
}

static bool add_byte_symbols(const struct bpe *bpe, const char *bytes, size_t length,
                             struct symbol *symbols, int32_t *count)
{
    for (size_t i = 0; i < length; i++)
        if (bpe->byte_ids[(unsigned char)bytes[i]] < 0)
            return false;
    for (size_t i = 0; i < length; i++)
        add_symbol(symbols, count, bpe->byte_ids[(unsigned char)bytes[i]]);
    return true;
}

/* One symbol for each character; at most one symbol a byte. */
static int32_t split_characters(const struct bpe *bpe, const char *piece, size_t length,
                                struct symbol *symbols)
{
    int32_t count = 0;
    bool unk_waits = false; /* an unknown token that later ones may still fuse with */
    for (size_t i = 0, bytes = 0; i < length; i += bytes) {
        unsigned char lead = (unsigned char)piece[i];
        bytes = (size_t)unicode_length(lead);
        int32_t id = lead < ASCII_COUNT ? bpe->ascii_ids[lead] : bpe_id(bpe, piece + i, bytes);
        if (id >= 0) {
            if (unk_waits)
                add_symbol(symbols, &count, bpe->unk_id);
            unk_waits = false;
            add_symbol(symbols, &count, id);
            continue;
        }
        if (bpe->byte_fallback && add_byte_symbols(bpe, piece + i, bytes, symbols, &count))
            continue;
        if (bpe->unk_id < 0)
            continue;
        if (unk_waits && !bpe->fuse_unk)
            add_symbol(symbols, &count, bpe->unk_id);
        unk_waits = true;
    }
    if (unk_waits)
        add_symbol(symbols, &count, bpe->unk_id);
    return count;
}

int bpe_encode(const struct bpe *bpe, struct bpe_scratch *scratch, const char *piece, size_t length,
               struct token_list *out)
{
    if (length > INT32_MAX - (size_t)out->count)
        return error_set(HONE_EUNSUPPORTED, "a piece of %zu bytes is too long", length);
    if (bpe->ignore_merges) {
        int32_t id = bpe_id(bpe, piece, length);
        if (id >= 0) {
            token_list_append(out, id);
            return 0;
        }
    }
    if (length > scratch->symbol_capacity) {
        memory_free(scratch->symbols);
        scratch->symbol_capacity = length < 128 ? 128 : length + length / 2;
        scratch->symbols = MEMORY_ARRAY(struct symbol, scratch->symbol_capacity);
    }
    int32_t count = split_characters(bpe, piece, length, scratch->symbols);
    merge_symbols(bpe, scratch, count);
    for (int32_t i = 0; i >= 0 && count > 0; i = scratch->symbols[i].next)
        token_list_append(out, scratch->symbols[i].id);
    return 0;
}
