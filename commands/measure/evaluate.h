/* Evaluation: samples completions of held-out prompts from a checkpoint, scores them with the
 * recipe's rewards, and reports pass@1, pass@k and the rest. One process, the actors' engine, any
 * number of threads. */
#ifndef HONE_COMMANDS_MEASURE_EVALUATE_H
#define HONE_COMMANDS_MEASURE_EVALUATE_H

#include "infra/base/clock.h"
#include "infra/config/recipe.h"

#define EVALUATE_CAPABILITIES_MAX 32

struct evaluate_slice {
    char name[64]; /* capability */
    int64_t prompts;
    double pass1;
};

struct evaluate_result {
    int64_t prompts, samples; /* samples per prompt */
    int64_t k;
    double pass1, passk; /* unbiased, over prompts with a scored sample; algorithms: pass@k = 1 -
                            C(n-c,k)/C(n,k) */
    double pass1_error, passk_error; /* standard errors over prompts */
    double reward_mean;              /* over scored samples */
    double length_mean;              /* completion tokens */
    double truncated;                /* share of samples that ran out of length */
    int64_t unscored;                /* samples whose reward has no number (G8): in no mean */
    double seconds, tokens_per_second;
    struct evaluate_slice slices[EVALUATE_CAPABILITIES_MAX];
    int slice_count;
};

struct evaluate_options {
    const struct eval_settings *settings;
    const char *data_key, *sampling_key; /* of the recipe, for messages */
    const char *model_directory;
    const char *samples_path; /* gets a JSON object per sample; NULL: no file */
    int threads;
};

int evaluate(const struct recipe *recipe, const struct evaluate_options *options,
             struct evaluate_result *result);
/* With the recipe's own settings, those of `eval`. */
struct evaluate_options evaluate_as_asked(const struct recipe *recipe, const char *model_directory,
                                          const char *samples_path, int threads);
/* The result as a JSON object. */
void evaluate_print_json(const struct evaluate_result *result, struct text *text);
/* Reads what evaluate_print_json wrote. */
int evaluate_read_json(const char *path, struct evaluate_result *result);

#endif
