/* The calculator notes of GSM8K ("<<48/2=24>>" inside an answer) as prompts of their own: real
 * arithmetic that a very small model can learn. */
#ifndef HONE_TASKS_CALCULATOR_H
#define HONE_TASKS_CALCULATOR_H

#include <stdint.h>

struct calculator_counts {
    int64_t notes;    /* found in the input */
    int64_t distinct; /* expressions written */
    int64_t excluded; /* distinct ones left out because they occur in the excluded file */
    int64_t invalid;  /* notes without "=" or with an empty side */
};

/* Reads GSM8K rows (JSON lines with "answer") from input and writes the distinct notes, in order,
 * as {prompt: "48/2=", completion: "24", answer: "24", capability, source} to output. Blanks inside
 * a note are dropped. excluded_input, when not NULL, is another GSM8K file whose expressions are
 * left out. capability is the kind of operation: "add", "subtract", "multiply", "divide" or
 * "mixed". */
int calculator_write(const char *input, const char *excluded_input, const char *output,
                     struct calculator_counts *counts);

#endif
