#include "tasks/equations.h"

#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/hash.h"
#include "infra/base/memory.h"
#include "infra/base/rng.h"
#include "infra/base/text.h"
#include "tasks/hash_set.h"

enum { DRAWS_PER_EQUATION = 64, FILE_MAX_BYTES = 256 << 20 };

struct draw {
    struct rng_key key;
    uint64_t next;
};

static int draw_between(struct draw *draw, int low, int high)
{
    return low + (int)rng_below(&draw->key, draw->next++, (uint64_t)(high - low + 1));
}

static bool chance(struct draw *draw, int percent)
{
    return draw_between(draw, 1, 100) <= percent;
}

/* A count of things: mostly one or two digits, sometimes large and round. */
static double draw_integer(struct draw *draw)
{
    int kind = draw_between(draw, 1, 100);
    if (kind <= 30)
        return draw_between(draw, 1, 12);
    if (kind <= 68)
        return draw_between(draw, 2, 99);
    if (kind <= 80)
        return draw_between(draw, 1, 60) * 5;
    if (kind <= 90)
        return draw_between(draw, 100, 999);
    if (kind <= 96)
        return draw_between(draw, 1, 99) * 100;
    return draw_between(draw, 1, 200) * 1000;
}

/* A price, rate or share. */
static double draw_decimal(struct draw *draw)
{
    static const double shares[] = {0.1, 0.2,  0.25, 0.3, 0.4,  0.5, 0.6,
                                    0.7, 0.75, 0.8,  0.9, 0.05, 1.5, 2.5};
    if (chance(draw, 70))
        return shares[draw_between(draw, 0, (int)(sizeof shares / sizeof shares[0]) - 1)];
    return draw_between(draw, 1, 40) + draw_between(draw, 1, 19) * 0.05;
}

static double draw_number(struct draw *draw)
{
    return chance(draw, 8) ? draw_decimal(draw) : draw_integer(draw);
}

/* At most two decimals, exactly; false when the value needs more, is negative or is too large. */
static bool format_number(char *buffer, double value)
{
    double cents = value * 100.0;
    if (value < 0.0 || value > 1e7 || fabs(cents - round(cents)) > 1e-6)
        return false;
    long whole = lround(cents);
    if (whole % 100 == 0)
        snprintf(buffer, EQUATION_MAX, "%ld", whole / 100);
    else if (whole % 10 == 0)
        snprintf(buffer, EQUATION_MAX, "%ld.%ld", whole / 100, whole % 100 / 10);
    else
        snprintf(buffer, EQUATION_MAX, "%ld.%02ld", whole / 100, whole % 100);
    return true;
}

static bool build(struct equation *e, double value, const char *format, double a, double b,
                  double c)
{
    char x[EQUATION_MAX], y[EQUATION_MAX], z[EQUATION_MAX];
    if (!format_number(x, a) || !format_number(y, b) || !format_number(z, c) ||
        !format_number(e->value, value))
        return false;
    size_t n = 0;
    for (const char *f = format; *f != '\0' && n + 1 < sizeof e->expression; ++f) {
        const char *part = *f == 'a' ? x : *f == 'b' ? y : *f == 'c' ? z : NULL;
        if (part == NULL) {
            e->expression[n++] = *f;
            continue;
        }
        for (; *part != '\0' && n + 1 < sizeof e->expression; ++part)
            e->expression[n++] = *part;
    }
    e->expression[n] = '\0';
    return true;
}

static bool make_simple(struct draw *draw, struct equation *e)
{
    double a = draw_number(draw), b = draw_number(draw);
    switch (draw_between(draw, 0, 3)) {
    case 0:
        return build(e, a + b, "a+b", a, b, 0);
    case 1:
        return build(e, a - b, "a-b", a, b, 0);
    case 2:
        if (chance(draw, 75))
            b = draw_between(draw, 2, 20);
        return build(e, a * b, "a*b", a, b, 0);
    default:
        b = chance(draw, 80) ? draw_between(draw, 2, 12) : draw_integer(draw);
        if (chance(draw, 80))
            return build(e, a, "a/b", a * b, b, 0);
        return build(e, a / b, "a/b", a, b, 0);
    }
}

static bool make_mixed(struct draw *draw, struct equation *e)
{
    double a = draw_integer(draw), b = draw_integer(draw), c = draw_number(draw);
    int small = draw_between(draw, 2, 12);
    switch (draw_between(draw, 0, 6)) {
    case 0:
        return build(e, a + b + c, "a+b+c", a, b, c);
    case 1:
        return build(e, a + b - c, "a+b-c", a, b, c);
    case 2:
        return build(e, a - b - c, "a-b-c", a, b, c);
    case 3:
        return build(e, a * small + b, "a*c+b", a, b, small);
    case 4:
        return build(e, a * small * 2, "a*b*c", a, small, 2);
    case 5:
        return build(e, a * b / 100, "a*b/c", a, b, 100);
    default:
        return build(e, a / small * b, "(a/c)*b", a, b, small);
    }
}

void equation_make(uint64_t seed, uint64_t index, struct equation *equation)
{
    struct draw draw = {.key = {.seed = seed, .purpose = RNG_DATA, .a = index, .b = 2}, .next = 0};
    for (;;) {
        bool made = chance(&draw, 75) ? make_simple(&draw, equation) : make_mixed(&draw, equation);
        if (made)
            return;
    }
}

/* Hashes of the prompts of a JSON-lines file, without their final "=". */
static int read_excluded(const char *path, struct hash_set *set)
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
        const char *prompt = json_string_value(json_object_get(object, "prompt"));
        size_t size = prompt != NULL ? strlen(prompt) : 0;
        if (size < 2 || prompt[size - 1] != '=')
            rc = error_set(HONE_EFORMAT, "%s:%lld: no \"prompt\" that ends with =", path,
                           (long long)line);
        else
            hash_set_add(set, hash_u64(prompt, size - 1));
        json_decref(object);
        row += length + 1;
    }
    memory_free(data);
    return rc;
}

int equations_write(const char *output, uint64_t seed, int64_t count, const char *excluded,
                    int64_t *left_out)
{
    struct hash_set set = {0};
    struct text out;
    *left_out = 0;
    text_init(&out);
    int rc = excluded != NULL ? read_excluded(excluded, &set) : 0;
    int64_t rows = 0;
    for (uint64_t i = 0; rc == 0 && rows < count; ++i) {
        struct equation equation;
        equation_make(seed, i, &equation);
        if (hash_set_has(&set, hash_u64(equation.expression, strlen(equation.expression)))) {
            ++*left_out;
            continue;
        }
        text_printf(&out, "{\"text\": \"%s=%s\"}\n", equation.expression, equation.value);
        rows++;
    }
    if (rc == 0)
        rc = file_write_atomic(output, out.data, out.length);
    text_release(&out);
    hash_set_release(&set);
    return rc;
}
