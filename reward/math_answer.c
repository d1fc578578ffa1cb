#include "reward/math_answer.h"

#include <stdint.h>
#include <string.h>

#include "reward/number.h"

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Past the brace that closes the one at text[0]; NULL when it never closes. */
static const char *closing(const char *text)
{
    int64_t depth = 0;
    for (const char *c = text; *c != '\0'; c++) {
        if (*c == '\\' && (c[1] == '{' || c[1] == '}' || c[1] == '\\'))
            c++;
        else if (*c == '{')
            depth++;
        else if (*c == '}' && --depth == 0)
            return c + 1;
    }
    return NULL;
}

static const char *last_of(const char *text, const char *needle)
{
    const char *last = NULL;
    for (const char *at = strstr(text, needle); at != NULL; at = strstr(at + 1, needle))
        last = at;
    return last;
}

bool math_answer_boxed(const char *text, struct text *out)
{
    const char *box = last_of(text, "\\boxed"), *frame = last_of(text, "\\fbox");
    if (box == NULL || (frame != NULL && frame > box))
        box = frame;
    if (box == NULL)
        return false;
    const char *at = box + strcspn(box, " {$\n");
    while (*at == ' ')
        at++;
    if (*at == '{') {
        const char *end = closing(at);
        if (end == NULL)
            return false;
        text_append_bytes(out, at + 1, (size_t)(end - at) - 2);
        return true;
    }
    size_t length = strcspn(at, "$\n");
    text_append_bytes(out, at, length);
    return length > 0;
}

/* What a command is replaced with. Order matters where one name begins another. */
static const struct {
    const char *from;
    const char *to;
} replacements[] = {
    {"\\dfrac", "\\frac"}, {"\\tfrac", "\\frac"}, {"\\cfrac", "\\frac"}, {"\\leq", "\\le"},
    {"\\geq", "\\ge"},     {"\\neq", "\\ne"},     {"\\left", ""},        {"\\right", ""},
    {"\\!", ""},           {"\\,", ""},           {"\\;", ""},           {"\\:", ""},
    {"\\ ", ""},           {"\\quad", ""},        {"\\qquad", ""},       {"\\displaystyle", ""},
    {"^\\circ", ""},       {"^{\\circ}", ""},     {"\\$", ""},           {"\\%", ""},
    {"\xE2\x88\x92", "-"}, {"\xC2\xB0", ""},
};

/* The replacement at c, or -1. A command name must end where the match ends. */
static int replacement_at(const char *c)
{
    if (strchr("\\^\xE2\xC2", *c) == NULL) /* what they begin with; most characters are none */
        return -1;
    for (size_t i = 0; i < sizeof replacements / sizeof replacements[0]; i++) {
        size_t length = strlen(replacements[i].from);
        if (strncmp(c, replacements[i].from, length) != 0)
            continue;
        if (is_letter(replacements[i].from[length - 1]) && is_letter(c[length]))
            continue;
        return (int)i;
    }
    return -1;
}

static const char *text_command(const char *c)
{
    static const char *const names[] = {"\\text{",   "\\mbox{",   "\\textbf{", "\\mathrm{",
                                        "\\textit{", "\\mathbf{", "\\textrm{"};
    for (size_t i = 0; *c == '\\' && i < sizeof names / sizeof names[0]; i++)
        if (text_starts_with(c, names[i]))
            return c + strlen(names[i]) - 1;
    return NULL;
}

/* Spacing and dressing. Words in \text stay ("\text{odd}" is an answer) unless they come last
 * behind something else: then they are a unit. */
static void strip_dressing(const char *c, struct text *out)
{
    while (*c != '\0') {
        const char *brace = text_command(c), *end = brace != NULL ? closing(brace) : NULL;
        int index = replacement_at(c);
        if (end != NULL) {
            const char *rest = end + strspn(end, " .,$");
            bool power = rest[0] == '^' && (rest[1] == '2' || rest[1] == '3') && rest[2] == '\0';
            char before = out->length > 0 ? out->data[out->length - 1] : '\0';
            bool behind = is_digit(before) || before == '}' || before == ')';
            if (!behind || !(*rest == '\0' || power)) {
                for (const char *in = brace + 1; in < end - 1; in++)
                    if (*in != ' ')
                        text_append_char(out, *in);
            } else if (power) {
                return;
            }
            c = end;
        } else if (index >= 0) {
            text_append(out, replacements[index].to);
            c += strlen(replacements[index].from);
        } else {
            if (strchr(" \t\r\n$%", *c) == NULL)
                text_append_char(out, *c);
            c++;
        }
    }
}

/* One argument of \frac or \sqrt without braces: "\frac12", "\sqrt3", "\frac1{72}". */
static const char *append_argument(const char *c, struct text *out)
{
    const char *end = *c == '{' ? closing(c) : NULL;
    if (end != NULL) {
        text_append_bytes(out, c, (size_t)(end - c));
        return end;
    }
    if (*c == '\0' || *c == '{' || *c == '}' || *c == '\\')
        return c;
    text_append_char(out, '{');
    text_append_char(out, *c);
    text_append_char(out, '}');
    return c + 1;
}

static void brace_arguments(const char *c, struct text *out)
{
    while (*c != '\0') {
        if (text_starts_with(c, "\\frac") && !is_letter(c[5])) {
            text_append(out, "\\frac");
            c = append_argument(c + 5, out);
            c = append_argument(c, out);
        } else if (text_starts_with(c, "\\sqrt") && !is_letter(c[5]) && c[5] != '[') {
            text_append(out, "\\sqrt");
            c = append_argument(c + 5, out);
        } else {
            text_append_char(out, *c++);
        }
    }
}

