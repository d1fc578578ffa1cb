#include "reward/number.h"

#include <string.h>

#define EXPONENT_MAX 1000000000 /* larger exponents saturate: no text is that long */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v';
}

/* Bytes of a minus sign at text: '-' or U+2212. */
static size_t minus_bytes(const char *text, size_t length)
{
    if (length >= 1 && text[0] == '-')
        return 1;
    if (length >= 3 && memcmp(text, "\xE2\x88\x92", 3) == 0)
        return 3;
    return 0;
}

/* A comma here separates thousands: exactly three digits follow. */
static bool separates_thousands(const char *text, size_t length)
{
    return length >= 4 && text[0] == ',' && is_digit(text[1]) && is_digit(text[2]) &&
           is_digit(text[3]) && (length == 4 || !is_digit(text[4]));
}

/* Bytes of the exponent at text ("e5", "E-3"), 0 when there is none. */
static size_t read_exponent(const char *text, size_t length, int64_t *exponent)
{
    size_t at = 1;
    bool negative = false;
    *exponent = 0;
    if (length < 2 || (text[0] != 'e' && text[0] != 'E'))
        return 0;
    if (text[at] == '-' || text[at] == '+')
        negative = text[at++] == '-';
    if (at >= length || !is_digit(text[at]))
        return 0;
    for (; at < length && is_digit(text[at]); at++)
        *exponent = *exponent * 10 + (text[at] - '0') < EXPONENT_MAX
                        ? *exponent * 10 + (text[at] - '0')
                        : EXPONENT_MAX;
    if (at < length && is_letter(text[at]))
        return *exponent = 0, 0; /* "2e4x": letters, not an exponent */
    if (negative)
        *exponent = -*exponent;
    return at;
}

/* Drops leading and trailing zeros (and what stands between them) and counts what is left. */
static void normalise(struct number *number)
{
    while (number->begin < number->end && (!is_digit(*number->begin) || *number->begin == '0'))
        number->begin++;
    while (number->end > number->begin && (!is_digit(number->end[-1]) || number->end[-1] == '0'))
        number->end--;
    number->digit_count = 0;
    for (const char *c = number->begin; c < number->end; c++)
        number->digit_count += is_digit(*c);
    if (number->digit_count == 0) {
        number->negative = false;
        number->point = 0;
    }
}

/* Sign and currency in front: "-", "+", "$", "-$", "$-", "\$". */
static size_t read_front(const char *text, size_t length, bool *negative)
{
    size_t at = 0;
    bool signed_already = false, currency = false;
    for (;;) {
        size_t minus = minus_bytes(text + at, length - at);
        if (!signed_already && minus > 0) {
            *negative = true;
            signed_already = true;
            at += minus;
        } else if (!signed_already && at < length && text[at] == '+') {
            signed_already = true;
            at++;
        } else if (!currency && at < length && text[at] == '$') {
            currency = true;
            at++;
        } else if (!currency && at + 1 < length && text[at] == '\\' && text[at + 1] == '$') {
            currency = true;
            at += 2;
        } else {
            return at;
        }
    }
}

size_t number_read(const char *text, size_t length, struct number *number)
{
    memset(number, 0, sizeof *number);
    size_t at = read_front(text, length, &number->negative);
    number->begin = text + at;
    int64_t whole_digits = 0, fraction_digits = 0, leading_zeros = 0;
    bool significant = false;
    while (at < length && (is_digit(text[at]) ||
                           (whole_digits > 0 && separates_thousands(text + at, length - at)))) {
        if (is_digit(text[at])) {
            whole_digits++;
            significant = significant || text[at] != '0';
            leading_zeros += !significant;
        }
        at++;
    }
    if (at + 1 < length && text[at] == '.' && is_digit(text[at + 1])) {
        for (at++; at < length && is_digit(text[at]); at++) {
            fraction_digits++;
            significant = significant || text[at] != '0';
            leading_zeros += !significant;
        }
    }
    if (whole_digits + fraction_digits == 0)
        return 0;
    number->end = text + at;
    int64_t exponent;
    at += read_exponent(text + at, length - at, &exponent);
    number->point = whole_digits - leading_zeros + exponent;
    normalise(number);
    return at;
}

/* A sign right behind an operand is an operator. */
static bool operand_before(const char *text, size_t at)
{
    if (at == 0)
        return false;
    char c = text[at - 1];
    return is_digit(c) || is_letter(c) || c == ')' || c == ']' || c == '}' || c == '%';
}

bool number_find_last(const char *text, size_t length, struct number *number)
{
    bool found = false;
    for (size_t at = 0; at < length;) {
        struct number candidate;
        if (is_letter(text[at])) { /* a word, with the digits glued to it: not a number */
            while (at < length && (is_letter(text[at]) || is_digit(text[at])))
                at++;
            continue;
        }
        bool sign = minus_bytes(text + at, length - at) > 0 || text[at] == '+';
        size_t used = 0;
        if (!(sign && operand_before(text, at)))
            used = number_read(text + at, length - at, &candidate);
        if (used == 0) {
            at++;
            continue;
        }
        *number = candidate;
        found = true;
        at += used;
        while (at < length && is_letter(text[at])) /* a unit: "5km", "2nd" */
            at++;
    }
    return found;
}

bool number_whole(const char *text, size_t length, struct number *number)
{
    while (length > 0 && is_space(text[0])) {
        text++;
        length--;
    }
    while (length > 0 && (is_space(text[length - 1]) || text[length - 1] == '%' ||
                          text[length - 1] == '$' || text[length - 1] == '\\'))
        length--;
    if (length > 0 && text[length - 1] == '.') /* "18." */
        length--;
    return length > 0 && number_read(text, length, number) == length;
}

bool number_equal(const struct number *a, const struct number *b)
{
    if (a->negative != b->negative || a->digit_count != b->digit_count || a->point != b->point)
        return false;
    const char *x = a->begin, *y = b->begin;
    for (int64_t i = 0; i < a->digit_count; i++, x++, y++) {
        while (!is_digit(*x))
            x++;
        while (!is_digit(*y))
            y++;
        if (*x != *y)
            return false;
    }
    return true;
}
