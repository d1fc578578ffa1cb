/* G6 and G7 over random cases: every table that this machine runs, or can emulate, in a random
 * arrangement, leaves the bits that the scalar table leaves in the plain arrangement; and kernels
 * that break the contract are found by the same comparison.
 * usage: test_exactness [CASES [SEED]] */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infra/base/memory.h"
#include "tests/exactness/exact_run.h"
#include "tests/exactness/exact_tables.h"

#define CASES_DEFAULT  1000
#define SEED_DEFAULT   1
#define THREADS_MAX    4
#define TABLES_MAX     8
#define PLAIN_EVERY    8  /* plain loops are slow: one case in so many runs on them */
#define SCALAR_EVERY   8  /* likewise the scalar table in a random arrangement */
#define BROKEN_CASES   24 /* a broken kernel must be found within so many cases */
#define ARRANGEMENT(n) ((uint64_t)(n) + 1)

struct subject {
    const struct backend_ops *ops;
    int threads_max; /* 1: an emulation that keeps its state in the program */
    uint64_t every;
};

static uint64_t case_count = CASES_DEFAULT, first_seed = SEED_DEFAULT;
static struct parallel *pools[THREADS_MAX + 1];
static struct backend_ops amx_emulated, plain_loops;
static struct subject subjects[TABLES_MAX];
static int subject_count;

static void add_subject(const struct backend_ops *ops, int threads_max, uint64_t every)
{
    subjects[subject_count++] = (struct subject){ops, threads_max, every};
}

/* Real instruction sets first, then emulations of those that the machine lacks. */
static void find_subjects(void)
{
    const struct backend_ops *best = backend_cpu(CPU_ISA_SCALAR);
    for (int isa = 0; isa < CPU_ISA_COUNT; isa++) {
        if (!cpu_isa_available((enum cpu_isa)isa))
            continue;
        best = backend_cpu((enum cpu_isa)isa);
        add_subject(best, THREADS_MAX, isa == CPU_ISA_SCALAR ? SCALAR_EVERY : 1);
    }
    if (!cpu_isa_available(CPU_ISA_AVX512) && cpu_isa_available(CPU_ISA_AVX2)) {
        const struct backend_ops *emulated = exact_table_avx512();
        if (emulated != NULL)
            add_subject(emulated, THREADS_MAX, 1);
        else
            print_message("no AVX-512 here, and no SIMDe to emulate it with\n");
    }
    if (!cpu_isa_available(CPU_ISA_AMX) && cpu_isa_available(CPU_ISA_AVX2)) {
        amx_emulated = exact_table_amx(best);
        add_subject(&amx_emulated, 1, 1);
    }
    plain_loops = exact_table_plain(best, EXACT_BY_THE_CONTRACT);
    add_subject(&plain_loops, THREADS_MAX, PLAIN_EVERY);
}

static struct exact_setup plain_setup(const struct backend_ops *ops)
{
    return (struct exact_setup){.ops = ops, .pool = pools[1], .plain = true};
}

static void fail_case(const struct exact_case *c, const struct subject *subject,
                      const struct exact_result *want, const struct exact_result *got, int64_t at)
{
    enum exact_part part;
    exact_difference(want, got, &part);
    fail_msg("case %llu of seed %llu (%s): %s gives other %s: word %lld is 0x%08x, not 0x%08x",
             (unsigned long long)c->index, (unsigned long long)c->seed, dtype_name(c->dtype),
             subject->ops->name, exact_part_name(part), (long long)at,
             at < got->count ? got->words[at] : 0, at < want->count ? want->words[at] : 0);
}

static void check_case(const struct exact_case *c, const struct exact_result *want,
                       struct exact_result *got, int64_t runs[TABLES_MAX])
{
    for (int i = 0; i < subject_count; i++) {
        const struct subject *subject = &subjects[i];
        uint64_t turn = c->index + (uint64_t)i;
        enum exact_part part;
        if (c->index % subject->every != 0)
            continue;
        struct exact_setup setup = {.ops = subject->ops,
                                    .pool = pools[1 + turn % (uint64_t)subject->threads_max],
                                    .arrangement = ARRANGEMENT(turn)};
        exact_run(c, &setup, got);
        int64_t at = exact_difference(want, got, &part);
        if (at >= 0)
            fail_case(c, subject, want, got, at);
        assert_int_equal(got->unequal_logprobs, 0);
        runs[i]++;
    }
}

static void test_same_bits(void **state)
{
    struct exact_result want = {0}, got = {0};
    int64_t runs[TABLES_MAX] = {0}, words = 0, sampled = 0;
    (void)state;
    for (uint64_t index = 0; index < case_count; index++) {
        struct exact_case c;
        struct exact_setup setup = plain_setup(backend_cpu(CPU_ISA_SCALAR));
        exact_case_init(&c, first_seed, index);
        exact_run(&c, &setup, &want);
        assert_int_equal(want.unequal_logprobs, 0);
        check_case(&c, &want, &got, runs);
        words += want.count;
        sampled += want.sampled_tokens;
        exact_case_release(&c);
    }
    print_message("seed %llu, %llu cases, %lld results, %lld sampled tokens; runs compared:",
                  (unsigned long long)first_seed, (unsigned long long)case_count, (long long)words,
                  (long long)sampled);
    for (int i = 0; i < subject_count; i++)
        print_message(" %s %lld", subjects[i].ops->name, (long long)runs[i]);
    print_message("\n");
    assert_true(words > 0 && sampled > 0);
    exact_result_release(&want);
    exact_result_release(&got);
}

