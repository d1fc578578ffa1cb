#include <stdio.h>

#include "commands/commands.h"
#include "infra/base/error.h"
#include "infra/launch/machine.h"
#include "infra/wire/keys.h"

int command_doctor(const struct command_line *line)
{
    struct machine machine;
    (void)line;
    machine_describe(&machine);
    machine_print(&machine, stdout);
    int rc = backend_self_test();
    printf("%-14s %s\n", "self-test",
           rc == 0 ? "every instruction-set path gives the same bits" : error_message());
    return rc;
}

/* Says what to copy where: the directory is made on one machine and read on several. */
static int make_keys(const char *directory)
{
    int rc = keys_create(directory);
    if (rc < 0)
        return rc;
    printf("%s holds keys for a hub, a learner, actors and scorers.\n"
           "Name it in the recipe: wire.keys=%s. A worker on another machine needs hub.public and "
           "its own key (actor.key, scorer.key, learner.key; a learner also needs allowed) in a "
           "directory there, and --keys.\n",
           directory, directory);
    return 0;
}

int command_keys(const struct command_line *line)
{
    const char *directory = line->positional[0];
    const char *add = command_value(line, "add"), *revoke = command_value(line, "revoke");
    bool list = command_flag(line, "list");
    struct text text;
    if ((add != NULL) + (revoke != NULL) + list > 1)
        return error_set(HONE_EINVAL, "keys: one of --list, --add and --revoke at a time");
    if (add != NULL)
        return keys_add(directory, add);
    if (revoke != NULL)
        return keys_revoke(directory, revoke);
    if (!list)
        return make_keys(directory);
    text_init(&text);
    int rc = keys_list(directory, &text);
    fputs(text.data, stdout);
    text_release(&text);
    return rc;
}

int command_completion_script(const struct command_line *line)
{
    return command_completion(hone_commands, line->positional[0], stdout);
}

int command_man(const struct command_line *line)
{
    (void)line;
    command_man_page(hone_commands, stdout);
    return 0;
}
