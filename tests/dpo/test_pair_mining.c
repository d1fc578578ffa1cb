#include "tests/dpo/log_fixture.h"

#include "dpo/pair_mining.h"

static const struct log_answer plain[] = {
    {"mid", 0.5f, REWARD_OK, FINISH_STOP},
    {"low", 0.0f, REWARD_OK, FINISH_STOP},
    {"top", 1.0f, REWARD_OK, FINISH_STOP},
    {"also", 1.0f, REWARD_OK, FINISH_STOP},
};
/* Numbers only count when the status says so, and trajectories that were given up never do. */
static const struct log_answer spoiled[] = {
    {"error", 9.0f, REWARD_ERROR, FINISH_STOP},
    {"abort", 8.0f, REWARD_OK, FINISH_ABORT},
    {"bad", -1.0f, REWARD_OK, FINISH_LENGTH},
    {"good", 0.25f, REWARD_OK, FINISH_STOP},
};
static const struct log_answer ties[] = {
    {"firstlow", 0.0f, REWARD_OK, FINISH_STOP},
    {"secondlow", 0.0f, REWARD_OK, FINISH_STOP},
    {"firsttop", 1.0f, REWARD_OK, FINISH_STOP},
    {"secondtop", 1.0f, REWARD_OK, FINISH_STOP},
};
static const struct log_answer level[] = {
    {"a", 0.5f, REWARD_OK, FINISH_STOP},
    {"b", 0.5f, REWARD_OK, FINISH_STOP},
};
static const struct log_answer lonely[] = {
    {"a", 0.5f, REWARD_OK, FINISH_STOP},
    {NULL, 0.0f, REWARD_OK, FINISH_STOP},
    {"c", 0.0f, REWARD_TIMEOUT, FINISH_STOP},
};
static const struct log_answer lengths[] = {
    {"abcdefghijkl", 1.0f, REWARD_OK, FINISH_STOP},
    {"m", 0.0f, REWARD_OK, FINISH_STOP},
};

static char directory[HONE_PATH_MAX];

static int write_log(void **state)
{
    struct run_log *log = NULL;
    (void)state;
    fixture_directory(directory, "mining");
    assert_ok(run_log_open(&log, directory, false));
    log_put_group(log, 300, ties, 4); /* written out of order: keys order them */
    log_put_group(log, 7, plain, 4);
    log_put_group(log, 20, spoiled, 4);
    log_put_group(log, 301, level, 2);
    log_put_group(log, 302, lonely, 3);
    log_put_group(log, 303, lengths, 2);
    assert_ok(run_log_commit(log));
    run_log_close(log);
    return 0;
}

static int remove_log(void **state)
{
    (void)state;
    return file_remove_tree(directory);
}

static void assert_answer(const struct example *example, uint64_t group, const char *completion)
{
    int32_t letters = (int32_t)strlen(completion);
    assert_int_equal(example->count, 2 + letters + 1);
    assert_int_equal(example->tokens[0], 0);
    assert_int_equal(example->tokens[1], log_letter((char)('A' + group % 26)));
    for (int32_t i = 0; i < letters; i++)
        assert_int_equal(example->tokens[2 + i], log_letter(completion[i]));
    assert_int_equal(example->tokens[2 + letters], 1);
    assert_int_equal(example_trained_tokens(example), letters + 1);
    assert_int_equal(example->mask[1], 0);
}

static void best_against_worst_newest_first(void **state)
{
    (void)state;
    struct pair_mining_options options = {.limits = {.max_length = 40}};
    struct preference_pairs pairs;
    preference_pairs_init(&pairs);
    assert_ok(pair_mining_read(&pairs, directory, &options));
    assert_int_equal(pairs.count, 4);
    assert_answer(&pairs.items[0].chosen, 303, "abcdefghijkl");
    assert_answer(&pairs.items[1].chosen, 300, "firsttop");
    assert_answer(&pairs.items[1].rejected, 300, "firstlow");
    assert_answer(&pairs.items[2].chosen, 20, "good");
    assert_answer(&pairs.items[2].rejected, 20, "bad");
    assert_answer(&pairs.items[3].chosen, 7, "top");
    assert_answer(&pairs.items[3].rejected, 7, "low");
    assert_int_equal(pairs.verdicts[PAIR_SMALL_MARGIN], 1);
    assert_int_equal(pairs.verdicts[PAIR_INCOMPLETE], 1);
    preference_pairs_release(&pairs);
}

