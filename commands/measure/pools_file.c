#include "commands/measure/pools_file.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infra/base/error.h"
#include "infra/base/hash.h"
#include "infra/base/id_map.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"

#define FORMAT 1 /* "hone_pools" of the first line */

static void mix_from(struct filter_options *options, const struct string_list *list,
                     struct capability_factor **mix)
{
    size_t bytes = (size_t)list->count * sizeof **mix;
    for (int32_t i = 0; i < list->count; i++)
        bytes += strlen(list->items[i]) + 1;
    *mix = memory_alloc(bytes + 1, 1);
    char *names = (char *)(*mix + list->count);
    for (int32_t i = 0; i < list->count; i++) { /* the recipe has checked them */
        const char *item = list->items[i], *equals = strrchr(item, '=');
        size_t length = (size_t)(equals - item);
        memcpy(names, item, length);
        names[length] = '\0';
        (*mix)[i] = (struct capability_factor){names, strtod(equals + 1, NULL)};
        names += length + 1;
    }
    options->mix = *mix;
    options->mix_count = list->count;
}

void filter_options_from(struct filter_options *options, const struct recipe *recipe,
                         struct capability_factor **mix)
{
    static const enum filter_mode modes[] = {[RECIPE_FILTER_OFF] = FILTER_OFF,
                                             [RECIPE_FILTER_MEASURE] = FILTER_MEASURE,
                                             [RECIPE_FILTER_ON] = FILTER_ON};
    const struct filter_settings *filter = &recipe->rl.filter;
    int64_t k = recipe->eval.k < recipe->rl.group_size ? recipe->eval.k : recipe->rl.group_size;
    *options = (struct filter_options){
        .mode = modes[filter->mode],
        .pass_threshold = recipe->reward.pass_threshold,
        .low = filter->low,
        .high = filter->high,
        .high_min = filter->high_min,
        .high_step = filter->high_step,
        .certificate = (int32_t)filter->certificate,
        .hard_share = filter->hard_share,
        .easy_share = filter->easy_share,
        .round_steps = filter->round_steps,
        .expire_steps = filter->expire_steps,
        .accept_min = filter->accept_min,
        .probes = recipe->rl.staleness_max > 0 ? (int32_t)filter->probe_groups : 0,
        .k = (int32_t)k,
    };
    mix_from(options, &filter->mix, mix);
}

static uint64_t prompt_hash(const struct prompt *prompt)
{
    return hash_u64(prompt->tokens, (size_t)prompt->token_count * sizeof(int32_t));
}

void pools_file_begin(struct text *out, const struct pools_file_header *header,
                      const struct recipe *recipe)
{
    const struct filter_settings *filter = &recipe->rl.filter;
    text_printf(out, "{\"hone_pools\": %d, \"model\": ", FORMAT);
    text_append_json_string(out, header->model, strlen(header->model));
    text_printf(out, ", \"weights\": \"%s\", \"prompts\": %" PRId64 ", \"seed\": %" PRId64,
                header->weights, header->prompts, recipe->seed);
    text_append(out, ", \"temperature\": ");
    text_append_number(out, recipe->rl.sampling.temperature);
    text_append(out, ", \"pass_threshold\": ");
    text_append_number(out, recipe->reward.pass_threshold);
    text_append(out, ", \"low\": ");
    text_append_number(out, filter->low);
    text_append(out, ", \"high\": ");
    text_append_number(out, filter->high);
    text_printf(out, ", \"certificate\": %" PRId64 "}\n", filter->certificate);
}

void pools_file_add(struct text *out, const struct prompt *prompt,
                    const struct measurement *measurement, int32_t failed, enum prompt_pool pool,
                    int64_t k)
{
    text_printf(out, "{\"prompt\": \"%016" PRIx64 "\", \"id\": %" PRIu64 ", \"capability\": ",
                prompt_hash(prompt), prompt->id);
    text_append_json_string(out, prompt->capability, strlen(prompt->capability));
    text_printf(out, ", \"judged\": %d, \"passed\": %d, \"failed\": %d, \"pool\": \"%s\"",
                measurement->judged, measurement->passed, failed, prompt_pool_name(pool));
    text_append(out, ", \"estimate\": ");
    text_append_number(out, difficulty_estimate(measurement->judged, measurement->passed));
    if (measurement->judged >= k) {
        text_printf(out, ", \"pass@%" PRId64 "\": ", k);
        text_append_number(out, pass_at_k(measurement->judged, measurement->passed, k));
    }
    text_append(out, "}\n");
}

/* ---- reading ---- */

struct reading {
    const char *path;
    int line;
    struct id_map by_hash; /* of the prompt's tokens -> id + 1 */
    struct measurement *measurements;
    int64_t found;
};

