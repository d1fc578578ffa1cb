/* How far gradients are from those of exact arithmetic: every tensor's, in the norm, against a
 * plain Llama in double precision with the same weights, written out here and used by nothing else.
 */
#include "tests/infra/model/model_fixture.h"

#include <math.h>

#include "infra/model/weights.h"

#define TOKENS 48
#define HIDDEN 32
#define HEADS  4
#define GROUP  2 /* heads of a KV head */
#define DIM    8
#define KV     (HEADS / GROUP * DIM)
#define WIDE   48
#define VOCAB  61
#define LAYERS 2

static struct model_config accuracy_config(void)
{
    return (struct model_config){.vocab_size = VOCAB,
                                 .hidden_size = HIDDEN,
                                 .layers = LAYERS,
                                 .heads = HEADS,
                                 .kv_heads = HEADS / GROUP,
                                 .head_dim = DIM,
                                 .intermediate_size = WIDE,
                                 .max_positions = 64,
                                 .rms_eps = 1e-5f,
                                 .rope_theta = 10000.0,
                                 .tied_head = false,
                                 .stored_dtype = DTYPE_F32};
}

/* One layer's weights, or their gradients: places in a flat vector. */
struct layer_view {
    double *input_norm, *q, *k, *v, *o, *post_norm, *gate, *up, *down;
};

struct layer_values {
    double in[TOKENS * HIDDEN], normed[TOKENS * HIDDEN];
    double q[TOKENS * HIDDEN], k[TOKENS * KV], v[TOKENS * KV];
    double p[HEADS * TOKENS * TOKENS], attended[TOKENS * HIDDEN];
    double middle[TOKENS * HIDDEN], post_normed[TOKENS * HIDDEN];
    double gate[TOKENS * WIDE], up[TOKENS * WIDE], gated[TOKENS * WIDE];
};

struct reference {
    int32_t tokens[TOKENS], targets[TOKENS];
    double weight[TOKENS]; /* of each row's logprob in the objective */
    struct layer_values layers[LAYERS];
    double out[TOKENS * HIDDEN], normed[TOKENS * HIDDEN], p[TOKENS * VOCAB];
};

static struct layer_view view_of(double *flat, int layer)
{
    double *at = flat + VOCAB * HIDDEN +
                 layer * (2 * HIDDEN + 2 * HIDDEN * HIDDEN + 2 * KV * HIDDEN + 3 * WIDE * HIDDEN);
    struct layer_view view = {.input_norm = at};
    view.q = view.input_norm + HIDDEN;
    view.k = view.q + HIDDEN * HIDDEN;
    view.v = view.k + KV * HIDDEN;
    view.o = view.v + KV * HIDDEN;
    view.post_norm = view.o + HIDDEN * HIDDEN;
    view.gate = view.post_norm + HIDDEN;
    view.up = view.gate + WIDE * HIDDEN;
    view.down = view.up + WIDE * HIDDEN;
    return view;
}

/* y += x W^T */
static void linear(const double *x, const double *w, int in, int out, double *y)
{
    for (int t = 0; t < TOKENS; t++)
        for (int o = 0; o < out; o++)
            for (int i = 0; i < in; i++)
                y[t * out + o] += x[t * in + i] * w[o * in + i];
}

/* dx += dy W, dW += dy^T x */
static void linear_back(const double *x, const double *w, int in, int out, const double *dy,
                        double *dx, double *dw)
{
    for (int t = 0; t < TOKENS; t++)
        for (int o = 0; o < out; o++)
            for (int i = 0; i < in; i++) {
                dx[t * in + i] += dy[t * out + o] * w[o * in + i];
                dw[o * in + i] += dy[t * out + o] * x[t * in + i];
            }
}

static double inverse_rms(const double *x)
{
    double squares = 0.0;
    for (int i = 0; i < HIDDEN; i++)
        squares += x[i] * x[i];
    return 1.0 / sqrt(squares / HIDDEN + (double)1e-5f);
}

static void norm(const double *x, const double *w, double *y)
{
    for (int t = 0; t < TOKENS; t++) {
        double r = inverse_rms(x + t * HIDDEN);
        for (int i = 0; i < HIDDEN; i++)
            y[t * HIDDEN + i] = x[t * HIDDEN + i] * r * w[i];
    }
}

