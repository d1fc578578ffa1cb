/* A slot's life. Only rollout_engine_step and rollout_engine_cancel change the state.
 *
 *   FREE --admit--> PREFILL --last prompt row computed--> DECODE --stop, length or abort--> FREE
 *     \--admit, the same prompt is being prefilled--> FOLLOW --its leader is done--> DECODE
 *   FOLLOW whose leader is cancelled takes over the leader's cache: PREFILL.
 *   DECODE and PREFILL start over as PREFILL when the weights change and KV is recomputed; a
 * request with a prefix prefills it with the prompt. */
#include "actors/rollout_engine.h"

#include <math.h>
#include <string.h>

#include "actors/rollout_request.h"
#include "actors/token_sampler.h"
#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/memory.h"
#include "infra/data/token_support.h"

#define QUEUE_PER_SLOT     2
#define SAMPLE_GRAIN_TERMS 16384 /* logits a thread should at least sample from */

enum slot_state { SLOT_FREE, SLOT_FOLLOW, SLOT_PREFILL, SLOT_DECODE };

struct slot {
    enum slot_state state;
    struct rollout_request request; /* prompt_tokens is not used: the prompt is in tokens */
    int32_t leader;                 /* FOLLOW: the slot that prefills the same prompt */
    bool mixed;                     /* older weights filled part of its KV */
    uint64_t prompt_epoch;          /* weights that filled the whole prompt's KV; 0 = several */
    int32_t count;                  /* tokens so far, prompt included */
    int32_t limit;                  /* tokens at which it is cut off */
    int32_t row;                    /* its last row in this step, -1: does not sample */
    int32_t *tokens;                /* [max_sequence_tokens], like the next four */
    float *logprob, *log_mass;
    int64_t *version;
    uint8_t *kv_mixed;
    struct token_support support; /* of the completion's tokens, when it is kept */
    struct kv_sequence sequence;
};

struct finished_rollout {
    struct trajectory trajectory;
    uint64_t user;
};

struct rollout_engine {
    struct rollout_engine_options options;
    struct compute compute;
    struct model *model;
    struct kv_cache *cache;
    struct transformer *transformer;
    int64_t vocab;
    int64_t version;
    uint64_t epoch; /* counts weight changes from 1 */
    int64_t tokens_sampled, prefill_rows;
    int32_t used; /* slots, in the last step */

    struct rollout_request *queue; /* [queue_capacity], oldest first; prompts owned */
    int32_t queue_count, queue_capacity;
    struct slot *slots;
    int32_t *active; /* [slots] slot indices in order of admission */
    int32_t active_count;
    struct finished_rollout *finished; /* [finished_capacity], from finished_head on */
    int32_t finished_head, finished_count, finished_capacity;

    int32_t *row_tokens, *row_positions, *row_slots; /* [max_rows] */
    struct kv_sequence **sequences;                  /* [slots] */
    int32_t *sample_slots, *sample_rows;             /* [slots] */
    struct token_choice *choices;                    /* [slots] */
    int32_t tile_first;                              /* sample of the tile's first row */
    const float *tile;                               /* logits, the transformer's */
    float *probs_scratch;                            /* [threads, vocab] */
    int32_t *ids_scratch;                            /* [threads, vocab] */
};

static int32_t blocks_for(int32_t positions)
{
    return (positions + ATTENTION_BLOCK_TOKENS - 1) / ATTENTION_BLOCK_TOKENS;
}

static int32_t kv_blocks_of(const struct rollout_engine_options *options)
{
    return options->kv_blocks > 0 ? options->kv_blocks
                                  : options->slots * blocks_for(options->max_sequence_tokens);
}

static int32_t max_rows_of(const struct rollout_engine_options *options)
{
    return options->slots + options->prefill_chunk_tokens;
}

/* ---- life cycle ---- */

