/* What the log says of a prompt must be what its groups say: every measurement counted once. */
#ifndef HONE_CURRICULUM_POOLS_POOLS_AUDIT_H
#define HONE_CURRICULUM_POOLS_POOLS_AUDIT_H

#include "infra/base/id_map.h"
#include "infra/base/text.h"
#include "infra/store/run_log.h"
#include "infra/wire/hone.pb-c.h"

struct pools_audit {
    struct id_map by_prompt; /* prompt id + 1 -> index in sums, + 1 */
    struct pools_audit_sum {
        int64_t judged, passed;
        bool recorded;
    } * sums; /* [count] of prompts that have a measured group */
    size_t count, capacity;
};

void pools_audit_init(struct pools_audit *audit);
void pools_audit_release(struct pools_audit *audit);
void pools_audit_group(struct pools_audit *audit, const Hone__GroupRecord *record);
/* Compares with the prompts' records; a line in the report when there are any. HONE_ECORRUPT names
 * the prompt. */
int pools_audit_finish(struct pools_audit *audit, struct run_log *log, struct text *report);

#endif
