#include "dpo/pair_rows.h"

#include <inttypes.h>
#include <string.h>

#include "infra/base/error.h"
#include "infra/base/memory.h"

/* The conversation with the answer as its last turn; that turn alone is trained. */
static int answer_turns(struct example *example, const struct dataset_row *row, const char *answer,
                        const struct tokenizer *tokenizer, enum chat_layout layout)
{
    struct chat_turn *turns = MEMORY_ARRAY(struct chat_turn, row->turn_count + 1);
    struct chat_rendering rendering;

    for (int32_t i = 0; i < row->turn_count; i++) {
        turns[i] = row->turns[i];
        turns[i].is_trained = false;
    }
    turns[row->turn_count] =
        (struct chat_turn){.role = "assistant", .content = answer, .is_trained = true};
    chat_rendering_init(&rendering);
    int rc = chat_render(layout, turns, row->turn_count + 1, false, &rendering);
    if (rc == 0)
        rc = example_from_spans(example, tokenizer, &rendering);
    chat_rendering_release(&rendering);
    memory_free(turns);
    return rc;
}

static int make_answer(struct example *example, const struct dataset_row *row, const char *answer,
                       const struct tokenizer *tokenizer, const struct pair_rows_options *options)
{
    if (row->turn_count > 0)
        return answer_turns(example, row, answer, tokenizer, options->layout);
    return example_from_pair(example, tokenizer, row->prompt, answer, options->eos_id);
}

static int read_row(struct preference_pairs *pairs, const struct dataset_row *row,
                    const struct tokenizer *tokenizer, const struct pair_rows_options *options)
{
    struct example chosen = {0}, rejected = {0};

    if (row->chosen == NULL || row->rejected == NULL ||
        (row->prompt == NULL && row->turn_count == 0))
        return error_set(HONE_EFORMAT, "the row is no preference: a prompt, a chosen and a "
                                       "rejected answer are needed");
    int rc = make_answer(&chosen, row, row->chosen, tokenizer, options);
    if (rc == 0)
        rc = make_answer(&rejected, row, row->rejected, tokenizer, options);
    if (rc == 0)
        preference_pairs_add(pairs, &options->limits, &chosen, &rejected);
    example_release(&chosen);
    example_release(&rejected);
    return rc;
}

int pair_rows_read(struct preference_pairs *pairs, const struct dataset *dataset,
                   const struct tokenizer *tokenizer, const struct pair_rows_options *options)
{
    for (int64_t i = 0; i < dataset_count(dataset); i++) {
        const struct dataset_row *row = dataset_get(dataset, i);
        if (read_row(pairs, row, tokenizer, options) < 0)
            return error_prefix("%s:%" PRId64, dataset_path(dataset, row->source), row->line);
    }
    return 0;
}
