/* The functions behind main.c's table of commands. Each takes a parsed command line and returns 0
 * or a negative code with the message set; output for the user goes to stdout, everything else to
 * stderr. */
#ifndef HONE_COMMANDS_COMMANDS_H
#define HONE_COMMANDS_COMMANDS_H

#include "infra/config/command.h"

int command_run(const struct command_line *line); /* pipeline_commands.c */
int command_check(const struct command_line *line);
int command_sft(const struct command_line *line);
int command_rl(const struct command_line *line);
int command_dpo(const struct command_line *line);
int command_curriculum(const struct command_line *line);
int command_actor(const struct command_line *line);
int command_scorer(const struct command_line *line);
int command_learner(const struct command_line *line);

int command_eval(const struct command_line *line); /* measure/measure_commands.c */
int command_filter(const struct command_line *line);
int command_critique(const struct command_line *line);

int command_generate(const struct command_line *line); /* text_commands.c */
int command_tokenize(const struct command_line *line);
int command_logprobs(const struct command_line *line);

int command_data(const struct command_line *line); /* data_commands.c */

int command_inspect(const struct command_line *line); /* inspect_commands.c */
int command_audit(const struct command_line *line);
int command_replay(const struct command_line *line);

int command_bench(const struct command_line *line); /* bench/bench.c */

int command_doctor(const struct command_line *line); /* machine_commands.c */
int command_keys(const struct command_line *line);
int command_completion_script(const struct command_line *line);
int command_man(const struct command_line *line);

/* The table itself, in main.c; `man` and `completion` print it. */
extern const struct command hone_commands[];

#endif