static int check_options(const struct rollout_engine_options *options,
                         const struct model_config *config)
{
    if (options->slots < 1 || options->prefill_chunk_tokens < 1 || options->max_sequence_tokens < 2)
        return error_set(HONE_EINVAL, "%d slots, prefill chunk of %d, sequences of %d tokens",
                         options->slots, options->prefill_chunk_tokens,
                         options->max_sequence_tokens);
    if (options->max_sequence_tokens > config->max_positions)
        return error_set(HONE_EINVAL, "sequences of %d tokens, but the model has %d positions",
                         options->max_sequence_tokens, config->max_positions);
    if (options->kv_blocks < 0 ||
        (options->kv_blocks > 0 && options->kv_blocks < blocks_for(options->max_sequence_tokens)))
        return error_set(HONE_EINVAL,
                         "%d KV blocks cannot hold one sequence of %d tokens (%d blocks of %d)",
                         options->kv_blocks, options->max_sequence_tokens,
                         blocks_for(options->max_sequence_tokens), ATTENTION_BLOCK_TOKENS);
    if (options->allowed_vocab < 0 || options->allowed_vocab > config->vocab_size)
        return error_set(HONE_EINVAL, "%d allowed ids, but the model has a vocabulary of %d",
                         options->allowed_vocab, config->vocab_size);
    return 0;
}

static void allocate_slots(struct rollout_engine *engine)
{
    int32_t slots = engine->options.slots;
    size_t tokens = (size_t)engine->options.max_sequence_tokens;
    engine->slots = MEMORY_ARRAY(struct slot, slots);
    engine->sequences = MEMORY_ARRAY(struct kv_sequence *, slots);
    for (int32_t i = 0; i < slots; i++) {
        struct slot *slot = &engine->slots[i];
        slot->tokens = MEMORY_ARRAY(int32_t, tokens);
        slot->logprob = MEMORY_ARRAY(float, tokens);
        slot->log_mass = MEMORY_ARRAY(float, tokens);
        slot->version = MEMORY_ARRAY(int64_t, tokens);
        slot->kv_mixed = MEMORY_ARRAY(uint8_t, tokens);
        kv_sequence_init(&slot->sequence, engine->options.max_sequence_tokens);
        engine->sequences[i] = &slot->sequence;
    }
}

static void allocate_steps(struct rollout_engine *engine)
{
    int32_t slots = engine->options.slots;
    int32_t max_rows = max_rows_of(&engine->options);
    size_t threads = (size_t)parallel_threads(engine->compute.pool);
    size_t vocab = (size_t)engine->vocab;
    engine->queue_capacity = QUEUE_PER_SLOT * slots;
    engine->queue = MEMORY_ARRAY(struct rollout_request, engine->queue_capacity);
    engine->active = MEMORY_ARRAY(int32_t, slots);
    engine->row_tokens = MEMORY_ARRAY(int32_t, max_rows);
    engine->row_positions = MEMORY_ARRAY(int32_t, max_rows);
    engine->row_slots = MEMORY_ARRAY(int32_t, max_rows);
    engine->sample_slots = MEMORY_ARRAY(int32_t, slots);
    engine->sample_rows = MEMORY_ARRAY(int32_t, slots);
    engine->choices = MEMORY_ARRAY(struct token_choice, slots);
    engine->probs_scratch = MEMORY_ARRAY(float, threads *vocab);
    engine->ids_scratch = MEMORY_ARRAY(int32_t, threads * vocab);
    engine->finished_capacity = slots; /* grows when nobody collects them */
    engine->finished = MEMORY_ARRAY(struct finished_rollout, slots);
}

int rollout_engine_create(struct rollout_engine **engine, struct model *model,
                          const struct rollout_engine_options *options,
                          const struct compute *compute)
{
    const struct model_config *config = model_config_of(model);
    *engine = NULL;
    int rc = check_options(options, config);
    if (rc < 0)
        return rc;
    struct rollout_engine *e = MEMORY_NEW(struct rollout_engine);
    e->options = *options;
    if (e->options.allowed_vocab == 0)
        e->options.allowed_vocab = config->vocab_size;
    e->compute = *compute;
    e->model = model;
    e->vocab = config->vocab_size;
    e->epoch = 1;
    rc = kv_cache_create(&e->cache, config, model_dtype(model), kv_blocks_of(options));
    if (rc == 0)
        rc = transformer_create(&e->transformer, model, e->cache, max_rows_of(options),
                                ACTIVATIONS_NONE);
    if (rc < 0) {
        rollout_engine_destroy(e);
        return rc;
    }
    allocate_slots(e);
    allocate_steps(e);
    *engine = e;
    return 0;
}

