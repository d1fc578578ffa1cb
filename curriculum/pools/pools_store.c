#include "curriculum/pools/pools_store.h"

#include <inttypes.h>
#include <string.h>

#include "infra/base/error.h"
#include "infra/store/log_record.h"
#include "infra/wire/envelope.h"

void pools_build_measurement(Hone__MeasurementRecord *record, const struct measurement *measurement)
{
    hone__measurement_record__init(record);
    record->judged = measurement->judged;
    record->passed = measurement->passed;
    record->has_version = 1;
    record->version = measurement->version;
}

static void store_prompt(struct run_log *log, uint64_t id, const struct pool_prompt *prompt)
{
    Hone__PromptRecord record = HONE__PROMPT_RECORD__INIT;
    Hone__MeasurementRecord newest, pending;
    const struct difficulty *difficulty = &prompt->difficulty;
    record.prompt_id = id;
    record.has_attempts = record.has_solved = record.has_failed = 1;
    record.attempts = prompt->judged_all;
    record.solved = prompt->passed_all;
    record.failed = prompt->failed;
    record.has_pool = record.has_leaning = record.has_tries = 1;
    record.pool = (Hone__PromptPool)difficulty->pool;
    record.leaning = (Hone__PromptPool)difficulty->leaning;
    record.tries = difficulty->tries;
    if (difficulty->newest.judged > 0) {
        pools_build_measurement(&newest, &difficulty->newest);
        record.newest = &newest;
        record.has_last_version = 1;
        record.last_version = difficulty->newest.version;
    }
    if (prompt->pending.judged > 0) {
        pools_build_measurement(&pending, &prompt->pending);
        record.pending = &pending;
    }
    record.has_measured_batch = record.has_selections = record.has_in_flight = 1;
    record.measured_batch = prompt->measured_batch;
    record.selections = prompt->selections;
    record.in_flight = prompt->in_flight;
    record.has_settled = record.has_due = 1;
    record.settled = prompt->settled;
    record.due = prompt->due;
    record.has_pending_selected = record.pending_selected = prompt->pending_selected;
    log_record_put(log, LOG_PROMPTS, id, &record.base);
}

void pools_store_changed(struct run_log *log, struct prompt_pools *pools)
{
    for (int64_t i = 0; i < pools->changed_count; i++) {
        struct pool_prompt *prompt = &pools->prompts[pools->changed[i]];
        store_prompt(log, (uint64_t)pools->changed[i], prompt);
        prompt->changed = false;
    }
    pools->changed_count = 0;
}

static struct measurement read_measurement(const Hone__MeasurementRecord *record)
{
    if (record == NULL)
        return (struct measurement){0};
    return (struct measurement){record->judged, record->passed,
                                record->has_version ? record->version : 0};
}

static bool makes_sense(const struct measurement *measurement)
{
    return measurement->passed >= 0 && measurement->judged >= measurement->passed;
}

int pools_read_record(const Hone__PromptRecord *record, struct pool_prompt *prompt)
{
    struct difficulty *difficulty = &prompt->difficulty;
    prompt->judged_all = record->attempts;
    prompt->passed_all = record->solved;
    prompt->failed = record->failed;
    difficulty->pool = (enum prompt_pool)record->pool;
    difficulty->leaning = (enum prompt_pool)record->leaning;
    difficulty->tries = record->tries;
    difficulty->newest = read_measurement(record->newest);
    prompt->pending = read_measurement(record->pending);
    prompt->measured_batch = record->measured_batch;
    prompt->selections = record->selections;
    prompt->in_flight = record->in_flight;
    prompt->settled = record->settled;
    prompt->due = record->due;
    prompt->pending_selected = record->pending_selected;
    if ((unsigned)difficulty->pool >= POOL_COUNT || (unsigned)difficulty->leaning >= POOL_COUNT ||
        (difficulty->newest.judged == 0) != (difficulty->pool == POOL_UNSEEN) ||
        !makes_sense(&difficulty->newest) || !makes_sense(&prompt->pending) ||
        prompt->passed_all < 0 || prompt->judged_all < prompt->passed_all || prompt->settled < 0 ||
        prompt->in_flight < prompt->settled)
        return error_set(HONE_ECORRUPT, "prompt %" PRIu64 " in the log: its state cannot be",
                         record->prompt_id);
    return 0;
}

struct loading {
    struct prompt_pools *pools;
    int64_t count;
};

static int load_one(void *context, const void *key, size_t key_bytes, const void *value,
                    size_t value_bytes)
{
    struct loading *loading = context;
    ProtobufCMessage *base;
    uint64_t id = key_bytes == 8 ? run_log_u64(key) : UINT64_MAX;
    if (wire_unpack(&base, &hone__prompt_record__descriptor, value, value_bytes) < 0)
        return error_set(HONE_ECORRUPT, "prompt %" PRIu64 " in the log: %s", id, error_message());
    const Hone__PromptRecord *record = (const Hone__PromptRecord *)(void *)base;
    int rc = 0;
    if (record->prompt_id != id || id >= (uint64_t)loading->pools->count)
        rc = error_set(HONE_ECORRUPT, "prompt %" PRIu64 " in the log is not in the dataset", id);
    if (rc == 0)
        rc = pools_read_record(record, &loading->pools->prompts[id]);
    loading->count++;
    wire_free(base);
    return rc;
}

int64_t pools_load(struct run_log *log, struct prompt_pools *pools)
{
    struct loading loading = {pools, 0};
    int rc = run_log_scan(log, LOG_PROMPTS, load_one, &loading);
    if (rc == 0)
        prompt_pools_rebuild(pools);
    return rc < 0 ? rc : loading.count;
}

void pools_build_state(struct filter_message *state, struct prompt_pools *pools)
{
    hone__filter_state__init(&state->message);
    state->message.round = pools->round;
    state->message.round_batch = pools->round_batch;
    state->message.window_measured = pools->window_measured;
    state->message.window_in_band = pools->window_in_band;
    state->message.n_class_deficits = CLASS_COUNT;
    state->message.class_deficits = pools->class_deficit;
    for (int32_t i = 0; i < pools->capability_count; i++)
        state->capability_deficits[i] = pools->capabilities[i].deficit;
    state->message.n_capability_deficits = (size_t)pools->capability_count;
    state->message.capability_deficits = state->capability_deficits;
}

int pools_read_state(const Hone__FilterState *message, struct prompt_pools *pools)
{
    if (message->n_class_deficits != CLASS_COUNT ||
        message->n_capability_deficits != (size_t)pools->capability_count)
        return error_set(HONE_ECORRUPT, "the log's pools are those of another dataset");
    pools->round = message->round;
    pools->round_batch = message->round_batch;
    pools->window_measured = message->window_measured;
    pools->window_in_band = message->window_in_band;
    memcpy(pools->class_deficit, message->class_deficits, sizeof pools->class_deficit);
    for (int32_t i = 0; i < pools->capability_count; i++)
        pools->capabilities[i].deficit = message->capability_deficits[i];
    return 0;
}
