/* The recipe: everything a run is told, as one struct, resolved (every value present) and
 * read-only.
 *
 * recipe_load reads YAML through the field tables of recipe_fields.c, applies overrides, fills
 * defaults and checks types, names and ranges. The caller owns the struct; every string and list in
 * it is released by recipe_release. Strings are never NULL: "" means not given. Counts of tokens,
 * steps and rows are int64_t; 0 means what the field's help says (all, off, derived).
 *
 * 1. recipe_print's text loads again into an equal recipe, and prints again to the same bytes.
 * 2. Equal recipe_hash means that a run of one may be continued as a run of the other. output_dir,
 *    pools, wire, weights and log do not count: they never change what is computed.
 * 3. Every problem of a recipe is reported at once, with file, line and column. */
#ifndef HONE_CONFIG_RECIPE_H
#define HONE_CONFIG_RECIPE_H

#include <stdbool.h>
#include <stdint.h>

#include "infra/base/hash.h"
#include "infra/base/text.h"
#include "infra/config/field.h"
#include "infra/config/problem.h"

enum recipe_dtype { RECIPE_FLOAT32, RECIPE_BFLOAT16 };
enum recipe_init { RECIPE_INIT_NONE, RECIPE_INIT_RANDOM };
enum recipe_schedule { RECIPE_SCHEDULE_CONSTANT, RECIPE_SCHEDULE_LINEAR, RECIPE_SCHEDULE_COSINE };
/* In the order of the table in recipe_presets.c. */
enum recipe_preset {
    RECIPE_PRESET_NONE,
    RECIPE_PRESET_GRPO,
    RECIPE_PRESET_DR_GRPO,
    RECIPE_PRESET_DAPO,
    RECIPE_PRESET_RLOO,
    RECIPE_PRESET_REINFORCE_PP,
    RECIPE_PRESET_REINFORCE_PP_BASELINE,
    RECIPE_PRESET_GSPO,
    RECIPE_PRESET_CISPO,
    RECIPE_PRESET_AIPO,
    RECIPE_PRESET_DECOUPLED_PPO,
    RECIPE_PRESET_PPO
};
enum recipe_baseline {
    RECIPE_BASELINE_GROUP_MEAN,
    RECIPE_BASELINE_LEAVE_ONE_OUT,
    RECIPE_BASELINE_BATCH_MEAN,
    RECIPE_BASELINE_CRITIC,
    RECIPE_BASELINE_NONE
};
enum recipe_scale {
    RECIPE_SCALE_GROUP_STD,
    RECIPE_SCALE_LEAVE_ONE_OUT_STD,
    RECIPE_SCALE_GROUP_MEAN,
    RECIPE_SCALE_BATCH_STD,
    RECIPE_SCALE_NONE
};
enum recipe_ratio { RECIPE_RATIO_TOKEN, RECIPE_RATIO_SEQUENCE };
enum recipe_clipping {
    RECIPE_CLIPPING_PPO,
    RECIPE_CLIPPING_CISPO,
    RECIPE_CLIPPING_AIPO,
    RECIPE_CLIPPING_NONE
};
enum recipe_aggregation {
    RECIPE_AGGREGATE_TOKEN_MEAN,    /* mean over the batch's trained tokens */
    RECIPE_AGGREGATE_SEQUENCE_MEAN, /* mean over tokens in a trajectory, then over trajectories */
    RECIPE_AGGREGATE_CONSTANT       /* sum / (trajectories x max_completion_tokens) */
};
enum recipe_off_policy {
    RECIPE_OFF_POLICY_BEHAVIOR_RATIO,
    RECIPE_OFF_POLICY_DECOUPLED,
    RECIPE_OFF_POLICY_TRUNCATED_SEQUENCE,
    RECIPE_OFF_POLICY_ICEPOP,
    RECIPE_OFF_POLICY_SEQUENCE_REJECTION,
    RECIPE_OFF_POLICY_NONE
};
enum recipe_kl_reference { RECIPE_KL_START, RECIPE_KL_BASE };
enum recipe_kl_estimator {
    RECIPE_KL_K1,
    RECIPE_KL_K2,
    RECIPE_KL_K3,
    RECIPE_KL_K3_STRAIGHT_THROUGH
};
enum recipe_kl_in { RECIPE_KL_IN_LOSS, RECIPE_KL_IN_REWARD };
enum recipe_truncated {
    RECIPE_TRUNCATED_REFUSE,
    RECIPE_TRUNCATED_IMPORTANCE,
    RECIPE_TRUNCATED_SAME_SUPPORT
};
enum recipe_pairs_source { RECIPE_PAIRS_FILE, RECIPE_PAIRS_RL_LOG };
enum recipe_activations { RECIPE_ACTIVATIONS_KEPT, RECIPE_ACTIVATIONS_BY_LAYER };
enum recipe_transport {
    RECIPE_TRANSPORT_AUTO,
    RECIPE_TRANSPORT_SHARED_MEMORY,
    RECIPE_TRANSPORT_CHUNKS
};
enum recipe_log_keep { RECIPE_KEEP_ALL, RECIPE_KEEP_UNACKNOWLEDGED };
enum recipe_kv_on_swap { RECIPE_KV_KEEP, RECIPE_KV_RECOMPUTE };
enum recipe_log_level { RECIPE_LOG_DEBUG, RECIPE_LOG_INFO, RECIPE_LOG_WARN, RECIPE_LOG_ERROR };

