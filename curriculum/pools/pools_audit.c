#include "curriculum/pools/pools_audit.h"

#include <inttypes.h>
#include <string.h>

#include "curriculum/pools/pools_store.h"
#include "infra/base/error.h"
#include "infra/base/memory.h"
#include "infra/wire/envelope.h"

void pools_audit_init(struct pools_audit *audit)
{
    memset(audit, 0, sizeof *audit);
    id_map_init(&audit->by_prompt);
}

void pools_audit_release(struct pools_audit *audit)
{
    id_map_release(&audit->by_prompt);
    memory_free(audit->sums);
    audit->sums = NULL;
}

static struct pools_audit_sum *sum_of(struct pools_audit *audit, uint64_t prompt_id)
{
    uint64_t place;
    return id_map_get(&audit->by_prompt, prompt_id + 1, &place) ? &audit->sums[place - 1] : NULL;
}

void pools_audit_group(struct pools_audit *audit, const Hone__GroupRecord *record)
{
    if (record->measured == NULL || record->prompt_id == UINT64_MAX)
        return;
    struct pools_audit_sum *sum = sum_of(audit, record->prompt_id);
    if (sum == NULL) {
        if (audit->count == audit->capacity) {
            size_t capacity = audit->capacity > 0 ? audit->capacity * 2 : 256;
            audit->sums =
                memory_resize(audit->sums, audit->capacity, capacity, sizeof *audit->sums);
            audit->capacity = capacity;
        }
        sum = &audit->sums[audit->count++];
        memset(sum, 0, sizeof *sum);
        id_map_set(&audit->by_prompt, record->prompt_id + 1, audit->count);
    }
    sum->judged += record->measured->judged;
    sum->passed += record->measured->passed;
}

struct visit {
    struct pools_audit *audit;
    int64_t pools[POOL_COUNT], prompts;
};

static int check_prompt(struct visit *visit, const Hone__PromptRecord *record)
{
    struct pool_prompt prompt;
    memset(&prompt, 0, sizeof prompt);
    int rc = pools_read_record(record, &prompt);
    if (rc < 0)
        return rc;
    struct pools_audit_sum *sum = sum_of(visit->audit, record->prompt_id);
    int64_t judged = sum != NULL ? sum->judged : 0, passed = sum != NULL ? sum->passed : 0;
    if (prompt.judged_all != judged || prompt.passed_all != passed)
        return error_set(HONE_ECORRUPT,
                         "prompt %" PRIu64 ": its record has %" PRId64 " of %" PRId64
                         " samples passed, its groups have %" PRId64 " of %" PRId64,
                         record->prompt_id, prompt.passed_all, prompt.judged_all, passed, judged);
    if (sum != NULL)
        sum->recorded = true;
    visit->pools[prompt.difficulty.pool]++;
    visit->prompts++;
    return 0;
}

static int visit_prompt(void *context, const void *key, size_t key_bytes, const void *value,
                        size_t value_bytes)
{
    ProtobufCMessage *base;
    uint64_t id = key_bytes == 8 ? run_log_u64(key) : UINT64_MAX;
    if (wire_unpack(&base, &hone__prompt_record__descriptor, value, value_bytes) < 0)
        return error_set(HONE_ECORRUPT, "prompt %" PRIu64 ": %s", id, error_message());
    const Hone__PromptRecord *record = (const Hone__PromptRecord *)(void *)base;
    int rc = record->prompt_id == id
                 ? check_prompt(context, record)
                 : error_set(HONE_ECORRUPT, "prompt %" PRIu64 ": it names another id", id);
    wire_free(base);
    return rc;
}

int pools_audit_finish(struct pools_audit *audit, struct run_log *log, struct text *report)
{
    struct visit visit = {.audit = audit};
    int rc = run_log_scan(log, LOG_PROMPTS, visit_prompt, &visit);
    for (size_t i = 0; rc == 0 && i < audit->count; i++)
        if (!audit->sums[i].recorded)
            rc = error_set(HONE_ECORRUPT, "a prompt has measured groups and no record");
    if (rc < 0 || visit.prompts == 0)
        return rc;
    text_printf(report, "pools        of %" PRId64 " prompts sampled or measured:", visit.prompts);
    for (int pool = 0; pool < POOL_COUNT; pool++)
        text_printf(report, " %s %" PRId64, prompt_pool_name((enum prompt_pool)pool),
                    visit.pools[pool]);
    text_append(report, "; every measurement counted once\n");
    return 0;
}