void rollout_engine_destroy(struct rollout_engine *engine)
{
    if (!engine)
        return;
    for (int32_t i = 0; engine->slots && i < engine->options.slots; i++) {
        struct slot *slot = &engine->slots[i];
        kv_sequence_release(engine->cache, &slot->sequence);
        memory_free(slot->tokens);
        memory_free(slot->logprob);
        memory_free(slot->log_mass);
        memory_free(slot->version);
        memory_free(slot->kv_mixed);
        token_support_release(&slot->support);
    }
    for (int32_t i = 0; i < engine->queue_count; i++)
        rollout_request_release(&engine->queue[i]);
    for (int32_t i = 0; i < engine->finished_count; i++)
        trajectory_release(&engine->finished[engine->finished_head + i].trajectory);
    transformer_free(engine->transformer);
    kv_cache_free(engine->cache);
    memory_free(engine->slots);
    memory_free(engine->sequences);
    memory_free(engine->queue);
    memory_free(engine->active);
    memory_free(engine->finished);
    memory_free(engine->row_tokens);
    memory_free(engine->row_positions);
    memory_free(engine->row_slots);
    memory_free(engine->sample_slots);
    memory_free(engine->sample_rows);
    memory_free(engine->choices);
    memory_free(engine->probs_scratch);
    memory_free(engine->ids_scratch);
    memory_free(engine);
}

struct rollout_engine_memory rollout_engine_memory(const struct model_config *config,
                                                   enum dtype dtype,
                                                   const struct rollout_engine_options *options,
                                                   int threads)
{
    size_t slots = (size_t)options->slots, vocab = (size_t)config->vocab_size;
    size_t tokens = (size_t)options->max_sequence_tokens, rows = (size_t)max_rows_of(options);
    size_t per_token = sizeof(int32_t) + 2 * sizeof(float) + sizeof(int64_t) + 1;
    size_t per_slot = tokens * per_token + (size_t)blocks_for((int32_t)tokens) * sizeof(int32_t) +
                      sizeof(struct slot) + QUEUE_PER_SLOT * sizeof(struct rollout_request) +
                      sizeof(struct finished_rollout) + sizeof(struct kv_sequence *);
    return (struct rollout_engine_memory){
        .kv_cache = kv_cache_bytes(config, dtype, kv_blocks_of(options)),
        .activations = transformer_bytes(config, dtype, max_rows_of(options), ACTIVATIONS_NONE),
        .sequences = sizeof(struct rollout_engine) + slots * per_slot,
        .sampling = slots * (sizeof(struct token_choice) + 3 * sizeof(int32_t)) +
                    3 * rows * sizeof(int32_t) +
                    (size_t)threads * vocab * (sizeof(float) + sizeof(int32_t))};
}

/* ---- requests ---- */

int32_t rollout_engine_room(const struct rollout_engine *engine)
{
    return engine->queue_capacity - engine->queue_count;
}

int rollout_engine_submit(struct rollout_engine *engine, const struct rollout_request *request)
{
    int rc = rollout_request_check(request, engine->options.max_sequence_tokens, engine->vocab);
    if (rc < 0)
        return rc;
    if (rollout_engine_room(engine) == 0)
        return error_set(HONE_EINVAL, "no room: %d requests are queued", engine->queue_count);
    rollout_request_copy(request, &engine->queue[engine->queue_count++]);
    return 0;
}

static void queue_remove(struct rollout_engine *engine, int32_t index)
{
    rollout_request_release(&engine->queue[index]);
    engine->queue_count--;
    memmove(&engine->queue[index], &engine->queue[index + 1],
            (size_t)(engine->queue_count - index) * sizeof *engine->queue);
}

/* ---- admission ---- */

/* Most positions whose keys are stored: the last token of a sequence is never fed back. */
static int32_t slot_blocks_max(const struct slot *slot)
{
    return blocks_for(slot->limit - 1);
}

/* Blocks a slot may still take from the cache. */
static int32_t slot_blocks_wanted(const struct slot *slot)
{
    if (slot->state == SLOT_FREE)
        return 0;
    if (slot->state == SLOT_FOLLOW) /* whole blocks of the prompt will be shared */
        return slot_blocks_max(slot) - slot->request.prompt_token_count / ATTENTION_BLOCK_TOKENS;
    return slot_blocks_max(slot) - slot->sequence.block_count;
}

