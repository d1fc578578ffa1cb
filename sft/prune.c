#include "sft/prune.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"
#include "infra/base/rng.h"
#include "infra/base/text.h"

#define FORMAT         1
#define MANIFEST_BYTES ((size_t)4 << 30)

static const char *const method_names[] = {"none", "loss", "random", "progress", "votes"};
static const char *const tag_names[] = {"easy", "medium", "hard"};

void prune_draw(uint64_t seed, struct prune_row *rows, int64_t count)
{
    const struct rng_key key = {.seed = seed, .purpose = RNG_SHUFFLE, .a = 1, .b = 1};
    for (int64_t i = 0; i < count; i++)
        rows[i].score = (double)rng_uniform(&key, (uint64_t)i);
}

void prune_break_ties(uint64_t seed, double step, struct prune_row *rows, int64_t count)
{
    const struct rng_key key = {.seed = seed, .purpose = RNG_SHUFFLE, .a = 1, .b = 1};
    for (int64_t i = 0; i < count; i++)
        rows[i].score += step * 0.5 * (double)rng_uniform(&key, (uint64_t)i);
}

/* ---- the choice ---- */

struct ranked {
    const struct prune_row *row;
    int64_t index;
};

static int by_score(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->row->score != y->row->score)
        return x->row->score < y->row->score ? -1 : 1;
    return x->index < y->index ? -1 : 1;
}

static int by_capability(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    int order = strcmp(x->row->capability, y->row->capability);
    return order != 0 ? order : by_score(a, b);
}

static void choose_within(const struct prune_options *options, const struct ranked *ranked,
                          int64_t count, struct prune_row *rows)
{
    int64_t dropped = (int64_t)floor(options->drop_share * (double)count);
    int64_t most = count > options->min_rows ? count - options->min_rows : 0;
    dropped = dropped < most ? dropped : most;
    for (int64_t i = 0; i < count; i++)
        rows[ranked[i].index].kept = i >= dropped;
}

void prune_choose(const struct prune_options *options, struct prune_row *rows, int64_t count,
                  struct prune_summary *summary)
{
    struct ranked *ranked = MEMORY_ARRAY(struct ranked, count);
    *summary = (struct prune_summary){.rows = count};
    for (int64_t i = 0; i < count; i++)
        ranked[i] = (struct ranked){.row = &rows[i], .index = i};
    qsort(ranked, (size_t)count, sizeof *ranked, by_score);
    for (int64_t i = 0; i < count; i++)
        rows[ranked[i].index].tag = (enum prune_tag)(i * 3 / count);
    qsort(ranked, (size_t)count, sizeof *ranked, by_capability);
    for (int64_t first = 0, end = 0; first < count; first = end) {
        for (end = first + 1; end < count; end++)
            if (strcmp(ranked[end].row->capability, ranked[first].row->capability) != 0)
                break;
        choose_within(options, ranked + first, end - first, rows);
        summary->capabilities++;
    }
    for (int64_t i = 0; i < count; i++)
        summary->kept += rows[i].kept;
    memory_free(ranked);
}

/* ---- the manifest ---- */

static json_t *describe(const struct prune_options *options, const struct prune_identity *identity,
                        int64_t count)
{
    char data[HASH_HEX_SIZE], judge[HASH_HEX_SIZE];
    hash_hex(&identity->data, data);
    hash_hex(&identity->judge, judge);
    return json_pack("{s:i, s:s, s:f, s:I, s:I, s:I, s:s, s:s}", "format", FORMAT, "method",
                     method_names[options->method], "drop_share", options->drop_share, "min_rows",
                     (json_int_t)options->min_rows, "seed", (json_int_t)options->seed, "rows",
                     (json_int_t)count, "data", data, "judge", judge);
}

static void append_line(struct text *text, json_t *object)
{
    char *line = json_dumps(object, JSON_COMPACT | JSON_PRESERVE_ORDER);
    text_append(text, line);
    text_append_char(text, '\n');
    free(line);
    json_decref(object);
}

int prune_manifest_write(const char *path, const struct prune_options *options,
                         const struct prune_identity *identity, const struct prune_row *rows,
                         int64_t count)
{
    struct text text;
    text_init(&text);
    append_line(&text, describe(options, identity, count));
    for (int64_t i = 0; i < count; i++) {
        const struct prune_row *row = &rows[i];
        append_line(&text, json_pack("{s:I, s:s, s:I, s:s, s:f, s:s, s:b}", "row", (json_int_t)i,
                                     "file", row->file, "line", (json_int_t)row->line, "capability",
                                     row->capability, "score", row->score, "tag",
                                     tag_names[row->tag], "kept", row->kept));
    }
    int rc = file_write_atomic(path, text.data, text.length);
    text_release(&text);
    return rc;
}

static bool read_row(const char *line, size_t length, int64_t index, struct prune_row *row)
{
    json_t *object = json_loadb(line, length, 0, NULL);
    const json_t *kept = json_object_get(object, "kept");
    const char *tag = json_string_value(json_object_get(object, "tag"));
    const json_t *score = json_object_get(object, "score");
    bool good = json_integer_value(json_object_get(object, "row")) == index &&
                json_is_boolean(kept) && json_is_number(score) && tag != NULL;
    if (good) {
        row->kept = json_is_true(kept);
        row->score = json_number_value(score);
        row->tag = tag[0] == 'e' ? PRUNE_EASY : tag[0] == 'm' ? PRUNE_MEDIUM : PRUNE_HARD;
    }
    json_decref(object);
    return good;
}

/* Lines of the manifest into rows; the first is the description's and must be that one. */
static const char *read_lines(const char *data, const json_t *expected, struct prune_row *rows,
                              int64_t count)
{
    const char *line = data;
    for (int64_t i = -1; i < count; i++) {
        size_t length = strcspn(line, "\n");
        if (line[length] != '\n')
            return "ends too early";
        if (i < 0) {
            json_t *found = json_loadb(line, length, 0, NULL);
            bool same = json_equal(found, expected);
            json_decref(found);
            if (!same)
                return "is of other rows, another judge or other options";
        } else if (!read_row(line, length, i, &rows[i])) {
            return "has a row that cannot be read";
        }
        line += length + 1;
    }
    return *line == '\0' ? NULL : "goes on after its last row";
}

int prune_manifest_read(const char *path, const struct prune_options *options,
                        const struct prune_identity *identity, struct prune_row *rows,
                        int64_t count)
{
    char *data;
    size_t bytes;
    if (!file_exists(path))
        return 0;
    int rc = file_read(path, MANIFEST_BYTES, &data, &bytes);
    if (rc < 0)
        return rc;
    json_t *expected = describe(options, identity, count);
    const char *wrong = read_lines(data, expected, rows, count);
    json_decref(expected);
    memory_free(data);
    if (wrong)
        log_info("sft: %s %s: rows are chosen again", path, wrong);
    return wrong ? 0 : 1;
}
