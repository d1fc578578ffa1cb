#include "infra/base/rng.h"

#include <math.h>
#include <string.h>

#include "infra/base/assert.h"

#define MULTIPLIER_0 0xD2511F53u
#define MULTIPLIER_1 0xCD9E8D57u
#define WEYL_0       0x9E3779B9u
#define WEYL_1       0xBB67AE85u
#define ROUNDS       10

void rng_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t words[4])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t p0 = (uint64_t)MULTIPLIER_0 * c0;
        uint64_t p1 = (uint64_t)MULTIPLIER_1 * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += WEYL_0;
        k1 += WEYL_1;
    }
    words[0] = c0;
    words[1] = c1;
    words[2] = c2;
    words[3] = c3;
}

void rng_words(const struct rng_key *key, uint64_t position, uint32_t words[4])
{
    uint32_t seed[2] = {(uint32_t)key->seed, (uint32_t)(key->seed >> 32)};
    uint32_t fields[4] = {(uint32_t)key->a, (uint32_t)(key->a >> 32), key->b, key->purpose};
    uint32_t folded[4];
    rng_philox(fields, seed, folded);
    uint32_t counter[4] = {(uint32_t)position, (uint32_t)(position >> 32), folded[2], folded[3]};
    rng_philox(counter, folded, words);
}

static uint64_t join(uint32_t low, uint32_t high)
{
    return (uint64_t)high << 32 | low;
}

uint64_t rng_u64(const struct rng_key *key, uint64_t position)
{
    uint32_t words[4];
    rng_words(key, position, words);
    return join(words[0], words[1]);
}

float rng_uniform(const struct rng_key *key, uint64_t position)
{
    uint32_t words[4];
    rng_words(key, position, words);
    return (float)(words[0] >> 8) * 0x1p-24f;
}

/* Natural logarithm for x in (0, 1]: x = 2^e m with m in [sqrt(1/2), sqrt(2)), and
 * log m = 2 atanh(s) with s = (m - 1) / (m + 1), |s| < 0.1716, summed to s^23. */
static double fixed_log(double x)
{
    const double ln2 = 0.693147180559945309417232121458;
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int exponent = (int)(bits >> 52) - 1023;
    bits = (bits & 0x000fffffffffffffu) | 0x3ff0000000000000u;
    double m;
    memcpy(&m, &bits, sizeof m);
    if (m >= 1.41421356237309504880) {
        m *= 0.5;
        exponent++;
    }
    double s = (m - 1.0) / (m + 1.0);
    double s2 = s * s;
    double sum = 0.0;
    for (int k = 23; k >= 1; k -= 2)
        sum = sum * s2 + 1.0 / (double)k;
    return (double)exponent * ln2 + 2.0 * s * sum;
}

/* cos(2 pi turn) for turn in [0, 1): the quadrant by exact arithmetic, then Taylor sums on
 * [0, pi/2) whose first dropped term is below 1e-16. */
static double fixed_cos_turn(double turn)
{
    const double half_pi = 1.57079632679489661923;
    int quadrant = (int)(turn * 4.0);
    double x = (turn * 4.0 - (double)quadrant) * half_pi;
    double x2 = x * x;
    double cosine = 1.0;
    double sine = 1.0;
    for (int k = 22; k >= 2; k -= 2) {
        cosine = 1.0 - cosine * x2 / (double)(k * (k - 1));
        sine = 1.0 - sine * x2 / (double)(k * (k + 1));
    }
    sine *= x;
    switch (quadrant) {
    case 0:
        return cosine;
    case 1:
        return -sine;
    case 2:
        return -cosine;
    default:
        return sine;
    }
}

float rng_normal(const struct rng_key *key, uint64_t position)
{
    uint32_t words[4];
    rng_words(key, position, words);
    double radius = (double)((join(words[0], words[1]) >> 11) + 1) * 0x1p-53; /* (0, 1] */
    double turn = (double)(join(words[2], words[3]) >> 11) * 0x1p-53;         /* [0, 1) */
    return (float)(sqrt(-2.0 * fixed_log(radius)) * fixed_cos_turn(turn));
}

uint64_t rng_below(const struct rng_key *key, uint64_t position, uint64_t bound)
{
    HONE_ASSERT(bound > 0);
    return (uint64_t)(((unsigned __int128)rng_u64(key, position) * bound) >> 64);
}

void rng_permutation(const struct rng_key *key, int64_t count, int64_t *order)
{
    for (int64_t i = 0; i < count; i++)
        order[i] = i;
    for (int64_t i = count - 1; i > 0; i--) {
        int64_t j = (int64_t)rng_below(key, (uint64_t)i, (uint64_t)i + 1);
        int64_t swapped = order[i];
        order[i] = order[j];
        order[j] = swapped;
    }
}
