#include "sft/sft_data.h"

#include <inttypes.h>
#include <string.h>

#include "infra/base/error.h"
#include "infra/base/memory.h"

static int read_conversation(struct example *example, const struct dataset_row *row,
                             const struct tokenizer *tokenizer, enum chat_layout layout)
{
    struct chat_rendering rendering;
    chat_rendering_init(&rendering);
    int rc = chat_render(layout, row->turns, row->turn_count, false, &rendering);
    if (rc == 0)
        rc = example_from_spans(example, tokenizer, &rendering);
    chat_rendering_release(&rendering);
    return rc;
}

static void keep_or_drop(struct example_list *list, struct example *example, int32_t max_length,
                         struct sft_data_counts *counts)
{
    if (example->count > max_length)
        counts->dropped_long++;
    else if (example_trained_tokens(example) == 0)
        counts->dropped_empty++;
    else
        example_list_add(list, example);
    example_release(example);
}

static int read_row(struct example_list *list, const struct dataset_row *row,
                    const struct tokenizer *tokenizer, const struct sft_data_options *options,
                    struct sft_data_counts *counts)
{
    struct example example = {0};
    int rc;

    if (row->text != NULL) {
        int64_t before = list->count;
        rc = example_from_text(list, tokenizer, row->text, options->eos_id, options->max_length);
        counts->dropped_empty += rc == 0 && list->count == before;
        return rc;
    }
    if (row->turn_count > 0)
        rc = read_conversation(&example, row, tokenizer, options->layout);
    else if (row->prompt != NULL && row->completion != NULL)
        rc = example_from_pair(&example, tokenizer, row->prompt, row->completion, options->eos_id);
    else
        rc = error_set(HONE_EFORMAT, "the row has nothing to train on: no text, no messages, no "
                                     "completion");
    if (rc == 0)
        keep_or_drop(list, &example, options->max_length, counts);
    return rc;
}

void sft_origins_release(struct sft_origins *origins)
{
    memory_free(origins->rows);
    memset(origins, 0, sizeof *origins);
}

static void note_origin(struct sft_origins *origins, int64_t row, int64_t count)
{
    for (; origins->count < count; origins->count++) {
        if (origins->count == origins->capacity) {
            int64_t capacity = origins->capacity > 0 ? 2 * origins->capacity : 1024;
            origins->rows = memory_resize(origins->rows, (size_t)origins->capacity,
                                          (size_t)capacity, sizeof *origins->rows);
            origins->capacity = capacity;
        }
        origins->rows[origins->count] = row;
    }
}

int sft_data_read(struct example_list *list, const struct dataset *dataset,
                  const struct tokenizer *tokenizer, const struct sft_data_options *options,
                  struct sft_data_counts *counts, struct sft_origins *origins)
{
    memset(counts, 0, sizeof *counts);
    for (int64_t i = 0; i < dataset_count(dataset); i++) {
        const struct dataset_row *row = dataset_get(dataset, i);
        counts->rows++;
        if (read_row(list, row, tokenizer, options, counts) < 0)
            return error_prefix("%s:%" PRId64, dataset_path(dataset, row->source), row->line);
        if (origins)
            note_origin(origins, i, list->count);
    }
    return 0;
}
