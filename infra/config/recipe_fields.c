#include "infra/config/recipe_fields.h"

#include "infra/config/recipe.h"

/* clang-format off */
#define AT(owner, member) .offset = offsetof(struct owner, member)

#define INT(key, owner, member, initial, low, high, of, text)                                      \
    {.name = key, .type = FIELD_INT, AT(owner, member), .default_text = initial, .min = low,       \
     .max = high, .unit = of, .help = text}
#define FLOAT(key, owner, member, initial, low, high, of, text)                                    \
    {.name = key, .type = FIELD_FLOAT, AT(owner, member), .default_text = initial, .min = low,     \
     .max = high, .unit = of, .help = text}
#define BOOL(key, owner, member, initial, text)                                                    \
    {.name = key, .type = FIELD_BOOL, AT(owner, member), .default_text = initial, .help = text}
#define STRING(key, owner, member, initial, bits, text)                                            \
    {.name = key, .type = FIELD_STRING, AT(owner, member), .default_text = initial, .help = text,  \
     .flags = bits}
#define WORD(key, owner, member, initial, list, text)                                              \
    {.name = key, .type = FIELD_STRING, AT(owner, member), .default_text = initial, .names = list, \
     .help = text}
#define ENUM(key, owner, member, initial, list, text)                                              \
    {.name = key, .type = FIELD_ENUM, AT(owner, member), .default_text = initial, .names = list,   \
     .help = text}
#define PATH(key, owner, member, text)                                                             \
    {.name = key, .type = FIELD_PATH, AT(owner, member), .help = text}
#define LIST(key, owner, member, initial, list, text)                                              \
    {.name = key, .type = FIELD_STRING_LIST, AT(owner, member), .default_text = initial,           \
     .names = list, .help = text}
#define TABLE(key, owner, member, fields, text)                                                    \
    {.name = key, .type = FIELD_TABLE, AT(owner, member), .table = fields, .help = text}
#define END {.name = NULL}
/* clang-format on */

#define TOKENS_MAX 1048576
#define STEPS_MAX  FIELD_UNBOUNDED

static const char *const stage_names[] = {"sft", "rl", "dpo", NULL};
static const char *const dtype_names[] = {"float32", "bfloat16", NULL};
static const char *const init_names[] = {"none", "random", NULL};
static const char *const schedule_names[] = {"constant", "linear", "cosine", NULL};
static const char *const preset_names[] = {
    "none", "grpo",  "dr_grpo", "dapo",          "rloo", "reinforce++", "reinforce++-baseline",
    "gspo", "cispo", "aipo",    "decoupled_ppo", "ppo",  NULL};
static const char *const baseline_names[] = {"group_mean", "leave_one_out", "batch_mean",
                                             "critic",     "none",          NULL};
static const char *const scale_names[] = {
    "group_std", "leave_one_out_std", "group_mean", "batch_std", "none", NULL};
static const char *const ratio_names[] = {"token", "sequence", NULL};
static const char *const clipping_names[] = {"ppo", "cispo", "aipo", "none", NULL};
static const char *const kl_in_names[] = {"loss", "reward", NULL};
static const char *const chat_names[] = {"auto", "always", "never", NULL};
static const char *const filter_names[] = {"off", "measure", "on", NULL};
static const char *const truncated_names[] = {"refuse", "importance", "same_support", NULL};
static const char *const aggregation_names[] = {"token_mean", "sequence_mean", "constant", NULL};
static const char *const off_policy_names[] = {
    "behavior_ratio", "decoupled", "truncated_sequence", "icepop", "sequence_rejection",
    "none",           NULL};
static const char *const kl_names[] = {"k1", "k2", "k3", "k3_straight_through", NULL};
static const char *const kl_reference_names[] = {"start", "base", NULL};
static const char *const dpo_loss_names[] = {"sigmoid", "robust", "hinge", "ipo",
                                             "simpo",   "kto",    NULL};
static const char *const ipo_length_names[] = {"mean", "sum", NULL};
static const char *const pairs_source_names[] = {"file", "rl_log", NULL};
static const char *const activation_names[] = {"none", "layer", NULL};
static const char *const transport_names[] = {"auto", "shared_memory", "chunks", NULL};
static const char *const kv_names[] = {"keep", "recompute", NULL};
static const char *const keep_names[] = {"all", "unacknowledged", NULL};
static const char *const level_names[] = {"debug", "info", "warn", "error", NULL};
static const char *const layout_names[] = {"plain",   "chatml", "llama3", "llama2",
                                           "mistral", "olmo2",  NULL};
static const char *const format_names[] = {
    "auto",     "text",  "prompt_completion", "messages",   "alpaca",
    "sharegpt", "gsm8k", "self_instruct",     "preference", NULL};

static const struct config_field init_fields[] = {
    ENUM("method", init_settings, method, "none", init_names,
         "none loads model.path; random makes a new model of the shape below, to be pretrained"),
    INT("hidden_size", init_settings, hidden_size, "256", 16, 65536, NULL,
        "Width of the residual stream"),
    INT("layers", init_settings, layers, "8", 1, 1024, NULL, "Transformer layers"),
    INT("heads", init_settings, heads, "8", 1, 1024, NULL, "Attention heads"),
    INT("kv_heads", init_settings, kv_heads, "4", 1, 1024, NULL, "Key/value heads; divides heads"),
    INT("head_dim", init_settings, head_dim, "32", 2, 1024, NULL, "Width of one head; even"),
    INT("intermediate_size", init_settings, intermediate_size, "688", 16, 262144, NULL,
        "Width of the feed-forward layer"),
    INT("max_positions", init_settings, max_positions, "1024", 16, TOKENS_MAX, "tokens",
        "Longest sequence"),
    FLOAT("rope_theta", init_settings, rope_theta, "10000", 1, 1e9, NULL,
          "Base of the rotary position angles"),
    BOOL("tie_embeddings", init_settings, tie_embeddings, "true",
         "Use the embedding table as the output head"),
    PATH("tokenizer", init_settings, tokenizer,
         "Directory with tokenizer.json; its vocabulary sizes the model"),
    END};

