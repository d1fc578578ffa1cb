/* Measures the prompts of the RL stage against a checkpoint: how many of each one's samples pass,
 * and which pool that puts it in (curriculum/pools/difficulty.h). */
#ifndef HONE_COMMANDS_MEASURE_FILTER_H
#define HONE_COMMANDS_MEASURE_FILTER_H

#include "infra/config/recipe.h"

/* Samples each prompt `samples` times as the RL stage would; one of which no sample passed again,
 * up to rl.filter.certificate. Writes the file `path` (pools_file.h) and prints a table of
 * capabilities. limit: at most so many prompts, spread over the data; 0 all. */
int filter_prompts(const struct recipe *recipe, const char *model, const char *path,
                   int32_t samples, int64_t limit, int threads);

#endif
