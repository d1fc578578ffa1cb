/* e^x for losses: one polynomial in double instead of the C library's, whose last bit depends on
 * the CPU it finds. What a loss writes into d_logprob is therefore the same on every machine (G7).
 * Within 2 ulp; exponential(0) is exactly 1. */
#ifndef HONE_TRAIN_EXPONENTIAL_H
#define HONE_TRAIN_EXPONENTIAL_H

double exponential(double x);
/* 1 / (1 + e^-x), without overflow for any x. */
double sigmoid(double x);

#endif