static const struct config_field model_fields[] = {
    PATH("path", model_settings, path, "Checkpoint directory to start from (Hugging Face layout)"),
    ENUM("dtype", model_settings, dtype, "bfloat16", dtype_names,
         "Number format of compute; master weights are float32 either way"),
    WORD("chat_layout", model_settings, chat_layout, "plain", layout_names,
         "How messages become text"),
    TABLE("init", model_settings, init, init_fields, "A new model instead of a checkpoint."), END};

#define POOL_FIELDS(workers_default)                                                               \
    LIST("devices", pool_settings, devices, "", NULL,                                              \
         "Devices of the pool, e.g. [\"cpu:0-3\"] or [\"cuda:0\"]; empty derives them"),           \
        INT("workers", pool_settings, workers, workers_default, 0, 256, "processes",               \
            "Worker processes; 0 derives"),                                                        \
        INT("threads", pool_settings, threads, "0", 0, 1024, "threads",                            \
            "Threads of each worker; 0 derives from its devices"),                                 \
        BOOL("remote", pool_settings, remote, "false",                                             \
             "The workers join by themselves (hone actor --join); hone run starts none"),          \
        END

static const struct config_field learner_fields[] = {POOL_FIELDS("1")};
static const struct config_field worker_fields[] = {POOL_FIELDS("0")};

static const struct config_field pools_fields[] = {
    TABLE("learner", pools_settings, learner, learner_fields, "Where the learner trains."),
    TABLE("actors", pools_settings, actors, worker_fields, "Where rollouts are generated."),
    TABLE("scorers", pools_settings, scorers, worker_fields, "Where rewards are computed."), END};

static const struct config_field wire_fields[] = {
    STRING("hub", wire_settings, hub, NULL, 0,
           "Where the hub also listens, for workers on other machines: tcp://ADDRESS:PORT"),
    STRING("weights", wire_settings, weights, NULL, 0,
           "Where the learner also serves weights to them: tcp://ADDRESS:PORT, as they dial it"),
    PATH("keys", wire_settings, keys, "Directory of keys (hone keys); tcp needs it"), END};

/* Columns that only some stages read are hidden in the others' tables. */
#define DATA_FIELDS(text_bits, truth_bits, pair_bits, capability_bits, prompt_bits)                \
    LIST("path", data_settings, path, "", NULL, "Files: JSON lines, or one JSON array each"),      \
        WORD("format", data_settings, format, "auto", format_names,                                \
             "Shape of the rows; auto decides by their columns"),                                  \
        STRING("prompt_column", data_settings, prompt_column, NULL, 0,                             \
               "Column of the prompt; empty: the format's own"),                                   \
        STRING("completion_column", data_settings, completion_column, NULL, text_bits,             \
               "Column of the completion; empty: the format's own"),                               \
        STRING("text_column", data_settings, text_column, NULL, text_bits,                         \
               "Column of plain text; empty: the format's own"),                                   \
        STRING("ground_truth_column", data_settings, ground_truth_column, NULL, truth_bits,        \
               "Column of the right answer; empty: the format's own"),                             \
        STRING("capability_column", data_settings, capability_column, NULL, capability_bits,       \
               "Column that names the capability a prompt exercises"),                             \
        STRING("data_source_column", data_settings, data_source_column, NULL, truth_bits,          \
               "Column that names where a prompt comes from"),                                     \
        STRING("chosen_column", data_settings, chosen_column, NULL, pair_bits,                     \
               "Column of the preferred answer; empty: chosen"),                                   \
        STRING("rejected_column", data_settings, rejected_column, NULL, pair_bits,                 \
               "Column of the other answer; empty: rejected"),                                     \
        STRING("prompt_template", data_settings, prompt_template, NULL, 0,                         \
               "Prompt made from columns, e.g. \"Q: {question}\\nA:\"; empty: the column alone"),  \
        STRING("completion_template", data_settings, completion_template, NULL, text_bits,         \
               "Completion made from columns; empty: the column alone"),                           \
        {.name = "chat",                                                                           \
         .type = FIELD_ENUM,                                                                       \
         AT(data_settings, chat),                                                                  \
         .default_text = "auto",                                                                   \
         .names = chat_names,                                                                      \
         .help = "What is written in model.chat_layout, up to where the assistant's words begin: " \
                 "rows that are conversations (auto), plain prompts too, as a user's turn "        \
                 "(always), or nothing (never)",                                                   \
         .flags = prompt_bits},                                                                    \
        {.name = "system_prompts",                                                                 \
         .type = FIELD_STRING_LIST,                                                                \
         AT(data_settings, system_prompts),                                                        \
         .default_text = "",                                                                       \
         .help = "Variants: each row becomes a conversation under each of these, a prompt of its " \
                 "own; a row that has a system turn keeps it",                                     \
         .flags = prompt_bits},                                                                    \
        INT("max_rows", data_settings, max_rows, "0", 0, FIELD_UNBOUNDED, "rows",                  \
            "Rows read from the start of the files; 0 reads all"),                                 \
        END

static const struct config_field sft_data_fields[] = {
    DATA_FIELDS(0, FIELD_HIDDEN, FIELD_HIDDEN, 0, FIELD_HIDDEN)};
static const struct config_field rl_data_fields[] = {
    DATA_FIELDS(FIELD_HIDDEN, 0, FIELD_HIDDEN, 0, 0)};
static const struct config_field dpo_data_fields[] = {
    DATA_FIELDS(FIELD_HIDDEN, FIELD_HIDDEN, 0, FIELD_HIDDEN, FIELD_HIDDEN)};

