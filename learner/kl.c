#include "learner/kl.h"

#include <math.h>
#include <stdbool.h>

#include "infra/train/exponential.h"

#define EXPONENT_MAX 20.0
#define K3_MAX       10.0
#define ERROR_MAX    0.2 /* of the adaptive coefficient, a horizon */

void kl_estimate(enum kl_estimator estimator, float logprob, float reference, float *value,
                 float *derivative)
{
    double x = (double)logprob - (double)reference;

    switch (estimator) {
    case KL_K1:
        *value = (float)x;
        *derivative = 1.0f;
        return;
    case KL_K2:
        *value = (float)(0.5 * x * x);
        *derivative = (float)x;
        return;
    case KL_K3:
    case KL_K3_STRAIGHT_THROUGH:
        break;
    }
    double clamped = fmin(fmax(x, -EXPONENT_MAX), EXPONENT_MAX);
    double inverse_ratio = exponential(-clamped);
    double k3 = inverse_ratio - 1.0 + clamped;
    bool inside = isnan(x) || (clamped == x && k3 <= K3_MAX);
    *value = isnan(x) ? (float)x : (float)fmin(k3, K3_MAX);
    *derivative = inside ? (float)(1.0 - inverse_ratio + (x - clamped)) : 0.0f;
    if (estimator == KL_K3_STRAIGHT_THROUGH)
        *derivative = (float)x;
}

double kl_next_coef(double coef, double kl, double target, int64_t trajectories, double horizon)
{
    if (isnan(kl))
        return coef;
    double error = fmin(fmax(kl / target - 1.0, -ERROR_MAX), ERROR_MAX);
    return coef * (1.0 + error * (double)trajectories / horizon);
}
