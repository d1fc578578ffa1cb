#include "infra/config/command.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/text.h"

static const char *program_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static const struct command *find(const struct command *table, const char *name)
{
    for (const struct command *command = table; command->name; command++) {
        if (strcmp(command->name, name) == 0)
            return command;
    }
    return NULL;
}

/* The command that the words name, longest first; *used says how many words that took. */
static const struct command *find_words(const struct command *table, int count, char **words,
                                        int *used)
{
    const struct command *command = NULL;
    if (count >= 2) {
        struct text name;
        text_init(&name);
        text_printf(&name, "%s %s", words[0], words[1]);
        command = find(table, name.data);
        text_release(&name);
        *used = 2;
    }
    if (!command && count >= 1) {
        command = find(table, words[0]);
        *used = 1;
    }
    return command;
}

static const struct command_option *find_option(const struct command *command, const char *name,
                                                size_t length)
{
    const struct command_option *option = command->options;
    for (; option && option->name; option++) {
        if (strlen(option->name) == length && memcmp(option->name, name, length) == 0)
            return option;
    }
    return NULL;
}

static bool is_near(const char *given, const char *name, int *limit)
{
    if (strlen(given) > 64)
        return false;
    int distance = text_distance(given, name);
    if (distance > *limit)
        return false;
    *limit = distance - 1;
    return true;
}

static int unknown_command(const struct command *table, const char *given)
{
    const char *near = NULL;
    int limit = strlen(given) <= 4 ? 1 : 2;
    for (const struct command *command = table; command->name; command++) {
        if (is_near(given, command->name, &limit))
            near = command->name;
    }
    if (near)
        return error_set(HONE_EINVAL, "unknown command '%.80s' (did you mean '%s'?)", given, near);
    return error_set(HONE_EINVAL, "unknown command '%.80s'", given);
}

static int unknown_option(const struct command *command, const char *given, size_t length)
{
    char name[80];
    snprintf(name, sizeof name, "%.*s", (int)length, given);
    const char *near = NULL;
    int limit = length <= 4 ? 1 : 2;
    const struct command_option *option = command->options;
    for (; option && option->name; option++) {
        if (is_near(name, option->name, &limit))
            near = option->name;
    }
    if (near)
        return error_set(HONE_EINVAL, "unknown option '--%s' (did you mean '--%s'?)", name, near);
    return error_set(HONE_EINVAL, "unknown option '--%s'", name);
}

static void print_wrapped(FILE *out, const char *text, int indent, int width)
{
    int column = indent;
    fprintf(out, "%*s", indent, "");
    while (*text) {
        int length = (int)strcspn(text, " \n");
        if (column > indent && column + 1 + length > width) {
            fprintf(out, "\n%*s", indent, "");
            column = indent;
        } else if (column > indent) {
            fputc(' ', out);
            column++;
        }
        fprintf(out, "%.*s", length, text);
        column += length;
        text += length;
        if (*text == '\n') {
            fprintf(out, "\n%*s", indent, "");
            column = indent;
        }
        text += *text != '\0';
    }
    fputc('\n', out);
}

static void print_overview(const struct command *table, const char *program, FILE *out)
{
    int width = 0;
    for (const struct command *command = table; command->name; command++) {
        int length = (int)strlen(command->name);
        width = length > width ? length : width;
    }
    fprintf(out, "usage: %s COMMAND [arguments]\n\n", program);
    for (const struct command *command = table; command->name; command++)
        fprintf(out, "  %-*s  %s\n", width, command->name, command->summary);
    fprintf(out, "\n'%s COMMAND --help' explains one command; '%s --version' prints the version.\n",
            program, program);
}

static void print_option(FILE *out, const char *name, const char *value, const char *help,
                         const char *default_text)
{
    struct text left, right;
    text_init(&left);
    text_init(&right);
    text_printf(&left, "--%s%s%s", name, value ? " " : "", value ? value : "");
    text_append(&right, help);
    if (default_text && *default_text)
        text_printf(&right, " (default: %s)", default_text);
    fprintf(out, "  %-24s  %s\n", left.data, right.data);
    text_release(&left);
    text_release(&right);
}