static int wrong(const struct reading *reading, const char *what)
{
    return error_set(HONE_EFORMAT, "%s:%d: %s: not a line that hone filter writes", reading->path,
                     reading->line, what);
}

static int read_row(struct reading *reading, const json_t *row)
{
    const char *hex = json_string_value(json_object_get(row, "prompt"));
    const json_t *judged = json_object_get(row, "judged");
    const json_t *passed = json_object_get(row, "passed");
    char *end = NULL;
    if (hex == NULL || strlen(hex) != 16)
        return wrong(reading, "\"prompt\" is not 16 hex digits");
    uint64_t hash = strtoull(hex, &end, 16), id;
    if (*end != '\0')
        return wrong(reading, "\"prompt\" is not 16 hex digits");
    if (!json_is_integer(judged) || !json_is_integer(passed) || json_integer_value(passed) < 0 ||
        json_integer_value(judged) < json_integer_value(passed) ||
        json_integer_value(judged) > INT32_MAX)
        return wrong(reading, "expected 0 <= \"passed\" <= \"judged\"");
    if (!id_map_get(&reading->by_hash, hash, &id))
        return 0; /* of rows that this run leaves out */
    struct measurement *measurement = &reading->measurements[id - 1];
    reading->found += measurement->judged == 0 && json_integer_value(judged) > 0;
    *measurement = (struct measurement){.judged = (int32_t)json_integer_value(judged),
                                        .passed = (int32_t)json_integer_value(passed)};
    return 0;
}

static int read_line(struct reading *reading, const char *line, size_t length)
{
    json_error_t error;
    reading->line++;
    json_t *row = json_loadb(line, length, JSON_REJECT_DUPLICATES, &error);
    if (!json_is_object(row)) {
        json_decref(row);
        return wrong(reading, row == NULL ? error.text : "not an object");
    }
    int rc = 0;
    if (reading->line > 1)
        rc = read_row(reading, row);
    else if (json_integer_value(json_object_get(row, "hone_pools")) != FORMAT)
        rc = wrong(reading, "expected {\"hone_pools\": 1, ...}");
    json_decref(row);
    return rc;
}

/* Every copy of a prompt has the measurement of one. */
static void share_with_copies(struct reading *reading, const struct prompt *prompts, int64_t count)
{
    uint64_t id;
    for (int64_t i = 0; i < count; i++) {
        if (!id_map_get(&reading->by_hash, prompt_hash(&prompts[i]), &id) || id - 1 == (uint64_t)i)
            continue;
        reading->measurements[i] = reading->measurements[id - 1];
        reading->found += reading->measurements[i].judged > 0;
    }
}

int64_t pools_file_read(const char *path, const struct prompt *prompts, int64_t count,
                        struct measurement *measurements)
{
    struct reading reading = {.path = path, .measurements = measurements};
    char *line = NULL;
    size_t capacity = 0;
    ssize_t length;
    int rc = 0;
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return error_errno("%s", path);
    memset(measurements, 0, (size_t)count * sizeof *measurements);
    id_map_init(&reading.by_hash);
    for (int64_t i = count - 1; i >= 0; i--)
        id_map_set(&reading.by_hash, prompt_hash(&prompts[i]), (uint64_t)i + 1);
    while (rc == 0 && (length = getline(&line, &capacity, file)) >= 0)
        rc = read_line(&reading, line, (size_t)length);
    if (rc == 0 && ferror(file))
        rc = error_errno("%s", path);
    if (rc == 0)
        share_with_copies(&reading, prompts, count);
    if (rc == 0 && reading.found == 0)
        rc = error_set(HONE_EFORMAT,
                       "%s: it has none of the %" PRId64
                       " prompts: it was measured with other data, another template or another "
                       "tokenizer",
                       path, count);
    free(line);
    fclose(file);
    id_map_release(&reading.by_hash);
    return rc < 0 ? rc : reading.found;
}

int filter_inputs_open(struct filter_inputs *inputs, const struct recipe *recipe,
                       const struct prompt *prompts, int64_t count)
{
    const char *path = recipe->rl.filter.pools;
    filter_options_from(&inputs->options, recipe, &inputs->mix);
    if (inputs->options.mode == FILTER_OFF || path[0] == '\0')
        return 0;
    inputs->initial = MEMORY_ARRAY(struct measurement, count);
    inputs->options.initial = inputs->initial;
    int64_t found = pools_file_read(path, prompts, count, inputs->initial);
    if (found < 0) {
        error_prefix("rl.filter.pools");
        return (int)found;
    }
    log_info("%s has measured %" PRId64 " of %" PRId64 " prompts", path, found, count);
    return 0;
}

void filter_inputs_close(struct filter_inputs *inputs)
{
    memory_free(inputs->mix);
    memory_free(inputs->initial);
}
