#include "tests/infra/train/train_fixture.h"

#include "infra/compute/compute.h"
#include "sft/nll_loss.h"

/* Two sequences: 2 trained tokens and 1. */
struct streams {
    struct train_batch batch;
    struct train_sequence sequences[2];
    int32_t tokens[4];
    uint8_t mask[2][4];
    float logprob[2][4], d_logprob[2][4];
};

static void streams_open(struct streams *f)
{
    memset(f, 0, sizeof *f);
    f->mask[0][2] = f->mask[0][3] = f->mask[1][1] = 1;
    f->mask[0][0] = 1; /* never counts */
    for (int s = 0; s < 2; s++)
        f->sequences[s] = (struct train_sequence){
            .tokens = f->tokens, .count = 4 - 2 * s, .loss_mask = f->mask[s], .unit = s};
    f->batch = (struct train_batch){.sequences = f->sequences, .count = 2, .temperature = 1.0f};
}

static double run(struct streams *f, struct nll_loss *loss, int32_t first, int32_t count)
{
    const float *logprob[] = {f->logprob[first], f->logprob[1]};
    float *d_logprob[] = {f->d_logprob[first], f->d_logprob[1]};
    struct loss_streams streams = {
        .first = first, .count = count, .logprob = logprob, .d_logprob = d_logprob};
    double total = 0.0;
    assert_ok(nll_loss_function(loss, &f->batch, &streams, &total));
    return total;
}

static void mean_over_the_whole_batch(void **state)
{
    (void)state;
    struct streams f;
    struct nll_loss loss;

    streams_open(&f);
    f.logprob[0][2] = -1.0f;
    f.logprob[0][3] = -2.0f;
    f.logprob[1][1] = -6.0f;
    nll_loss_begin(&loss, &f.batch);
    assert_int_equal(loss.total_tokens, 3);
    assert_true(fabs(run(&f, &loss, 0, 2) - 3.0) < 1e-12);
    assert_true(fabs(loss.probability_sum - (exp(-1.0) + exp(-2.0) + exp(-6.0))) < 1e-12);
    static const float expected[2][4] = {{0, 0, -1.0f / 3, -1.0f / 3}, {0, -1.0f / 3, 0, 0}};
    for (int s = 0; s < 2; s++)
        for (int i = 0; i < 4; i++)
            assert_true(fabsf(f.d_logprob[s][i] - expected[s][i]) < 1e-7f);
    /* Micro-batches of one add up (T2). */
    nll_loss_begin(&loss, &f.batch);
    assert_true(fabs(run(&f, &loss, 0, 1) - 1.0) < 1e-12);
    assert_true(fabs(run(&f, &loss, 1, 1) - 2.0) < 1e-12);
}

static void nothing_trained_is_zero(void **state)
{
    (void)state;
    struct streams f;
    struct nll_loss loss;

    streams_open(&f);
    memset(f.mask, 0, sizeof f.mask);
    nll_loss_begin(&loss, &f.batch);
    assert_int_equal(loss.total_tokens, 0);
    assert_true(run(&f, &loss, 0, 2) == 0.0);
}

/* Published: row t of the logits has 999 at index t, ids 0 1 2 3, the last two trained: every
 * trained token is wrong by 999. */
static void confident_and_wrong(void **state)
{
    (void)state;
    enum { VOCAB = 8 };
    float logits[2][VOCAB] = {{0}};
    int32_t targets[2] = {2, 3};
    float logprob[2];
    struct compute compute;
    struct streams f;
    struct nll_loss loss;

    logits[0][1] = logits[1][2] = 999.0f;
    assert_ok(compute_open(&compute, 1));
    compute.ops->token_logprob(compute.pool, 2, VOCAB, logits[0], VOCAB, 1.0f, targets, logprob,
                               NULL, NULL);
    compute_close(&compute);
    streams_open(&f);
    f.mask[1][1] = 0;
    f.logprob[0][2] = logprob[0];
    f.logprob[0][3] = logprob[1];
    nll_loss_begin(&loss, &f.batch);
    assert_true(fabs(run(&f, &loss, 0, 2) - 999.0) < 1e-6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mean_over_the_whole_batch),
        cmocka_unit_test(nothing_trained_is_zero),
        cmocka_unit_test(confident_and_wrong),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
