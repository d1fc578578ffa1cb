#include "learner/returns.h"

void returns_discounted(int32_t count, const double *rewards, double gamma, double *returns)
{
    double after = 0.0;
    for (int32_t i = count - 1; i >= 0; i--) {
        after = rewards[i] + gamma * after;
        returns[i] = after;
    }
}

void returns_gae(int32_t count, const double *rewards, const double *values, double gamma,
                 double lambda, double *advantages)
{
    double after = 0.0;
    double value_after = 0.0;
    for (int32_t i = count - 1; i >= 0; i--) {
        double delta = rewards[i] + gamma * value_after - values[i];
        after = delta + gamma * lambda * after;
        value_after = values[i];
        advantages[i] = after;
    }
}