/* A new model instead of model.path. The vocabulary is the tokenizer's. */
struct init_settings {
    enum recipe_init method;
    int64_t hidden_size, layers, heads, kv_heads, head_dim, intermediate_size, max_positions;
    double rope_theta;
    bool tie_embeddings;
    const char *tokenizer; /* a directory that holds tokenizer.json */
};

struct model_settings {
    const char *path;        /* a checkpoint directory; "" with init.method random */
    enum recipe_dtype dtype; /* of compute */
    const char *chat_layout; /* how messages become text: a chat_layout_parse name */
    struct init_settings init;
};

struct pool_settings {
    struct string_list devices; /* "cpu:0-3", "cuda:0"; empty: derived from the machine */
    int64_t workers;            /* 0: derived */
    int64_t threads;            /* per worker; 0: derived from the devices */
    bool remote;                /* they join by themselves: `hone run` starts none */
};

struct pools_settings {
    struct pool_settings learner, actors, scorers;
};

struct optimizer_settings {
    double learning_rate;
    enum recipe_schedule schedule;
    int64_t warmup_steps;
    double min_lr_ratio; /* the schedule ends at learning_rate x this */
    double weight_decay, beta1, beta2, epsilon;
    double max_grad_norm; /* 0: no clipping */
    enum recipe_dtype moments_dtype;
};

/* Low-rank adapters instead of every weight. */
struct lora_settings {
    int64_t rank; /* 0: every weight is trained */
    double alpha; /* the adapters count alpha / rank */
    struct string_list targets;
};

enum recipe_chat { RECIPE_CHAT_AUTO, RECIPE_CHAT_ALWAYS, RECIPE_CHAT_NEVER };

/* The columns a stage has no use for cannot be set in its table and stay "". */
struct data_settings {
    struct string_list path;
    const char *format; /* a dataset_format_parse name */
    const char *prompt_column, *completion_column, *text_column;
    const char *ground_truth_column, *capability_column, *data_source_column; /* rl, eval */
    const char *chosen_column, *rejected_column;                              /* dpo */
    const char *prompt_template, *completion_template;
    enum recipe_chat chat;             /* rl, eval */
    struct string_list system_prompts; /* rl, eval: variants */
    int64_t max_rows;                  /* 0: all */
};

struct sampling_settings {
    double temperature; /* 0: greedy (eval only) */
    double top_p;       /* 1: off */
    int64_t top_k;      /* 0: off */
    double min_p;       /* 0: off */
    int64_t max_completion_tokens;
    struct string_list stop;
};

enum recipe_prune {
    RECIPE_PRUNE_NONE,
    RECIPE_PRUNE_LOSS,
    RECIPE_PRUNE_PROGRESS,
    RECIPE_PRUNE_VOTES,
    RECIPE_PRUNE_RANDOM
};

struct prune_settings {
    enum recipe_prune method;
    const char *judge;    /* "": the base */
    const char *learned;  /* progress: a checkpoint */
    int64_t votes;        /* of a row */
    const char *question; /* {prompt}, {completion} */
    double temperature;
    int64_t answer_tokens;
    double drop_share;
    int64_t min_rows; /* of a capability */
};

/* pass@k on prompts of rl.data while SFT goes on. */
struct exploration_settings {
    int64_t steps;   /* between measurements; 0: none */
    int64_t prompts; /* 0: all */
    int64_t samples, k;
    double drop;
};

struct sft_settings {
    struct data_settings data;
    int64_t epochs;
    int64_t max_steps;          /* 0: no limit but epochs */
    int64_t batch_tokens;       /* per optimizer step */
    int64_t micro_batch_tokens; /* per forward and backward pass */
    enum recipe_activations activation_checkpointing;
    int64_t max_length; /* tokens of one sequence */
    struct optimizer_settings optimizer;
    struct lora_settings lora;
    struct prune_settings prune;
    double entropy_floor; /* share of the first; 0: not watched */
    struct exploration_settings exploration;
    double neftune_alpha; /* 0: off */
    int64_t save_steps;   /* 0: only at the end */
    int64_t log_steps;
};