#define OPTIMIZER_FIELDS(rate, shape, warmup, decay)                                               \
    FLOAT("learning_rate", optimizer_settings, learning_rate, rate, 0, 1, NULL,                    \
          "Peak learning rate of AdamW"),                                                          \
        ENUM("schedule", optimizer_settings, schedule, shape, schedule_names,                      \
             "Learning rate after the warm-up"),                                                   \
        INT("warmup_steps", optimizer_settings, warmup_steps, warmup, 0, STEPS_MAX, "steps",       \
            "Steps over which the learning rate rises from zero"),                                 \
        FLOAT("min_lr_ratio", optimizer_settings, min_lr_ratio, "0", 0, 1, NULL,                   \
              "Where a linear or cosine schedule ends, as a fraction of learning_rate"),           \
        FLOAT("weight_decay", optimizer_settings, weight_decay, decay, 0, 1, NULL,                 \
              "Decoupled weight decay"),                                                           \
        FLOAT("beta1", optimizer_settings, beta1, "0.9", 0, 0.9999, NULL,                          \
              "Decay of the first moment"),                                                        \
        FLOAT("beta2", optimizer_settings, beta2, "0.95", 0, 0.99999, NULL,                        \
              "Decay of the second moment"),                                                       \
        FLOAT("epsilon", optimizer_settings, epsilon, "1e-8", 1e-15, 0.1, NULL,                    \
              "Added to the root of the second moment"),                                           \
        FLOAT("max_grad_norm", optimizer_settings, max_grad_norm, "1", 0, 1e6, NULL,               \
              "Gradients of a larger norm are scaled down to it; 0 never clips"),                  \
        ENUM("moments_dtype", optimizer_settings, moments_dtype, "float32", dtype_names,           \
             "Number format of AdamW's moments; bfloat16 halves them, with beta2 at most 0.99"),   \
        END

static const struct config_field sft_optimizer_fields[] = {
    OPTIMIZER_FIELDS("2e-5", "cosine", "0", "0")};
static const struct config_field rl_optimizer_fields[] = {
    OPTIMIZER_FIELDS("1e-6", "constant", "0", "0")};
static const struct config_field dpo_optimizer_fields[] = {
    OPTIMIZER_FIELDS("5e-7", "linear", "0", "0")};

static const char *const lora_target_names[] = {"q", "k", "v", "o", "gate", "up", "down", NULL};

static const struct config_field lora_fields[] = {
    INT("rank", lora_settings, rank, "0", 0, 1024, NULL,
        "Rank of the adapters; 0 trains every weight"),
    FLOAT("alpha", lora_settings, alpha, "16", 0.001, 100000, NULL,
          "The adapters are added times alpha / rank"),
    LIST("targets", lora_settings, targets, "q k v o gate up down", lora_target_names,
         "The weights that get adapters: of attention q, k, v, o, of the feed-forward layer gate, "
         "up, down"),
    END};

#define LORA(owner)                                                                                \
    TABLE("lora", owner, lora, lora_fields,                                                        \
          "Low-rank adapters: they alone are trained, and merged into the weights that come out.")

#define SAMPLING_FIELDS(coldest, tokens)                                                           \
    FLOAT("temperature", sampling_settings, temperature, "1", coldest, 100, NULL,                  \
          "Divides the logits; evaluation takes 0 for greedy decoding"),                           \
        FLOAT("top_p", sampling_settings, top_p, "1", 0.01, 1, NULL,                               \
              "Keeps the likeliest tokens up to this mass; 1 keeps all"),                          \
        INT("top_k", sampling_settings, top_k, "0", 0, 1000000, "tokens",                          \
            "Keeps this many of the likeliest tokens; 0 keeps all"),                               \
        FLOAT("min_p", sampling_settings, min_p, "0", 0, 1, NULL,                                  \
              "Drops tokens less likely than this times the likeliest; 0 drops none"),             \
        INT("max_completion_tokens", sampling_settings, max_completion_tokens, tokens, 1,          \
            TOKENS_MAX, "tokens", "Longest completion"),                                           \
        LIST("stop", sampling_settings, stop, "", NULL,                                            \
             "Ends a completion besides the end-of-sequence token; each must be one token"),       \
        END

static const struct config_field rl_sampling_fields[] = {SAMPLING_FIELDS(0.01, "256")};
static const struct config_field eval_sampling_fields[] = {SAMPLING_FIELDS(0, "256")};

#define ACTIVATION_CHECKPOINTING(owner)                                                            \
    {                                                                                              \
        .name = "activation_checkpointing", .type = FIELD_ENUM,                                    \
        AT(owner, activation_checkpointing), .default_text = "none", .names = activation_names,    \
        .help =                                                                                    \
            "layer keeps each layer's input alone and computes the rest again in the backward "    \
            "pass: less memory, more time, the same bits",                                         \
        .flags = FIELD_UNHASHED                                                                    \
    }

static const char *const prune_names[] = {"none", "loss", "progress", "votes", "random", NULL};

static const struct config_field prune_fields[] = {
    ENUM("method", prune_settings, method, "none", prune_names,
         "What the easiest rows are told by: their likelihood under a judge (loss); how much more "
         "likely they are to a checkpoint that has learned such rows (progress, the least first); "
         "what the judge says when it is asked (votes: self-critique, for a judge that can answer "
         "a question); or a draw (random, the control)"),
    PATH("judge", prune_settings, judge, "Checkpoint that judges; empty: the base"),
    PATH("learned", prune_settings, learned,
         "With method: progress: a checkpoint that was trained on such rows"),
    INT("votes", prune_settings, votes, "5", 1, 1024, "answers",
        "With method: votes: how often the judge is asked of each row"),
    STRING(
        "question", prune_settings, question,
        "Here is a task and its answer.\n\nTask: {prompt}\n\nAnswer: {completion}\n\nHow hard is "
        "such a task for you: easy, medium or hard? One word:",
        0,
        "With method: votes: what it is asked, as a user's turn of model.chat_layout, or with "
        "plain as a text to go on with; the first of the words easy, medium and hard counts"),
    FLOAT("temperature", prune_settings, temperature, "1", 0, 100, NULL,
          "With method: votes: of the judge's answers"),
    INT("answer_tokens", prune_settings, answer_tokens, "16", 1, 4096, "tokens",
        "With method: votes: the longest answer"),
    FLOAT("drop_share", prune_settings, drop_share, "0.5", 0, 1, NULL,
          "Share of each capability's rows that is left out, the easiest first; 0.95 for a model "
          "that knows nearly all of it"),
    INT("min_rows", prune_settings, min_rows, "8", 0, FIELD_UNBOUNDED, "rows",
        "Rows of a capability that stay whatever the share"),
    END};

