#include "tasks/arithmetic.h"

#include <stdio.h>
#include <string.h>

#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/hash.h"
#include "infra/base/memory.h"
#include "infra/base/rng.h"
#include "tasks/hash_set.h"

static const char *const names[] = {"Tom", "Ana", "Ben", "Mia",  "Sam", "Eva",
                                    "Leo", "Zoe", "Max", "Lily", "Dan", "Ruth"};
static const char *const items[] = {"apples", "books", "coins", "stones", "cards", "pens",
                                    "shells", "cups",  "eggs",  "stamps", "nuts",  "keys"};

enum { NAME_COUNT = sizeof names / sizeof names[0], ITEM_COUNT = sizeof items / sizeof items[0] };

/* Draws of one problem, in the order they are asked for. */
struct draw {
    struct rng_key key;
    uint64_t next;
};

static int draw_between(struct draw *draw, int low, int high)
{
    return low + (int)rng_below(&draw->key, draw->next++, (uint64_t)(high - low + 1));
}

const char *arithmetic_capability_name(enum arithmetic_capability capability)
{
    static const char *const labels[] = {"add", "subtract", "multiply", "compare", "two_step"};
    HONE_ASSERT((unsigned)capability < ARITHMETIC_CAPABILITIES);
    return labels[capability];
}

/* Largest operand of sums at each difficulty. */
static int operand_max(int difficulty)
{
    static const int limits[] = {9, 49, 99};
    return limits[difficulty - 1];
}

static void make_add(struct draw *draw, struct arithmetic_problem *p)
{
    int limit = operand_max(p->difficulty);
    int a = draw_between(draw, 2, limit), b = draw_between(draw, 2, limit);
    const char *who = names[draw_between(draw, 0, NAME_COUNT - 1)];
    const char *what = items[draw_between(draw, 0, ITEM_COUNT - 1)];
    p->answer = a + b;
    snprintf(p->expression, sizeof p->expression, "%d+%d", a, b);
    switch (draw_between(draw, 0, 2)) {
    case 0:
        snprintf(p->prompt, sizeof p->prompt,
                 "Q: %s has %d %s and gets %d more. How many %s does %s have now?\nA:", who, a,
                 what, b, what, who);
        break;
    case 1:
        snprintf(p->prompt, sizeof p->prompt,
                 "Q: There are %d %s in a box. %s adds %d. How many %s are in the box?\nA:", a,
                 what, who, b, what);
        break;
    default:
        snprintf(p->prompt, sizeof p->prompt,
                 "Q: %s finds %d %s on Monday and %d on Friday. How many %s in all?\nA:", who, a,
                 what, b, what);
        break;
    }
    snprintf(p->solution, sizeof p->solution, " %d+%d=%d. #### %d", a, b, p->answer, p->answer);
    snprintf(p->statement, sizeof p->statement, "%s has %d %s and gets %d more. Now %s has %d %s.",
             who, a, what, b, who, p->answer, what);
}

static void make_subtract(struct draw *draw, struct arithmetic_problem *p)
{
    int limit = operand_max(p->difficulty);
    int b = draw_between(draw, 1, limit - 1), a = b + draw_between(draw, 1, limit);
    const char *who = names[draw_between(draw, 0, NAME_COUNT - 1)];
    const char *what = items[draw_between(draw, 0, ITEM_COUNT - 1)];
    p->answer = a - b;
    snprintf(p->expression, sizeof p->expression, "%d-%d", a, b);
    switch (draw_between(draw, 0, 2)) {
    case 0:
        snprintf(p->prompt, sizeof p->prompt,
                 "Q: %s has %d %s and gives away %d. How many %s are left?\nA:", who, a, what, b,
                 what);
        break;
    case 1:
        snprintf(p->prompt, sizeof p->prompt,
                 "Q: There are %d %s in a box. %s takes %d. How many %s are in the box?\nA:", a,
                 what, who, b, what);
        break;
    default:
        snprintf(p->prompt, sizeof p->prompt,
                 "Q: %s had %d %s and lost %d. How many %s does %s have now?\nA:", who, a, what, b,
                 what, who);
        break;
    }
    snprintf(p->solution, sizeof p->solution, " %d-%d=%d. #### %d", a, b, p->answer, p->answer);
    snprintf(p->statement, sizeof p->statement, "%s had %d %s and lost %d. %s has %d %s left.", who,
             a, what, b, who, p->answer, what);
}