struct objective_settings {
    enum recipe_preset preset; /* has given its values where none were given (recipe_presets.h) */
    enum recipe_baseline baseline;
    enum recipe_scale scale;
    double gamma, gae_lambda;
    double value_coef, value_clip;
    double value_learning_rate; /* 0: the optimizer's */
    enum recipe_ratio ratio;
    enum recipe_clipping clipping;
    double clip_low, clip_high;
    double ratio_max; /* aipo */
    enum recipe_off_policy off_policy_correction;
    double importance_weight_min, importance_weight_max;
    double rejection_low, rejection_high; /* sequence_rejection */
    double dual_clip;                     /* 0: off */
    enum recipe_aggregation aggregation;
    double kl_coef; /* 0: no reference model is kept for the loss */
    enum recipe_kl_in kl_in;
    enum recipe_kl_reference kl_reference;
    enum recipe_kl_estimator kl_estimator;
    double kl_target;  /* nats a token; 0: kl_coef stays */
    double kl_horizon; /* trajectories */
    double kl_limit;   /* nats a token against the reference; 0: off */
    double entropy_coef;
};

/* What watches the policy in training. 0: off. */
struct guard_settings {
    bool mismatch;
    double gradient_spike; /* x median norm */
    double entropy_floor;  /* x median entropy */
    double reward_drop;    /* x median reward */
    double behavior_drift; /* x median KL of the behavior policy */
    int64_t good_after;    /* batches */
    int64_t rollbacks_max; /* in 1,000 batches; 0: the first signal stops the run */
};

enum recipe_filter { RECIPE_FILTER_OFF, RECIPE_FILTER_MEASURE, RECIPE_FILTER_ON };

/* Which prompts are trained. */
struct filter_settings {
    enum recipe_filter mode;
    const char *pools; /* of `hone filter`; "": nothing is known at first */
    double low, high;  /* shares of samples that pass */
    double high_min, high_step;
    int64_t certificate; /* samples */
    double hard_share, easy_share;
    int64_t round_steps, expire_steps; /* batches */
    double accept_min;
    int64_t probe_groups;
    struct string_list mix; /* "CAPABILITY=FACTOR" */
};

struct actor_settings {
    int64_t slots;
    int64_t prefill_chunk_tokens;
    int64_t progress_tokens; /* 0: rollouts are reported when they are finished */
    enum recipe_kv_on_swap kv_on_swap;
};

struct rl_settings {
    struct data_settings data;
    int64_t steps;
    int64_t prompts_per_step;
    int64_t group_size;
    int64_t updates_per_batch;
    int64_t gradient_shards;
    int64_t max_prompt_tokens;
    struct sampling_settings sampling;
    int64_t staleness_max; /* 0: synchronous */
    struct objective_settings objective;
    bool drop_zero_advantage;
    bool mask_truncated;
    enum recipe_truncated truncated_sampling;
    struct optimizer_settings optimizer;
    struct lora_settings lora;
    int64_t micro_batch_tokens;
    enum recipe_activations activation_checkpointing;
    int64_t checkpoint_steps;
    int64_t keep_checkpoints;
    double lease_timeout_s;
    int64_t lease_retries;
    struct actor_settings actor;
    struct filter_settings filter;
    struct guard_settings guards;
    int64_t eval_steps; /* 0: only after the stage */
};

struct reward_part_settings {
    const char *name;
    const char *verifier; /* a built-in; or "command" */
    struct string_list command;
    double weight;
    double timeout_s;
};

struct reward_part_list {
    struct reward_part_settings *items;
    int32_t count;
};

struct reward_settings {
    struct reward_part_list parts;
    int64_t overlong_buffer_tokens; /* of the verifier overlong; 0: it is not among the parts */
    double pass_threshold;          /* a total of at least this counts as passed */
    double max_error_rate;
    int64_t max_retries;
};

enum recipe_dpo_loss {
    RECIPE_DPO_SIGMOID,
    RECIPE_DPO_ROBUST,
    RECIPE_DPO_HINGE,
    RECIPE_DPO_IPO,
    RECIPE_DPO_SIMPO,
    RECIPE_DPO_KTO
};
enum recipe_ipo_length { RECIPE_IPO_MEAN, RECIPE_IPO_SUM };