static void print_help(const struct command *command, const char *program, FILE *out)
{
    bool has_options = command->options && command->options->name;
    fprintf(out, "usage: %s %s%s%s%s\n\n", program, command->name, has_options ? " [options]" : "",
            *command->arguments ? " " : "", command->arguments);
    fprintf(out, "%s\n", command->summary);
    if (command->description) {
        fputc('\n', out);
        print_wrapped(out, command->description, 0, 90);
    }
    fprintf(out, "\noptions:\n");
    const struct command_option *option = command->options;
    for (; option && option->name; option++)
        print_option(out, option->name, option->value, option->help, option->default_text);
    print_option(out, "help", NULL, "print this", NULL);
}

static int add_value(struct command_line *line, const char *name, const char *value)
{
    if (line->value_count == COMMAND_VALUES_MAX)
        return error_set(HONE_EINVAL, "more than %d options", COMMAND_VALUES_MAX);
    line->value_names[line->value_count] = name;
    line->values[line->value_count++] = value;
    return 0;
}

/* argv[*index] is "--name" or "--name=value"; takes the next argument when it is the value. */
static int take_option(struct command_line *line, int argc, char **argv, int *index)
{
    const char *name = argv[*index] + 2;
    size_t length = strcspn(name, "=");
    const char *value = name[length] == '=' ? name + length + 1 : NULL;
    const struct command_option *option = find_option(line->command, name, length);
    if (!option)
        return unknown_option(line->command, name, length);
    if (!option->value && value)
        return error_set(HONE_EINVAL, "--%s takes no value", option->name);
    if (option->value && !value) {
        if (*index + 1 >= argc || strncmp(argv[*index + 1], "--", 2) == 0)
            return error_set(HONE_EINVAL, "--%s needs a value (%s)", option->name, option->value);
        value = argv[++*index];
    }
    return add_value(line, option->name, value ? value : "");
}

static int take_positional(struct command_line *line, const char *argument)
{
    const struct command *command = line->command;
    if (command->positional_max >= 0 && line->positional_count == command->positional_max)
        return error_set(HONE_EINVAL, "unexpected argument '%.80s'", argument);
    if (line->positional_count == COMMAND_VALUES_MAX)
        return error_set(HONE_EINVAL, "more than %d arguments", COMMAND_VALUES_MAX);
    line->positional[line->positional_count++] = argument;
    return 0;
}

/* 1 when help was asked for. */
static int parse(struct command_line *line, int argc, char **argv)
{
    bool options_end = false;
    for (int i = 0; i < argc; i++) {
        const char *argument = argv[i];
        int rc;
        if (options_end || strncmp(argument, "-", 1) != 0) {
            rc = take_positional(line, argument);
        } else if (strcmp(argument, "--") == 0) {
            options_end = true;
            rc = 0;
        } else if (strcmp(argument, "--help") == 0 || strcmp(argument, "-h") == 0) {
            return 1;
        } else if (strncmp(argument, "--", 2) == 0) {
            rc = take_option(line, argc, argv, &i);
        } else if (argument[1] == '\0' || strchr("0123456789.", argument[1])) {
            rc = take_positional(line, argument); /* "-" and negative numbers */
        } else {
            rc = error_set(HONE_EINVAL, "unknown option '%.80s'", argument);
        }
        if (rc < 0)
            return rc;
    }
    if (line->positional_count < line->command->positional_min)
        return error_set(HONE_EINVAL, "%s needs %s", line->command->name, line->command->arguments);
    return 0;
}

/* A full disk or closed pipe behind stdout shows only when the buffer is written. */
static int flush_output(void)
{
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout))
        return 0;
    return errno ? error_errno("write standard output")
                 : error_set(HONE_EIO, "write standard output failed");
}

static int report(int code)
{
    fflush(stdout);
    fprintf(stderr, "hone: %s\n", error_message());
    return error_exit_status(code);
}

