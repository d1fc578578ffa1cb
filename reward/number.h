/* Exact decimal numbers in text: finding, reading and comparing them without rounding.
 *
 *   N1  A number is digits with at most one decimal point, optional thousands separators (a comma
 *       before exactly three digits), an optional exponent, and optional -, +, $ in front. U+2212
 *       is a minus. A minus between two operands ("10-3") is an operator, not a sign.
 *   N2  Currency and percent signs carry no value: "$18", "18%" and "18" are the same number.
 *   N3  Comparison is exact at any length: "0.10" == ".1", "1e2" == "100", 0.1 !=
 *       0.1000000000000000001.
 *
 * No state; any thread. */
#ifndef HONE_REWARD_NUMBER_H
#define HONE_REWARD_NUMBER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* value = +-0.d1d2d3... * 10^point, where d are the digits of [begin, end) without separators, from
 * the first non-zero one to the last non-zero one. Points into the caller's text. */
struct number {
    bool negative;       /* false for zero */
    const char *begin;   /* first significant digit; == end for zero */
    const char *end;     /* past the last significant digit */
    int64_t digit_count; /* significant digits */
    int64_t point;
};

/* Reads the number that starts at text (after optional sign and $), at most length bytes. Returns
 * the bytes it takes, 0 when there is none. Letters glued behind it are not its business. */
size_t number_read(const char *text, size_t length, struct number *number);
/* The last number in the text. false: none. */
bool number_find_last(const char *text, size_t length, struct number *number);
/* The whole text, surrounding spaces, $ and % aside, is one number. */
bool number_whole(const char *text, size_t length, struct number *number);
bool number_equal(const struct number *a, const struct number *b);

#endif
