#include "reward/command_reward.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"
#include "infra/base/text.h"
#include "reward/answer_line.h"
#include "reward/child_process.h"

#define BACKOFF_FIRST_MS 50
#define BACKOFF_MAX_MS   10000
#define FINISH_GRACE_MS  200
#define LOG_LINES_MAX    50 /* of its stderr per call */
#define LOG_LINE_BYTES   500
#define READ_BYTES       65536
#define ANSWERED         (-1)

struct command_reward {
    char name[32];
    const char **argv; /* argv and its strings are one copy */
    int64_t timeout_ms;
    struct clock *clock;
    struct child_process child;
    int64_t next_id;
    int budget;          /* starts left; -1: none, and said so */
    int earned;          /* answers since the last start was earned back */
    int failures;        /* in a row without an answer */
    int64_t start_at_ms; /* back-off: not before */
    struct text input;   /* lines to write; input_at bytes are written */
    size_t input_at;
    struct text output; /* an unfinished line */
    struct text error;
    int log_lines;
    char read_buffer[READ_BYTES];
};

/* One call. ids[i]: the id input i was sent with, ANSWERED when it has its status. */
struct call {
    const struct reward_input *inputs;
    int32_t count;
    int64_t *ids;
    float *values;
    enum reward_status *statuses;
    int32_t open; /* not ANSWERED */
    int64_t deadline_ms, end_ms;
};

static void log_stderr(struct command_reward *command, bool all)
{
    char *line = command->error.data, *end;
    while ((end = strchr(line, '\n')) != NULL || (all && *line != '\0') ||
           strlen(line) > LOG_LINE_BYTES) {
        size_t length = end != NULL ? (size_t)(end - line) : strlen(line);
        if (command->log_lines++ < LOG_LINES_MAX)
            log_info("reward %s: %.*s", command->name,
                     (int)(length < LOG_LINE_BYTES ? length : LOG_LINE_BYTES), line);
        else if (command->log_lines == LOG_LINES_MAX + 1)
            log_warn("reward %s: more lines on stderr are left out", command->name);
        line += length + (end != NULL);
    }
    size_t rest = strlen(line);
    memmove(command->error.data, line, rest + 1);
    command->error.length = rest;
}

static void read_stderr(struct command_reward *command)
{
    ssize_t got;
    if (command->child.error < 0)
        return;
    /* Bounded: a child that only writes to stderr must not keep us from its deadline. */
    for (int i = 0; i < 16; i++) {
        got = read(command->child.error, command->read_buffer, READ_BYTES);
        if (got == 0) { /* closed by a child that lives on: a hang-up must not wake every poll */
            close(command->child.error);
            command->child.error = -1;
        }
        if (got <= 0)
            break;
        for (ssize_t k = 0; k < got; k++)
            if (command->read_buffer[k] == '\0')
                command->read_buffer[k] = ' ';
        text_append_bytes(&command->error, command->read_buffer, (size_t)got);
        log_stderr(command, false);
    }
}

/* Ends the process; the next start waits out the back-off. */
static void stop(struct command_reward *command, char *ending, int ending_bytes)
{
    read_stderr(command);
    log_stderr(command, true);
    child_process_stop(&command->child, ending, ending_bytes);
    text_clear(&command->output);
    text_clear(&command->error);
    text_clear(&command->input);
    command->input_at = 0;
    int64_t wait = BACKOFF_FIRST_MS;
    for (int i = 0; i < command->failures && wait < BACKOFF_MAX_MS; i++)
        wait *= 2;
    command->failures++;
    command->start_at_ms = clock_now_ms(command->clock) + wait;
}

int command_reward_create(struct command_reward **command, const char *name,
                          const char *const *argv, int64_t timeout_ms, struct clock *clock)
{
    size_t words = 0, bytes = 0;
    *command = NULL;
    if (argv == NULL || argv[0] == NULL || argv[0][0] == '\0')
        return error_set(HONE_EINVAL, "reward %s: the command is empty", name);
    if (timeout_ms <= 0)
        return error_set(HONE_EINVAL, "reward %s: timeout_ms must be positive, not %lld", name,
                         (long long)timeout_ms);
    for (; argv[words] != NULL; words++)
        bytes += strlen(argv[words]) + 1;
    struct command_reward *made = MEMORY_NEW(struct command_reward);
    char *pool = memory_alloc((words + 1) * sizeof(char *) + bytes, 1);
    made->argv = (const char **)(void *)pool;
    pool += (words + 1) * sizeof(char *);
    for (size_t i = 0; i < words; i++) {
        made->argv[i] = pool;
        size_t size = strlen(argv[i]) + 1;
        memcpy(pool, argv[i], size);
        pool += size;
    }
    strncpy(made->name, name, sizeof made->name - 1);
    made->timeout_ms = timeout_ms;
    made->clock = clock;
    made->next_id = 1;
    made->budget = COMMAND_START_BUDGET;
    text_init(&made->input);
    text_init(&made->output);
    text_init(&made->error);
    signal(SIGPIPE, SIG_IGN);
    if (child_process_start(&made->child, made->argv) < 0) {
        command_reward_destroy(made);
        return error_prefix("reward %s", name);
    }
    *command = made;
    return 0;
}