static int report_usage(const char *program, const char *command)
{
    int status = report(error_last());
    fprintf(stderr, "'%s %s%s--help' shows the usage.\n", program, command ? command : "",
            command ? " " : "");
    return status;
}

static int run_command(const struct command *command, const char *program, int argc, char **argv)
{
    struct command_line line = {.command = command, .program = program};
    int rc = parse(&line, argc, argv);
    if (rc < 0)
        return report_usage(program_name(program), command->name);
    if (rc > 0) {
        print_help(command, program_name(program), stdout);
        rc = flush_output();
        return rc < 0 ? report(rc) : 0;
    }
    rc = command->run(&line);
    if (rc >= 0) {
        int flushed = flush_output();
        rc = flushed < 0 ? flushed : 0;
    }
    return rc < 0 ? report(rc) : 0;
}

int command_dispatch(const struct command *table, int argc, char **argv)
{
    const char *program = argc > 0 ? argv[0] : "hone";
    int used = 0;
    if (argc < 2) {
        print_overview(table, program_name(program), stderr);
        return error_exit_status(HONE_EINVAL);
    }
    const char *first = argv[1];
    if (strcmp(first, "--version") == 0) {
        printf("hone %s\n", HONE_VERSION);
        return flush_output() < 0 ? report(error_last()) : 0;
    }
    bool is_help =
        strcmp(first, "help") == 0 || strcmp(first, "--help") == 0 || strcmp(first, "-h") == 0;
    if (is_help && argc == 2) {
        print_overview(table, program_name(program), stdout);
        return flush_output() < 0 ? report(error_last()) : 0;
    }
    const struct command *command =
        find_words(table, argc - 1 - is_help, argv + 1 + is_help, &used);
    if (!command) {
        unknown_command(table, argv[1 + is_help]);
        return report_usage(program_name(program), NULL);
    }
    if (is_help) {
        print_help(command, program_name(program), stdout);
        return flush_output() < 0 ? report(error_last()) : 0;
    }
    return run_command(command, program, argc - 1 - used, argv + 1 + used);
}

const char *command_value(const struct command_line *line, const char *option)
{
    const struct command_option *known = find_option(line->command, option, strlen(option));
    HONE_ASSERT(known != NULL && known->value != NULL);
    for (int i = line->value_count - 1; i >= 0; i--) {
        if (strcmp(line->value_names[i], option) == 0)
            return line->values[i];
    }
    return known->default_text;
}

const char *command_value_at(const struct command_line *line, const char *option, int index)
{
    for (int i = 0; i < line->value_count; i++) {
        if (strcmp(line->value_names[i], option) == 0 && index-- == 0)
            return line->values[i];
    }
    return NULL;
}

bool command_flag(const struct command_line *line, const char *option)
{
    return command_value_at(line, option, 0) != NULL;
}

int command_int(const struct command_line *line, const char *option, int64_t min, int64_t max,
                int64_t *value)
{
    const char *text = command_value(line, option);
    if (!text)
        return error_set(HONE_EINVAL, "--%s is needed", option);
    char *end;
    errno = 0;
    long long number = strtoll(text, &end, 10);
    if (end == text || *end != '\0' || errno != 0 || strchr(" \t\n", text[0]) || number < min ||
        number > max)
        return error_set(HONE_EINVAL, "--%s: expected an integer from %lld to %lld, got '%.60s'",
                         option, (long long)min, (long long)max, text);
    *value = number;
    return 0;
}

int command_float(const struct command_line *line, const char *option, double min, double max,
                  double *value)
{
    const char *text = command_value(line, option);
    if (!text)
        return error_set(HONE_EINVAL, "--%s is needed", option);
    char *end;
    double number = strtod(text, &end);
    /* Digits, sign, point and exponent only: strtod also takes hex, inf and nan. */
    if (end == text || *end != '\0' || strspn(text, "0123456789+-.eE") != strlen(text) ||
        !isfinite(number) || number < min || number > max)
        return error_set(HONE_EINVAL, "--%s: expected a number from %g to %g, got '%.60s'", option,
                         min, max, text);
    *value = number;
    return 0;
}