static bool same_prompt(const struct slot *slot, const struct rollout_request *request)
{
    return slot->request.group_id == request->group_id &&
           slot->request.prompt_token_count == request->prompt_token_count &&
           memcmp(slot->tokens, request->prompt_tokens,
                  (size_t)request->prompt_token_count * sizeof(int32_t)) == 0;
}

/* A slot whose prompt KV the request can use: one that prefills the same prompt now, else one that
 * did under the weights of this moment. -1: none. */
static int32_t find_donor(const struct rollout_engine *engine,
                          const struct rollout_request *request)
{
    int32_t donor = -1;
    for (int32_t i = 0; i < engine->active_count; i++) {
        const struct slot *slot = &engine->slots[engine->active[i]];
        if (slot->state == SLOT_FOLLOW || !same_prompt(slot, request))
            continue;
        if (slot->prompt_epoch != engine->epoch)
            continue;
        /* Whoever follows takes its first token from the leader's last row: the prompt's. */
        bool leads = slot->count == slot->request.prompt_token_count && !request->prefix;
        if (slot->state == SLOT_PREFILL && leads)
            return engine->active[i];
        if (slot->state == SLOT_PREFILL)
            continue;
        if (donor < 0)
            donor = engine->active[i];
    }
    return donor;
}

/* Fills a free slot's fields from the request, as it would run. */
static void slot_prepare(const struct rollout_engine *engine, const struct rollout_request *request,
                         struct slot *slot)
{
    const struct trajectory *prefix = request->prefix;
    slot->request = *request;
    slot->request.prompt_tokens = NULL;
    slot->request.prefix = NULL;
    slot->limit = rollout_request_limit(request, engine->options.max_sequence_tokens);
    slot->count = request->prompt_token_count;
    slot->row = -1;
    slot->mixed = false;
    slot->support.length = 0;
    slot->prompt_epoch = engine->epoch;
    memcpy(slot->tokens, request->prompt_tokens, (size_t)slot->count * sizeof(int32_t));
    for (int32_t i = 0; prefix && i < prefix->token_count; i++) {
        int32_t at = slot->count++;
        slot->tokens[at] = prefix->tokens[i];
        slot->logprob[at] = prefix->behavior_logprob[i];
        slot->log_mass[at] = prefix->log_mass[i];
        slot->version[at] = prefix->policy_version[i];
        slot->kv_mixed[at] = prefix->kv_mixed[i];
    }
    if (prefix)
        token_support_append(&slot->support, prefix->support, (size_t)prefix->support_bytes);
}

/* Starts the oldest queued request in the free slot `index`; false when the cache must drain first.
 */
static bool admit_oldest(struct rollout_engine *engine, int32_t index)
{
    const struct rollout_request *request = &engine->queue[0];
    struct slot *slot = &engine->slots[index];
    int32_t prompt = request->prompt_token_count;
    int32_t donor = find_donor(engine, request);
    bool follows = donor >= 0 && engine->slots[donor].state == SLOT_PREFILL;
    /* The last prompt position is computed again by a late sharer: its logits are gone. */
    int32_t shared = follows ? prompt : donor >= 0 ? prompt - 1 : 0;

    slot_prepare(engine, request, slot);
    int32_t wanted = slot_blocks_max(slot) - shared / ATTENTION_BLOCK_TOKENS;
    for (int32_t i = 0; i < engine->active_count; i++)
        wanted += slot_blocks_wanted(&engine->slots[engine->active[i]]);
    if (wanted > kv_cache_free_blocks(engine->cache))
        return false;

    slot->state = follows ? SLOT_FOLLOW : SLOT_PREFILL;
    slot->leader = donor;
    if (!follows && shared > 0) {
        bool fits = kv_sequence_share(engine->cache, &engine->slots[donor].sequence, shared,
                                      &slot->sequence);
        HONE_ASSERT(fits);
    }
    engine->active[engine->active_count++] = index;
    queue_remove(engine, 0);
    return true;
}

