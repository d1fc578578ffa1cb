#include "infra/text/bpe_train.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/hash.h"
#include "infra/base/memory.h"
#include "infra/text/bpe.h"
#include "infra/text/pretokenizer.h"
#include "infra/text/unicode.h"

#define BYTE_COUNT  256
#define SPECIAL_MAX 256
#define CHUNK_BYTES ((size_t)1 << 20)
#define COUNT_MIN   2 /* a pair seen once teaches nothing */

static const char pretokenizer_json[] =
    "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\",\"individual_digits\":true},"
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,"
    "\"use_regex\":true}]}";

/* A distinct piece of the text and how often it occurs. */
struct word {
    int64_t count;
    size_t start; /* into trainer.symbols */
    int32_t length;
    size_t bytes_start; /* into trainer.bytes: the piece itself */
    size_t bytes_length;
};

struct pair_count {
    int32_t left; /* -1: an empty slot */
    int32_t right;
    int64_t count;
};

struct trainer {
    const char *specials[SPECIAL_MAX];
    int32_t special_count;
    struct text *pieces; /* [vocab_max] spelling of every id */
    int32_t vocab_max;
    int32_t vocab_size; /* ids so far */
    int32_t byte_ids[BYTE_COUNT];
    struct word *words;
    size_t word_count, word_capacity;
    size_t *word_slots; /* index + 1, 0 empty */
    size_t word_mask;
    struct text bytes;
    int32_t *symbols;
    size_t symbol_count, symbol_capacity;
    struct pair_count *pairs;
    size_t pair_count, pair_mask;
    struct pair_count *merges; /* in order; count unused */
    int32_t merge_count;
};

static size_t piece_slot(const struct trainer *trainer, const char *piece, size_t length)
{
    size_t slot = (size_t)hash_u64(piece, length) & trainer->word_mask;
    for (; trainer->word_slots[slot] != 0; slot = (slot + 1) & trainer->word_mask) {
        const struct word *word = &trainer->words[trainer->word_slots[slot] - 1];
        if (word->bytes_length == length &&
            memcmp(trainer->bytes.data + word->bytes_start, piece, length) == 0)
            break;
    }
    return slot;
}

static void grow_words(struct trainer *trainer)
{
    size_t capacity = trainer->word_capacity == 0 ? 4096 : trainer->word_capacity * 2;
    struct word *words = MEMORY_ARRAY(struct word, capacity);
    if (trainer->word_count > 0)
        memcpy(words, trainer->words, trainer->word_count * sizeof(struct word));
    memory_free(trainer->words);
    memory_free(trainer->word_slots);
    trainer->words = words;
    trainer->word_capacity = capacity;
    trainer->word_mask = capacity * 2 - 1;
    trainer->word_slots = MEMORY_ARRAY(size_t, capacity * 2);
    for (size_t i = 0; i < trainer->word_count; i++) {
        const struct word *word = &words[i];
        size_t slot =
            piece_slot(trainer, trainer->bytes.data + word->bytes_start, word->bytes_length);
        trainer->word_slots[slot] = i + 1;
    }
}

static void add_symbol(struct trainer *trainer, int32_t id)
{
    if (trainer->symbol_count == trainer->symbol_capacity) {
        size_t grown = trainer->symbol_capacity == 0 ? 65536 : trainer->symbol_capacity * 2;
        int32_t *symbols = MEMORY_ARRAY(int32_t, grown);
        if (trainer->symbol_count > 0)
            memcpy(symbols, trainer->symbols, trainer->symbol_count * sizeof(int32_t));
        memory_free(trainer->symbols);
        trainer->symbols = symbols;
        trainer->symbol_capacity = grown;
    }
    trainer->symbols[trainer->symbol_count++] = id;
}

