/* What a world has done, compared with what its log says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>

#include "curriculum/audit.h"
#include "infra/base/error.h"
#include "infra/base/hash.h"
#include "tests/curriculum/world.h"

void world_check_books(struct world *world, bool all_left)
{
    struct text report;
    text_init(&report);
    if (curriculum_audit(world->log, &report) < 0)
        fail_msg("the audit (seed %llu): %s", (unsigned long long)world->options.seed,
                 error_message());
    if (all_left) {
        assert_non_null(strstr(report.data, " 0 batched, 0 scored, 0 leased,"));
        assert_non_null(strstr(report.data, "leases       0 out"));
        assert_int_equal(world->learner.durable, world->options.hub.steps);
        uint64_t weights = 99;
        for (int64_t n = 1; n <= world->options.hub.steps; n++) {
            uint64_t words[2] = {weights, world->batch_hash[n]};
            weights = hash_u64(words, sizeof words);
        }
        assert_int_equal(weights, world->learner.weights); /* each batch once, in order */
    }
    text_release(&report);
}

uint64_t world_result(const struct world *world)
{
    return world->learner.weights;
}
