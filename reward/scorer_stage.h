/* The scorer process: asks the hub for work against credits, decodes the text, scores, answers, and
 * keeps each answer until it is acknowledged. Ticked. */
#ifndef HONE_REWARD_SCORER_STAGE_H
#define HONE_REWARD_SCORER_STAGE_H

#include "infra/launch/stage_loop.h"
#include "infra/text/tokenizer.h"
#include "reward/reward_set.h"

struct scorer_options {
    const char *worker; /* "scorer-0" */
    const char *hub_endpoint;
    const char *recipe_hash;
    const struct prompt *prompts; /* by id: ground truth, capability, text; owned by the caller */
    int64_t prompt_count;
    const struct tokenizer *tokenizer;
    int32_t credits;                                /* score requests in flight */
    int32_t longest_tokens, overlong_buffer_tokens; /* struct reward_input */
};

struct scorer_stage;
int scorer_stage_create(struct scorer_stage **stage, const struct scorer_options *options,
                        struct reward_set *rewards, struct wire_context *context,
                        struct clock *clock);
int scorer_stage_tick(void *stage, struct stage_wait *wait); /* a stage_tick */
void scorer_stage_destroy(struct scorer_stage *stage);

#endif