static void make_multiply(struct draw *draw, struct arithmetic_problem *p)
{
    static const int limits[] = {5, 9, 12};
    int limit = limits[p->difficulty - 1];
    int a = draw_between(draw, 2, limit), b = draw_between(draw, 2, limit);
    const char *who = names[draw_between(draw, 0, NAME_COUNT - 1)];
    const char *what = items[draw_between(draw, 0, ITEM_COUNT - 1)];
    p->answer = a * b;
    snprintf(p->expression, sizeof p->expression, "%d*%d", a, b);
    if (draw_between(draw, 0, 1) == 0)
        snprintf(p->prompt, sizeof p->prompt,
                 "Q: %s has %d bags with %d %s each. How many %s in all?\nA:", who, a, b, what,
                 what);
    else
        snprintf(p->prompt, sizeof p->prompt,
                 "Q: There are %d rows of %d %s. How many %s does %s count?\nA:", a, b, what, what,
                 who);
    snprintf(p->solution, sizeof p->solution, " %d*%d=%d. #### %d", a, b, p->answer, p->answer);
    snprintf(p->statement, sizeof p->statement, "%s has %d bags with %d %s each, so %s has %d %s.",
             who, a, b, what, who, p->answer, what);
}

static void make_compare(struct draw *draw, struct arithmetic_problem *p)
{
    int limit = operand_max(p->difficulty);
    int b = draw_between(draw, 1, limit - 1), a = b + draw_between(draw, 1, limit);
    int first = draw_between(draw, 0, NAME_COUNT - 1);
    const char *who = names[first];
    const char *other = names[(first + draw_between(draw, 1, NAME_COUNT - 1)) % NAME_COUNT];
    const char *what = items[draw_between(draw, 0, ITEM_COUNT - 1)];
    p->answer = a - b;
    snprintf(p->expression, sizeof p->expression, "%d-%d", a, b);
    if (draw_between(draw, 0, 1) == 0)
        snprintf(p->prompt, sizeof p->prompt,
                 "Q: %s has %d %s. %s has %d %s. How many more does %s have?\nA:", who, a, what,
                 other, b, what, who);
    else
        snprintf(p->prompt, sizeof p->prompt,
                 "Q: %s has %d %s. %s has %d %s. How many fewer does %s have?\nA:", other, b, what,
                 who, a, what, other);
    snprintf(p->solution, sizeof p->solution, " %d-%d=%d. #### %d", a, b, p->answer, p->answer);
    snprintf(p->statement, sizeof p->statement,
             "%s has %d %s and %s has %d, so %s has %d more than %s.", who, a, what, other, b, who,
             p->answer, other);
}

static void make_two_step(struct draw *draw, struct arithmetic_problem *p)
{
    int limit = operand_max(p->difficulty);
    int a = draw_between(draw, 2, limit), b = draw_between(draw, 2, limit);
    int c = draw_between(draw, 1, a + b - 1 < limit ? a + b - 1 : limit);
    const char *who = names[draw_between(draw, 0, NAME_COUNT - 1)];
    const char *what = items[draw_between(draw, 0, ITEM_COUNT - 1)];
    int middle = a + b;
    p->answer = middle - c;
    snprintf(p->expression, sizeof p->expression, "%d+%d-%d", a, b, c);
    if (draw_between(draw, 0, 1) == 0)
        snprintf(p->prompt, sizeof p->prompt,
                 "Q: %s has %d %s, gets %d more and then loses %d. How many %s are left?\nA:", who,
                 a, what, b, c, what);
    else
        snprintf(p->prompt, sizeof p->prompt,
                 "Q: A box holds %d %s. %s adds %d and then takes %d. How many %s are in the "
                 "box?\nA:",
                 a, what, who, b, c, what);
    snprintf(p->solution, sizeof p->solution, " %d+%d=%d. %d-%d=%d. #### %d", a, b, middle, middle,
             c, p->answer, p->answer);
    snprintf(p->statement, sizeof p->statement,
             "%s has %d %s, gets %d more and then loses %d. %s had %d and has %d %s left.", who, a,
             what, b, c, who, middle, p->answer, what);
}

void arithmetic_make(uint64_t seed, const char *split, uint64_t index,
                     struct arithmetic_problem *problem)
{
    static void (*const makers[])(struct draw *, struct arithmetic_problem *) = {
        make_add, make_subtract, make_multiply, make_compare, make_two_step};
    struct draw draw = {
        .key = {.seed = seed, .purpose = RNG_DATA, .a = hash_u64(split, strlen(split)), .b = 0},
        .next = index * 16};
    memset(problem, 0, sizeof *problem);
    problem->capability =
        (enum arithmetic_capability)draw_between(&draw, 0, ARITHMETIC_CAPABILITIES - 1);
    problem->difficulty = draw_between(&draw, 1, ARITHMETIC_DIFFICULTIES);
    makers[problem->capability](&draw, problem);
}

static bool is_held_out(const char *what, size_t length)
{
    return hash_u64(what, length) % 8 == 0;
}

bool arithmetic_held_out(const struct arithmetic_problem *problem)
{
    const char *what =
        problem->capability == ARITHMETIC_MULTIPLY ? problem->prompt : problem->expression;
    return is_held_out(what, strlen(what));
}

