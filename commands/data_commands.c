#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "commands/commands.h"
#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/text/bpe_train.h"
#include "infra/text/dataset.h"
#include "tasks/arithmetic.h"
#include "tasks/calculator.h"
#include "tasks/counting.h"
#include "tasks/equations.h"

static int need(const struct command_line *line, const char *option, const char **value)
{
    *value = command_value(line, option);
    return *value != NULL
               ? 0
               : error_set(HONE_EINVAL, "data %s: --%s is needed", line->positional[0], option);
}

static int make_arithmetic(const struct command_line *line)
{
    const char *out;
    int64_t seed;
    struct arithmetic_counts counts;
    int rc;
    if ((rc = need(line, "out", &out)) < 0 ||
        (rc = command_int(line, "seed", 0, INT64_MAX, &seed)) < 0 ||
        (rc = command_int(line, "text", 0, 100000000, &counts.text)) < 0 ||
        (rc = command_int(line, "sft", 0, 1000000, &counts.sft)) < 0 ||
        (rc = command_int(line, "train", 0, 1000000, &counts.train)) < 0 ||
        (rc = command_int(line, "test", 0, 1000000, &counts.test)) < 0 ||
        (rc = arithmetic_write(out, (uint64_t)seed, &counts)) < 0)
        return rc;
    printf("%s: text.jsonl %" PRId64 " rows, sft.jsonl %" PRId64 ", train.jsonl %" PRId64
           ", test.jsonl %" PRId64 " (held out)\n",
           out, counts.text, counts.sft, counts.train, counts.test);
    return 0;
}

static int make_calculator(const struct command_line *line)
{
    const char *input, *out;
    struct calculator_counts counts;
    int rc;
    if ((rc = need(line, "input", &input)) < 0 || (rc = need(line, "out", &out)) < 0 ||
        (rc = calculator_write(input, command_value(line, "exclude"), out, &counts)) < 0)
        return rc;
    printf("%s: %" PRId64 " notes, %" PRId64 " distinct rows written, %" PRId64
           " left out as excluded, %" PRId64 " not of the form a=b\n",
           out, counts.notes, counts.distinct, counts.excluded, counts.invalid);
    return 0;
}

static int make_equations(const struct command_line *line)
{
    const char *out;
    int64_t seed, rows, left_out;
    int rc;
    if ((rc = need(line, "out", &out)) < 0 ||
        (rc = command_int(line, "seed", 0, INT64_MAX, &seed)) < 0 ||
        (rc = command_int(line, "text", 0, 100000000, &rows)) < 0 ||
        (rc = equations_write(out, (uint64_t)seed, rows, command_value(line, "exclude"),
                              &left_out)) < 0)
        return rc;
    printf("%s: %" PRId64 " equations, %" PRId64 " left out as excluded\n", out, rows, left_out);
    return 0;
}

static int make_counting(const struct command_line *line)
{
    const char *out;
    int64_t seed, longest;
    struct counting_lengths lengths;
    struct counting_counts counts;
    int rc;
    if ((rc = need(line, "out", &out)) < 0 ||
        (rc = command_int(line, "seed", 0, INT64_MAX, &seed)) < 0 ||
        (rc = command_int(line, "sft", 0, 1000000, &counts.sft)) < 0 ||
        (rc = command_int(line, "train", 0, 1000000, &counts.train)) < 0 ||
        (rc = command_int(line, "test", 0, 1000000, &counts.test)) < 0 ||
        (rc = command_int(line, "longest", 1, COUNTING_LENGTH_MAX, &longest)) < 0 ||
        (rc = command_float(line, "median", 1, COUNTING_LENGTH_MAX, &lengths.median)) < 0 ||
        (rc = command_float(line, "p99", 1, 1e6, &lengths.p99)) < 0)
        return rc;
    lengths.longest = (int32_t)longest;
    if ((rc = counting_write(out, (uint64_t)seed, &lengths, &counts)) < 0)
        return rc;
    printf("%s: sft.jsonl %" PRId64 " rows, train.jsonl %" PRId64 ", test.jsonl %" PRId64
           " (held out)\n",
           out, counts.sft, counts.train, counts.test);
    return 0;
}