static void count_piece(struct trainer *trainer, const char *piece, size_t length)
{
    if (trainer->word_count == trainer->word_capacity)
        grow_words(trainer);
    size_t slot = piece_slot(trainer, piece, length);
    if (trainer->word_slots[slot] != 0) {
        trainer->words[trainer->word_slots[slot] - 1].count++;
        return;
    }
    struct word *word = &trainer->words[trainer->word_count++];
    trainer->word_slots[slot] = trainer->word_count;
    *word = (struct word){.count = 1,
                          .start = trainer->symbol_count,
                          .bytes_start = trainer->bytes.length,
                          .bytes_length = length};
    text_append_bytes(&trainer->bytes, piece, length);
    for (size_t position = 0; position < length; word->length++) {
        int byte = unicode_byte_level_inverse(unicode_next(piece, &position));
        HONE_ASSERT(byte >= 0);
        add_symbol(trainer, trainer->byte_ids[byte]);
    }
}

/* End of the chunk that starts at start: after a newline where there is one, never in a character.
 */
static size_t chunk_end(const char *text, size_t length, size_t start)
{
    if (length - start <= CHUNK_BYTES)
        return length;
    size_t end = start + CHUNK_BYTES;
    const char *newline = memrchr(text + start, '\n', CHUNK_BYTES);
    if (newline != NULL)
        return (size_t)(newline + 1 - text);
    while (((unsigned char)text[end] & 0xC0) == 0x80)
        end--;
    return end;
}

static int count_pieces(struct trainer *trainer, const char *text, size_t length)
{
    struct pretokenizer *pretokenizer = NULL;
    json_t *json = json_loads(pretokenizer_json, 0, NULL);
    HONE_ASSERT(json != NULL);
    int rc = pretokenizer_parse(&pretokenizer, json, "pre_tokenizer");
    json_decref(json);
    if (rc < 0)
        return rc;
    struct regex_scratch *scratch = regex_scratch_create();
    struct piece_list pieces, spare;
    piece_list_init(&pieces);
    piece_list_init(&spare);
    for (size_t start = 0, end = 0; start < length && rc == 0; start = end) {
        end = chunk_end(text, length, start);
        piece_list_clear(&pieces);
        piece_list_append(&pieces, text + start, end - start, PIECE_FIRST);
        rc = pretokenizer_run(pretokenizer, scratch, &pieces, &spare);
        for (size_t i = 0; i < pieces.count && rc == 0; i++)
            count_piece(trainer, pieces.bytes.data + pieces.pieces[i].start,
                        pieces.pieces[i].length);
    }
    piece_list_release(&spare);
    piece_list_release(&pieces);
    regex_scratch_destroy(scratch);
    pretokenizer_free(pretokenizer);
    return rc;
}

static size_t pair_slot(const struct trainer *trainer, int32_t left, int32_t right)
{
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t slot = (size_t)(key * 0x9E3779B97F4A7C15u >> 32) & trainer->pair_mask;
    while (trainer->pairs[slot].left >= 0 &&
           (trainer->pairs[slot].left != left || trainer->pairs[slot].right != right))
        slot = (slot + 1) & trainer->pair_mask;
    return slot;
}

static void grow_pairs(struct trainer *trainer)
{
    struct pair_count *old = trainer->pairs;
    size_t old_slots = old == NULL ? 0 : trainer->pair_mask + 1;
    size_t slots = old == NULL ? 16384 : old_slots * 2;
    trainer->pairs = MEMORY_ARRAY(struct pair_count, slots);
    trainer->pair_mask = slots - 1;
    for (size_t i = 0; i < slots; i++)
        trainer->pairs[i].left = -1;
    for (size_t i = 0; i < old_slots; i++)
        if (old[i].left >= 0)
            trainer->pairs[pair_slot(trainer, old[i].left, old[i].right)] = old[i];
    memory_free(old);
}

static void count_pair(struct trainer *trainer, int32_t left, int32_t right, int64_t change)
{
    if (trainer->pairs == NULL || trainer->pair_count * 2 > trainer->pair_mask)
        grow_pairs(trainer);
    struct pair_count *pair = &trainer->pairs[pair_slot(trainer, left, right)];
    if (pair->left < 0) {
        *pair = (struct pair_count){left, right, 0};
        trainer->pair_count++;
    }
    pair->count += change;
}

