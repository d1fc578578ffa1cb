#include "learner/surrogate.h"

static void clip_ppo(const struct surrogate_options *options, const struct surrogate_input *input,
                     struct surrogate_result *result)
{
    double low = 1.0 - (double)options->clip_low;
    double high = 1.0 + (double)options->clip_high;
    double dual = (double)options->dual_clip;
    double advantage = input->advantage;

    if (input->ratio > high && advantage > 0.0)
        *result = (struct surrogate_result){.loss = -high * advantage, .clip = SURROGATE_HIGH};
    else if (input->ratio < low && advantage < 0.0)
        *result = (struct surrogate_result){.loss = -low * advantage, .clip = SURROGATE_LOW};
    if (dual > 0.0 && advantage < 0.0 && result->loss > -dual * advantage)
        *result = (struct surrogate_result){.loss = -dual * advantage, .clip = SURROGATE_DUAL};
}

/* -sg[clip(ratio, low, high)] A logprob */
static void clip_weight(const struct surrogate_input *input, double low, double high,
                        struct surrogate_result *result)
{
    double weight = input->ratio;
    result->clip = SURROGATE_INSIDE;
    if (weight > high) {
        weight = high;
        result->clip = SURROGATE_HIGH;
    } else if (weight < low) {
        weight = low;
        result->clip = SURROGATE_LOW;
    }
    result->derivative = -weight * input->advantage;
    result->loss = result->derivative * input->logprob;
}

void surrogate(const struct surrogate_options *options, const struct surrogate_input *input,
               struct surrogate_result *result)
{
    double plain = -input->ratio * input->advantage;
    *result = (struct surrogate_result){
        .loss = plain, .derivative = input->saturated ? 0.0 : plain, .clip = SURROGATE_INSIDE};
    switch (options->clipping) {
    case CLIP_PPO:
        clip_ppo(options, input, result);
        break;
    case CLIP_CISPO:
        clip_weight(input, 1.0 - (double)options->clip_low, 1.0 + (double)options->clip_high,
                    result);
        break;
    case CLIP_AIPO:
        clip_weight(input, 0.0, (double)options->ratio_max, result);
        break;
    case CLIP_NONE:
        break;
    }
}