/* Neither held out itself nor, by a step of its solution, the answer to a problem that is. */
static bool may_train(const struct arithmetic_problem *problem)
{
    if (arithmetic_held_out(problem))
        return false;
    if (problem->capability != ARITHMETIC_TWO_STEP)
        return true;
    const char *step = problem->solution + 1;
    for (const char *equals; (equals = strchr(step, '=')) != NULL; step = strchr(equals, ' ') + 1)
        if (is_held_out(step, (size_t)(equals - step)))
            return false;
    return true;
}

static void append_problem(struct text *out, const struct arithmetic_problem *p)
{
    text_append(out, "{\"prompt\": ");
    text_append_json_string(out, p->prompt, strlen(p->prompt));
    text_append(out, ", \"completion\": ");
    text_append_json_string(out, p->solution, strlen(p->solution));
    text_printf(out,
                ", \"answer\": \"%d\", \"capability\": \"%s\", \"difficulty\": %d, "
                "\"source\": \"hone/arithmetic\"}\n",
                p->answer, arithmetic_capability_name(p->capability), p->difficulty);
}

/* Shares of the kinds of raw text, in tenths. */
enum text_kind { TEXT_STORY, TEXT_STORY_EQUATION, TEXT_EQUATION, TEXT_QUESTION };
static const enum text_kind text_kinds[] = {
    TEXT_STORY,    TEXT_STORY,    TEXT_STORY_EQUATION, TEXT_STORY_EQUATION, TEXT_STORY_EQUATION,
    TEXT_EQUATION, TEXT_EQUATION, TEXT_EQUATION,       TEXT_EQUATION,       TEXT_QUESTION};

enum { TEXT_KIND_SHARES = sizeof text_kinds / sizeof text_kinds[0] };

/* Raw text about one problem: a story, a story with its equation, a bare equation, or a question
 * with a bare answer. The worked format with #### never occurs here; teaching it is the job of
 * supervised fine-tuning. */
static void append_text(struct text *out, const struct arithmetic_problem *p, enum text_kind kind)
{
    const char *equation = p->solution + 1;
    int equation_length = (int)(strstr(equation, " ####") - equation) - 1;
    struct text line;
    text_init(&line);
    switch (kind) {
    case TEXT_STORY:
        text_append(&line, p->statement);
        break;
    case TEXT_STORY_EQUATION:
        text_printf(&line, "%s So %.*s.", p->statement, equation_length, equation);
        break;
    case TEXT_EQUATION:
        text_append_bytes(&line, equation, (size_t)equation_length);
        break;
    case TEXT_QUESTION:
        text_printf(&line, "%s %d.", p->prompt, p->answer);
        break;
    }
    text_append(out, "{\"text\": ");
    text_append_json_string(out, line.data, line.length);
    text_append(out, "}\n");
    text_release(&line);
}

struct split_spec {
    const char *file, *stream;
    int64_t count;
    bool held_out, text;
};

/* A split asks for at most this many candidates per row before it is called too large for the task.
 */
enum { CANDIDATES_PER_ROW = 64 };

static int write_split(const char *directory, uint64_t seed, const struct split_spec *spec)
{
    char path[HONE_PATH_MAX];
    struct text out;
    struct hash_set seen = {0};
    text_init(&out);
    int64_t rows = 0;
    int rc = 0;
    for (uint64_t i = 0; rows < spec->count; ++i) {
        if (i >= (uint64_t)spec->count * CANDIDATES_PER_ROW + 1000) {
            rc = error_set(HONE_EINVAL,
                           "%s: only %lld distinct rows exist, %lld were asked for: ask for fewer",
                           spec->file, (long long)rows, (long long)spec->count);
            goto out;
        }
        struct arithmetic_problem problem;
        arithmetic_make(seed, spec->stream, i, &problem);
        if (spec->held_out ? !arithmetic_held_out(&problem) : !may_train(&problem))
            continue;
        if (spec->text) {
            struct rng_key key = {.seed = seed, .purpose = RNG_DATA, .a = i, .b = 1};
            append_text(&out, &problem, text_kinds[rng_below(&key, 0, TEXT_KIND_SHARES)]);
        } else {
            if (!hash_set_add(&seen, hash_u64(problem.prompt, strlen(problem.prompt))))
                continue;
            append_problem(&out, &problem);
        }
        rows++;
    }
    rc = file_write_atomic(path_join(path, sizeof path, directory, spec->file), out.data,
                           out.length);
out:
    text_release(&out);
    hash_set_release(&seen);
    return rc;
}

int arithmetic_write(const char *directory, uint64_t seed, const struct arithmetic_counts *counts)
{
    const struct split_spec splits[] = {{"text.jsonl", "text", counts->text, false, true},
                                        {"sft.jsonl", "sft", counts->sft, false, false},
                                        {"train.jsonl", "train", counts->train, false, false},
                                        {"test.jsonl", "test", counts->test, true, false}};
    int rc = file_make_directories(directory);
    for (size_t i = 0; i < sizeof splits / sizeof splits[0] && rc == 0; ++i)
        if (splits[i].count > 0)
            rc = write_split(directory, seed, &splits[i]);
    return rc;
}
