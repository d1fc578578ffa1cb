#include "infra/train/exponential.h"

#include <math.h>

#define EXPONENTIAL_MAX 709.0  /* beyond: +infinity */
#define EXPONENTIAL_MIN -708.0 /* below: 0; denormals are flushed anyway */
#define TAYLOR_TERMS    14     /* |r| <= ln(2)/2: the first term left out is below 2^-57 */

double exponential(double x)
{
    static const double log2_e = 0x1.71547652b82fep+0;
    static const double ln2_high = 0x1.62e42fee00000p-1; /* 33 bits: k * ln2_high is exact */
    static const double ln2_low = 0x1.a39ef35793c76p-33;

    if (isnan(x))
        return x;
    if (x > EXPONENTIAL_MAX)
        return (double)INFINITY;
    if (x < EXPONENTIAL_MIN)
        return 0.0;
    double k = rint(x * log2_e);
    double r = (x - k * ln2_high) - k * ln2_low;
    double sum = 1.0;
    for (int n = TAYLOR_TERMS - 1; n >= 1; n--)
        sum = 1.0 + sum * r / n;
    return ldexp(sum, (int)k);
}

double sigmoid(double x)
{
    if (x >= 0.0)
        return 1.0 / (1.0 + exponential(-x));
    double e = exponential(x);
    return e / (1.0 + e);
}