static const struct config_field exploration_fields[] = {
    INT("steps", exploration_settings, steps, "0", 0, STEPS_MAX, "steps",
        "Light SFT: pass@k on prompts of rl.data, sampled as in rl.sampling, is measured before "
        "the "
        "first step, each time after so many, and at the end; when it has fallen the stage ends "
        "with the weights that were best. 0 is off"),
    INT("prompts", exploration_settings, prompts, "200", 0, FIELD_UNBOUNDED, "prompts",
        "Prompts it is measured on, from the start of the data; 0 takes all"),
    INT("samples", exploration_settings, samples, "8", 1, 1024, "samples",
        "Answers sampled per prompt"),
    INT("k", exploration_settings, k, "8", 1, 1024, NULL, "The k of pass@k; at most samples"),
    FLOAT("drop", exploration_settings, drop, "0.02", 0, 1, NULL,
          "It has fallen when it is below the best so far by more than this, and by more than two "
          "standard errors of the difference"),
    END};

static const struct config_field sft_fields[] = {
    TABLE("data", sft_settings, data, sft_data_fields, "What SFT learns from."),
    INT("epochs", sft_settings, epochs, "1", 1, 1000000, NULL, "Passes over the data"),
    INT("max_steps", sft_settings, max_steps, "0", 0, STEPS_MAX, "steps",
        "Optimizer steps after which the stage ends; 0 leaves it to epochs"),
    INT("batch_tokens", sft_settings, batch_tokens, "4096", 16, 1073741824, "tokens",
        "Tokens of one optimizer step"),
    INT("micro_batch_tokens", sft_settings, micro_batch_tokens, "4096", 16, TOKENS_MAX, "tokens",
        "Tokens of one forward and backward pass: memory, and the order in which gradients add up"),
    ACTIVATION_CHECKPOINTING(sft_settings),
    INT("max_length", sft_settings, max_length, "512", 8, TOKENS_MAX, "tokens",
        "Longest sequence; longer rows are cut and counted"),
    TABLE("optimizer", sft_settings, optimizer, sft_optimizer_fields, "AdamW of the SFT stage."),
    LORA(sft_settings),
    TABLE("prune", sft_settings, prune, prune_fields,
          "Rows that are left out because they are easy; RUN/sft/prune.jsonl says which and why."),
    FLOAT("entropy_floor", sft_settings, entropy_floor, "0", 0, 1, NULL,
          "Light SFT: the stage ends when the policy's entropy on its rows, mean of 10 steps, is "
          "below "
          "this share of what it was in the first 10; 0 is off"),
    TABLE("exploration", sft_settings, exploration, exploration_fields,
          "Whether SFT costs the policy what RL would explore."),
    FLOAT("neftune_alpha", sft_settings, neftune_alpha, "0", 0, 1000, NULL,
          "NEFTune: uniform noise on embeddings while SFT learns, of this over the root of tokens "
          "times hidden size; 5 in the paper, 0 is off"),
    INT("save_steps", sft_settings, save_steps, "0", 0, STEPS_MAX, "steps",
        "Steps between checkpoints; 0 saves only at the end"),
    INT("log_steps", sft_settings, log_steps, "1", 1, STEPS_MAX, "steps",
        "Steps between records in the metrics"),
    END};

