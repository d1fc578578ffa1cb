#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "actors/token_sampler.h"

#define VOCAB 1013 /* several blocks of the sums, the last one short */

struct row {
    float logits[VOCAB];
    float probs[VOCAB];
    int32_t order[VOCAB];
};

static const struct rng_key draw_key = {.seed = 11, .purpose = RNG_SAMPLE, .a = 3, .b = 1};

/* Logits in steps of 1/4, so that there are many exact ties. */
static void fill_logits(struct row *row, uint64_t seed, int vocab)
{
    struct rng_key key = {.seed = seed, .purpose = RNG_SIM};
    for (int i = 0; i < vocab; i++)
        row->logits[i] = floorf(8.0f * rng_normal(&key, (uint64_t)i)) / 4.0f;
}

static int32_t draw_on(const struct backend_ops *ops, struct row *row,
                       const struct sampling *sampling, int64_t allowed, const struct rng_key *key,
                       uint64_t position, float *mass)
{
    struct token_sampler sampler = {ops, VOCAB, allowed, row->probs, row->order};
    struct token_choice choice;
    float logprob, temperature = sampling->temperature > 0.0f ? sampling->temperature : 1.0f;
    token_sample(&sampler, row->logits, sampling, key, position, &choice);
    float logits[VOCAB];
    memcpy(logits, row->logits, sizeof logits);
    if (sampling->keep_support) { /* of the distribution that the sampler says it drew from */
        const struct logit_support support = {.ids = row->order, .count = choice.kept};
        ops->cut_logits(NULL, 1, VOCAB, logits, VOCAB, &support);
    }
    ops->token_logprob(NULL, 1, VOCAB, logits, VOCAB, temperature, &choice.token, &logprob, NULL,
                       NULL);
    assert_true(isnan(logprob) == isnan(choice.logprob));
    if (!isnan(logprob))
        assert_memory_equal(&logprob, &choice.logprob, sizeof logprob);
    *mass = choice.log_mass;
    return choice.token;
}

static int32_t draw(struct row *row, const struct sampling *sampling, int64_t allowed,
                    uint64_t position, float *mass)
{
    return draw_on(backend_cpu(CPU_ISA_SCALAR), row, sampling, allowed, &draw_key, position, mass);
}

/* ---- the naive reference: sort everything, cut, add up ---- */

static const float *compared;

static int by_rank(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a;
    int32_t y = *(const int32_t *)b;
    if (compared[x] != compared[y])
        return compared[x] > compared[y] ? -1 : 1;
    return x < y ? -1 : 1;
}

/* kept[i] = probability of id i after the cuts (0 when cut); returns the kept mass. */
static double naive_support(const float *logits, const struct sampling *sampling, int allowed,
                            double *kept)
{
    double probability[VOCAB];
    int32_t order[VOCAB];
    double largest = (double)logits[0];
    double total = 0.0;
    for (int i = 1; i < VOCAB; i++)
        largest = fmax(largest, (double)logits[i]);
    for (int i = 0; i < VOCAB; i++) {
        probability[i] = exp(((double)logits[i] - largest) / (double)sampling->temperature);
        total += probability[i];
        kept[i] = 0.0;
        order[i] = i;
    }
    for (int i = 0; i < VOCAB; i++)
        probability[i] /= total;
    compared = logits;
    qsort(order, (size_t)allowed, sizeof order[0], by_rank);
    int count = sampling->top_k > 0 && sampling->top_k < allowed ? sampling->top_k : allowed;
    double available = 0.0;
    for (int i = 0; i < count; i++)
        available += probability[order[i]];
    double mass = 0.0;
    double before = 0.0;
    for (int i = 0; i < count; i++) {
        double p = probability[order[i]];
        bool in_nucleus =
            i == 0 || sampling->top_p >= 1.0f || before < (double)sampling->top_p * available;
        bool likely = i == 0 || p >= (double)sampling->min_p * probability[order[0]];
        before += p;
        if (in_nucleus && likely) {
            kept[order[i]] = p;
            mass += p;
        }
    }
    return mass;
}

/* ---- tests ---- */

