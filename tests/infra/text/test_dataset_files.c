/* Loads the real dataset files. usage: test DATA_DIRECTORY */
#include "tests/infra/text/text_fixture.h"

#include "infra/text/dataset.h"

static const char *data_directory;

struct expectation {
    const char *name;
    int64_t rows;
    struct dataset_options options;
};

static const struct expectation files[] = {
    {"prompts/gsm8k_train.jsonl", 7473, {0}},
    {"prompts/gsm8k_test.jsonl", 1319, {0}},
    {"prompts/math500.jsonl",
     500,
     {.prompt_column = "problem",
      .completion_column = "solution",
      .ground_truth_column = "answer",
      .capability_column = "subject"}},
    {"prompts/mbpp_first500.jsonl",
     500,
     {.prompt_column = "text", .completion_column = "code", .ground_truth_column = "test_list"}},
    {"prompts/reasoning_gym_examples.jsonl",
     303,
     {.prompt_template = "{question}\nAnswer:",
      .ground_truth_column = "answer",
      .capability_column = "task"}},
    {"sft/llamafactory_glaive_toolcall_en_demo.json", 300, {0}},
    {"sft/self_instruct_seed_tasks.jsonl", 175, {0}},
    {"sft/self_instruct_user_oriented_instructions.jsonl", 252, {0}},
    {"preference/llamafactory_dpo_en_demo.json", 299, {0}},
    {"preference/torchtune_stack_exchange_paired_tiny.json",
     25,
     {.prompt_column = "question", .chosen_column = "response_j", .rejected_column = "response_k"}},
};

static struct dataset *load(const char *name, const struct dataset_options *given)
{
    char path[HONE_PATH_MAX];
    const char *paths[1] = {path_join(path, sizeof(path), data_directory, name)};
    struct dataset_options options = *given;
    options.paths = paths;
    options.count = 1;
    struct dataset *dataset = NULL;
    if (dataset_load(&dataset, &options) < 0)
        fail_msg("%s", error_message());
    return dataset;
}

static void test_every_file_loads(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        struct dataset *dataset = load(files[i].name, &files[i].options);
        assert_int_equal(dataset_count(dataset), files[i].rows);
        for (int64_t j = 0; j < dataset_count(dataset); j++) {
            const struct dataset_row *row = dataset_get(dataset, j);
            assert_true(row->prompt != NULL || row->turn_count > 0);
            assert_int_equal(row->line, j + 1);
            if (text_starts_with(files[i].name, "prompts/"))
                assert_true(row->ground_truth != NULL && row->ground_truth[0] != '\0');
            if (text_starts_with(files[i].name, "preference/"))
                assert_true(row->chosen != NULL && row->rejected != NULL);
        }
        dataset_free(dataset);
    }
}

static void test_gsm8k_truths_are_numbers(void **state)
{
    (void)state;
    struct dataset *dataset = load(files[0].name, &files[0].options);
    for (int64_t i = 0; i < dataset_count(dataset); i++) {
        const char *truth = dataset_get(dataset, i)->ground_truth;
        assert_int_equal(strspn(truth, "-0123456789."), strlen(truth));
    }
    assert_string_equal(dataset_get(dataset, 0)->ground_truth, "72");
    dataset_free(dataset);
}

static void test_compressed_files_are_refused(void **state)
{
    (void)state;
    char path[HONE_PATH_MAX];
    const char *paths[1] = {
        path_join(path, sizeof(path), data_directory, "prompts/HumanEval.jsonl.gz")};
    const struct dataset_options options = {.paths = paths, .count = 1};
    struct dataset *dataset = NULL;
    assert_int_equal(dataset_load(&dataset, &options), HONE_EUNSUPPORTED);
}

int main(int argument_count, char **arguments)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_file_loads),
        cmocka_unit_test(test_gsm8k_truths_are_numbers),
        cmocka_unit_test(test_compressed_files_are_refused),
    };
    data_directory = argument_count > 1 ? arguments[1] : "";
    if (!file_is_directory(data_directory)) {
        printf("no real test data at \"%s\": skipped\n", data_directory);
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