static const struct config_field objective_fields[] = {
    {.name = "preset",
     .type = FIELD_ENUM,
     AT(objective_settings, preset),
     .default_text = "none",
     .names = preset_names,
     .help = "A published objective: gives its values to the keys of rl.objective, and to "
             "rl.drop_zero_advantage, that are not given",
     .flags = FIELD_UNHASHED},
    ENUM("baseline", objective_settings, baseline, "group_mean", baseline_names,
         "Subtracted from a trajectory's reward to give its advantage: the mean of its group, of "
         "the others of its group, or of the batch's trained tokens; or each token's value by a "
         "head "
         "that is trained with the policy (critic)"),
    ENUM("scale", objective_settings, scale, "group_std", scale_names,
         "Divides the advantage: the deviation or mean of its group's rewards, or that of the "
         "others; or the advantages of the batch's trained tokens are whitened (batch_std)"),
    FLOAT("gamma", objective_settings, gamma, "1", 0, 1, NULL,
          "Discount of rewards a token further on, where the baseline is not of the group"),
    FLOAT("gae_lambda", objective_settings, gae_lambda, "1", 0, 1, NULL,
          "With a critic: how far generalised advantages look beyond the next value"),
    FLOAT("value_coef", objective_settings, value_coef, "0.5", 0, 100, NULL,
          "With a critic: weight of its loss"),
    FLOAT("value_clip", objective_settings, value_clip, "0.5", 0, 1e6, NULL,
          "With a critic: values that move further from those before the batch gain nothing; 0 is "
          "off"),
    FLOAT("value_learning_rate", objective_settings, value_learning_rate, "0", 0, 1, NULL,
          "With a critic: learning rate of the head's own weights, scheduled as the optimizer's; 0 "
          "takes that one"),
    ENUM("ratio", objective_settings, ratio, "token", ratio_names,
         "Importance ratio of each token, or the geometric mean over its trajectory (GSPO)"),
    ENUM("clipping", objective_settings, clipping, "ppo", clipping_names,
         "ppo stops the gradient of tokens past a bound that would go further; cispo and aipo "
         "weight every token's gradient by the bounded ratio, cispo between clip_low and "
         "clip_high, aipo up to ratio_max; none bounds nothing"),
    FLOAT("clip_low", objective_settings, clip_low, "0.2", 0, 1, NULL,
          "The importance ratio is clipped at 1 minus this"),
    FLOAT("clip_high", objective_settings, clip_high, "0.2", 0, 100, NULL,
          "The importance ratio is clipped at 1 plus this"),
    FLOAT("ratio_max", objective_settings, ratio_max, "2", 1, 1000, NULL,
          "Bound of the importance ratio under clipping: aipo, the ratio itself"),
    ENUM("off_policy_correction", objective_settings, off_policy_correction, "behavior_ratio",
         off_policy_names,
         "For tokens of older versions: the clipped ratio is taken against the behavior policy "
         "(behavior_ratio); or against the policy before the batch, with a weight: its truncated "
         "ratio to the behavior policy (decoupled), the same of the whole trajectory "
         "(truncated_sequence), the ratio where it is within its bounds and else 0 (icepop), "
         "decoupled where the trajectory's mean ratio is within the rejection bounds and else 0 "
         "(sequence_rejection), or 1 (none)"),
    FLOAT("importance_weight_min", objective_settings, importance_weight_min, "0", 0, 1, NULL,
          "Lower bound of that weight"),
    FLOAT("importance_weight_max", objective_settings, importance_weight_max, "2", 1, 1000, NULL,
          "Upper bound of that weight"),
    FLOAT("rejection_low", objective_settings, rejection_low, "0.99", 0, 1, NULL,
          "Geometric mean of a trajectory's ratios below which it is left out, with "
          "sequence_rejection"),
    FLOAT("rejection_high", objective_settings, rejection_high, "1.01", 1, 1000, NULL,
          "The same above which it is"),
    FLOAT("dual_clip", objective_settings, dual_clip, "0", 0, 1000, NULL,
          "Bounds the loss of negative advantages at this times the advantage, with clipping: "
          "ppo; 0 is off"),
    ENUM("aggregation", objective_settings, aggregation, "token_mean", aggregation_names,
         "How token losses become one number"),
    FLOAT("kl_coef", objective_settings, kl_coef, "0", 0, 100, NULL,
          "Weight of the KL term against the reference model"),
    ENUM("kl_in", objective_settings, kl_in, "loss", kl_in_names,
         "Where the KL term goes: into the loss, or taken off the rewards"),
    ENUM("kl_reference", objective_settings, kl_reference, "start", kl_reference_names,
         "Reference model: what the stage started from, or the recipe's base (model.path)"),
    ENUM("kl_estimator", objective_settings, kl_estimator, "k3", kl_names,
         "Estimator of the KL term; k3_straight_through has the value of k3 and the gradient of "
         "k2"),
    FLOAT("kl_target", objective_settings, kl_target, "0", 0, 1000, "nats/token",
          "KL to the reference that kl_coef is moved towards, batch after batch; 0 leaves it"),
    FLOAT("kl_horizon", objective_settings, kl_horizon, "10000", 1, FIELD_UNBOUNDED, "trajectories",
          "How slowly it is moved: by a fifth at most in so many"),
    FLOAT("kl_limit", objective_settings, kl_limit, "0", 0, 1000, "nats/token",
          "KL to the reference above which, in three batches running, the policy goes back to its "
          "last good checkpoint; 0 is off"),
    FLOAT("entropy_coef", objective_settings, entropy_coef, "0", -1, 1, NULL,
          "Weight of the entropy bonus"),
    END};

static const struct config_field actor_fields[] = {
    INT("slots", actor_settings, slots, "64", 1, 65536, "trajectories",
        "Trajectories that one actor generates at once"),
    INT("prefill_chunk_tokens", actor_settings, prefill_chunk_tokens, "256", 1, TOKENS_MAX,
        "tokens", "Prompt tokens processed in one pass"),
    INT("progress_tokens", actor_settings, progress_tokens, "512", 0, TOKENS_MAX, "tokens",
        "A longer rollout is logged each time it has so many new tokens, and goes on from there "
        "when "
        "its actor dies; 0 logs finished ones only"),
    ENUM("kv_on_swap", actor_settings, kv_on_swap, "keep", kv_names,
         "Keys and values of rollouts in flight when new weights arrive: kept, or computed again"),
    END};

static const struct config_field guard_fields[] = {
    BOOL("mismatch", guard_settings, mismatch, "true",
         "Do not train a batch when a token of the very version in training has another logprob "
         "here than where it was sampled: some weights are not what they are said to be"),
    FLOAT("gradient_spike", guard_settings, gradient_spike, "10", 0, 1e6, NULL,
          "Do not apply a step whose gradient norm is above this times the median of the last 100; "
          "five such in 50 batches go back. 0 is off"),
    FLOAT("entropy_floor", guard_settings, entropy_floor, "0.2", 0, 1, NULL,
          "Go back when the entropy of 5 batches falls below this times the median of the 50 "
          "before; 0 is off"),
    FLOAT("reward_drop", guard_settings, reward_drop, "0.5", 0, 100, NULL,
          "Go back when the reward of 3 batches is below the median of the 50 before by this "
          "share of it, and by four deviations; 0 is off"),
    FLOAT("behavior_drift", guard_settings, behavior_drift, "8", 0, 1e6, NULL,
          "Go back when the KL of the behavior policy to the policy, mean of 3 batches, is above "
          "this times the median of those before, and above 0.01 nats a token: stale weights, or "
          "steps that are too long; 0 is off"),
    INT("good_after", guard_settings, good_after, "5", 1, 1000, "batches",
        "A checkpoint is good, and can be gone back to, when so many batches without a signal have "
        "followed it; by default no more than checkpoint_steps x keep_checkpoints"),
    INT("rollbacks_max", guard_settings, rollbacks_max, "3", 0, 8, NULL,
        "Going back more often in 1,000 batches stops the run; 0 stops it at once"),
    END};