static void test_greedy_takes_lowest_id_of_ties(void **state)
{
    (void)state;
    struct row row = {0};
    struct sampling sampling = {.temperature = 0.0f, .top_p = 1.0f};
    float mass = -1.0f;
    assert_int_equal(draw(&row, &sampling, VOCAB, 0, &mass), 0);
    row.logits[40] = 2.0f;
    row.logits[70] = 2.0f;
    row.logits[99] = 3.0f;
    assert_int_equal(draw(&row, &sampling, VOCAB, 0, &mass), 99);
    assert_int_equal(draw(&row, &sampling, 99, 0, &mass), 40);
    assert_true(mass == 0.0f);
}

static void test_support_and_mass_match_the_naive_reference(void **state)
{
    (void)state;
    struct row row;
    int cut_cases = 0;
    for (uint64_t trial = 0; trial < 160; trial++) {
        struct rng_key key = {.seed = trial, .purpose = RNG_DATA};
        fill_logits(&row, trial, VOCAB);
        struct sampling sampling = {.temperature = 0.5f + rng_uniform(&key, 0), .top_p = 1.0f};
        if (trial & 1)
            sampling.top_k = 1 + (int32_t)rng_below(&key, 1, VOCAB + 20);
        if (trial & 2)
            sampling.top_p = 0.05f + 0.9f * rng_uniform(&key, 2);
        if (trial & 4)
            sampling.min_p = 0.3f * rng_uniform(&key, 3);
        int allowed = trial & 8 ? 900 : VOCAB;
        double kept[VOCAB];
        double expected = naive_support(row.logits, &sampling, allowed, kept);
        for (uint64_t position = 0; position < 12; position++) {
            float mass;
            int32_t token = draw(&row, &sampling, allowed, position, &mass);
            assert_in_range(token, 0, allowed - 1);
            assert_true(kept[token] > 0.0);
            assert_true(fabs((double)mass - log(expected)) < 2e-6);
            cut_cases += mass < -0.01f;
        }
    }
    assert_true(cut_cases > 500); /* the trials do cut */
}

static void test_nothing_cut_has_mass_zero_exactly(void **state)
{
    (void)state;
    struct row row;
    for (uint64_t trial = 0; trial < 50; trial++) {
        fill_logits(&row, trial, VOCAB);
        struct sampling sampling = {.temperature = 1.0f, .top_p = 1.0f, .top_k = VOCAB};
        float mass = -1.0f;
        draw(&row, &sampling, VOCAB, trial, &mass);
        assert_true(mass == 0.0f);
    }
}

static void check_frequencies(const struct sampling *sampling)
{
    enum { DRAWS = 20000 };
    static int counts[VOCAB];
    struct row row;
    fill_logits(&row, 5, VOCAB);
    double kept[VOCAB];
    double mass = naive_support(row.logits, sampling, VOCAB, kept);
    memset(counts, 0, sizeof counts);
    for (uint64_t position = 0; position < DRAWS; position++) {
        float log_mass;
        counts[draw(&row, sampling, VOCAB, position, &log_mass)]++;
    }
    double chi_squared = 0.0;
    int categories = 0;
    for (int i = 0; i < VOCAB; i++) {
        double expected = DRAWS * kept[i] / mass;
        if (expected < 5.0)
            continue;
        chi_squared += (counts[i] - expected) * (counts[i] - expected) / expected;
        categories++;
    }
    assert_true(categories > 10);
    /* mean k - 1, standard deviation sqrt(2 (k - 1)): five of them above is one in a million */
    double freedom = categories - 1;
    assert_true(chi_squared < freedom + 5.0 * sqrt(2.0 * freedom));
}

static void test_frequencies_follow_the_probabilities(void **state)
{
    (void)state;
    check_frequencies(&(struct sampling){.temperature = 1.5f, .top_p = 0.9f});
    check_frequencies(&(struct sampling){.temperature = 1.5f, .top_p = 1.0f});
    check_frequencies(&(struct sampling){.temperature = 1.5f, .top_p = 0.9f, .keep_support = true});
}

/* The support is what the naive cut keeps, whose logprobs add up to one; the token is the same
 * whether it is kept or not (draw_on holds the logprob against the learner's). */
