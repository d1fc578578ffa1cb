/* Bare equations ("48/2=24") with the sizes, round numbers, decimals and mixed operations that word
 * problems lead to: raw text to pretrain a calculator on. Everything is a function of the seed. */
#ifndef HONE_TASKS_EQUATIONS_H
#define HONE_TASKS_EQUATIONS_H

#include <stdint.h>

#define EQUATION_MAX 96

struct equation {
    char expression[EQUATION_MAX]; /* "48/2" */
    char value[EQUATION_MAX];      /* "24": exact, at most two decimals */
};

/* Equation number `index`. */
void equation_make(uint64_t seed, uint64_t index, struct equation *equation);

/* Writes `count` rows {text: "48/2=24"} to output. Expressions that occur as prompts ("48/2=") in
 * the JSON-lines file `excluded` (NULL: none) are never written. *left_out counts them. */
int equations_write(const char *output, uint64_t seed, int64_t count, const char *excluded,
                    int64_t *left_out);

#endif