static void norm_back(const double *x, const double *w, const double *dy, double *dx, double *dw)
{
    for (int t = 0; t < TOKENS; t++) {
        const double *row = x + t * HIDDEN, *d = dy + t * HIDDEN;
        double r = inverse_rms(row), dot = 0.0;
        for (int i = 0; i < HIDDEN; i++) {
            dot += d[i] * w[i] * row[i];
            dw[i] += d[i] * row[i] * r;
        }
        for (int i = 0; i < HIDDEN; i++)
            dx[t * HIDDEN + i] += r * d[i] * w[i] - row[i] * r * r * r * dot / HIDDEN;
    }
}

/* Rotates pairs (i, i + DIM / 2) of each head by sign times the position's angle. */
static void rotate(double *x, int heads, double sign)
{
    for (int t = 0; t < TOKENS; t++)
        for (int h = 0; h < heads; h++)
            for (int i = 0; i < DIM / 2; i++) {
                double *a = x + (t * heads + h) * DIM + i, *b = a + DIM / 2, first = *a;
                double angle = t * (double)(float)pow(10000.0, -2.0 * i / DIM);
                *a = first * cos(angle) - sign * *b * sin(angle);
                *b = sign * first * sin(angle) + *b * cos(angle);
            }
}

static void attend(struct layer_values *a)
{
    for (int h = 0; h < HEADS; h++)
        for (int t = 0; t < TOKENS; t++) {
            double *p = a->p + (h * TOKENS + t) * TOKENS, sum = 0.0;
            for (int j = 0; j <= t; j++) {
                double score = 0.0;
                for (int d = 0; d < DIM; d++)
                    score += a->q[t * HIDDEN + h * DIM + d] * a->k[j * KV + h / GROUP * DIM + d];
                p[j] = exp(score / sqrt((double)DIM));
                sum += p[j];
            }
            for (int j = 0; j <= t; j++) {
                p[j] /= sum;
                for (int d = 0; d < DIM; d++)
                    a->attended[t * HIDDEN + h * DIM + d] +=
                        p[j] * a->v[j * KV + h / GROUP * DIM + d];
            }
        }
}

static void attend_back(const struct layer_values *a, const double *d_out, double *dq, double *dk,
                        double *dv)
{
    for (int h = 0; h < HEADS; h++)
        for (int t = 0; t < TOKENS; t++) {
            const double *p = a->p + (h * TOKENS + t) * TOKENS, *d = d_out + t * HIDDEN + h * DIM;
            double dp[TOKENS] = {0}, mean = 0.0;
            for (int j = 0; j <= t; j++) {
                for (int i = 0; i < DIM; i++) {
                    dp[j] += d[i] * a->v[j * KV + h / GROUP * DIM + i];
                    dv[j * KV + h / GROUP * DIM + i] += p[j] * d[i];
                }
                mean += p[j] * dp[j];
            }
            for (int j = 0; j <= t; j++) {
                double ds = p[j] * (dp[j] - mean) / sqrt((double)DIM);
                for (int i = 0; i < DIM; i++) {
                    dq[t * HIDDEN + h * DIM + i] += ds * a->k[j * KV + h / GROUP * DIM + i];
                    dk[j * KV + h / GROUP * DIM + i] += ds * a->q[t * HIDDEN + h * DIM + i];
                }
            }
        }
}

static void layer_forward(struct layer_values *a, const struct layer_view *w, double *out)
{
    norm(a->in, w->input_norm, a->normed);
    linear(a->normed, w->q, HIDDEN, HIDDEN, a->q);
    linear(a->normed, w->k, HIDDEN, KV, a->k);
    linear(a->normed, w->v, HIDDEN, KV, a->v);
    rotate(a->q, HEADS, 1.0);
    rotate(a->k, HEADS / GROUP, 1.0);
    attend(a);
    memcpy(a->middle, a->in, sizeof a->middle);
    linear(a->attended, w->o, HIDDEN, HIDDEN, a->middle);
    norm(a->middle, w->post_norm, a->post_normed);
    linear(a->post_normed, w->gate, HIDDEN, WIDE, a->gate);
    linear(a->post_normed, w->up, HIDDEN, WIDE, a->up);
    for (int i = 0; i < TOKENS * WIDE; i++)
        a->gated[i] = a->gate[i] / (1.0 + exp(-a->gate[i])) * a->up[i];
    memcpy(out, a->middle, sizeof a->middle);
    linear(a->gated, w->down, WIDE, HIDDEN, out);
}

