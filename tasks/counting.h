/* Counting in the columns of a spreadsheet (a, b, ... z, aa, ab, ...), each of which a tokenizer
 * trained on it makes one token: "count g to k:" -> " g h i j k". How long an answer must be is in
 * its prompt, and the lengths follow a log-normal distribution of a given median and 99th
 * percentile: a real task with response lengths as long-tailed, or as uniform, as one wants.
 * Everything is a function of the seed. Where a prompt stands in a split is a function of the
 * prompt: one in ten is held out, and only those are in the test split. A split may hold a prompt
 * more than once. */
#ifndef HONE_TASKS_COUNTING_H
#define HONE_TASKS_COUNTING_H

#include <stdbool.h>
#include <stdint.h>

#define COUNTING_FIRST_MAX  26  /* the first column of a prompt is one of a .. z */
#define COUNTING_LENGTH_MAX 640 /* columns of one answer */

struct counting_lengths {
    double median, p99; /* columns of an answer; equal: every answer has that many */
    int32_t longest;    /* longer draws are cut to it */
};

struct counting_problem {
    int32_t first, last; /* 0 is a */
    char prompt[32];     /* "count g to k:" */
};

struct counting_counts {
    int64_t sft, train, test;
};

/* Column `index` (0: "a", 26: "aa") of at most 26 + 26 * 26. */
void counting_name(int32_t index, char name[3]);
/* Problem number `index` of a stream ("sft", "train", "test"). */
void counting_make(uint64_t seed, const char *stream, uint64_t index,
                   const struct counting_lengths *lengths, struct counting_problem *problem);
bool counting_held_out(const struct counting_problem *problem);

/* Writes directory/{sft,train,test}.jsonl, rows {prompt, completion, answer, capability, source}; a
 * count of 0 writes no file. HONE_EINVAL: lengths that are not 1 <= median <= p99, median <=
 * longest <= COUNTING_LENGTH_MAX. */
int counting_write(const char *directory, uint64_t seed, const struct counting_lengths *lengths,
                   const struct counting_counts *counts);

#endif
