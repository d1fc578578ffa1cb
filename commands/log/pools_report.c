#include "commands/log/pools_report.h"

#include <inttypes.h>
#include <jansson.h>
#include <string.h>

#include "commands/measure/pools_file.h"
#include "commands/prompts.h"
#include "commands/stage_options.h"
#include "curriculum/group_table.h"
#include "curriculum/pools/pools_store.h"
#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/memory.h"
#include "infra/store/log_record.h"
#include "infra/telemetry/table.h"
#include "infra/wire/envelope.h"

#define HISTORY_ROWS      12
#define METRICS_BYTES_MAX ((size_t)1 << 30)

static void count_cell(struct table *table, int64_t count)
{
    char cell[32];
    snprintf(cell, sizeof cell, "%" PRId64, count);
    table_cell(table, cell);
}

static void share_cell(struct table *table, double part, double whole)
{
    char cell[32];
    snprintf(cell, sizeof cell, "%.1f %%", whole > 0 ? 100.0 * part / whole : 0.0);
    table_cell(table, whole > 0 ? cell : "-");
}

static void end_table(struct table *table, FILE *out)
{
    table_print(table, out);
    table_destroy(table);
}

/* ---- now ---- */

struct capability_row {
    int64_t prompts, pools[POOL_COUNT], selections, measured;
    double share_sum; /* of passed samples, over the measured prompts */
};

static void add_prompt(struct capability_row *row, const struct pool_prompt *prompt)
{
    row->prompts++;
    row->pools[prompt->difficulty.pool]++;
    row->selections += prompt->selections;
    const struct measurement *newest = &prompt->difficulty.newest;
    if (newest->judged == 0)
        return;
    row->measured++;
    row->share_sum += (double)newest->passed / (double)newest->judged;
}

static void add_row(struct table *table, const char *name, const struct capability_row *row,
                    int64_t selections)
{
    table_cell(table, name);
    count_cell(table, row->prompts);
    for (int pool = 0; pool < POOL_COUNT; pool++)
        count_cell(table, row->pools[pool]);
    share_cell(table, row->share_sum, (double)row->measured);
    count_cell(table, row->selections);
    share_cell(table, (double)row->selections, (double)selections);
    table_end_row(table);
}

static void print_now(const struct prompt_pools *pools, FILE *out)
{
    static const char *const titles[] = {"capability", "prompts", "unseen", "easy",    "band",
                                         "hard",       "parked",  "passed", "sampled", "share"};
    struct capability_row rows[POOL_CAPABILITIES_MAX] = {0}, all = {0};
    for (int64_t i = 0; i < pools->count; i++) {
        add_prompt(&rows[pools->prompts[i].capability], &pools->prompts[i]);
        add_prompt(&all, &pools->prompts[i]);
    }
    struct table *table = table_create(titles, (int)(sizeof titles / sizeof titles[0]));
    for (int32_t i = 0; i < pools->capability_count; i++) {
        const char *name = pools->capabilities[i].name;
        add_row(table, name[0] != '\0' ? name : "-", &rows[i], all.selections);
    }
    add_row(table, "all", &all, all.selections);
    fprintf(out,
            "Prompts now (passed: samples of the newest measurement, mean over prompts; sampled: "
            "groups for training)\n");
    end_table(table, out);
}

/* ---- the run ---- */

/* The records of batches, the newest of each: {"1": {...}, ...} in order of appearance. */
static json_t *read_history(const struct run_directory *run)
{
    char path[HONE_PATH_MAX], *data;
    size_t bytes;
    json_t *batches = json_object();
    if (file_read(run_directory_file(run, path, sizeof path, "metrics/curriculum.jsonl"),
                  METRICS_BYTES_MAX, &data, &bytes) < 0)
        return batches; /* figures may be gone; the log is not */
    for (char *line = data, *end; line < data + bytes; line = end + 1) {
        end = memchr(line, '\n', (size_t)(data + bytes - line));
        if (end == NULL)
            break;
        json_t *record = json_loadb(line, (size_t)(end - line), 0, NULL);
        char step[24];
        snprintf(step, sizeof step, "%" JSON_INTEGER_FORMAT,
                 json_integer_value(json_object_get(record, "step")));
        if (json_object_get(record, "filter/band") != NULL)
            json_object_set(batches, step, record);
        json_decref(record);
    }
    memory_free(data);
    return batches;
}