static void count_word_pairs(struct trainer *trainer, const struct word *word, int64_t change)
{
    const int32_t *symbols = trainer->symbols + word->start;
    for (int32_t i = 0; i + 1 < word->length; i++)
        count_pair(trainer, symbols[i], symbols[i + 1], change);
}

static bool find_best_pair(const struct trainer *trainer, struct pair_count *best)
{
    *best = (struct pair_count){-1, -1, COUNT_MIN - 1};
    if (trainer->pairs == NULL)
        return false;
    for (size_t i = 0; i <= trainer->pair_mask; i++) {
        const struct pair_count *pair = &trainer->pairs[i];
        if (pair->left < 0 || pair->count < best->count || pair->count < COUNT_MIN)
            continue;
        if (pair->count > best->count || pair->left < best->left ||
            (pair->left == best->left && pair->right < best->right))
            *best = *pair;
    }
    return best->left >= 0;
}

static bool word_has_pair(const struct trainer *trainer, const struct word *word, int32_t left,
                          int32_t right)
{
    const int32_t *symbols = trainer->symbols + word->start;
    for (int32_t i = 0; i + 1 < word->length; i++)
        if (symbols[i] == left && symbols[i + 1] == right)
            return true;
    return false;
}

static void merge_in_word(struct trainer *trainer, struct word *word, int32_t left, int32_t right,
                          int32_t result)
{
    int32_t *symbols = trainer->symbols + word->start;
    int32_t kept = 0;
    for (int32_t i = 0; i < word->length; i++) {
        bool joins = i + 1 < word->length && symbols[i] == left && symbols[i + 1] == right;
        symbols[kept++] = joins ? result : symbols[i];
        i += joins;
    }
    word->length = kept;
}

static void learn_merges(struct trainer *trainer)
{
    struct pair_count best;
    for (size_t i = 0; i < trainer->word_count; i++)
        count_word_pairs(trainer, &trainer->words[i], trainer->words[i].count);
    while (trainer->vocab_size < trainer->vocab_max && find_best_pair(trainer, &best)) {
        int32_t result = trainer->vocab_size++;
        const struct text *left = &trainer->pieces[best.left];
        const struct text *right = &trainer->pieces[best.right];
        text_append_bytes(&trainer->pieces[result], left->data, left->length);
        text_append_bytes(&trainer->pieces[result], right->data, right->length);
        trainer->merges[trainer->merge_count++] = best;
        for (size_t i = 0; i < trainer->word_count; i++) {
            struct word *word = &trainer->words[i];
            if (!word_has_pair(trainer, word, best.left, best.right))
                continue;
            count_word_pairs(trainer, word, -word->count);
            merge_in_word(trainer, word, best.left, best.right, result);
            count_word_pairs(trainer, word, word->count);
        }
    }
}

static int add_special(struct trainer *trainer, const char *name)
{
    if (name == NULL)
        return 0;
    if (name[0] == '\0' || !text_is_utf8(name, strlen(name)))
        return error_set(HONE_EINVAL, "a special token's name is empty or not UTF-8");
    for (int32_t i = 0; i < trainer->special_count; i++)
        if (strcmp(trainer->specials[i], name) == 0)
            return 0; /* one token may play two parts, as eos and pad often do */
    if (trainer->special_count == SPECIAL_MAX)
        return error_set(HONE_EINVAL, "more than %d special tokens", SPECIAL_MAX);
    trainer->specials[trainer->special_count++] = name;
    return 0;
}