/* d: gradient of the layer's output, then of its input. */
static void layer_backward(const struct layer_values *a, const struct layer_view *w,
                           const struct layer_view *g, double *d)
{
    double d_gated[TOKENS * WIDE] = {0}, d_gate[TOKENS * WIDE], d_up[TOKENS * WIDE];
    double d_normed[TOKENS * HIDDEN] = {0}, d_attended[TOKENS * HIDDEN] = {0};
    double dq[TOKENS * HIDDEN] = {0}, dk[TOKENS * KV] = {0}, dv[TOKENS * KV] = {0};
    linear_back(a->gated, w->down, WIDE, HIDDEN, d, d_gated, g->down);
    for (int i = 0; i < TOKENS * WIDE; i++) {
        double s = 1.0 / (1.0 + exp(-a->gate[i]));
        d_gate[i] = d_gated[i] * a->up[i] * s * (1.0 + a->gate[i] * (1.0 - s));
        d_up[i] = d_gated[i] * a->gate[i] * s;
    }
    linear_back(a->post_normed, w->gate, HIDDEN, WIDE, d_gate, d_normed, g->gate);
    linear_back(a->post_normed, w->up, HIDDEN, WIDE, d_up, d_normed, g->up);
    norm_back(a->middle, w->post_norm, d_normed, d, g->post_norm);
    linear_back(a->attended, w->o, HIDDEN, HIDDEN, d, d_attended, g->o);
    attend_back(a, d_attended, dq, dk, dv);
    rotate(dq, HEADS, -1.0);
    rotate(dk, HEADS / GROUP, -1.0);
    memset(d_normed, 0, sizeof d_normed);
    linear_back(a->normed, w->q, HIDDEN, HIDDEN, dq, d_normed, g->q);
    linear_back(a->normed, w->k, HIDDEN, KV, dk, d_normed, g->k);
    linear_back(a->normed, w->v, HIDDEN, KV, dv, d_normed, g->v);
    norm_back(a->in, w->input_norm, d_normed, d, g->input_norm);
}

/* gradient += that of sum of weight[t] * log p(targets[t]), all in double. */
static void exact_gradient(struct reference *r, double *flat, double *gradient)
{
    double *head = flat + (view_of(flat, LAYERS).input_norm - flat) + HIDDEN;
    double *d_head = gradient + (head - flat), *final_norm = head - HIDDEN;
    double d_logits[TOKENS * VOCAB], d_normed[TOKENS * HIDDEN] = {0}, d[TOKENS * HIDDEN] = {0};
    for (int t = 0; t < TOKENS; t++)
        memcpy(r->layers[0].in + t * HIDDEN, flat + r->tokens[t] * HIDDEN, HIDDEN * sizeof *flat);
    for (int l = 0; l < LAYERS; l++) {
        struct layer_view view = view_of(flat, l);
        layer_forward(&r->layers[l], &view, l + 1 < LAYERS ? r->layers[l + 1].in : r->out);
    }
    norm(r->out, final_norm, r->normed);
    linear(r->normed, head, HIDDEN, VOCAB, r->p);
    for (int t = 0; t < TOKENS; t++) {
        double *p = r->p + t * VOCAB, sum = 0.0;
        for (int v = 0; v < VOCAB; v++)
            sum += p[v] = exp(p[v]);
        for (int v = 0; v < VOCAB; v++)
            d_logits[t * VOCAB + v] = r->weight[t] * ((v == r->targets[t]) - p[v] / sum);
    }
    linear_back(r->normed, head, HIDDEN, VOCAB, d_logits, d_normed, d_head);
    norm_back(r->out, final_norm, d_normed, d, gradient + (final_norm - flat));
    for (int l = LAYERS - 1; l >= 0; l--) {
        struct layer_view view = view_of(flat, l), into = view_of(gradient, l);
        layer_backward(&r->layers[l], &view, &into, d);
    }
    for (int t = 0; t < TOKENS; t++)
        for (int i = 0; i < HIDDEN; i++)
            gradient[r->tokens[t] * HIDDEN + i] += d[t * HIDDEN + i];
}

