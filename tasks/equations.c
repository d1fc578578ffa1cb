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

enum { FILE_MAX_BYTES = 256 << 20 };

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
    static const double shares[] = {0.1, 0.2, 0.25, 0.3,  0.4,  0.5,  0.6, 0.7, 0.75,
                                    0.8, 0.9, 0.05, 0.01, 0.15, 0.35, 1.5, 2.5, 1.25};
    int kind = draw_between(draw, 1, 100);
    if (kind <= 55)
        return shares[draw_between(draw, 0, (int)(sizeof shares / sizeof shares[0]) - 1)];
    if (kind <= 70)
        return draw_between(draw, 1, 99) * 0.01;
    return draw_between(draw, 0, 40) + draw_between(draw, 1, 19) * 0.05;
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

/* An operand as people write it: 0.5 also as .5, .50 and 0.50. */
static bool format_operand(struct draw *draw, char *buffer, double value)
{
    if (!format_number(buffer, value))
        return false;
    char *point = strchr(buffer, '.');
    if (point == NULL)
        return true;
    if (point[2] == '\0' && chance(draw, 30)) {
        point[2] = '0';
        point[3] = '\0';
    }
    if (buffer[0] == '0' && chance(draw, 40))
        memmove(buffer, buffer + 1, strlen(buffer));
    return true;
}

/* Forms and how often they occur, in thousandths, close to what the solutions of word problems
 * write. n: an integer; s: a small one; d: a decimal; m: a multiple of the s that follows it. */
struct form {
    int weight;
    const char *pattern;
};

static const struct form forms[] = {
    {190, "n+n"},   {170, "n-n"},     {75, "n*s"},   {55, "s*n"},  {40, "n*n"},   {90, "m/s"},
    {10, "n/s"},    {90, "n+n+n"},    {70, "n*d"},   {30, "d*n"},  {40, "m/s*n"}, {6, "n/s*n"},
    {35, "n*m/s"},  {28, "n+n+n+n"},  {18, "n-n-n"}, {12, "n/d"},  {10, "n*s*d"}, {8, "n*(m/s)"},
    {6, "(m/s)*n"}, {7, "n+n+n+n+n"}, {6, "n*d*s"},  {8, "n*s*s"}, {6, "d+d"},    {5, "d-d"},
    {5, "n*s+n"},   {4, "n-n-n-n"},   {4, "n-d"},    {4, "n+n*s"}, {4, "n*s-n"},  {3, "n*s+n*s"},
    {4, "n-n+n"},   {4, "n+n-n"},     {3, "n+d"},    {3, "d+d+d"}, {3, "d/s"},    {2, "n+n*d"},
    {2, "n+d+d"},   {1, "d*d"},       {1, "d-n"},    {1, "n+n+d"}, {1, "n*n*n"},  {1, "m/s+n"},
};

static const char *draw_pattern(struct draw *draw)
{
    int total = 0;
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; ++i)
        total += forms[i].weight;
    int left = draw_between(draw, 1, total);
    for (size_t i = 0;; ++i)
        if ((left -= forms[i].weight) <= 0)
            return forms[i].pattern;
}

/* The operands of a pattern, in order; returns how many. */
static int draw_operands(struct draw *draw, const char *pattern, double *operands)
{
    int count = 0, multiple = -1;
    for (const char *c = pattern; *c != '\0'; ++c) {
        if (*c == 'n') {
            operands[count++] = draw_integer(draw);
        } else if (*c == 'd') {
            operands[count++] = draw_decimal(draw);
        } else if (*c == 'm') {
            multiple = count;
            operands[count++] = chance(draw, 75) ? draw_integer(draw) : 1.0;
        } else if (*c == 's') {
            double small = chance(draw, 85) ? draw_between(draw, 2, 12) : draw_integer(draw);
            if (multiple >= 0)
                operands[multiple] *= small;
            multiple = -1;
            operands[count++] = small;
        }
    }
    return count;
}

/* Sum of products over a pattern; parentheses hold one quotient. */
static double evaluate_pattern(const char *pattern, const double *operands)
{
    double sum = 0.0, product = 1.0;
    char before = '*';
    int sign = 1;
    for (const char *c = pattern; *c != '\0'; ++c) {
        if (*c == '+' || *c == '-') {
            sum += sign * product;
            sign = *c == '-' ? -1 : 1;
            product = 1.0;
            before = '*';
        } else if (*c == '*' || *c == '/') {
            before = *c;
        } else if (*c == 'n' || *c == 'd' || *c == 's' || *c == 'm') {
            product = before == '/' ? product / *operands : product * *operands;
            operands++;
        }
    }
    return sum + sign * product;
}

static bool equation_draw(struct draw *draw, struct equation *e)
{
    enum { OPERANDS_MAX = 8 };
    double operands[OPERANDS_MAX], *next = operands;
    const char *pattern = draw_pattern(draw);
    struct text out;
    draw_operands(draw, pattern, operands);
    if (!format_number(e->value, evaluate_pattern(pattern, operands)))
        return false;
    bool ok = true;
    text_init(&out);
    for (const char *c = pattern; *c != '\0' && ok; ++c) {
        char number[EQUATION_MAX];
        if (strchr("ndsm", *c) == NULL)
            text_append_bytes(&out, c, 1);
        else if ((ok = format_operand(draw, number, *next++)))
            text_append(&out, number);
    }
    ok = ok && out.length < sizeof e->expression;
    if (ok)
        memcpy(e->expression, out.data, out.length + 1);
    text_release(&out);
    return ok;
}

void equation_make(uint64_t seed, uint64_t index, struct equation *equation)
{
    struct draw draw = {.key = {.seed = seed, .purpose = RNG_DATA, .a = index, .b = 2}, .next = 0};
    while (!equation_draw(&draw, equation))
        ;
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