static int collect_specials(struct trainer *trainer, const struct bpe_train_options *options)
{
    int rc = add_special(trainer, options->bos);
    if (rc == 0)
        rc = add_special(trainer, options->eos);
    if (rc == 0)
        rc = add_special(trainer, options->pad);
    for (int32_t i = 0; i < options->extra_count && rc == 0; i++)
        rc = add_special(trainer, options->extra[i]);
    if (rc == 0 && options->add_bos && options->bos == NULL)
        rc = error_set(HONE_EINVAL, "add_bos without a bos token");
    if (rc == 0 && (options->vocab_size < BYTE_COUNT + trainer->special_count ||
                    options->vocab_size > BPE_ID_MAX))
        rc = error_set(HONE_EINVAL,
                       "a vocabulary of %d: %d to %d are possible (%d bytes, %d "
                       "special tokens)",
                       options->vocab_size, BYTE_COUNT + trainer->special_count, BPE_ID_MAX,
                       BYTE_COUNT, trainer->special_count);
    return rc;
}

static void make_alphabet(struct trainer *trainer, int32_t vocab_max)
{
    trainer->vocab_max = vocab_max;
    trainer->pieces = MEMORY_ARRAY(struct text, vocab_max);
    trainer->merges = MEMORY_ARRAY(struct pair_count, vocab_max);
    for (int32_t i = 0; i < vocab_max; i++)
        text_init(&trainer->pieces[i]);
    for (int32_t i = 0; i < trainer->special_count; i++)
        text_append(&trainer->pieces[trainer->vocab_size++], trainer->specials[i]);
    for (uint32_t codepoint = 0x21; codepoint <= 0x143; codepoint++) {
        int byte = unicode_byte_level_inverse(codepoint);
        if (byte < 0)
            continue;
        trainer->byte_ids[byte] = trainer->vocab_size;
        text_append_utf8(&trainer->pieces[trainer->vocab_size++], codepoint);
    }
}

static void append_piece(struct text *out, const struct trainer *trainer, int32_t id)
{
    text_append_json_string(out, trainer->pieces[id].data, trainer->pieces[id].length);
}

static void write_added_tokens(struct text *out, const struct trainer *trainer)
{
    text_append(out, "  \"added_tokens\": [");
    for (int32_t id = 0; id < trainer->special_count; id++) {
        text_printf(out, "%s\n    {\"id\": %d, \"content\": ", id > 0 ? "," : "", id);
        append_piece(out, trainer, id);
        text_append(out, ", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, "
                         "\"normalized\": false, \"special\": true}");
    }
    text_append(out, "\n  ],\n");
}

static void write_post_processor(struct text *out, const struct trainer *trainer,
                                 const struct bpe_train_options *options)
{
    text_append(out, "  \"post_processor\": ");
    if (!options->add_bos) {
        text_append(out, "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, "
                         "\"trim_offsets\": true, \"use_regex\": true},\n");
        return;
    }
    struct text bos; /* bos is special token 0 */
    text_init(&bos);
    append_piece(&bos, trainer, 0);
    text_printf(out,
                "{\"type\": \"TemplateProcessing\", "
                "\"single\": [{\"SpecialToken\": {\"id\": %s, \"type_id\": 0}}, "
                "{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}], "
                "\"pair\": [{\"SpecialToken\": {\"id\": %s, \"type_id\": 0}}, "
                "{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}, "
                "{\"Sequence\": {\"id\": \"B\", \"type_id\": 1}}], "
                "\"special_tokens\": {%s: {\"id\": %s, \"ids\": [0], \"tokens\": [%s]}}},\n",
                bos.data, bos.data, bos.data, bos.data, bos.data);
    text_release(&bos);
}