static const struct config_field filter_fields[] = {
    ENUM(
        "mode", filter_settings, mode, "off", filter_names,
        "off: prompts come in the order of epochs. on: each prompt is in a pool by how many of its "
        "newest group's samples passed (reward.pass_threshold), and what is trained is chosen by "
        "pool. measure: pools are kept and the choice is that of off, for comparison"),
    PATH("pools", filter_settings, pools,
         "What `hone filter` measured: where the pools start from; empty: all prompts are unseen"),
    FLOAT("low", filter_settings, low, "0.125", 0, 1, NULL,
          "Share of passed samples below which a prompt is hard"),
    FLOAT("high", filter_settings, high, "0.75", 0, 1, NULL,
          "Share above which it is easy, in the first round"),
    FLOAT("high_min", filter_settings, high_min, "0.5", 0, 1, NULL,
          "high does not come down further than this"),
    FLOAT("high_step", filter_settings, high_step, "0.05", 0, 1, NULL,
          "high comes down by this with each round: prompts get harder"),
    INT("certificate", filter_settings, certificate, "64", 1, 1048576, "samples",
        "A prompt of which so many samples in a row did not pass is parked until it is measured "
        "again"),
    FLOAT("hard_share", filter_settings, hard_share, "0.1", 0, 1, NULL,
          "Share of each batch for hard prompts"),
    FLOAT("easy_share", filter_settings, easy_share, "0.05", 0, 1, NULL,
          "Share of each batch for easy prompts, so that what is forgotten is seen"),
    INT("round_steps", filter_settings, round_steps, "50", 1, STEPS_MAX, "batches",
        "Length of a round"),
    INT("expire_steps", filter_settings, expire_steps, "200", 1, STEPS_MAX, "batches",
        "When a round begins, prompts outside the band whose measurement is older are measured "
        "again"),
    FLOAT("accept_min", filter_settings, accept_min, "0.25", 0, 1, NULL,
          "When fewer of the prompts trained in a round were in the band, what was measured before "
          "it "
          "is measured again at once; 0 is off"),
    INT("probe_groups", filter_settings, probe_groups, "4", 0, 1048576, "groups",
        "Groups that measure prompts at once on actors that training leaves idle; none at "
        "staleness_max 0, where the result must not depend on timing"),
    LIST("mix", filter_settings, mix, "", NULL,
         "CAPABILITY=FACTOR: a capability's slots are its share of the dataset times this"),
    END};

static const struct config_field rl_fields[] = {
    TABLE("data", rl_settings, data, rl_data_fields, "The prompts of the RL stage."),
    INT("steps", rl_settings, steps, "100", 1, STEPS_MAX, "steps", "Batches to train on"),
    INT("prompts_per_step", rl_settings, prompts_per_step, "16", 1, 1048576, "prompts",
        "Prompts (groups) in one batch"),
    INT("group_size", rl_settings, group_size, "8", 1, 1024, "trajectories",
        "Trajectories sampled for each prompt"),
    INT("updates_per_batch", rl_settings, updates_per_batch, "1", 1, 64, "updates",
        "Optimizer updates made from one batch"),
    INT("gradient_shards", rl_settings, gradient_shards, "1", 1, 64, "shards",
        "Parts of a batch whose gradients are added up one after the other: pools.learner.workers "
        "must divide it, and any number that does gives the same weights to the bit"),
    INT("max_prompt_tokens", rl_settings, max_prompt_tokens, "512", 1, TOKENS_MAX, "tokens",
        "Prompts longer than this are dropped and counted"),
    TABLE("sampling", rl_settings, sampling, rl_sampling_fields, "How rollouts are sampled."),
    INT("staleness_max", rl_settings, staleness_max, "4", 0, 1024, "versions",
        "Versions that the learner may be ahead of a batch's oldest token; 0 is synchronous"),
    TABLE("objective", rl_settings, objective, objective_fields, "Advantage and policy loss."),
    BOOL("drop_zero_advantage", rl_settings, drop_zero_advantage, "true",
         "Leave groups out of the batch whose rewards are all equal: they teach nothing where "
         "the baseline is of the group, and only there is it the default"),
    BOOL("mask_truncated", rl_settings, mask_truncated, "false",
         "Do not train trajectories that were cut at max_completion_tokens; their rewards stay in "
         "the baseline"),
    ENUM("truncated_sampling", rl_settings, truncated_sampling, "refuse", truncated_names,
         "With top_p, top_k or min_p the behavior policy is not the model's own distribution: "
         "refuse such a recipe; take importance ratios to the truncated distribution that was "
         "sampled from; or cut the learner's distributions (the reference's too) to the very ids "
         "that each token was drawn from, which rollouts then keep (needs top_k)"),
    TABLE("optimizer", rl_settings, optimizer, rl_optimizer_fields, "AdamW of the RL stage."),
    LORA(rl_settings),
    INT("micro_batch_tokens", rl_settings, micro_batch_tokens, "4096", 16, TOKENS_MAX, "tokens",
        "Tokens of one forward and backward pass: memory, and the order in which gradients add up"),
    ACTIVATION_CHECKPOINTING(rl_settings),
    INT("checkpoint_steps", rl_settings, checkpoint_steps, "10", 1, STEPS_MAX, "steps",
        "Steps between checkpoints; batches are acknowledged when one is durable"),
    INT("keep_checkpoints", rl_settings, keep_checkpoints, "2", 1, 1000000, "checkpoints",
        "Checkpoints kept; the oldest go first"),
    FLOAT("lease_timeout_s", rl_settings, lease_timeout_s, "600", 1, 604800, "s",
          "A lease without news for this long is given to another actor"),
    INT("lease_retries", rl_settings, lease_retries, "3", 0, 100, "leases",
        "Leases of a group that may expire or be given back in a row; then the group is dropped"),
    TABLE("actor", rl_settings, actor, actor_fields, "The generation engine of each actor."),
    TABLE("filter", rl_settings, filter, filter_fields,
          "Hard-prompt filtering: which prompts are trained, by what the policy can do now."),
    TABLE("guards", rl_settings, guards, guard_fields,
          "What watches the policy: batches that are skipped, and the last good checkpoint to go "
          "back to. Loss or gradient that is not a number, and kl_limit, are always watched."),
    INT("eval_steps", rl_settings, eval_steps, "0", 0, STEPS_MAX, "steps",
        "Steps between evaluations while the stage goes on, a multiple of checkpoint_steps: each "
        "takes a process of its own beside the workers; 0 evaluates only after the stage"),
    END};

