#include "actors/rollout_request.h"

#include "infra/base/error.h"
#include "infra/base/memory.h"

static int check_ids(const char *what, const int32_t *ids, int32_t count, int64_t vocab)
{
    for (int32_t i = 0; i < count; i++) {
        if (ids[i] < 0 || ids[i] >= vocab)
            return error_set(HONE_EINVAL, "%s token %d has id %d; the vocabulary has %lld", what, i,
                             ids[i], (long long)vocab);
    }
    return 0;
}

int rollout_request_check(const struct rollout_request *request, int32_t max_sequence_tokens,
                          int64_t vocab)
{
    const struct trajectory *prefix = request->prefix;
    int32_t prompt = request->prompt_token_count;
    if (sampling_validate(&request->sampling) < 0)
        return error_set(HONE_EINVAL, "%s", error_message());
    if (request->sampling.max_completion_tokens < 1)
        return error_set(HONE_EINVAL, "completions of at most %d tokens",
                         request->sampling.max_completion_tokens);
    if (prompt < 1 || prompt >= max_sequence_tokens)
        return error_set(HONE_EINVAL, "a prompt of %d tokens; sequences hold 2 to %d", prompt,
                         max_sequence_tokens);
    int rc = check_ids("prompt", request->prompt_tokens, prompt, vocab);
    if (rc < 0 || !prefix)
        return rc;
    int32_t limit = rollout_request_limit(request, max_sequence_tokens);
    if (prefix->prompt_tokens != 0 || prefix->token_count >= limit - prompt)
        return error_set(HONE_EINVAL, "%d tokens to go on from, after %d; the sequence may have %d",
                         prefix->token_count, prompt, limit);
    return check_ids("sampled", prefix->tokens, prefix->token_count, vocab);
}

int32_t rollout_request_limit(const struct rollout_request *request, int32_t max_sequence_tokens)
{
    int64_t limit = (int64_t)request->prompt_token_count + request->sampling.max_completion_tokens;
    return limit < max_sequence_tokens ? (int32_t)limit : max_sequence_tokens;
}

void rollout_request_copy(const struct rollout_request *request, struct rollout_request *copy)
{
    *copy = *request;
    copy->prompt_tokens =
        memory_dup(request->prompt_tokens, (size_t)request->prompt_token_count * sizeof(int32_t));
    copy->prefix = NULL;
    if (!request->prefix || request->prefix->token_count == 0)
        return;
    struct trajectory *prefix = MEMORY_NEW(struct trajectory);
    trajectory_init(prefix, 0);
    trajectory_append(prefix, request->prefix);
    copy->prefix = prefix;
}

void rollout_request_release(struct rollout_request *copy)
{
    struct trajectory *prefix = (struct trajectory *)(uintptr_t)copy->prefix;
    if (prefix)
        trajectory_release(prefix);
    memory_free(prefix);
    memory_free((void *)(uintptr_t)copy->prompt_tokens);
}
