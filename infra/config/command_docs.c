#include "infra/config/command.h"

#include <string.h>

#include "infra/base/error.h"

/* roff: a leading dot or quote is a request, a backslash an escape, and a bare dash a hyphen. */
static void print_roff(FILE *out, const char *text)
{
    if (*text == '.' || *text == '\'')
        fputs("\\&", out);
    for (; *text; text++) {
        if (*text == '\\')
            fputs("\\e", out);
        else if (*text == '-')
            fputs("\\-", out);
        else
            fputc(*text, out);
        if (*text == '\n' && (text[1] == '.' || text[1] == '\''))
            fputs("\\&", out);
    }
}

static void print_man_option(const struct command_option *option, FILE *out)
{
    fputs(".TP\n\\fB\\-\\-", out);
    print_roff(out, option->name);
    fputs("\\fR", out);
    if (option->value) {
        fputs(" \\fI", out);
        print_roff(out, option->value);
        fputs("\\fR", out);
    }
    fputc('\n', out);
    print_roff(out, option->help);
    if (option->default_text && *option->default_text) {
        fputs(" (default: ", out);
        print_roff(out, option->default_text);
        fputc(')', out);
    }
    fputc('\n', out);
}

void command_man_page(const struct command *table, FILE *out)
{
    fprintf(out, ".TH HONE 1 \"\" \"hone %s\" \"User Commands\"\n", HONE_VERSION);
    fputs(".SH NAME\nhone \\- post\\-trains language models: SFT, online RL, DPO\n"
          ".SH SYNOPSIS\n\\fBhone\\fR \\fICOMMAND\\fR [\\fIarguments\\fR]\n.SH COMMANDS\n",
          out);
    for (const struct command *command = table; command->name; command++) {
        fputs(".SS \"hone ", out);
        print_roff(out, command->name);
        fputs(*command->arguments ? " " : "", out);
        print_roff(out, command->arguments);
        fputs("\"\n", out);
        print_roff(out, command->summary);
        fputs(".\n", out);
        if (command->description) {
            fputs(".PP\n", out);
            print_roff(out, command->description);
            fputc('\n', out);
        }
        const struct command_option *option = command->options;
        for (; option && option->name; option++)
            print_man_option(option, out);
    }
    fputs(".SH EXIT STATUS\n"
          "0 success; 1 a failure of its own; 2 bad usage or recipe; 3 bad, missing or unsupported "
          "input; 4 disk; 5 peer or deadline; 6 memory; 7 busy; 130 interrupted.\n"
          ".SH ENVIRONMENT\n.TP\n\\fBHONE_LOG\\fR\ndebug, info, warn or error: least severe line "
          "logged.\n.TP\n\\fBHONE_ISA\\fR\nscalar, avx2, avx512 or amx: instruction set of compute."
          "\n.TP\n\\fBNO_COLOR\\fR\nwhen set, output has no colour.\n",
          out);
}

/* "a|b|c" is a choice of words; anything else is a placeholder. */
static bool is_choice(const char *text)
{
    return text && strchr(text, '|') && !strpbrk(text, " []<>");
}

static void print_words(FILE *out, const char *choice)
{
    for (; *choice; choice++)
        fputc(*choice == '|' ? ' ' : *choice, out);
}

static void print_first_words(const struct command *table, FILE *out)
{
    for (const struct command *command = table; command->name; command++)
        fprintf(out, "%s%s", command == table ? "" : " ", command->name);
}

static void print_bash_values(const struct command *table, FILE *out)
{
    fputs("    case \"$command $previous\" in\n", out);
    for (const struct command *command = table; command->name; command++) {
        const struct command_option *option = command->options;
        for (; option && option->name; option++) {
            if (!option->value)
                continue;
            fprintf(out, "    '%s --%s')\n        ", command->name, option->name);
            if (is_choice(option->value)) {
                fputs("COMPREPLY=($(compgen -W '", out);
                print_words(out, option->value);
                fputs("' -- \"$word\"))", out);
            } else {
                fputs("COMPREPLY=($(compgen -f -- \"$word\"))", out);
            }
            fputs("\n        return ;;\n", out);
        }
    }
    fputs("    esac\n", out);
}