static const struct config_field reward_part_fields[] = {
    STRING("name", reward_part_settings, name, NULL, 0,
           "Name of the part in logs; empty: the verifier's"),
    STRING("verifier", reward_part_settings, verifier, "exact", 0,
           "Built-in verifier (exact, number, gsm8k, boxed, ...), or command"),
    LIST("command", reward_part_settings, command, "", NULL,
         "Program and arguments: reads one JSON object a line, writes one a line"),
    FLOAT("weight", reward_part_settings, weight, "1", -1000, 1000, NULL,
          "Factor of the part in the total reward"),
    FLOAT("timeout_s", reward_part_settings, timeout_s, "10", 0.01, 86400, "s",
          "Time one answer may take; then the part's status is timeout"),
    END};

static const struct config_field reward_fields[] = {
    {.name = "parts",
     .type = FIELD_TABLE_LIST,
     AT(reward_settings, parts),
     .table = reward_part_fields,
     .item_size = sizeof(struct reward_part_settings),
     .max = 16,
     .help = "The parts of the reward; the total is their weighted sum."},
    INT("overlong_buffer_tokens", reward_settings, overlong_buffer_tokens, "0", 0, TOKENS_MAX,
        "tokens",
        "Of verifier: overlong (DAPO): completions lose reward over their last so many tokens "
        "before max_completion_tokens, from 0 to -1"),
    FLOAT("pass_threshold", reward_settings, pass_threshold, "0.5", -1e6, 1e6, NULL,
          "A trajectory with at least this total counts as passed"),
    FLOAT(
        "max_error_rate", reward_settings, max_error_rate, "0.05", 0, 1, NULL,
        "Share of failed or timed-out scores, of the last 200, above which the run stops and says "
        "why; at 1 it stops when all of them failed"),
    INT("max_retries", reward_settings, max_retries, "2", 0, 100, "attempts",
        "Further attempts at a score that failed or timed out"),
    END};

static const struct config_field dpo_fields[] = {
    TABLE("data", dpo_settings, data, dpo_data_fields, "Preference pairs, with source: file."),
    ENUM("source", dpo_settings, source, "rl_log", pairs_source_names,
         "Where pairs come from: data.path, or the trajectories that the RL stage logged"),
    ENUM("loss", dpo_settings, loss, "sigmoid", dpo_loss_names,
         "DPO's own (sigmoid), robust DPO, SLiC's hinge, IPO, SimPO (no reference), or KTO"),
    FLOAT("beta", dpo_settings, beta, "0.1", 1e-4, 100, NULL,
          "Strength of the pull towards the reference model"),
    FLOAT("label_smoothing", dpo_settings, label_smoothing, "0", 0, 0.5, NULL,
          "Share of pairs taken to be labelled the wrong way round"),
    ENUM("ipo_length", dpo_settings, ipo_length, "mean", ipo_length_names,
         "Of loss: ipo: log ratios per token of the answer, as TRL takes them, or summed, as the "
         "paper and OpenRLHF do"),
    FLOAT("simpo_margin", dpo_settings, simpo_margin, "0.5", 0, 100, NULL,
          "Of loss: simpo: by how much the chosen answer should be ahead; its beta is 2 to 2.5 in "
          "the paper"),
    FLOAT("kto_desirable", dpo_settings, kto_desirable, "1", 0, 100, NULL,
          "Of loss: kto: weight of the chosen answers"),
    FLOAT("kto_undesirable", dpo_settings, kto_undesirable, "1", 0, 100, NULL,
          "Of loss: kto: weight of the rejected answers"),
    INT("epochs", dpo_settings, epochs, "1", 1, 1000000, NULL, "Passes over the pairs"),
    INT("max_steps", dpo_settings, max_steps, "0", 0, STEPS_MAX, "steps",
        "Optimizer steps after which the stage ends; 0 leaves it to epochs"),
    INT("pairs_max", dpo_settings, pairs_max, "2000", 0, FIELD_UNBOUNDED, "pairs",
        "Pairs used at most, from the log the newest; 0 uses all"),
    PATH(
        "log", dpo_settings, log,
        "With source: rl_log: RUN/rl/log of another run over the same rl.data; empty: of this run"),
    STRING("part", dpo_settings, part, NULL, 0,
           "With source: rl_log: name of a reward part whose values make the pairs, instead of the "
           "rewards: the corner that this stage is for"),
    LIST(
        "capabilities", dpo_settings, capabilities, "", NULL,
        "With source: rl_log: prompts of these capabilities make pairs, the corner that this stage "
        "is for; empty: all"),
    FLOAT("anchor_share", dpo_settings, anchor_share, "0", 0, 0.95, NULL,
          "With capabilities: share of the pairs that is of other prompts, so that the rest stays "
          "where it is"),
    FLOAT("min_margin", dpo_settings, min_margin, "0.5", 0, 1e6, NULL,
          "Least difference in reward between the two trajectories of a pair from the log"),
    FLOAT("max_length_ratio", dpo_settings, max_length_ratio, "0", 0, 1e6, NULL,
          "Longer over shorter completion of a pair from the log, at most; 0 is off"),
    FLOAT("nll_coef", dpo_settings, nll_coef, "0", 0, 1e3, NULL,
          "Weight of the chosen answers' mean NLL per token, added to the loss; 0 is off"),
    INT("batch_pairs", dpo_settings, batch_pairs, "16", 1, 1048576, "pairs",
        "Pairs of one optimizer step"),
    INT("micro_batch_tokens", dpo_settings, micro_batch_tokens, "4096", 16, TOKENS_MAX, "tokens",
        "Tokens of one forward and backward pass: memory, and the order in which gradients add up"),
    ACTIVATION_CHECKPOINTING(dpo_settings),
    INT("max_length", dpo_settings, max_length, "1024", 8, TOKENS_MAX, "tokens",
        "Longest prompt and answer together; longer pairs are dropped and counted"),
    TABLE("optimizer", dpo_settings, optimizer, dpo_optimizer_fields, "AdamW of the DPO stage."),
    LORA(dpo_settings),
    INT("save_steps", dpo_settings, save_steps, "0", 0, STEPS_MAX, "steps",
        "Steps between checkpoints; 0 saves only at the end"),
    INT("log_steps", dpo_settings, log_steps, "1", 1, STEPS_MAX, "steps",
        "Steps between records in the metrics"),
    END};