static void print_history(json_t *batches, FILE *out)
{
    static const char *const keys[] = {"filter/pool_unseen", "filter/easy", "filter/band",
                                       "filter/hard", "filter/parked"};
    static const char *const titles[] = {"batch",  "unseen", "easy",        "band",   "hard",
                                         "parked", "up to",  "in the band", "pass@k", "age"};
    size_t count = json_object_size(batches), i = 0;
    const char *step;
    json_t *record;
    struct table *table = table_create(titles, (int)(sizeof titles / sizeof titles[0]));
    json_object_foreach(batches, step, record)
    {
        char cell[32];
        size_t row = i++ * (HISTORY_ROWS - 1) / (count > 1 ? count - 1 : 1);
        size_t before = i >= 2 ? (i - 2) * (HISTORY_ROWS - 1) / (count - 1) : SIZE_MAX;
        if (row == before)
            continue;
        table_cell(table, step);
        for (size_t k = 0; k < sizeof keys / sizeof keys[0]; k++)
            count_cell(table, (int64_t)json_number_value(json_object_get(record, keys[k])));
        snprintf(cell, sizeof cell, "%.3g",
                 json_number_value(json_object_get(record, "filter/band_high")));
        table_cell(table, cell);
        share_cell(table, json_number_value(json_object_get(record, "filter/accept_rate")),
                   json_number_value(json_object_get(record, "filter/selected")) > 0 ? 1.0 : 0.0);
        share_cell(table, json_number_value(json_object_get(record, "filter/pass_at_k")), 1.0);
        snprintf(cell, sizeof cell, "%.1f",
                 json_number_value(json_object_get(record, "filter/est_age_mean")));
        table_cell(table, cell);
        table_end_row(table);
    }
    fprintf(out, "\nPools as batches were formed (in the band: of the groups measured since the "
                 "batch before; age: batches)\n");
    end_table(table, out);
}

static void print_moves(json_t *batches, FILE *out)
{
    double moves[POOL_COUNT][POOL_COUNT] = {0};
    const char *step;
    json_t *record;
    json_object_foreach(batches, step, record)
    {
        for (int from = 0; from < POOL_COUNT; from++)
            for (int to = 0; to < POOL_COUNT; to++) {
                char key[48];
                snprintf(key, sizeof key, "filter/move/%s_%s",
                         prompt_pool_name((enum prompt_pool)from),
                         prompt_pool_name((enum prompt_pool)to));
                moves[from][to] += json_number_value(json_object_get(record, key));
            }
    }
    static const char *const titles[] = {"from \\ to", "easy", "band", "hard", "parked"};
    struct table *table = table_create(titles, (int)(sizeof titles / sizeof titles[0]));
    for (int from = 0; from < POOL_COUNT; from++) {
        table_cell(table, prompt_pool_name((enum prompt_pool)from));
        for (int to = POOL_EASY; to < POOL_COUNT; to++)
            count_cell(table, (int64_t)moves[from][to]);
        table_end_row(table);
    }
    fprintf(out, "\nMoves in all\n");
    end_table(table, out);
}

int pools_report_print(const struct run_directory *run, const struct recipe *recipe,
                       const char *model, struct run_log *log, FILE *out)
{
    struct prompt_set set = {0};
    struct prompt_pools pools = {0};
    struct tokenizer *tokenizer = NULL;
    struct capability_factor *mix = NULL;
    struct filter_options options;
    filter_options_from(&options, recipe, &mix);
    int rc = options.mode == FILTER_OFF
                 ? error_set(HONE_ENOENT, "%s: the run keeps no pools (rl.filter.mode)", run->path)
                 : tokenizer_load(&tokenizer, model);
    if (rc == 0)
        rc = prompt_set_load(&set, &recipe->rl.data, chat_layout_from(recipe), tokenizer,
                             recipe->rl.max_prompt_tokens, 0, "rl.data");
    if (rc == 0) {
        prompt_pools_init(&pools, &options, set.prompts, set.count, (uint64_t)recipe->seed,
                          (int32_t)recipe->rl.prompts_per_step);
        int64_t read = pools_load(log, &pools);
        rc = read < 0 ? (int)read : 0;
    }
    if (rc == 0) {
        json_t *batches = read_history(run);
        print_now(&pools, out);
        if (json_object_size(batches) > 0) {
            print_history(batches, out);
            print_moves(batches, out);
        }
        json_decref(batches);
    }
    prompt_pools_release(&pools);
    prompt_set_release(&set);
    tokenizer_free(tokenizer);
    memory_free(mix);
    return rc;
}

