/* The vocabulary of RL data: prompt, sampling settings, trajectory, reward. Plain data: any thread
 * may read; the owner releases. Token and per-token arrays of a trajectory all have length
 * token_count. */
#ifndef HONE_DATA_TRAJECTORY_H
#define HONE_DATA_TRAJECTORY_H

#include <stdbool.h>
#include <stdint.h>

#define SAMPLING_STOP_MAX 8
#define REWARD_PARTS_MAX  16

struct prompt {
    uint64_t id; /* row index in the dataset after loading: stable for a recipe */
    char *text;
    int32_t *tokens;
    int32_t token_count;
    char *ground_truth; /* "" when the row has none */
    char *capability;   /* e.g. "arithmetic.add"; "" unknown */
    char *data_source;  /* e.g. "gsm8k" */
    char *extra_json;   /* the row's other columns, an object; "{}" */
};

struct sampling {
    float temperature; /* > 0; 0 means greedy (evaluation only) */
    float top_p;       /* 1 = off */
    int32_t top_k;     /* 0 = off */
    float min_p;       /* 0 = off */
    bool keep_support; /* logprobs are of the cut distribution, and what it was cut to is kept */
    int32_t max_completion_tokens;
    uint64_t seed;
    int32_t stop_ids[SAMPLING_STOP_MAX];
    int32_t stop_count;
};

enum finish_reason {
    FINISH_NONE,
    FINISH_STOP,   /* a stop id was sampled (it is the last token) */
    FINISH_LENGTH, /* max_completion_tokens or the context ran out: truncated */
    FINISH_ABORT   /* given up: not trainable */
};

enum reward_status { REWARD_OK, REWARD_ABSTAIN, REWARD_TIMEOUT, REWARD_ERROR };

struct reward_part {
    char name[32];
    float value; /* meaningful when status is REWARD_OK */
    float weight;
    enum reward_status status;
};

/* G8: the total is a number only when status is REWARD_OK. */
struct reward {
    enum reward_status status;
    float total; /* sum of weight * value over parts that are OK */
    int32_t part_count;
    struct reward_part parts[REWARD_PARTS_MAX];
};

/* Consecutive tokens from one origin; environment segments are never trained (loss_mask 0). */
enum segment_kind { SEGMENT_PROMPT, SEGMENT_POLICY, SEGMENT_ENVIRONMENT };
struct segment {
    enum segment_kind kind;
    int32_t start, count;
};

struct trajectory {
    uint64_t id; /* made by the sender: hash of (run, group, sample, attempt) */
    uint64_t prompt_id;
    uint64_t group_id;
    int32_t sample_index; /* 0 .. G-1 */
    uint64_t lease_id, fence;
    int32_t prompt_tokens; /* the first prompt_tokens tokens are the prompt */
    int32_t token_count;
    int32_t *tokens;         /* [token_count] */
    float *behavior_logprob; /* [token_count]; 0 where loss_mask is 0 */
    float *log_mass;         /* [token_count] log of surviving mass under top-k/p; 0 = all */
    int64_t *policy_version; /* [token_count]; -1 on prompt tokens; non-decreasing (G2) */
    uint8_t *loss_mask;      /* [token_count] 1 = sampled by the policy and trained */
    uint8_t *kv_mixed;       /* [token_count] 1 = its logits saw keys and values that other weights
                                than policy_version's had filled in; may be NULL: none */
    uint8_t *support; /* with keep_support: a record of each trained token (token_support.h) */
    int32_t support_bytes;
    struct segment *segments;
    int32_t segment_count;
    uint8_t *routing; /* MoE choices, empty for dense models */
    int32_t routing_bytes;
    enum finish_reason finish;
    struct sampling sampling;
    struct reward reward;
    int64_t leased_ms, started_ms, finished_ms, scored_ms; /* unix ms; 0 = not yet */
};

void prompt_release(struct prompt *prompt);
/* Allocates the per-token arrays for `capacity` tokens; fields zeroed. */
void trajectory_init(struct trajectory *trajectory, int32_t capacity);
void trajectory_release(struct trajectory *trajectory);
/* Appends `count` tokens of one origin to the segments; joins the last one when of the same kind.
 */
void trajectory_add_segment(struct trajectory *trajectory, enum segment_kind kind, int32_t count);
/* Oldest and newest version among sampled tokens; -1 when none was sampled. */
int64_t trajectory_oldest_version(const struct trajectory *trajectory);
int64_t trajectory_newest_version(const struct trajectory *trajectory);
int32_t trajectory_completion_tokens(const struct trajectory *trajectory);
/* A piece of a completion is a trajectory without a prompt and with FINISH_NONE. Appends the tokens
 * of `tail` to those of `to`, as one policy segment. */
void trajectory_append(struct trajectory *to, const struct trajectory *tail);
/* Checks array lengths, masks, G2 and finite logprobs; 0 or HONE_EFORMAT saying what is wrong:
 *   - segments tile the tokens in order; the prompt is the first segment and the only one of its
 * kind;
 *   - kv_mixed is 0 or 1, and 1 only where loss_mask is;
 *   - loss_mask is 0 or 1, and 1 only on policy tokens that have a version;
 *   - behavior_logprob and log_mass are finite, not positive, and 0 where loss_mask is 0;
 *   - with keep_support every trained token has a support, which it is in; without, none has;
 *   - versions are -1 on the prompt and never go back (environment tokens may have -1);
 *   - sampling, finish and reward are in range. */
int trajectory_validate(const struct trajectory *trajectory);
int sampling_validate(const struct sampling *sampling);
int reward_validate(const struct reward *reward);

const char *finish_reason_name(enum finish_reason finish);
const char *reward_status_name(enum reward_status status);

#endif