/* Only chosen prompts: nothing of the others is counted as dropped. */
static void a_slice_of_prompts(void **state)
{
    (void)state;
    bool wanted[30] = {false};
    struct pair_mining_options options = {
        .limits = {.max_length = 40}, .wanted = wanted, .prompt_count = 30};
    struct preference_pairs pairs;
    wanted[20] = wanted[7] = true;
    preference_pairs_init(&pairs);
    assert_ok(pair_mining_read(&pairs, directory, &options));
    assert_int_equal(pairs.count, 2);
    assert_answer(&pairs.items[0].chosen, 20, "good");
    assert_answer(&pairs.items[1].chosen, 7, "top");
    assert_int_equal(preference_pairs_dropped(&pairs), 0);
    preference_pairs_release(&pairs);

    /* As many of the others, the newest; then with a limit for both. */
    options.anchor_share = 0.5f;
    preference_pairs_init(&pairs);
    assert_ok(pair_mining_read(&pairs, directory, &options));
    assert_int_equal(pairs.count, 4);
    assert_answer(&pairs.items[1].chosen, 7, "top");
    assert_answer(&pairs.items[2].chosen, 303, "abcdefghijkl");
    assert_answer(&pairs.items[3].chosen, 300, "firsttop");
    preference_pairs_release(&pairs);
    options.limits.pairs_max = 2;
    preference_pairs_init(&pairs);
    assert_ok(pair_mining_read(&pairs, directory, &options));
    assert_int_equal(pairs.count, 2);
    assert_answer(&pairs.items[0].chosen, 20, "good");
    assert_answer(&pairs.items[1].chosen, 303, "abcdefghijkl");
    preference_pairs_release(&pairs);
}

static void limits_apply(void **state)
{
    (void)state;
    struct pair_mining_options options = {.min_margin = 1.0f,
                                          .limits = {.max_length = 40, .max_length_ratio = 2.0f}};
    struct preference_pairs pairs;
    preference_pairs_init(&pairs);
    assert_ok(pair_mining_read(&pairs, directory, &options));
    assert_int_equal(pairs.count, 3); /* margins 1, 1.25, 1 */
    assert_int_equal(pairs.verdicts[PAIR_LENGTH_RATIO], 1);
    preference_pairs_release(&pairs);

    options.min_margin = 1.1f;
    preference_pairs_init(&pairs);
    assert_ok(pair_mining_read(&pairs, directory, &options));
    assert_int_equal(pairs.count, 1);
    assert_answer(&pairs.items[0].chosen, 20, "good");
    assert_int_equal(pairs.verdicts[PAIR_SMALL_MARGIN], 4);
    preference_pairs_release(&pairs);

    options = (struct pair_mining_options){.limits = {.max_length = 40, .pairs_max = 2}};
    preference_pairs_init(&pairs);
    assert_ok(pair_mining_read(&pairs, directory, &options));
    assert_int_equal(pairs.count, 2); /* of 303 and 300; 302 and 301 have none */
    assert_answer(&pairs.items[1].chosen, 300, "firsttop");
    assert_int_equal(pairs.verdicts[PAIR_OVER_MAX], 2);
    preference_pairs_release(&pairs);
}

/* The part of the fixture is the number of letters: the longest answer against the shortest. */
static void a_part_makes_the_pairs(void **state)
{
    (void)state;
    struct pair_mining_options options = {
        .min_margin = 1.0f, .part = "letters", .limits = {.max_length = 40}};
    struct preference_pairs pairs;
    preference_pairs_init(&pairs);
    assert_ok(pair_mining_read(&pairs, directory, &options));
    assert_true(pairs.count >= 2);
    for (int64_t i = 0; i < pairs.count; i++)
        assert_true(pairs.items[i].chosen.count > pairs.items[i].rejected.count);
    preference_pairs_release(&pairs);
    options.part = "nothing";
    preference_pairs_init(&pairs);
    assert_ok(pair_mining_read(&pairs, directory, &options));
    assert_int_equal(pairs.count, 0);
    preference_pairs_release(&pairs);
}

static void absent_log_is_named(void **state)
{
    (void)state;
    struct pair_mining_options options = {.limits = {.max_length = 8}};
    struct preference_pairs pairs;
    preference_pairs_init(&pairs);
    assert_true(pair_mining_read(&pairs, "/nowhere/rl/log", &options) < 0);
    assert_non_null(strstr(error_message(), "mining pairs"));
    preference_pairs_release(&pairs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(best_against_worst_newest_first),
        cmocka_unit_test(a_slice_of_prompts),
        cmocka_unit_test(limits_apply),
        cmocka_unit_test(a_part_makes_the_pairs),
        cmocka_unit_test(absent_log_is_named),
    };
    return cmocka_run_group_tests(tests, write_log, remove_log);
}