static void write_model(struct text *out, const struct trainer *trainer)
{
    text_append(out, "  \"model\": {\n    \"type\": \"BPE\", \"dropout\": null, "
                     "\"unk_token\": null, \"continuing_subword_prefix\": null, "
                     "\"end_of_word_suffix\": null, \"fuse_unk\": false, "
                     "\"byte_fallback\": false, \"ignore_merges\": false,\n    \"vocab\": {");
    for (int32_t id = 0; id < trainer->vocab_size; id++) {
        text_append(out, id > 0 ? ",\n      " : "\n      ");
        append_piece(out, trainer, id);
        text_printf(out, ": %d", id);
    }
    text_append(out, "\n    },\n    \"merges\": [");
    for (int32_t i = 0; i < trainer->merge_count; i++) {
        struct text merge;
        text_init(&merge);
        text_printf(&merge, "%s %s", trainer->pieces[trainer->merges[i].left].data,
                    trainer->pieces[trainer->merges[i].right].data);
        text_append(out, i > 0 ? ",\n      " : "\n      ");
        text_append_json_string(out, merge.data, merge.length);
        text_release(&merge);
    }
    text_append(out, "\n    ]\n  }\n}\n");
}

static int write_tokenizer(const struct trainer *trainer, const struct bpe_train_options *options,
                           const char *directory)
{
    char path[HONE_PATH_MAX];
    struct text out;
    text_init(&out);
    text_append(&out, "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n"
                      "  \"padding\": null,\n");
    write_added_tokens(&out, trainer);
    text_printf(&out, "  \"normalizer\": null,\n  \"pre_tokenizer\": %s,\n", pretokenizer_json);
    write_post_processor(&out, trainer, options);
    text_append(&out, "  \"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, "
                      "\"trim_offsets\": true, \"use_regex\": true},\n");
    write_model(&out, trainer);
    path_join(path, sizeof(path), directory, "tokenizer.json");
    int rc = file_write_atomic(path, out.data, out.length);
    text_release(&out);
    return rc;
}

static void append_named(struct text *out, const char *key, const char *name)
{
    if (name == NULL)
        return;
    text_printf(out, "  \"%s\": ", key);
    text_append_json_string(out, name, strlen(name));
    text_append(out, ",\n");
}

static int write_config(const struct bpe_train_options *options, const char *directory)
{
    char path[HONE_PATH_MAX];
    struct text out;
    text_init(&out);
    text_append(&out, "{\n  \"tokenizer_class\": \"PreTrainedTokenizerFast\",\n");
    append_named(&out, "bos_token", options->bos);
    append_named(&out, "eos_token", options->eos);
    append_named(&out, "pad_token", options->pad);
    if (options->context_max_tokens > 0)
        text_printf(&out, "  \"model_max_length\": %d,\n", options->context_max_tokens);
    text_append(&out, "  \"clean_up_tokenization_spaces\": false\n}\n");
    path_join(path, sizeof(path), directory, "tokenizer_config.json");
    int rc = file_write_atomic(path, out.data, out.length);
    text_release(&out);
    return rc;
}

static void trainer_release(struct trainer *trainer)
{
    for (int32_t i = 0; trainer->pieces != NULL && i < trainer->vocab_max; i++)
        text_release(&trainer->pieces[i]);
    memory_free(trainer->pieces);
    memory_free(trainer->merges);
    memory_free(trainer->words);
    memory_free(trainer->word_slots);
    memory_free(trainer->symbols);
    memory_free(trainer->pairs);
    text_release(&trainer->bytes);
}

int bpe_train(const char *text, size_t length, const struct bpe_train_options *options,
              const char *directory)
{
    struct trainer trainer = {0};
    struct text clean;
    text_init(&trainer.bytes);
    text_init(&clean);
    unicode_append_lossy(&clean, text, length);
    int rc = collect_specials(&trainer, options);
    if (rc == 0) {
        make_alphabet(&trainer, options->vocab_size);
        rc = count_pieces(&trainer, clean.data, clean.length);
    }
    if (rc == 0) {
        learn_merges(&trainer);
        rc = write_tokenizer(&trainer, options, directory);
    }
    if (rc == 0)
        rc = write_config(options, directory);
    text_release(&clean);
    int32_t vocab_size = trainer.vocab_size;
    trainer_release(&trainer);
    return rc < 0 ? rc : vocab_size;
}