/* ---- one prompt ---- */

struct prompt_visit {
    uint64_t prompt;
    struct table *table;
};

static int visit_group(void *context, const void *key, size_t key_bytes, const void *value,
                       size_t value_bytes)
{
    static const char *const states[] = {"being sampled", "waits for a batch", "in batch",
                                         "trained in batch", "dropped"};
    struct prompt_visit *visit = context;
    ProtobufCMessage *base;
    char cell[64];
    (void)key, (void)key_bytes;
    if (wire_unpack(&base, &hone__group_record__descriptor, value, value_bytes) < 0)
        return error_set(HONE_ECORRUPT, "a group in the log: %s", error_message());
    const Hone__GroupRecord *group = (const Hone__GroupRecord *)(void *)base;
    if (group->prompt_id == visit->prompt && (unsigned)group->state <= GROUP_DROPPED) {
        const Hone__MeasurementRecord *measured = group->measured;
        bool in_batch = group->has_batch && group->state != HONE__GROUP_STATE__GROUP_DROPPED;
        count_cell(visit->table, (int64_t)group->group_id);
        if (measured != NULL)
            snprintf(cell, sizeof cell, "%d of %d", measured->passed, measured->judged);
        table_cell(visit->table, measured != NULL ? cell : "-");
        if (measured != NULL)
            count_cell(visit->table, measured->version);
        else
            table_cell(visit->table, "-");
        if (in_batch)
            snprintf(cell, sizeof cell, "%s %" PRId64, states[group->state], group->batch);
        else
            snprintf(cell, sizeof cell, "%s%s%s", states[group->state],
                     group->reason != NULL ? ": " : "", group->reason != NULL ? group->reason : "");
        table_cell(visit->table, cell);
        table_end_row(visit->table);
    }
    wire_free(base);
    return 0;
}

int pools_report_prompt(struct run_log *log, int64_t prompt, FILE *out)
{
    static const char *const titles[] = {"group", "passed", "version", "fate"};
    ProtobufCMessage *base;
    struct pool_prompt state = {0};
    int rc =
        log_record_get(log, LOG_PROMPTS, (uint64_t)prompt, &hone__prompt_record__descriptor, &base);
    if (rc == 0)
        return error_set(HONE_ENOENT, "prompt %" PRId64 " was never selected or measured", prompt);
    if (rc > 0) {
        rc = pools_read_record((const Hone__PromptRecord *)(void *)base, &state);
        wire_free(base);
    }
    if (rc < 0)
        return rc;
    const struct measurement *newest = &state.difficulty.newest;
    fprintf(out, "prompt %" PRId64 " is %s", prompt, prompt_pool_name(state.difficulty.pool));
    if (newest->judged > 0)
        fprintf(out, ": %d of %d samples of version %" PRId64 " passed (estimate %.3f)",
                newest->passed, newest->judged, newest->version,
                difficulty_estimate(newest->judged, newest->passed));
    fprintf(out,
            "; in the whole run %" PRId64 " of %" PRId64 ", %" PRId64
            " with a failed reward; selected for training %" PRId64 " times%s\n",
            state.passed_all, state.judged_all, state.failed, state.selections,
            state.due ? "; to be measured again" : "");
    struct prompt_visit visit = {(uint64_t)prompt, table_create(titles, 4)};
    rc = run_log_scan(log, LOG_GROUPS, visit_group, &visit);
    end_table(visit.table, out);
    return rc;
}
