#include "tasks/calculator.h"

#include <ctype.h>
#include <jansson.h>
#include <stdbool.h>
#include <string.h>

#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/hash.h"
#include "infra/base/memory.h"
#include "infra/base/text.h"
#include "tasks/hash_set.h"

enum { FILE_MAX_BYTES = 256 << 20, NOTE_MAX = 128 };

struct note {
    char expression[NOTE_MAX];
    char value[NOTE_MAX];
};

static void copy_without_blanks(char *to, const char *from, size_t length)
{
    size_t n = 0;
    for (size_t i = 0; i < length && n + 1 < NOTE_MAX; ++i)
        if (!isspace((unsigned char)from[i]))
            to[n++] = from[i];
    to[n] = '\0';
}

/* Splits the text between << and >> at its last "="; false when a side is empty or too long. */
static bool note_parse(struct note *note, const char *text, size_t length)
{
    size_t equals = length;
    while (equals > 0 && text[equals - 1] != '=')
        equals--;
    if (equals < 2 || length >= NOTE_MAX)
        return false;
    copy_without_blanks(note->expression, text, equals - 1);
    copy_without_blanks(note->value, text + equals, length - equals);
    return note->expression[0] != '\0' && note->value[0] != '\0';
}

static const char *capability_of(const char *expression)
{
    static const char operators[] = "+-*/";
    static const char *const labels[] = {"add", "subtract", "multiply", "divide"};
    const char *label = "mixed";
    int operations = 0;
    for (const char *c = expression; *c != '\0'; ++c) {
        const char *found = strchr(operators, *c);
        if (found == NULL || (*c == '-' && c == expression))
            continue;
        label = labels[found - operators];
        operations++;
    }
    return operations == 1 ? label : "mixed";
}

static void append_row(struct text *out, const struct note *note)
{
    text_append(out, "{\"prompt\": ");
    struct text prompt;
    text_init(&prompt);
    text_printf(&prompt, "%s=", note->expression);
    text_append_json_string(out, prompt.data, prompt.length);
    text_release(&prompt);
    text_append(out, ", \"completion\": ");
    text_append_json_string(out, note->value, strlen(note->value));
    text_append(out, ", \"answer\": ");
    text_append_json_string(out, note->value, strlen(note->value));
    text_printf(out, ", \"capability\": \"%s\", \"source\": \"gsm8k/calculator\"}\n",
                capability_of(note->expression));
}

/* Visits every note of a file: into `seen`, and, when out is given, rows for those in neither set.
 */
static int read_notes(const char *path, struct hash_set *seen, const struct hash_set *excluded,
                      struct text *out, struct calculator_counts *counts)
{
    char *data;
    size_t bytes;
    int rc = file_read(path, FILE_MAX_BYTES, &data, &bytes);
    if (rc < 0)
        return rc;
    int64_t line = 0;
    for (char *row = data; row < data + bytes && rc == 0;) {
        char *end = memchr(row, '\n', (size_t)(data + bytes - row));
        size_t length = end != NULL ? (size_t)(end - row) : (size_t)(data + bytes - row);
        json_error_t error;
        line++;
        json_t *object = json_loadb(row, length, JSON_REJECT_DUPLICATES, &error);
        const char *answer = json_string_value(json_object_get(object, "answer"));
        if (answer == NULL)
            rc = error_set(HONE_EFORMAT, "%s:%lld: not a GSM8K row: %s", path, (long long)line,
                           object == NULL ? error.text : "no string \"answer\"");
        for (const char *open = answer; open != NULL && (open = strstr(open, "<<")) != NULL;) {
            const char *close = strstr(open, ">>");
            struct note note;
            counts->notes++;
            if (close == NULL || !note_parse(&note, open + 2, (size_t)(close - open) - 2)) {
                counts->invalid++;
                open += 2;
                continue;
            }
            uint64_t hash = hash_u64(note.expression, strlen(note.expression));
            open = close;
            if (!hash_set_add(seen, hash) || out == NULL)
                continue;
            if (excluded != NULL && hash_set_has(excluded, hash)) {
                counts->excluded++;
                continue;
            }
            counts->distinct++;
            append_row(out, &note);
        }
        json_decref(object);
        row += length + 1;
    }
    memory_free(data);
    return rc;
}

int calculator_write(const char *input, const char *excluded_input, const char *output,
                     struct calculator_counts *counts)
{
    struct hash_set seen = {0}, excluded = {0};
    struct calculator_counts unused = {0};
    struct text out;
    int rc = 0;
    memset(counts, 0, sizeof *counts);
    text_init(&out);
    if (excluded_input != NULL)
        rc = read_notes(excluded_input, &excluded, NULL, NULL, &unused);
    if (rc == 0)
        rc = read_notes(input, &seen, &excluded, &out, counts);
    if (rc == 0)
        rc = file_write_atomic(output, out.data, out.length);
    hash_set_release(&seen);
    hash_set_release(&excluded);
    text_release(&out);
    return rc;
}