void command_reward_destroy(struct command_reward *command)
{
    if (command == NULL)
        return;
    read_stderr(command);
    log_stderr(command, true);
    child_process_finish(&command->child, FINISH_GRACE_MS);
    text_release(&command->input);
    text_release(&command->output);
    text_release(&command->error);
    memory_free(command->argv);
    memory_free(command);
}

static void append_string(struct text *out, const char *key, const char *value)
{
    text_printf(out, ",\"%s\":", key);
    text_append_json_string(out, value != NULL ? value : "", value != NULL ? strlen(value) : 0);
}

static void append_ids(struct text *out, const char *key, const int32_t *ids, int32_t count)
{
    text_printf(out, ",\"%s\":[", key);
    for (int32_t i = 0; i < count; i++)
        text_printf(out, i == 0 ? "%d" : ",%d", ids[i]);
    text_append_char(out, ']');
}

/* extra_json is an object already; a line break in it can only be white space between its tokens.
 */
static void append_extra(struct text *out, const char *extra)
{
    text_append(out, ",\"extra\":");
    if (extra == NULL || extra[0] == '\0')
        extra = "{}";
    for (const char *c = extra; *c != '\0'; c++)
        text_append_char(out, *c == '\n' || *c == '\r' ? ' ' : *c);
}

static void append_request(struct text *out, int64_t id, const struct reward_input *input)
{
    text_printf(out, "{\"id\":%lld", (long long)id);
    append_string(out, "prompt", input->prompt);
    append_string(out, "completion", input->completion);
    append_string(out, "ground_truth", input->ground_truth);
    append_string(out, "data_source", input->data_source);
    append_string(out, "capability", input->capability);
    append_extra(out, input->extra_json);
    append_ids(out, "prompt_ids", input->prompt_ids, input->prompt_id_count);
    append_ids(out, "completion_ids", input->completion_ids, input->completion_id_count);
    append_string(out, "finish_reason", finish_reason_name(input->finish));
    text_printf(out, ",\"policy_version\":%lld,\"group_id\":%llu}\n",
                (long long)input->policy_version, (unsigned long long)input->group_id);
}

/* Settles the oldest open request of the call. */
static void blame(struct call *call, enum reward_status status)
{
    for (int32_t i = 0; i < call->count; i++) {
        if (call->ids[i] == ANSWERED)
            continue;
        call->ids[i] = ANSWERED;
        call->statuses[i] = status;
        call->open--;
        return;
    }
}

static void answer(struct command_reward *command, struct call *call, int32_t index,
                   enum reward_status status, float value)
{
    call->ids[index] = ANSWERED;
    call->statuses[index] = status;
    call->values[index] = value;
    call->open--;
    call->deadline_ms = clock_now_ms(command->clock) + command->timeout_ms;
    command->failures = 0;
    if (++command->earned >= COMMAND_EARN_ANSWERS) {
        command->earned = 0;
        command->budget += command->budget < COMMAND_START_BUDGET;
    }
}

/* Takes one line; NULL, or what is wrong with it. */
static const char *take_line(struct command_reward *command, struct call *call, const char *line,
                             size_t length)
{
    struct answer_line said;
    const char *wrong = answer_line_read(&said, line, length);
    if (wrong != NULL)
        return wrong;
    int32_t index = 0;
    while (index < call->count && (call->ids[index] == ANSWERED || call->ids[index] != said.id))
        index++;
    if (index == call->count)
        return "nothing open has its id";
    if (said.message[0] != '\0')
        log_info("reward %s: %s: %s", command->name, reward_status_name(said.status), said.message);
    answer(command, call, index, said.status, said.value);
    return NULL;
}

/* Stops the process for the reason given (NULL: how it ended says it) and settles whom it concerns.
 */
static void fail(struct command_reward *command, struct call *call, enum reward_status status,
                 const char *why)
{
    char ending[64];
    stop(command, ending, sizeof ending);
    log_warn("reward %s: %s; %d starts left", command->name, why != NULL ? why : ending,
             command->budget);
    if (call->open > 0)
        blame(call, status);
}

static void fail_line(struct command_reward *command, struct call *call, const char *line,
                      size_t length, const char *wrong)
{
    char why[400];
    snprintf(why, sizeof why, "a line it wrote cannot be used, %s: %.*s%s", wrong,
             (int)(length < 200 ? length : 200), line, length > 200 ? "..." : "");
    fail(command, call, REWARD_ERROR, why);
}

