#include "infra/model/weights.h"

#include <math.h>

#include "infra/base/memory.h"

#define PI 3.14159265358979323846

/* Rotation frequencies of the head's pairs; Llama 3 scaling as in Hugging Face's
 * modeling_rope_utils.py: long wavelengths divided by the factor, short ones kept, a linear blend
 * in the band between (which may be empty). */
static float rope_frequency(const struct model_config *config, int32_t pair)
{
    double frequency = pow(config->rope_theta, -2.0 * pair / config->head_dim);
    if (config->rope_scaling == ROPE_SCALING_LINEAR)
        frequency /= config->rope_factor;
    if (config->rope_scaling == ROPE_SCALING_LLAMA3) {
        double wavelength = 2.0 * PI / frequency;
        double original = config->rope_original_max_positions;
        double low = config->rope_low_freq_factor, high = config->rope_high_freq_factor;
        if (wavelength > original / low) {
            frequency /= config->rope_factor;
        } else if (wavelength >= original / high && high > low) {
            double smooth = (original / wavelength - low) / (high - low);
            frequency *= (1.0 - smooth) / config->rope_factor + smooth;
        }
    }
    return (float)frequency;
}

/* Sine and cosine of 0 <= angle <= 2^20: pi/2 is subtracted in three parts (Cody and Waite 1980;
 * the first has 33 bits, so its product with the quadrant is exact), then Taylor series on
 * [-pi/4, pi/4], whose first left-out terms are below 1e-16. */
static void sine_cosine(double angle, double *sine, double *cosine)
{
    const double part1 = 1.57079632673412561417e+00;
    const double part2 = 6.07710050630396597660e-11;
    const double part3 = 2.02226624879595063154e-21;
    double quadrant = floor(angle * (2.0 / PI) + 0.5);
    double x = ((angle - quadrant * part1) - quadrant * part2) - quadrant * part3;
    double z = x * x;
    double s = -1.0 / 1307674368000.0; /* -1/15! */
    s = s * z + 1.0 / 6227020800.0;
    s = s * z - 1.0 / 39916800.0;
    s = s * z + 1.0 / 362880.0;
    s = s * z - 1.0 / 5040.0;
    s = s * z + 1.0 / 120.0;
    s = s * z - 1.0 / 6.0;
    s = x + x * z * s;
    double c = 1.0 / 20922789888000.0; /* 1/16! */
    c = c * z - 1.0 / 87178291200.0;
    c = c * z + 1.0 / 479001600.0;
    c = c * z - 1.0 / 3628800.0;
    c = c * z + 1.0 / 40320.0;
    c = c * z - 1.0 / 720.0;
    c = c * z + 1.0 / 24.0;
    c = 1.0 - 0.5 * z + z * z * c;
    switch ((int64_t)quadrant & 3) {
    case 0:
        *sine = s, *cosine = c;
        break;
    case 1:
        *sine = c, *cosine = -s;
        break;
    case 2:
        *sine = -s, *cosine = -c;
        break;
    default:
        *sine = -c, *cosine = s;
        break;
    }
}

void rope_table_fill(const struct model_config *config, int32_t first, int32_t count,
                     float *cos_sin)
{
    int32_t half = config->head_dim / 2;
    float *frequencies = MEMORY_ARRAY(float, half);
    for (int32_t pair = 0; pair < half; pair++)
        frequencies[pair] = rope_frequency(config, pair);
    for (int32_t i = 0; i < count; i++) {
        float *row = cos_sin + (int64_t)i * config->head_dim;
        for (int32_t pair = 0; pair < half; pair++) {
            double sine, cosine;
            sine_cosine((double)frequencies[pair] * (first + i), &sine, &cosine);
            row[pair] = (float)cosine;
            row[half + pair] = (float)sine;
        }
    }
    memory_free(frequencies);
}
