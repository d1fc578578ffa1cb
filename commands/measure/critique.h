/* Self-critique: a judge is asked of each SFT row how hard it is, some votes for each. */
#ifndef HONE_COMMANDS_MEASURE_CRITIQUE_H
#define HONE_COMMANDS_MEASURE_CRITIQUE_H

#include "infra/base/text.h"
#include "infra/config/recipe.h"

/* Writes the votes (sft/votes.h) on every row of sft.data; nothing when the file has them already.
 * A row whose question is too long for the judge has no votes. base: judges when the recipe names
 * nobody. */
int critique_rows(const struct recipe *recipe, const char *base, const char *path, int threads);
/* The question with {prompt} and {completion} replaced; any other brace stays. Replaces out. */
void critique_question(const char *question, const char *prompt, const char *completion,
                       struct text *out);

#endif
