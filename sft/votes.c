#include "sft/votes.h"

#include <ctype.h>
#include <inttypes.h>
#include <jansson.h>
#include <string.h>
#include <strings.h>

#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/memory.h"
#include "infra/base/text.h"

#define FILE_BYTES_MAX ((size_t)4 << 30)

static const char *const words[VOTE_KINDS] = {"easy", "medium", "hard"};

static bool stands_alone(const char *answer, const char *at, size_t length)
{
    return (at == answer || !isalpha((unsigned char)at[-1])) && !isalpha((unsigned char)at[length]);
}

int vote_parse(const char *answer)
{
    for (const char *at = answer; *at != '\0'; at++)
        for (int vote = 0; vote < VOTE_KINDS; vote++) {
            size_t length = strlen(words[vote]);
            if (strncasecmp(at, words[vote], length) == 0 && stands_alone(answer, at, length))
                return vote;
        }
    return -1;
}

double votes_score(const struct row_votes *votes)
{
    int64_t sum = 0, count = 0;
    for (int vote = 0; vote < VOTE_KINDS; vote++) {
        sum += (int64_t)vote * votes->counts[vote];
        count += votes->counts[vote];
    }
    return count > 0 ? (double)sum / (double)count : 1.0;
}

int votes_write(const char *path, const char *about, const struct row_votes *rows, int64_t count)
{
    struct text text;
    text_init(&text);
    text_printf(&text, "%s\n", about);
    for (int64_t i = 0; i < count; i++)
        text_printf(&text,
                    "{\"row\": %" PRId64
                    ", \"easy\": %d, \"medium\": %d, \"hard\": %d, \"unread\": %d}\n",
                    i, rows[i].counts[VOTE_EASY], rows[i].counts[VOTE_MEDIUM],
                    rows[i].counts[VOTE_HARD], rows[i].unread);
    int rc = file_write_atomic(path, text.data, text.length);
    text_release(&text);
    return rc;
}

/* 0, or HONE_EFORMAT. */
static int read_row(const char *line, size_t length, int64_t index, struct row_votes *votes)
{
    json_t *object = json_loadb(line, length, 0, NULL);
    const json_t *row = json_object_get(object, "row");
    bool good = json_is_integer(row) && json_integer_value(row) == index;
    for (int vote = 0; vote <= VOTE_KINDS && good; vote++) {
        const json_t *value = json_object_get(object, vote < VOTE_KINDS ? words[vote] : "unread");
        json_int_t number = json_integer_value(value);
        good = json_is_integer(value) && number >= 0 && number <= INT32_MAX;
        if (vote < VOTE_KINDS)
            votes->counts[vote] = (int32_t)number;
        else
            votes->unread = (int32_t)number;
    }
    json_decref(object);
    return good ? 0 : HONE_EFORMAT;
}

static int parse(const char *path, const char *data, struct row_votes *rows, int64_t count)
{
    const char *line = data;
    for (int64_t i = -1; i < count; i++) {
        size_t length = strcspn(line, "\n");
        if (line[length] != '\n')
            return error_set(HONE_EFORMAT,
                             "%s:%" PRId64 ": the file ends, and has votes on %" PRId64
                             " of %" PRId64 " rows",
                             path, i + 2, i < 0 ? 0 : i, count);
        if (i >= 0 && read_row(line, length, i, &rows[i]) < 0)
            return error_set(HONE_EFORMAT, "%s:%" PRId64 ": not the votes on row %" PRId64, path,
                             i + 2, i);
        line += length + 1;
    }
    return *line == '\0'
               ? 0
               : error_set(HONE_EFORMAT, "%s has votes on more than %" PRId64 " rows", path, count);
}

bool votes_are_about(const char *path, const char *about, int64_t count)
{
    char *data = NULL;
    size_t bytes, length = strlen(about);
    if (!file_exists(path) || file_read(path, FILE_BYTES_MAX, &data, &bytes) < 0)
        return false;
    struct row_votes *rows = MEMORY_ARRAY(struct row_votes, count);
    bool same = strncmp(data, about, length) == 0 && data[length] == '\n' &&
                parse(path, data, rows, count) == 0;
    memory_free(rows);
    memory_free(data);
    return same;
}

int votes_read(const char *path, struct row_votes *rows, int64_t count, struct hash *content)
{
    char *data;
    size_t bytes;
    int rc = file_read(path, FILE_BYTES_MAX, &data, &bytes);
    if (rc < 0)
        return rc;
    hash_sha256(data, bytes, content);
    rc = parse(path, data, rows, count);
    memory_free(data);
    return rc;
}