static const struct config_field eval_fields[] = {
    BOOL("enabled", eval_settings, enabled, "true", "Evaluate the base model and after each stage"),
    TABLE("data", eval_settings, data, rl_data_fields, "Held-out prompts."),
    INT("max_prompts", eval_settings, max_prompts, "500", 0, FIELD_UNBOUNDED, "prompts",
        "Prompts evaluated, from the start of the data; 0 takes all"),
    INT("samples", eval_settings, samples, "1", 1, 1024, "samples", "Answers sampled per prompt"),
    INT("k", eval_settings, k, "1", 1, 1024, NULL, "The k of pass@k; at most samples"),
    INT("max_prompt_tokens", eval_settings, max_prompt_tokens, "512", 1, TOKENS_MAX, "tokens",
        "Prompts longer than this are left out and counted"),
    TABLE("sampling", eval_settings, sampling, eval_sampling_fields, "How answers are sampled."),
    INT("slots", eval_settings, slots, "128", 1, 65536, "samples", "Answers generated at once"),
    END};

static const struct config_field weights_fields[] = {
    ENUM("transport", weights_settings, transport, "auto", transport_names,
         "How actors get weights: through shared memory where they are on the learner's host and "
         "else as chunks, only the one, or only the other"),
    BOOL("delta", weights_settings, delta, "true",
         "Send chunks of what has changed since the receiver's version, where that is smaller"),
    INT("fanout", weights_settings, fanout, "4", 0, 1024, "receivers",
        "Receivers that the learner sends chunks to at once before others get them from an actor "
        "that has them; 0 sends to all"),
    FLOAT("deadline_s", weights_settings, deadline_s, "30", 0.1, 86400, "s",
          "A transfer without progress for this long starts again"),
    END};

static const struct config_field log_fields[] = {
    ENUM("keep", log_settings, keep, "all", keep_names,
         "Trajectories kept: all of them (hone replay and DPO need them), or those of batches that "
         "no checkpoint has yet"),
    INT("keep_batches", log_settings, keep_batches, "0", 0, FIELD_UNBOUNDED, "batches",
        "With keep: unacknowledged, newest durable batches whose trajectories are kept too"),
    ENUM("level", log_settings, level, "info", level_names, "Least severe line logged"),
    FLOAT("stall_s", log_settings, stall_s, "30", 0, 86400, "s",
          "When nothing moves for so long, who waits for whom is logged, with queues and stacks; 0 "
          "is "
          "off"),
    END};

const struct config_field recipe_fields[] = {
    STRING("name", recipe, name, "run", 0,
           "Name of the run: letters, digits, dot, dash, underscore"),
    INT("seed", recipe, seed, "1", 0, 9007199254740992.0, NULL,
        "Everything random is drawn from this"),
    {.name = "output_dir",
     .type = FIELD_PATH,
     AT(recipe, output_dir),
     .help = "Directory of the run; empty: runs/NAME",
     .flags = FIELD_UNHASHED},
    LIST("stages", recipe, stages, "sft rl dpo", stage_names, "Stages in the order they run"),
    TABLE("model", recipe, model, model_fields, "The model to post-train."),
    {.name = "pools",
     .type = FIELD_TABLE,
     AT(recipe, pools),
     .table = pools_fields,
     .help = "Which devices do what. Never changes the result.",
     .flags = FIELD_UNHASHED},
    {.name = "wire",
     .type = FIELD_TABLE,
     AT(recipe, wire),
     .table = wire_fields,
     .help = "How workers on other machines reach the run. Never changes the result.",
     .flags = FIELD_UNHASHED},
    TABLE("sft", recipe, sft, sft_fields, "Supervised fine-tuning."),
    TABLE("rl", recipe, rl, rl_fields, "Online reinforcement learning (GRPO family)."),
    TABLE("reward", recipe, reward, reward_fields, "What a trajectory is worth."),
    TABLE("dpo", recipe, dpo, dpo_fields, "Direct preference optimization."),
    TABLE("eval", recipe, eval, eval_fields, "Pass rate on held-out prompts between stages."),
    {.name = "weights",
     .type = FIELD_TABLE,
     AT(recipe, weights),
     .table = weights_fields,
     .help = "How weights get from the learner to the actors. Never changes the result.",
     .flags = FIELD_UNHASHED},
    {.name = "log",
     .type = FIELD_TABLE,
     AT(recipe, log),
     .table = log_fields,
     .help = "What is written down.",
     .flags = FIELD_UNHASHED},
    END};
