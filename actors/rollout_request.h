/* Requests to the rollout engine: what they may be, and copies that own what they point at. */
#ifndef HONE_ACTORS_ROLLOUT_REQUEST_H
#define HONE_ACTORS_ROLLOUT_REQUEST_H

#include "actors/rollout_engine.h"

/* HONE_EINVAL when an engine with sequences of max_sequence_tokens cannot take it. */
int rollout_request_check(const struct rollout_request *request, int32_t max_sequence_tokens,
                          int64_t vocab);
/* Tokens, prompt included, at which its sequence is cut off. */
int32_t rollout_request_limit(const struct rollout_request *request, int32_t max_sequence_tokens);
/* Prompt and prefix are copied; a prefix of no tokens becomes none. */
void rollout_request_copy(const struct rollout_request *request, struct rollout_request *copy);
void rollout_request_release(struct rollout_request *copy);

#endif
