#include "commands/measure/filter.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "commands/measure/pools_file.h"
#include "commands/measure/prompt_sampler.h"
#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"

struct filtering {
    struct prompt_sampler sampler;
    struct filter_options options;
    struct measurement *counts; /* [prompts] */
    int32_t *failed;            /* [prompts] samples whose reward failed */
    struct text completion;     /* the one that was judged last */
    int64_t tokens;
};

/* How many of a capability's prompts are in each pool. */
struct pool_row {
    const char *capability;
    int64_t prompts, measured, pools[POOL_COUNT];
    double share_sum; /* of passed samples, over the measured prompts */
};

static int judge(void *context, int64_t prompt, struct trajectory *trajectory)
{
    struct filtering *f = context;
    struct reward reward;
    int rc = prompt_sampler_score(&f->sampler, prompt, trajectory, &f->completion, &reward);
    trajectory_release(trajectory);
    if (rc < 0)
        return rc;
    if (reward.status != REWARD_OK) { /* G8: in no count */
        f->failed[prompt]++;
        return 0;
    }
    f->counts[prompt].judged++;
    f->counts[prompt].passed += (double)reward.total >= f->options.pass_threshold;
    return 0;
}

static int sample_some(struct filtering *f, const int64_t *prompts, int64_t prompt_count,
                       int32_t first, int32_t count, const char *label)
{
    const struct prompt_sampling what = {.prompts = prompts,
                                         .prompt_count = prompt_count,
                                         .first = first,
                                         .count = count,
                                         .label = label,
                                         .finished = judge,
                                         .context = f};
    int64_t tokens = prompt_sampler_run(&f->sampler, &what);
    f->tokens += tokens > 0 ? tokens : 0;
    return tokens < 0 ? (int)tokens : 0;
}

/* A prompt of which no sample passed is sampled on, twice as often each time, until one does or the
 * certificate is full. */
static int measure(struct filtering *f, int32_t samples)
{
    int64_t count = f->sampler.set.count, *open = MEMORY_ARRAY(int64_t, count);
    int rc = sample_some(f, NULL, count, 0, samples, "measure");
    for (int32_t done = samples; rc == 0 && done < f->options.certificate;) {
        int32_t left = f->options.certificate - done, more = done < left ? done : left;
        int64_t open_count = 0;
        for (int64_t i = 0; i < count; i++)
            if (f->counts[i].passed == 0)
                open[open_count++] = i;
        if (open_count == 0)
            break;
        rc = sample_some(f, open, open_count, done, more, "unsolved");
        done += more;
    }
    memory_free(open);
    return rc;
}

static enum prompt_pool pool_of(const struct filtering *f, int64_t prompt)
{
    const struct measurement *counts = &f->counts[prompt];
    const struct difficulty_band band = {f->options.low, f->options.high, f->options.certificate};
    if (counts->judged == 0)
        return POOL_UNSEEN;
    return difficulty_side(&band, counts->judged, counts->passed, counts->judged);
}

static struct pool_row *row_of(struct pool_row *rows, int32_t *count, const char *capability)
{
    for (int32_t i = 0; i < *count; i++)
        if (strcmp(rows[i].capability, capability) == 0)
            return &rows[i];
    if (*count < POOL_CAPABILITIES_MAX)
        rows[(*count)++].capability = capability;
    return &rows[*count - 1];
}

static void print_row(const char *name, const struct pool_row *row)
{
    printf("%-20.20s %8" PRId64, name, row->prompts);
    for (int pool = 0; pool < POOL_COUNT; pool++)
        printf(" %8" PRId64, row->pools[pool]);
    if (row->measured > 0)
        printf(" %7.1f %%", 100.0 * row->share_sum / (double)row->measured);
    printf("\n");
}

static void print_table(const struct filtering *f)
{
    struct pool_row rows[POOL_CAPABILITIES_MAX] = {0}, all = {0};
    int32_t count = 0;
    for (int64_t i = 0; i < f->sampler.set.count; i++) {
        struct pool_row *row = row_of(rows, &count, f->sampler.set.prompts[i].capability);
        struct pool_row *both[] = {row, &all};
        for (int k = 0; k < 2; k++) {
            both[k]->prompts++;
            both[k]->pools[pool_of(f, i)]++;
            if (f->counts[i].judged == 0)
                continue;
            both[k]->measured++;
            both[k]->share_sum += (double)f->counts[i].passed / (double)f->counts[i].judged;
        }
    }
    printf("%-20s %8s", "capability", "prompts");
    for (int pool = 0; pool < POOL_COUNT; pool++)
        printf(" %8s", prompt_pool_name((enum prompt_pool)pool));
    printf(" %9s\n", "passed");
    for (int32_t i = 0; i < count; i++)
        print_row(rows[i].capability[0] != '\0' ? rows[i].capability : "-", &rows[i]);
    print_row("all", &all);
}

static int write_pools(struct filtering *f, const struct recipe *recipe, const char *model,
                       const char *path)
{
    struct hash hash;
    char hex[HASH_HEX_SIZE];
    struct text out;
    int64_t unmeasured = 0;
    text_init(&out);
    model_hash(f->sampler.model, &hash);
    hash_hex(&hash, hex);
    pools_file_begin(&out, &(struct pools_file_header){model, hex, f->sampler.set.count}, recipe);
    for (int64_t i = 0; i < f->sampler.set.count; i++) {
        unmeasured += f->counts[i].judged == 0;
        pools_file_add(&out, &f->sampler.set.prompts[i], &f->counts[i], f->failed[i], pool_of(f, i),
                       f->options.k);
    }
    if (unmeasured > 0)
        log_warn("%" PRId64 " prompts have no reward but failed ones: they stay unseen",
                 unmeasured);
    int rc = unmeasured == f->sampler.set.count
                 ? error_set(HONE_EPEER, "filter: no sample could be scored; see the rewards' "
                                         "messages")
                 : file_write_atomic(path, out.data, out.length);
    text_release(&out);
    return rc;
}

int filter_prompts(const struct recipe *recipe, const char *model, const char *path,
                   int32_t samples, int64_t limit, int threads)
{
    struct filtering f;
    struct capability_factor *mix;
    const struct prompt_sampler_options options = {
        .data = &recipe->rl.data,
        .sampling = &recipe->rl.sampling,
        .max_prompt_tokens = recipe->rl.max_prompt_tokens,
        .max_prompts = limit,
        .slots = recipe->rl.actor.slots,
        .data_key = "rl.data",
        .sampling_key = "rl.sampling",
    };
    memset(&f, 0, sizeof f);
    text_init(&f.completion);
    filter_options_from(&f.options, recipe, &mix);
    int rc = prompt_sampler_open(&f.sampler, recipe, &options, model, threads);
    if (rc == 0) {
        f.counts = MEMORY_ARRAY(struct measurement, f.sampler.set.count);
        f.failed = MEMORY_ARRAY(int32_t, f.sampler.set.count);
        rc = measure(&f, samples);
    }
    if (rc == 0)
        rc = write_pools(&f, recipe, model, path);
    if (rc == 0) {
        print_table(&f);
        printf("%" PRId64 " tokens sampled; wrote %s\n", f.tokens, path);
    }
    memory_free(f.counts);
    memory_free(f.failed);
    memory_free(mix);
    text_release(&f.completion);
    prompt_sampler_close(&f.sampler);
    return rc;
}