/* "x=5" -> "5": one short name in front of the only equals sign. */
static const char *skip_name(const char *c)
{
    const char *equals = strchr(c, '=');
    if (equals == NULL || equals - c > 2 || equals == c || strchr(equals + 1, '=') != NULL ||
        !is_letter(c[0]))
        return c;
    return equals + 1;
}

/* Drops the commas of thousands ("32,349") when the whole answer is one such number; a list
 * such as "1,234" reads as a number too, as everywhere. */
static void join_thousands(struct text *answer)
{
    struct number number;
    if (strchr(answer->data, ',') == NULL || !number_whole(answer->data, answer->length, &number))
        return;
    size_t to = 0;
    for (size_t from = 0; from < answer->length; from++)
        if (answer->data[from] != ',')
            answer->data[to++] = answer->data[from];
    answer->data[to] = '\0';
    answer->length = to;
}

void math_answer_normalise(const char *answer, struct text *out)
{
    struct text plain, braced;
    text_init(&plain);
    text_init(&braced);
    strip_dressing(answer, &plain);
    brace_arguments(plain.data, &braced);
    const char *c = skip_name(braced.data);
    size_t length = strlen(c);
    while (length > 0 && (c[length - 1] == '.' || c[length - 1] == ','))
        length--;
    if (length > 0 && c[0] == '.' && is_digit(c[1])) /* ".5" -> "0.5" */
        text_append_char(out, '0');
    text_append_bytes(out, c, length);
    join_thousands(out);
    text_release(&plain);
    text_release(&braced);
}

struct rational {
    __int128 numerator;
    __int128 denominator; /* > 0 */
};

/* An integer or decimal as a fraction; false when it has more than 17 digits on either side. */
static bool rational_read(const char *text, size_t length, struct rational *value)
{
    struct number number;
    if (length == 0 || number_read(text, length, &number) != length)
        return false;
    if (number.digit_count > 17 || number.point > 17 || number.point < -17)
        return false;
    *value = (struct rational){0, 1};
    for (const char *c = number.begin; c < number.end; c++)
        if (is_digit(*c))
            value->numerator = value->numerator * 10 + (*c - '0');
    for (int64_t i = number.digit_count; i < number.point; i++)
        value->numerator *= 10;
    for (int64_t i = number.point; i < number.digit_count; i++)
        if ((value->denominator *= 10) > (__int128)100000000000000000)
            return false;
    if (number.negative)
        value->numerator = -value->numerator;
    return true;
}

static bool rational_divide(struct rational a, struct rational b, struct rational *value)
{
    const __int128 limit = (__int128)1 << 62;
    if (b.numerator == 0 || a.numerator > limit || a.numerator < -limit || b.numerator > limit ||
        b.numerator < -limit)
        return false;
    value->numerator = a.numerator * b.denominator;
    value->denominator = a.denominator * b.numerator;
    if (value->denominator < 0) {
        value->numerator = -value->numerator;
        value->denominator = -value->denominator;
    }
    return true;
}

/* 3, -0.75, 3/4, \frac{3}{4}, -\frac{3}{4}: a normalised answer as a rational number. */
static bool rational_whole(const char *text, struct rational *value)
{
    struct rational top, bottom;
    size_t length = strlen(text);
    if (rational_read(text, length, value))
        return true;
    const char *slash = strchr(text, '/');
    if (slash != NULL)
        return rational_read(text, (size_t)(slash - text), &top) &&
               rational_read(slash + 1, length - (size_t)(slash + 1 - text), &bottom) &&
               rational_divide(top, bottom, value);
    bool negative = text[0] == '-';
    const char *c = text + negative;
    if (!text_starts_with(c, "\\frac{"))
        return false;
    const char *first = c + 5, *second = closing(first), *end = NULL;
    if (second == NULL || *second != '{' || (end = closing(second)) == NULL || *end != '\0')
        return false;
    if (!rational_read(first + 1, (size_t)(second - first) - 2, &top) ||
        !rational_read(second + 1, (size_t)(end - second) - 2, &bottom) ||
        !rational_divide(top, bottom, value))
        return false;
    if (negative)
        value->numerator = -value->numerator;
    return true;
}

/* a/b == c/d without the products leaving 128 bits: compare the parts in lowest terms. */
static void rational_reduce(struct rational *value)
{
    __int128 a = value->numerator < 0 ? -value->numerator : value->numerator;
    __int128 b = value->denominator;
    while (b != 0) {
        __int128 rest = a % b;
        a = b;
        b = rest;
    }
    value->numerator /= a;
    value->denominator /= a;
}

bool math_answer_equal(const char *a, const char *b)
{
    struct text x, y;
    struct rational p, q;
    text_init(&x);
    text_init(&y);
    math_answer_normalise(a, &x);
    math_answer_normalise(b, &y);
    bool equal = x.length > 0 && strcmp(x.data, y.data) == 0;
    if (!equal && rational_whole(x.data, &p) && rational_whole(y.data, &q)) {
        rational_reduce(&p);
        rational_reduce(&q);
        equal = p.numerator == q.numerator && p.denominator == q.denominator;
    }
    text_release(&x);
    text_release(&y);
    return equal;
}