static void test_kept_support(void **state)
{
    (void)state;
    struct row row;
    double kept[VOCAB];
    int cut_cases = 0;
    for (uint64_t trial = 0; trial < 300; trial++) {
        fill_logits(&row, trial, VOCAB);
        struct sampling sampling = {.temperature = 0.5f + 0.01f * (float)(trial % 100),
                                    .top_p = trial % 3 == 0 ? 0.8f : 1.0f,
                                    .top_k = trial % 2 == 0 ? 40 : 0,
                                    .min_p = trial % 5 == 0 ? 0.02f : 0.0f};
        float mass;
        int32_t token = draw(&row, &sampling, VOCAB, trial, &mass);
        sampling.keep_support = true;
        assert_int_equal(draw(&row, &sampling, VOCAB, trial, &mass), token);
        struct token_sampler sampler = {backend_cpu(CPU_ISA_SCALAR), VOCAB, VOCAB, row.probs,
                                        row.order};
        struct token_choice choice;
        token_sample(&sampler, row.logits, &sampling, &draw_key, trial, &choice);
        double total = naive_support(row.logits, &sampling, VOCAB, kept);
        int64_t next = 0;
        for (int32_t id = 0; choice.kept > 0 && id < VOCAB; id++) {
            bool listed = next < choice.kept && row.order[next] == id;
            assert_int_equal(listed, kept[id] > 0.0);
            next += listed;
        }
        assert_int_equal(next, choice.kept);
        cut_cases += choice.kept > 0;
        if (choice.kept > 0)
            assert_true(fabs((double)choice.logprob - log(kept[choice.token] / total)) < 1e-5);
    }
    assert_true(cut_cases > 150);
}

static void test_draw_depends_on_key_and_position_alone(void **state)
{
    (void)state;
    struct row row;
    fill_logits(&row, 9, VOCAB);
    struct sampling sampling = {.temperature = 1.0f, .top_p = 0.95f, .top_k = 60};
    int differs = 0;
    for (uint64_t position = 0; position < 64; position++) {
        float mass;
        float again;
        int32_t token = draw(&row, &sampling, VOCAB, position, &mass);
        memset(row.probs, 0xff, sizeof row.probs);
        memset(row.order, 0xff, sizeof row.order);
        assert_int_equal(draw(&row, &sampling, VOCAB, position, &again), token);
        assert_memory_equal(&mass, &again, sizeof mass);
        struct rng_key other = draw_key;
        other.b++;
        differs += token != draw_on(backend_cpu(CPU_ISA_SCALAR), &row, &sampling, VOCAB, &other,
                                    position, &mass);
    }
    assert_true(differs > 16);
}

static void test_every_instruction_set_agrees(void **state)
{
    (void)state;
    struct row row;
    for (uint64_t trial = 0; trial < 60; trial++) {
        fill_logits(&row, 1000 + trial, VOCAB);
        struct sampling sampling = {.temperature = 0.8f, .top_p = 0.9f, .min_p = 0.01f};
        float expected_mass;
        int32_t expected = draw(&row, &sampling, VOCAB, trial, &expected_mass);
        for (int isa = 0; isa < CPU_ISA_COUNT; isa++) {
            if (!cpu_isa_available((enum cpu_isa)isa))
                continue;
            float mass;
            assert_int_equal(draw_on(backend_cpu((enum cpu_isa)isa), &row, &sampling, VOCAB,
                                     &draw_key, trial, &mass),
                             expected);
            assert_memory_equal(&mass, &expected_mass, sizeof mass);
        }
    }
}

static void test_extreme_logits(void **state)
{
    (void)state;
    struct row row;
    struct sampling sampling = {.temperature = 1.0f, .top_p = 0.999f};
    float mass;
    memset(&row, 0, sizeof row);
    for (int i = 0; i < VOCAB; i++)
        row.logits[i] = -1e30f;
    row.logits[17] = 1e30f;
    for (uint64_t position = 0; position < 100; position++)
        assert_int_equal(draw(&row, &sampling, VOCAB, position, &mass), 17);
    for (int i = 0; i < VOCAB; i++)
        row.logits[i] = NAN;
    assert_in_range(draw(&row, &sampling, VOCAB, 0, &mass), 0, VOCAB - 1);
}

int main(void)
{
    compute_thread_init();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy_takes_lowest_id_of_ties),
        cmocka_unit_test(test_support_and_mass_match_the_naive_reference),
        cmocka_unit_test(test_nothing_cut_has_mass_zero_exactly),
        cmocka_unit_test(test_frequencies_follow_the_probabilities),
        cmocka_unit_test(test_kept_support),
        cmocka_unit_test(test_draw_depends_on_key_and_position_alone),
        cmocka_unit_test(test_every_instruction_set_agrees),
        cmocka_unit_test(test_extreme_logits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
