#include "tasks/counting.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/hash.h"
#include "infra/base/rng.h"
#include "infra/base/text.h"

#define Z99      2.3263478740408408 /* 99th percentile of the standard normal */
#define HELD_OUT 10                 /* one prompt in so many */
#define TRIES    100000             /* until a prompt of a split is found */

static int32_t draw_length(const struct rng_key *key, const struct counting_lengths *lengths)
{
    double spread = log(lengths->p99 / lengths->median) / Z99;
    double length = round(lengths->median * exp(spread * (double)rng_normal(key, 0)));
    if (length > (double)lengths->longest)
        return lengths->longest;
    return length < 1.0 ? 1 : (int32_t)length;
}

void counting_name(int32_t index, char name[3])
{
    int length = 0;
    if (index >= 26)
        name[length++] = (char)('a' + index / 26 - 1);
    name[length++] = (char)('a' + index % 26);
    name[length] = '\0';
}

void counting_make(uint64_t seed, const char *stream, uint64_t index,
                   const struct counting_lengths *lengths, struct counting_problem *problem)
{
    struct rng_key key = {
        .seed = seed ^ hash_u64(stream, strlen(stream)), .purpose = RNG_DATA, .a = index, .b = 3};
    char first[3], last[3];
    problem->first = (int32_t)rng_below(&key, 1, COUNTING_FIRST_MAX);
    problem->last = problem->first + draw_length(&key, lengths) - 1;
    counting_name(problem->first, first);
    counting_name(problem->last, last);
    snprintf(problem->prompt, sizeof problem->prompt, "count %s to %s:", first, last);
}

bool counting_held_out(const struct counting_problem *problem)
{
    return hash_u64(problem->prompt, strlen(problem->prompt)) % HELD_OUT == 0;
}

static void append_row(struct text *out, const struct counting_problem *problem)
{
    struct text answer;
    text_init(&answer);
    for (int32_t column = problem->first; column <= problem->last; column++) {
        char name[3];
        counting_name(column, name);
        text_printf(&answer, " %s", name);
    }
    text_printf(out,
                "{\"prompt\": \"%s\", \"completion\": \"%s\", \"answer\": \"%s\", \"capability\": "
                "\"count\", \"source\": \"hone/counting\"}\n",
                problem->prompt, answer.data, answer.data + 1);
    text_release(&answer);
}

static int write_split(const char *directory, const char *stream, int64_t count, uint64_t seed,
                       const struct counting_lengths *lengths)
{
    char name[32], path[HONE_PATH_MAX];
    bool held_out = strcmp(stream, "test") == 0;
    struct text out;
    text_init(&out);
    int64_t rows = 0;
    uint64_t i = 0, found = 0; /* the index after the last row's */
    for (; rows < count && i - found < TRIES; i++) {
        struct counting_problem problem;
        counting_make(seed, stream, i, lengths, &problem);
        if (counting_held_out(&problem) != held_out)
            continue;
        append_row(&out, &problem);
        rows++;
        found = i + 1;
    }
    snprintf(name, sizeof name, "%s.jsonl", stream);
    int rc = rows < count
                 ? error_set(HONE_EINVAL,
                             "%s: no prompt of these lengths belongs to this split; let lengths "
                             "vary more",
                             name)
                 : file_write_atomic(path_join(path, sizeof path, directory, name), out.data,
                                     out.length);
    text_release(&out);
    return rc;
}

int counting_write(const char *directory, uint64_t seed, const struct counting_lengths *lengths,
                   const struct counting_counts *counts)
{
    const struct {
        const char *stream;
        int64_t count;
    } splits[] = {{"sft", counts->sft}, {"train", counts->train}, {"test", counts->test}};
    bool ordered = lengths->median >= 1.0 && lengths->p99 >= lengths->median &&
                   (double)lengths->longest >= lengths->median;
    if (!ordered || lengths->longest > COUNTING_LENGTH_MAX)
        return error_set(HONE_EINVAL,
                         "answers of median %g and 99th percentile %g columns, at most %d: 1 <= "
                         "median <= p99 and median <= longest <= %d is needed",
                         lengths->median, lengths->p99, lengths->longest, COUNTING_LENGTH_MAX);
    int rc = file_make_directories(directory);
    for (size_t i = 0; rc == 0 && i < sizeof splits / sizeof splits[0]; i++)
        if (splits[i].count > 0)
            rc = write_split(directory, splits[i].stream, splits[i].count, seed, lengths);
    return rc;
}