static void engine_gradient(const struct reference *r, const float *flat, enum dtype dtype,
                            float *gradient)
{
    struct model_config config = accuracy_config();
    int32_t positions[TOKENS], sequence[TOKENS] = {0}, rows[TOKENS];
    float d_logprob[TOKENS];
    struct kv_sequence kv;
    struct engine engine;
    engine_open(&engine, &config, flat, dtype, CPU_ISA_SCALAR, 1, TOKENS, ACTIVATIONS_ALL);
    kv_sequence_init(&kv, TOKENS);
    assert_true(kv_sequence_reserve(engine.cache, &kv, TOKENS, 0));
    for (int t = 0; t < TOKENS; t++) {
        positions[t] = rows[t] = t;
        d_logprob[t] = (float)r->weight[t];
    }
    struct kv_sequence *const sequences[] = {&kv};
    transformer_forward(engine.transformer, &(struct forward_rows){.count = TOKENS,
                                                                   .tokens = r->tokens,
                                                                   .positions = positions,
                                                                   .sequence = sequence,
                                                                   .sequences = sequences});
    const struct head_targets targets = {
        .count = TOKENS, .rows = rows, .targets = r->targets, .temperature = 1.0f};
    transformer_backward(engine.transformer, &targets, d_logprob, NULL, NULL, gradient);
    kv_sequence_release(engine.cache, &kv);
    engine_close(&engine);
}

static void check_accuracy(enum dtype dtype, double limit)
{
    struct model_config config = accuracy_config();
    const struct rng_key key = {.seed = 12};
    int64_t count = model_config_parameter_count(&config);
    struct reference *r = MEMORY_NEW(struct reference);
    float *flat = MEMORY_ARRAY(float, count), *gradient = MEMORY_ARRAY(float, count);
    double *exact = MEMORY_ARRAY(double, count), *wide = MEMORY_ARRAY(double, count), worst = 0.0;
    int32_t tensors;
    model_init_flat(&config, 33, flat);
    for (int64_t i = 0; i < count; i++) { /* weights that both can hold */
        flat[i] =
            flat[i] == 1.0f ? 1.0f + 0.2f * rng_normal(&key, (uint64_t)i + 1000) : flat[i] * 4.0f;
        flat[i] = dtype == DTYPE_BF16 ? bf16_to_f32(bf16_from_f32(flat[i])) : flat[i];
        wide[i] = (double)flat[i];
    }
    for (int t = 0; t < TOKENS; t++) {
        r->tokens[t] = (int32_t)rng_below(&key, (uint64_t)t, VOCAB);
        r->targets[t] = (int32_t)rng_below(&key, (uint64_t)t + 100, VOCAB);
        r->weight[t] = (double)rng_normal(&key, (uint64_t)t + 200);
    }
    exact_gradient(r, wide, exact);
    engine_gradient(r, flat, dtype, gradient);
    struct model_tensor *table = model_tensors_create(&config, &tensors);
    for (int32_t i = 0; i < tensors; i++) {
        double error = 0.0, squares = 0.0;
        for (int64_t j = table[i].offset; j < table[i].offset + table[i].count; j++) {
            error += ((double)gradient[j] - exact[j]) * ((double)gradient[j] - exact[j]);
            squares += exact[j] * exact[j];
        }
        double relative = sqrt(error / squares);
        if (!(relative <= limit))
            fail_msg("%s: %.3g from the exact gradient", table[i].name, relative);
        worst = fmax(worst, relative);
    }
    print_message("%s: worst tensor %.2g\n", dtype_name(dtype), worst);
    memory_free(table);
    memory_free(flat);
    memory_free(gradient);
    memory_free(exact);
    memory_free(wide);
    memory_free(r);
}

static void fp32_gradients(void **state)
{
    (void)state;
    check_accuracy(DTYPE_F32, 1e-5);
}

static void bf16_gradients(void **state)
{
    (void)state;
    check_accuracy(DTYPE_BF16, 1e-2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fp32_gradients),
        cmocka_unit_test(bf16_gradients),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