struct dpo_settings {
    struct data_settings data;
    enum recipe_dpo_loss loss;
    enum recipe_pairs_source source;
    double beta;
    double label_smoothing; /* sigmoid, robust */
    enum recipe_ipo_length ipo_length;
    double simpo_margin;
    double kto_desirable, kto_undesirable;
    int64_t epochs;
    int64_t max_steps;               /* 0: no limit but epochs */
    int64_t pairs_max;               /* 0: all */
    const char *log;                 /* rl_log: another run\'s; "": this run\'s */
    const char *part;                /* rl_log: compare a reward part's values; "": rewards */
    struct string_list capabilities; /* rl_log: of these prompts; empty: all */
    double anchor_share;             /* rl_log: of pairs of other prompts */
    double min_margin;               /* rl_log: least difference in reward within a pair */
    double max_length_ratio;         /* rl_log: longer / shorter completion; 0: off */
    double nll_coef;                 /* weight of the chosen answers' NLL; 0: off */
    int64_t batch_pairs;
    int64_t micro_batch_tokens;
    enum recipe_activations activation_checkpointing;
    int64_t max_length;
    struct optimizer_settings optimizer;
    struct lora_settings lora;
    int64_t save_steps; /* 0: only at the end */
    int64_t log_steps;
};

struct eval_settings {
    bool enabled;
    struct data_settings data;
    int64_t max_prompts; /* 0: all */
    int64_t samples;     /* per prompt */
    int64_t k;           /* pass@k, k <= samples */
    int64_t max_prompt_tokens;
    struct sampling_settings sampling;
    int64_t slots;
};

struct weights_settings {
    enum recipe_transport transport;
    bool delta;
    int64_t fanout; /* 0: the learner serves everybody */
    double deadline_s;
};

struct log_settings {
    enum recipe_log_keep keep;
    int64_t keep_batches; /* with keep unacknowledged: durable batches kept besides */
    enum recipe_log_level level;
    double stall_s; /* 0: not watched */
};

/* Endpoints beyond the run's own sockets; "" none. */
struct wire_settings {
    const char *hub, *weights; /* tcp://ADDRESS:PORT */
    const char *keys;          /* a directory of `hone keys` */
};

struct recipe {
    const char *name;
    int64_t seed;
    const char *output_dir;
    struct string_list stages; /* "sft", "rl", "dpo" in the order they run */
    struct model_settings model;
    struct pools_settings pools;
    struct wire_settings wire;
    struct sft_settings sft;
    struct rl_settings rl;
    struct reward_settings reward;
    struct dpo_settings dpo;
    struct eval_settings eval;
    struct weights_settings weights;
    struct log_settings log;

    char *file;               /* the path given to recipe_load; places refer to it */
    struct string_list given; /* overrides as "--set a.b=c"; places refer to them */
    struct place_list places;
};

/* Checks beyond a single value: they see every recipe whose YAML could be read, problems or not, so
 * that all problems are told at once. */
typedef void (*recipe_check)(const struct recipe *recipe, struct problems *problems);

struct recipe_source {
    const char *path;
    const char *const *overrides;
    int override_count;
    recipe_check check; /* NULL: none */
};

/* path NULL: defaults and overrides alone. overrides are "a.b=c" each, applied in order; list
 * elements by index ("reward.parts.0.weight=2"), one past the last appends. Relative paths stay as
 * written: they mean the current directory.
 * 0; HONE_EINVAL with at least one problem added; or an error when the file cannot be read. On
 * error the recipe is released. */
int recipe_read(struct recipe *recipe, const struct recipe_source *source,
                struct problems *problems);
/* The same without further checks. */
int recipe_load(struct recipe *recipe, const char *path, const char *const *overrides, int count,
                struct problems *problems);
void recipe_release(struct recipe *recipe);

/* The resolved recipe as YAML, every value present. Appends to text. */
void recipe_print(const struct recipe *recipe, struct text *text);
/* 64 hex digits. */
void recipe_hash(const struct recipe *recipe, char hex[HASH_HEX_SIZE]);
/* Whether a stage ("sft", "rl", "dpo") is among the recipe's stages. */
bool recipe_has_stage(const struct recipe *recipe, const char *stage);
/* Where a key was given: itself, else the nearest enclosing key, else the file. */
struct source_place recipe_place_of(const struct recipe *recipe, const char *key);
/* Whether advantages are told from a prompt's group: then equal rewards in it teach nothing. */
/* Whether rollouts keep what their tokens' distributions were cut to, for the learner. */
bool recipe_keeps_support(const struct recipe *recipe);
bool recipe_baseline_is_of_group(enum recipe_baseline baseline);
const char *recipe_dtype_name(enum recipe_dtype dtype); /* "float32", "bfloat16" */

/* A JSON schema (draft 2020-12) and the reference page, made from the field tables. */
void recipe_schema_json(struct text *text);
void recipe_reference_markdown(struct text *text);

#endif