static int train_tokenizer(const struct command_line *line)
{
    const char *input, *out;
    int64_t vocab;
    struct dataset *dataset = NULL;
    struct text text;
    int rc;
    if ((rc = need(line, "input", &input)) < 0 || (rc = need(line, "out", &out)) < 0 ||
        (rc = command_int(line, "vocab", 260, 1000000, &vocab)) < 0)
        return rc;
    struct dataset_options options = {.paths = &input, .count = 1};
    if ((rc = dataset_load(&dataset, &options)) < 0)
        return rc;
    text_init(&text);
    for (int64_t i = 0; i < dataset_count(dataset); ++i) {
        const struct dataset_row *row = dataset_get(dataset, i);
        const char *parts[] = {row->text, row->prompt, row->completion};
        for (size_t j = 0; j < sizeof parts / sizeof parts[0]; ++j)
            if (parts[j] != NULL)
                text_append(&text, parts[j]);
        text_append_char(&text, '\n');
    }
    struct bpe_train_options train = {.vocab_size = (int32_t)vocab,
                                      .bos = "<|bos|>",
                                      .eos = "<|eos|>",
                                      .pad = "<|pad|>",
                                      .add_bos = true};
    if ((rc = file_make_directories(out)) == 0 &&
        (rc = bpe_train(text.data, text.length, &train, out)) > 0) {
        printf("%s: tokenizer.json with %d entries from %zu bytes of text\n", out, rc, text.length);
        rc = 0;
    }
    text_release(&text);
    dataset_free(dataset);
    return rc;
}

static void show_field(const char *name, const char *value)
{
    if (value != NULL)
        printf("  %-12s %s\n", name, value);
}

static int show_rows(const struct command_line *line)
{
    const char *input, *format = command_value(line, "format");
    int64_t limit;
    struct dataset *dataset = NULL;
    int rc;
    if ((rc = need(line, "input", &input)) < 0 ||
        (rc = command_int(line, "limit", 1, INT64_MAX, &limit)) < 0)
        return rc;
    struct dataset_options options = {.paths = &input, .count = 1};
    if ((rc = dataset_format_parse(format, &options.format)) < 0 ||
        (rc = dataset_load(&dataset, &options)) < 0)
        return rc;
    printf("%s: %" PRId64 " rows\n", input, dataset_count(dataset));
    for (int64_t i = 0; i < dataset_count(dataset) && i < limit; ++i) {
        const struct dataset_row *row = dataset_get(dataset, i);
        printf("line %" PRId64 "\n", row->line);
        show_field("text", row->text);
        show_field("prompt", row->prompt);
        show_field("completion", row->completion);
        show_field("ground truth", row->ground_truth);
        show_field("chosen", row->chosen);
        show_field("rejected", row->rejected);
        show_field("capability", row->capability);
        show_field("data source", row->data_source);
        for (int32_t t = 0; t < row->turn_count; ++t)
            show_field(row->turns[t].role, row->turns[t].content);
    }
    dataset_free(dataset);
    return 0;
}

int command_data(const struct command_line *line)
{
    static const struct {
        const char *name;
        int (*run)(const struct command_line *line);
    } actions[] = {{"make", make_arithmetic},      {"calculator", make_calculator},
                   {"equations", make_equations},  {"counting", make_counting},
                   {"tokenizer", train_tokenizer}, {"show", show_rows}};
    for (size_t i = 0; i < sizeof actions / sizeof actions[0]; ++i)
        if (strcmp(line->positional[0], actions[i].name) == 0)
            return actions[i].run(line);
    return error_set(HONE_EINVAL,
                     "data: unknown action '%s' (make, equations, calculator, counting, "
                     "tokenizer, show)",
                     line->positional[0]);
}