static void admit(struct rollout_engine *engine)
{
    for (int32_t i = 0; i < engine->options.slots && engine->queue_count > 0; i++) {
        if (engine->slots[i].state == SLOT_FREE && !admit_oldest(engine, i))
            return;
    }
}

/* ---- one step ---- */

static void add_rows(struct rollout_engine *engine, int32_t index, int32_t count, int32_t *rows)
{
    struct slot *slot = &engine->slots[index];
    int32_t first = slot->sequence.length;
    bool fits = kv_sequence_reserve(engine->cache, &slot->sequence, first + count, engine->version);
    HONE_ASSERT(fits); /* A5 */
    for (int32_t i = 0; i < count; i++) {
        engine->row_tokens[*rows] = slot->tokens[first + i];
        engine->row_positions[*rows] = first + i;
        engine->row_slots[*rows] = index;
        (*rows)++;
    }
    slot->row = first + count == slot->count ? *rows - 1 : -1;
}

/* Decode rows first, then prompts in order of admission until the chunk is full. */
static int32_t plan_rows(struct rollout_engine *engine)
{
    int32_t rows = 0;
    for (int32_t i = 0; i < engine->active_count; i++) {
        engine->slots[engine->active[i]].row = -1;
        if (engine->slots[engine->active[i]].state == SLOT_DECODE)
            add_rows(engine, engine->active[i], 1, &rows);
    }
    int32_t room = engine->options.prefill_chunk_tokens;
    for (int32_t i = 0; i < engine->active_count && room > 0; i++) {
        struct slot *slot = &engine->slots[engine->active[i]];
        if (slot->state != SLOT_PREFILL)
            continue;
        int32_t left = slot->count - slot->sequence.length;
        int32_t count = left < room ? left : room;
        add_rows(engine, engine->active[i], count, &rows);
        room -= count;
    }
    engine->prefill_rows += engine->options.prefill_chunk_tokens - room;
    return rows;
}

/* After the forward: which slots sample from which rows. A prompt that is complete samples its
 * first token, and so does everyone who waited for it, from the same row. */
static int32_t plan_samples(struct rollout_engine *engine)
{
    int32_t samples = 0;
    for (int32_t i = 0; i < engine->active_count; i++) {
        int32_t index = engine->active[i];
        struct slot *slot = &engine->slots[index];
        if (slot->state == SLOT_FOLLOW) {
            const struct slot *leader = &engine->slots[slot->leader];
            if (leader->state == SLOT_PREFILL)
                continue;
            bool fits = kv_sequence_share(engine->cache, &leader->sequence,
                                          leader->request.prompt_token_count, &slot->sequence);
            HONE_ASSERT(fits); /* A5 */
            slot->row = leader->row;
            slot->mixed = leader->mixed;
            slot->prompt_epoch = leader->prompt_epoch;
            slot->state = SLOT_DECODE;
        } else if (slot->row < 0) {
            continue;
        } else if (slot->state == SLOT_PREFILL) {
            if (slot->prompt_epoch != engine->epoch)
                slot->prompt_epoch = 0;
            slot->state = SLOT_DECODE;
        }
        engine->sample_slots[samples] = index;
        engine->sample_rows[samples] = slot->row;
        samples++;
    }
    return samples;
}

static void sample_range(void *context, int64_t begin, int64_t end, int thread)
{
    struct rollout_engine *engine = context;
    const struct token_sampler sampler = {
        .ops = engine->compute.ops,
        .vocab = engine->vocab,
        .allowed_vocab = engine->options.allowed_vocab,
        .probs = engine->probs_scratch + (int64_t)thread * engine->vocab,
        .ids = engine->ids_scratch + (int64_t)thread * engine->vocab};
    for (int64_t i = begin; i < end; i++) {
        int64_t sample = engine->tile_first + i;
        struct slot *slot = &engine->slots[engine->sample_slots[sample]];
        struct rng_key key = {.seed = slot->request.sampling.seed,
                              .purpose = engine->options.rng_purpose,
                              .a = slot->request.prompt_id,
                              .b = (uint32_t)slot->request.sample_index};
        token_sample(&sampler, engine->tile + i * engine->vocab, &slot->request.sampling, &key,
                     (uint64_t)slot->count, &engine->choices[sample]);
        if (slot->request.sampling.keep_support)
            token_support_add(&slot->support, sampler.ids, engine->choices[sample].kept);
    }
}