static void completion_bash(const struct command *table, FILE *out)
{
    fputs("# bash completion for hone\n_hone()\n{\n"
          "    local word=\"${COMP_WORDS[COMP_CWORD]}\" command=\"${COMP_WORDS[1]}\"\n"
          "    local previous=\"${COMP_WORDS[COMP_CWORD-1]}\" words=''\n"
          "    if [ \"$COMP_CWORD\" -eq 1 ]; then\n        COMPREPLY=($(compgen -W '",
          out);
    print_first_words(table, out);
    fputs(" help' -- \"$word\"))\n        return\n    fi\n", out);
    print_bash_values(table, out);
    fputs("    case \"$command\" in\n", out);
    for (const struct command *command = table; command->name; command++) {
        fprintf(out, "    '%s') words='--help", command->name);
        const struct command_option *option = command->options;
        for (; option && option->name; option++)
            fprintf(out, " --%s", option->name);
        if (is_choice(command->arguments)) {
            fputc(' ', out);
            print_words(out, command->arguments);
        }
        fputs("' ;;\n", out);
    }
    fputs("    esac\n"
          "    COMPREPLY=($(compgen -W \"$words\" -- \"$word\"))\n"
          "    case \"$word\" in -*) ;; *) COMPREPLY+=($(compgen -f -- \"$word\")) ;; esac\n"
          "}\ncomplete -o filenames -F _hone hone\n",
          out);
}

/* Inside single quotes; `also` is doubled up with a backslash for the shell's own syntax. */
static void print_quoted(FILE *out, const char *text, const char *also)
{
    for (; *text; text++) {
        if (*text == '\'')
            fputs("'\\''", out);
        else if (strchr(also, *text))
            fprintf(out, "\\%c", *text);
        else
            fputc(*text, out);
    }
}

static void print_zsh_option(const struct command_option *option, FILE *out)
{
    fprintf(out, " \\\n            '%s--%s[", option->repeated ? "*" : "", option->name);
    print_quoted(out, option->help, "[]:\\");
    fputc(']', out);
    if (is_choice(option->value)) {
        fputs(":value:(", out);
        print_words(out, option->value);
        fputc(')', out);
    } else if (option->value) {
        fputs(":", out);
        print_quoted(out, option->value, "[]:\\");
        fputs(":_files", out);
    }
    fputc('\'', out);
}

static void completion_zsh(const struct command *table, FILE *out)
{
    fputs("#compdef hone\n_hone()\n{\n    local -a commands\n    commands=(\n", out);
    for (const struct command *command = table; command->name; command++) {
        fprintf(out, "        '%s:", command->name);
        print_quoted(out, command->summary, ":\\");
        fputs("'\n", out);
    }
    fputs("    )\n    if (( CURRENT == 2 )); then\n        _describe command commands\n"
          "        return\n    fi\n    local command=\"$words[2]\"\n    shift words\n"
          "    (( CURRENT-- ))\n    case \"$command\" in\n",
          out);
    for (const struct command *command = table; command->name; command++) {
        fprintf(out, "    '%s')\n        _arguments '--help[print help]'", command->name);
        const struct command_option *option = command->options;
        for (; option && option->name; option++)
            print_zsh_option(option, out);
        if (is_choice(command->arguments)) {
            fputs(" \\\n            '1:argument:(", out);
            print_words(out, command->arguments);
            fputs(")'", out);
        } else if (*command->arguments) {
            fputs(" \\\n            '*:argument:_files'", out);
        }
        fputs(" ;;\n", out);
    }
    fputs("    esac\n}\ncompdef _hone hone\n", out);
}

static void print_fish_option(const struct command *command, const struct command_option *option,
                              FILE *out)
{
    fprintf(out, "complete -c hone -n '__fish_seen_subcommand_from %s' -l %s", command->name,
            option->name);
    if (is_choice(option->value)) {
        fputs(" -x -a '", out);
        print_words(out, option->value);
        fputc('\'', out);
    } else if (option->value) {
        fputs(" -r", out);
    }
    fputs(" -d '", out);
    print_quoted(out, option->help, "\\");
    fputs("'\n", out);
}

static void completion_fish(const struct command *table, FILE *out)
{
    fputs("# fish completion for hone\n", out);
    for (const struct command *command = table; command->name; command++) {
        fprintf(out, "complete -c hone -f -n __fish_use_subcommand -a '%s' -d '", command->name);
        print_quoted(out, command->summary, "\\");
        fputs("'\n", out);
        const struct command_option *option = command->options;
        for (; option && option->name; option++)
            print_fish_option(command, option, out);
        if (is_choice(command->arguments)) {
            fprintf(out, "complete -c hone -f -n '__fish_seen_subcommand_from %s' -a '",
                    command->name);
            print_words(out, command->arguments);
            fputs("'\n", out);
        }
    }
}

int command_completion(const struct command *table, const char *shell, FILE *out)
{
    if (strcmp(shell, "bash") == 0)
        completion_bash(table, out);
    else if (strcmp(shell, "zsh") == 0)
        completion_zsh(table, out);
    else if (strcmp(shell, "fish") == 0)
        completion_fish(table, out);
    else
        return error_set(HONE_EINVAL, "completion: expected bash, zsh or fish, got '%.40s'", shell);
    return 0;
}
