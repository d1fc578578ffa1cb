/* A file of measured prompts: JSON lines, the first of which says what was measured with what, the
 * others a prompt each. A prompt is known by a hash of its tokens, so that a file serves another
 * order or selection of the same rows. */
#ifndef HONE_COMMANDS_MEASURE_POOLS_FILE_H
#define HONE_COMMANDS_MEASURE_POOLS_FILE_H

#include "curriculum/pools/prompt_pools.h"
#include "infra/base/text.h"
#include "infra/config/recipe.h"

struct pools_file_header {
    const char *model;   /* directory */
    const char *weights; /* model_hash, hex */
    int64_t prompts;
};

/* From the recipe; valid as long as it is. mix is allocated: release with memory_free. */
void filter_options_from(struct filter_options *options, const struct recipe *recipe,
                         struct capability_factor **mix);

/* The same with the measurements of rl.filter.pools. */
struct filter_inputs {
    struct filter_options options;
    struct capability_factor *mix;
    struct measurement *initial; /* [count]; NULL: no file is named */
};
int filter_inputs_open(struct filter_inputs *inputs, const struct recipe *recipe,
                       const struct prompt *prompts, int64_t count);
void filter_inputs_close(struct filter_inputs *inputs); /* a zeroed one is fine */

void pools_file_begin(struct text *out, const struct pools_file_header *header,
                      const struct recipe *recipe);
void pools_file_add(struct text *out, const struct prompt *prompt,
                    const struct measurement *measurement, int32_t failed, enum prompt_pool pool,
                    int64_t k);
/* Fills measurements[count], judged 0 for a prompt that the file does not have; the number found,
 * or negative. None found is an error: it is the file of other data, or of another tokenizer. */
int64_t pools_file_read(const char *path, const struct prompt *prompts, int64_t count,
                        struct measurement *measurements);

#endif
