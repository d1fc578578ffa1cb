/* Procedural, verifiable arithmetic: word problems with a worked solution, in several capabilities
 * and difficulties, and raw text of the same world to pretrain a base model on. Everything is a
 * function of the seed.
 *
 *  K1  No expression of a held-out problem (its operands and operations) occurs in any training
 * split or in the raw text, multiplication aside: its table is small, so there the held-out
 * problem's wording is new and its expression may not be. The steps of a two-step solution count as
 * expressions. K2  A worked solution ends with "#### N", N the answer, as GSM8K's does. */
#ifndef HONE_TASKS_ARITHMETIC_H
#define HONE_TASKS_ARITHMETIC_H

#include <stdbool.h>
#include <stdint.h>

#include "infra/base/text.h"

enum arithmetic_capability {
    ARITHMETIC_ADD,
    ARITHMETIC_SUBTRACT,
    ARITHMETIC_MULTIPLY,
    ARITHMETIC_COMPARE,
    ARITHMETIC_TWO_STEP,
    ARITHMETIC_CAPABILITIES
};

#define ARITHMETIC_DIFFICULTIES 3

struct arithmetic_problem {
    enum arithmetic_capability capability;
    int difficulty;      /* 1 .. ARITHMETIC_DIFFICULTIES */
    char prompt[256];    /* "Q: ...\nA:" */
    char solution[128];  /* " 14+27=41. #### 41" */
    char statement[320]; /* the same facts told as a story, with the result */
    char expression[64]; /* "14+27": what K1 is about */
    int answer;
};

const char *arithmetic_capability_name(enum arithmetic_capability capability);

/* Problem number `index` of the stream `split` ("train", "test", ...). */
void arithmetic_make(uint64_t seed, const char *split, uint64_t index,
                     struct arithmetic_problem *problem);
/* Whether the problem belongs to the held-out side. */
bool arithmetic_held_out(const struct arithmetic_problem *problem);

struct arithmetic_counts {
    int64_t text, sft, train, test; /* rows of each file; 0 = do not write it */
};

/* Writes text.jsonl {text}, sft.jsonl and train.jsonl and test.jsonl {prompt, completion, answer,
 * capability, difficulty, source} into directory. Rows of one file are distinct. */
int arithmetic_write(const char *directory, uint64_t seed, const struct arithmetic_counts *counts);

#endif