static bool all_found(const bool found[EXACT_PART_COUNT])
{
    for (int part = 0; part < EXACT_PART_COUNT; part++)
        if (!found[part])
            return false;
    return true;
}

/* Which parts of the results differ between two tables in some of the first cases: goes on until
 * every part has differed. */
static void find_differences(const struct exact_setup *good, const struct exact_setup *broken,
                             uint64_t cases, bool found[EXACT_PART_COUNT],
                             int64_t *unequal_logprobs)
{
    struct exact_result want = {0}, got = {0};
    memset(found, 0, EXACT_PART_COUNT * sizeof *found);
    *unequal_logprobs = 0;
    for (uint64_t index = 0; index < cases && !all_found(found); index++) {
        struct exact_case c;
        exact_case_init(&c, first_seed, index);
        exact_run(&c, good, &want);
        exact_run(&c, broken, &got);
        for (int part = 0; part < EXACT_PART_COUNT; part++)
            found[part] |= exact_part_differs(&want, &got, (enum exact_part)part);
        *unequal_logprobs += got.unequal_logprobs;
        exact_case_release(&c);
    }
    exact_result_release(&want);
    exact_result_release(&got);
}

/* A kernel that is wrong in every arrangement differs from the good table everywhere. */
static void assert_found(enum exact_kernels kernels)
{
    const struct backend_ops *best = subjects[0].ops;
    bool found[EXACT_PART_COUNT];
    int64_t unequal;
    for (int isa = 0; isa < CPU_ISA_COUNT; isa++)
        if (cpu_isa_available((enum cpu_isa)isa))
            best = backend_cpu((enum cpu_isa)isa);
    struct backend_ops broken = exact_table_plain(best, kernels);
    struct exact_setup good_setup = plain_setup(best), broken_setup = plain_setup(&broken);
    find_differences(&good_setup, &broken_setup, BROKEN_CASES, found, &unequal);
    for (int part = 0; part < EXACT_PART_COUNT; part++)
        if (!found[part])
            fail_msg("%s: not found in %s", broken.name, exact_part_name((enum exact_part)part));
}

static void test_finds_split_k(void **state)
{
    (void)state;
    assert_found(EXACT_SPLIT_K);
}

static void test_finds_pair_order(void **state)
{
    (void)state;
    assert_found(EXACT_PAIR_ORDER);
}

static void test_finds_eight_lanes(void **state)
{
    (void)state;
    assert_found(EXACT_EIGHT_LANES);
}

static void test_finds_attention_in_one_pass(void **state)
{
    (void)state;
    assert_found(EXACT_ATTENTION_ONE_PASS);
}

/* A kernel whose order depends on the number of rows agrees with itself in the plain arrangement;
 * batches, chunks and the learner's packing give it away. */
static void test_finds_dependence_on_rows(void **state)
{
    struct backend_ops broken =
        exact_table_plain(backend_cpu(CPU_ISA_SCALAR), EXACT_SPLIT_K_FEW_ROWS);
    struct exact_setup plain = plain_setup(&broken);
    struct exact_setup arranged = {.ops = &broken, .pool = pools[1], .arrangement = 5};
    bool found[EXACT_PART_COUNT];
    int64_t unequal;
    (void)state;
    find_differences(&plain, &arranged, BROKEN_CASES, found, &unequal);
    assert_true(found[EXACT_LOGITS] && found[EXACT_LOGPROBS]);
    assert_true(unequal > 0);
    find_differences(&plain, &plain, 4, found, &unequal);
    for (int part = 0; part < EXACT_PART_COUNT; part++)
        assert_false(found[part]);
}

/* The cases reach what they are meant to: poisoned weights, both dtypes, shared prefixes, all ways
 * to end. */
static void test_cases_are_varied(void **state)
{
    int poisoned = 0, shared = 0, wide = 0, bf16_cases = 0, cut = 0, greedy = 0;
    (void)state;
    for (uint64_t index = 0; index < 200; index++) {
        struct exact_case c;
        exact_case_init(&c, first_seed, index);
        poisoned += c.poison_id >= 0;
        shared += c.shared > 1;
        wide += c.wide;
        bf16_cases += c.dtype == DTYPE_BF16;
        cut += c.sampling[0].top_k > 0 && c.sampling[0].top_p < 1.0f;
        greedy += c.sampling[0].temperature <= 0.0f;
        exact_case_release(&c);
    }
    assert_in_range(poisoned, 20, 80);
    assert_in_range(shared, 20, 180);
    assert_in_range(wide, 5, 40);
    assert_in_range(bf16_cases, 60, 140);
    assert_true(cut > 5 && greedy > 10);
}

static uint64_t number_argument(const char *text, uint64_t low)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || value < low) {
        fprintf(stderr, "usage: test_exactness [CASES [SEED]], not '%s'\n", text);
        exit(2);
    }
    return value;
}

int main(int argc, char **argv)
{
    if (argc > 1)
        case_count = number_argument(argv[1], 1);
    if (argc > 2)
        first_seed = number_argument(argv[2], 0);
    compute_thread_init();
    for (int threads = 1; threads <= THREADS_MAX; threads++)
        pools[threads] = parallel_create(threads);
    find_subjects();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases_are_varied),
        cmocka_unit_test(test_finds_split_k),
        cmocka_unit_test(test_finds_pair_order),
        cmocka_unit_test(test_finds_eight_lanes),
        cmocka_unit_test(test_finds_attention_in_one_pass),
        cmocka_unit_test(test_finds_dependence_on_rows),
        cmocka_unit_test(test_same_bits),
    };
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    for (int threads = 1; threads <= THREADS_MAX; threads++)
        parallel_destroy(pools[threads]);
    return rc;
}