/* Chooses a token for every sampling slot, with its logprob (A2): tile by tile of logits, so that
 * no [slots, vocab] matrix exists. */
static void sample_tokens(struct rollout_engine *engine, int32_t samples)
{
    int64_t grain = SAMPLE_GRAIN_TERMS / engine->vocab;
    int32_t rows = transformer_head_rows(engine->transformer);
    for (int32_t first = 0; first < samples; first += rows) {
        int32_t count = samples - first < rows ? samples - first : rows;
        engine->tile_first = first;
        engine->tile = transformer_head(engine->transformer, count, engine->sample_rows + first);
        parallel_for(engine->compute.pool, count, grain > 0 ? grain : 1, sample_range, engine);
    }
}

static bool is_stop(const struct sampling *sampling, int32_t token)
{
    for (int32_t i = 0; i < sampling->stop_count; i++) {
        if (sampling->stop_ids[i] == token)
            return true;
    }
    return false;
}

/* Appends the i-th sampled token to its slot; how the sequence ends with it, if it does. */
static enum finish_reason accept_token(struct rollout_engine *engine, int32_t i)
{
    struct slot *slot = &engine->slots[engine->sample_slots[i]];
    const struct token_choice *choice = &engine->choices[i];
    if (!isfinite(choice->logprob) || !isfinite(choice->log_mass))
        return FINISH_ABORT;
    int32_t at = slot->count++;
    slot->tokens[at] = choice->token;
    slot->logprob[at] = choice->logprob;
    slot->log_mass[at] = choice->log_mass;
    slot->version[at] = engine->version;
    slot->kv_mixed[at] = slot->mixed;
    engine->tokens_sampled++;
    if (is_stop(&slot->request.sampling, choice->token))
        return FINISH_STOP;
    return slot->count >= slot->limit ? FINISH_LENGTH : FINISH_NONE;
}

/* What the tokens from the completion's token `first` on were drawn from. A token that was sampled
 * and not accepted has left a record behind them. */
static void copy_support(const struct slot *slot, int32_t first, struct trajectory *trajectory)
{
    int32_t count = slot->count - slot->request.prompt_token_count;
    if (slot->support.length == 0 || first == count)
        return;
    struct support_cursor cursor = {slot->support.bytes,
                                    slot->support.bytes + slot->support.length};
    const uint8_t *begin = cursor.at;
    for (int32_t i = 0; i < count; i++) {
        begin = i == first ? cursor.at : begin;
        int64_t ids = token_support_next(&cursor, NULL, 0);
        HONE_ASSERT(ids >= 0);
    }
    HONE_ASSERT(cursor.at - begin <= INT32_MAX);
    trajectory->support_bytes = (int32_t)(cursor.at - begin);
    trajectory->support = memory_dup(begin, (size_t)trajectory->support_bytes);
}

static void fill_trajectory(const struct slot *slot, enum finish_reason finish,
                            struct trajectory *trajectory)
{
    int32_t prompt = slot->request.prompt_token_count;
    int32_t completion = slot->count - prompt;
    trajectory_init(trajectory, slot->count);
    trajectory->prompt_id = slot->request.prompt_id;
    trajectory->group_id = slot->request.group_id;
    trajectory->sample_index = slot->request.sample_index;
    trajectory->prompt_tokens = prompt;
    trajectory->token_count = slot->count;
    trajectory->finish = finish;
    trajectory->sampling = slot->request.sampling;
    trajectory->reward.status = REWARD_ABSTAIN;
    memcpy(trajectory->tokens, slot->tokens, (size_t)slot->count * sizeof(int32_t));
    for (int32_t i = 0; i < prompt; i++)
        trajectory->policy_version[i] = -1;
    for (int32_t i = prompt; i < slot->count; i++) {
        trajectory->behavior_logprob[i] = slot->logprob[i];
        trajectory->log_mass[i] = slot->log_mass[i];
        trajectory->policy_version[i] = slot->version[i];
        trajectory->loss_mask[i] = 1;
        trajectory->kv_mixed[i] = slot->kv_mixed[i];
    }
    copy_support(slot, 0, trajectory);
    trajectory_add_segment(trajectory, SEGMENT_PROMPT, prompt);
    trajectory_add_segment(trajectory, SEGMENT_POLICY, completion);
}

