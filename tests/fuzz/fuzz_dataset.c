/* Dataset files. The first byte says the format and which columns and templates are named; what
 * follows is the file. Rows that load have what their format promises, and `extra` parses. */
#include <jansson.h>

#include "infra/text/dataset.h"
#include "tests/fuzz/input_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void check_row(const struct dataset_row *row)
{
    HONE_ASSERT(row->line >= 1);
    HONE_ASSERT(row->text != NULL || row->prompt != NULL || row->turn_count > 0 ||
                row->chosen != NULL);
    HONE_ASSERT((row->chosen != NULL) == (row->rejected != NULL));
    for (int32_t i = 0; i < row->turn_count; i++)
        HONE_ASSERT(row->turns[i].role != NULL && row->turns[i].content != NULL);
    if (row->extra == NULL)
        return;
    json_t *extra = json_loads(row->extra, JSON_REJECT_DUPLICATES, NULL);
    HONE_ASSERT(json_is_object(extra));
    json_decref(extra);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (bytes == 0)
        return 0;
    const char *path = input_file(data + 1, bytes - 1);
    unsigned choice = data[0];
    struct dataset_options options = {.paths = &path,
                                      .count = 1,
                                      .format = choice % DATASET_FORMAT_COUNT,
                                      .max_rows = choice & 0x10 ? 2 : 0};
    if (choice & 0x20)
        options.prompt_template = "Q: {question} {{x}} {a.b}\nA:";
    if (choice & 0x40)
        options.ground_truth_column = "reward_model.ground_truth";
    if (choice & 0x80)
        options.completion_template = " {answer}";
    struct dataset *dataset = NULL;
    if (dataset_load(&dataset, &options) < 0) {
        HONE_ASSERT(dataset == NULL);
        return 0;
    }
    for (int64_t i = 0; i < dataset_count(dataset); i++)
        check_row(dataset_get(dataset, i));
    dataset_free(dataset);
    return 0;
}
