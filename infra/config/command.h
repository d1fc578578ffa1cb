/* The table of commands: dispatch, options, --help, man page and shell completion all come from it.
 */
#ifndef HONE_CONFIG_COMMAND_H
#define HONE_CONFIG_COMMAND_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* One "--name VALUE" (or "--name" when value is NULL). */
struct command_option {
    const char *name;  /* without dashes */
    const char *value; /* placeholder in help, e.g. "DIR"; NULL: a flag */
    const char *help;
    const char *default_text; /* shown in help and returned when not given; NULL: none */
    bool repeated;
};

#define COMMAND_VALUES_MAX 256

/* What was given on the command line; strings point into argv or the table. */
struct command_line {
    const struct command *command;
    const char *program; /* argv[0] */
    int positional_count;
    const char *positional[COMMAND_VALUES_MAX];
    int value_count;
    const char *value_names[COMMAND_VALUES_MAX];
    const char *values[COMMAND_VALUES_MAX];
};

struct command {
    const char *name;                     /* may have two words: "data make" */
    const char *arguments;                /* e.g. "RECIPE [key=value ...]"; "" when none */
    const char *summary;                  /* one line */
    const char *description;              /* paragraphs for --help and the man page; may be NULL */
    const struct command_option *options; /* ends with a NULL name; NULL: none */
    int positional_min, positional_max;   /* max -1: any number */
    int (*run)(const struct command_line *line); /* 0 or a negative error code */
};

/* Runs the command that argv names and returns the process exit status: 0, or error_exit_status of
 * the code with the message printed as "hone: message" on stderr. --help, -h, --version and `help
 * COMMAND` are handled here; an unknown command, option, or a wrong number of arguments is a usage
 * error (exit 2) that names the nearest valid one. table ends with a NULL name. */
int command_dispatch(const struct command *table, int argc, char **argv);

/* Last value given, else the option's default, else NULL. */
const char *command_value(const struct command_line *line, const char *option);
/* i-th value of a repeated option, NULL past the last. */
const char *command_value_at(const struct command_line *line, const char *option, int index);
bool command_flag(const struct command_line *line, const char *option);
/* An integer option in [min, max]; HONE_EINVAL otherwise. */
int command_int(const struct command_line *line, const char *option, int64_t min, int64_t max,
                int64_t *value);
int command_float(const struct command_line *line, const char *option, double min, double max,
                  double *value);

void command_man_page(const struct command *table, FILE *out);
/* shell: "bash", "zsh" or "fish". */
int command_completion(const struct command *table, const char *shell, FILE *out);

#endif