static struct finished_rollout *finished_append(struct rollout_engine *engine)
{
    int32_t end = engine->finished_head + engine->finished_count;
    if (end == engine->finished_capacity && engine->finished_head > 0) {
        memmove(engine->finished, engine->finished + engine->finished_head,
                (size_t)engine->finished_count * sizeof *engine->finished);
        engine->finished_head = 0;
        end = engine->finished_count;
    } else if (end == engine->finished_capacity) {
        int32_t capacity = 2 * end + engine->options.slots;
        engine->finished = memory_resize(engine->finished, (size_t)end, (size_t)capacity,
                                         sizeof *engine->finished);
        engine->finished_capacity = capacity;
    }
    engine->finished_count++;
    return &engine->finished[end];
}

static void slot_free(struct rollout_engine *engine, int32_t index)
{
    kv_sequence_clear(engine->cache, &engine->slots[index].sequence);
    engine->slots[index].state = SLOT_FREE;
    for (int32_t i = 0; i < engine->active_count; i++) {
        if (engine->active[i] != index)
            continue;
        engine->active_count--;
        memmove(&engine->active[i], &engine->active[i + 1],
                (size_t)(engine->active_count - i) * sizeof(int32_t));
        return;
    }
}

int32_t rollout_engine_step(struct rollout_engine *engine)
{
    admit(engine);
    int32_t rows = plan_rows(engine);
    engine->used = engine->active_count;
    if (rows == 0)
        return 0;
    struct forward_rows forward = {.count = rows,
                                   .tokens = engine->row_tokens,
                                   .positions = engine->row_positions,
                                   .sequence = engine->row_slots,
                                   .sequences = engine->sequences};
    transformer_forward(engine->transformer, &forward);
    int32_t samples = plan_samples(engine);
    if (samples == 0)
        return rows;
    sample_tokens(engine, samples);
    for (int32_t i = 0; i < samples; i++) {
        int32_t index = engine->sample_slots[i];
        enum finish_reason finish = accept_token(engine, i);
        if (finish == FINISH_NONE)
            continue;
        struct finished_rollout *done = finished_append(engine);
        fill_trajectory(&engine->slots[index], finish, &done->trajectory);
        done->user = engine->slots[index].request.user;
        slot_free(engine, index);
    }
    return rows;
}

int rollout_engine_finished(struct rollout_engine *engine, struct trajectory *trajectory,
                            uint64_t *user)
{
    if (engine->finished_count == 0)
        return 0;
    *trajectory = engine->finished[engine->finished_head].trajectory;
    *user = engine->finished[engine->finished_head].user;
    engine->finished_head++;
    engine->finished_count--;
    if (engine->finished_count == 0)
        engine->finished_head = 0;
    return 1;
}

/* ---- cancelling ---- */

/* The first of a cancelled slot's followers goes on with its cache; the others follow that one. */
static void promote_follower(struct rollout_engine *engine, int32_t leader)
{
    int32_t heir = -1;
    for (int32_t i = 0; i < engine->active_count; i++) {
        int32_t index = engine->active[i];
        struct slot *slot = &engine->slots[index];
        if (slot->state != SLOT_FOLLOW || slot->leader != leader)
            continue;
        if (heir >= 0) {
            slot->leader = heir;
            continue;
        }
        heir = index;
        struct kv_sequence empty = slot->sequence;
        slot->sequence = engine->slots[leader].sequence;
        engine->slots[leader].sequence = empty;
        slot->prompt_epoch = engine->slots[leader].prompt_epoch;
        slot->mixed = engine->slots[leader].mixed;
        slot->state = SLOT_PREFILL;
    }
}

static int32_t cancel_finished(struct rollout_engine *engine, uint64_t user)
{
    struct finished_rollout *first = engine->finished + engine->finished_head;
    int32_t kept = 0;
    for (int32_t i = 0; i < engine->finished_count; i++) {
        if (first[i].user == user)
            trajectory_release(&first[i].trajectory);
        else
            first[kept++] = first[i];
    }
    int32_t dropped = engine->finished_count - kept;
    engine->finished_count = kept;
    return dropped;
}

