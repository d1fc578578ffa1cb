/* How hard a run's prompts are for its policy, and how they moved: from its log and its metrics. */
#ifndef HONE_COMMANDS_LOG_POOLS_REPORT_H
#define HONE_COMMANDS_LOG_POOLS_REPORT_H

#include <stdio.h>

#include "infra/config/recipe.h"
#include "infra/launch/run_directory.h"
#include "infra/store/run_log.h"

/* Prompts by capability and pool, the pools over the run, and the moves between them. HONE_ENOENT:
 * the run keeps no pools. model: whose tokenizer the prompts are read with. */
int pools_report_print(const struct run_directory *run, const struct recipe *recipe,
                       const char *model, struct run_log *log, FILE *out);
/* One prompt: its state, and every measurement of it with the fate of its group. */
int pools_report_prompt(struct run_log *log, int64_t prompt, FILE *out);

#endif