/* Whole lines of what has arrived. Stops at the first bad one (the process is then gone). */
static void take_lines(struct command_reward *command, struct call *call)
{
    size_t at = 0;
    char *end;
    while ((end = memchr(command->output.data + at, '\n', command->output.length - at)) != NULL) {
        const char *line = command->output.data + at;
        size_t length = (size_t)(end - line);
        if (length > COMMAND_LINE_MAX) {
            fail_line(command, call, line, length, "it is too long");
            return;
        }
        const char *wrong = NULL;
        if (strspn(line, " \t\r") < length) /* a blank line says nothing */
            wrong = take_line(command, call, line, length);
        if (wrong != NULL) {
            fail_line(command, call, line, length, wrong);
            return;
        }
        at += length + 1;
    }
    size_t rest = command->output.length - at;
    if (rest > COMMAND_LINE_MAX) {
        fail_line(command, call, command->output.data + at, rest, "it is too long");
        return;
    }
    memmove(command->output.data, command->output.data + at, rest + 1);
    command->output.length = rest;
}

static void read_output(struct command_reward *command, struct call *call)
{
    ssize_t got = read(command->child.output, command->read_buffer, READ_BYTES);
    if (got > 0) {
        text_append_bytes(&command->output, command->read_buffer, (size_t)got);
        take_lines(command, call);
    } else if (got == 0) {
        clock_sleep_ms(2); /* stdout closes a moment before the exit can be reaped */
        fail(command, call, REWARD_ERROR, NULL);
    }
}

static void write_input(struct command_reward *command)
{
    while (command->input_at < command->input.length) {
        ssize_t put = write(command->child.input, command->input.data + command->input_at,
                            command->input.length - command->input_at);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0) {
            if (errno != EAGAIN) /* EPIPE: it reads no more; its stdout says what that means */
                command->input_at = command->input.length;
            return;
        }
        command->input_at += (size_t)put;
    }
}

/* Queues every open request under a new id. */
static void ask(struct command_reward *command, struct call *call)
{
    text_clear(&command->input);
    command->input_at = 0;
    for (int32_t i = 0; i < call->count; i++) {
        if (call->ids[i] == ANSWERED)
            continue;
        call->ids[i] = command->next_id++;
        append_request(&command->input, call->ids[i], &call->inputs[i]);
    }
    call->deadline_ms = clock_now_ms(command->clock) + command->timeout_ms;
}

/* A running child with the open requests queued, or the reason it cannot be in their status. */
static void restart(struct command_reward *command, struct call *call)
{
    int64_t now = clock_now_ms(command->clock);
    if (command->budget <= 0) {
        if (command->budget-- == 0)
            log_error("reward %s: the command keeps failing and is not started again",
                      command->name);
        command->budget = -1;
        while (call->open > 0)
            blame(call, REWARD_ERROR);
        return;
    }
    if (command->start_at_ms > now)
        clock_sleep_ms(command->start_at_ms < call->end_ms ? command->start_at_ms - now
                                                           : call->end_ms - now);
    command->budget--;
    if (child_process_start(&command->child, command->argv) < 0) {
        fail(command, call, REWARD_ERROR, error_message());
        return;
    }
    ask(command, call);
}

/* One wait for input, output, stderr or the deadline. */
static void exchange(struct command_reward *command, struct call *call)
{
    bool writing = command->input_at < command->input.length;
    struct pollfd waits[3] = {{command->child.output, POLLIN, 0},
                              {command->child.error, POLLIN, 0},
                              {writing ? command->child.input : -1, POLLOUT, 0}};
    int64_t left = call->deadline_ms - clock_now_ms(command->clock);
    if (poll(waits, 3, (int)(left > 1000 ? 1000 : left < 0 ? 0 : left)) < 0 && errno != EINTR) {
        fail(command, call, REWARD_ERROR, "poll failed");
        return;
    }
    if (waits[1].revents != 0)
        read_stderr(command);
    if (waits[2].revents != 0)
        write_input(command);
    if (waits[0].revents != 0)
        read_output(command, call);
    if (command->child.pid != 0 && call->open > 0 &&
        clock_now_ms(command->clock) >= call->deadline_ms) {
        char why[96];
        snprintf(why, sizeof why, "no answer in %lld ms", (long long)command->timeout_ms);
        fail(command, call, REWARD_TIMEOUT, why);
    }
}

void command_reward_score(struct command_reward *command, const struct reward_input *inputs,
                          int32_t count, float *values, enum reward_status *statuses)
{
    struct call call = {.inputs = inputs, .count = count, .values = values, .statuses = statuses};
    HONE_ASSERT(count >= 0);
    call.ids = MEMORY_ARRAY(int64_t, count);
    call.open = count;
    call.end_ms = clock_now_ms(command->clock) + count * command->timeout_ms;
    command->log_lines = 0;
    if (command->child.pid != 0 && count > 0)
        ask(command, &call);
    while (call.open > 0) {
        if (clock_now_ms(command->clock) >= call.end_ms) {
            if (command->child.pid != 0) /* its late answers would be taken for wrong ids */
                fail(command, &call, REWARD_TIMEOUT, "the time of the whole call is over");
            while (call.open > 0)
                blame(&call, REWARD_TIMEOUT);
        } else if (command->child.pid == 0) {
            restart(command, &call);
        } else {
            exchange(command, &call);
        }
    }
    memory_free(call.ids);
}