int32_t rollout_engine_cancel(struct rollout_engine *engine, uint64_t user)
{
    int32_t dropped = engine->finished_count > 0 ? cancel_finished(engine, user) : 0;
    for (int32_t i = engine->queue_count - 1; i >= 0; i--) {
        if (engine->queue[i].user == user) {
            queue_remove(engine, i);
            dropped++;
        }
    }
    for (int32_t i = engine->active_count - 1; i >= 0; i--) {
        int32_t index = engine->active[i];
        if (engine->slots[index].request.user != user)
            continue;
        if (engine->slots[index].state == SLOT_PREFILL)
            promote_follower(engine, index);
        slot_free(engine, index);
        dropped++;
    }
    return dropped;
}

int32_t rollout_engine_active(const struct rollout_engine *engine)
{
    return engine->active_count + engine->queue_count;
}

int32_t rollout_engine_used(const struct rollout_engine *engine)
{
    return engine->used;
}

int64_t rollout_engine_tokens(const struct rollout_engine *engine)
{
    return engine->tokens_sampled;
}

int64_t rollout_engine_prefill_rows(const struct rollout_engine *engine)
{
    return engine->prefill_rows;
}

/* ---- sequences in flight ---- */

bool rollout_engine_partial(const struct rollout_engine *engine, int32_t i,
                            struct rollout_partial *partial)
{
    if (i >= engine->active_count)
        return false;
    const struct slot *slot = &engine->slots[engine->active[i]];
    *partial = (struct rollout_partial){.user = slot->request.user,
                                        .sample_index = slot->request.sample_index,
                                        .completion_tokens =
                                            slot->count - slot->request.prompt_token_count};
    return true;
}

void rollout_engine_piece(const struct rollout_engine *engine, int32_t i, int32_t first,
                          struct trajectory *piece)
{
    HONE_ASSERT(i < engine->active_count);
    const struct slot *slot = &engine->slots[engine->active[i]];
    int32_t from = slot->request.prompt_token_count + first;
    int32_t count = slot->count - from;
    HONE_ASSERT(first >= 0 && count >= 0);
    trajectory_init(piece, count);
    piece->prompt_id = slot->request.prompt_id;
    piece->group_id = slot->request.group_id;
    piece->sample_index = slot->request.sample_index;
    piece->sampling = slot->request.sampling;
    piece->reward.status = REWARD_ABSTAIN;
    piece->token_count = count;
    memcpy(piece->tokens, slot->tokens + from, (size_t)count * sizeof *slot->tokens);
    memcpy(piece->behavior_logprob, slot->logprob + from, (size_t)count * sizeof *slot->logprob);
    memcpy(piece->log_mass, slot->log_mass + from, (size_t)count * sizeof *slot->log_mass);
    memcpy(piece->policy_version, slot->version + from, (size_t)count * sizeof *slot->version);
    memcpy(piece->kv_mixed, slot->kv_mixed + from, (size_t)count);
    memset(piece->loss_mask, 1, (size_t)count);
    copy_support(slot, first, piece);
    trajectory_add_segment(piece, SEGMENT_POLICY, count);
}

/* Whether every sequence in flight could fill a cache of its own. */
static bool may_recompute(const struct rollout_engine *engine)
{
    int32_t wanted = 0;
    for (int32_t i = 0; i < engine->active_count; i++)
        wanted += slot_blocks_max(&engine->slots[engine->active[i]]);
    return engine->options.recompute_kv && wanted <= kv_cache_total_blocks(engine->cache);
}

void rollout_engine_set_version(struct rollout_engine *engine, int64_t version)
{
    bool recompute = may_recompute(engine);
    engine->version = version;
    engine->epoch++;
    for (int32_t i = 0; i < engine->active_count; i++) {
        struct slot *slot = &engine->slots[engine->active[i]];
        if (slot->state == SLOT_FOLLOW || slot->sequence.length == 0)
            continue;
        slot->mixed = !recompute;
        if (!recompute)
            continue;
        kv_sequence_clear(engine->cache, &slot->sequence);
        slot->state = SLOT_PREFILL;
        slot->prompt_epoch = engine->epoch;
    }
}
