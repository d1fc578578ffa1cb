#include "tests/sim/sim_trace.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define EVENTS_MAX  80
#define EVENT_BYTES 160

static struct {
    bool keep;
    const int64_t *now_ns;
    char events[EVENTS_MAX][EVENT_BYTES];
    uint64_t count;
    int effects_left;
    bool dead;
} trace;

void sim_trace_start(bool keep, const int64_t *now_ns)
{
    memset(&trace, 0, sizeof trace);
    trace.keep = keep;
    trace.now_ns = now_ns;
}

static void add(const char *note, const char *format, va_list arguments)
{
    char *event = trace.events[trace.count++ % EVENTS_MAX];
    int length = snprintf(event, EVENT_BYTES, "%9.3f s  %s", (double)*trace.now_ns * 1e-9, note);
    vsnprintf(event + length, EVENT_BYTES - (size_t)length, format, arguments);
}

void sim_trace(const char *format, ...)
{
    if (!trace.keep)
        return;
    va_list arguments;
    va_start(arguments, format);
    add("", format, arguments);
    va_end(arguments);
}

void sim_trace_print(void)
{
    uint64_t first = trace.count > EVENTS_MAX ? trace.count - EVENTS_MAX : 0;
    for (uint64_t i = first; i < trace.count; i++)
        fprintf(stderr, "%s\n", trace.events[i % EVENTS_MAX]);
}

void sim_die_after(int effects)
{
    trace.effects_left = effects;
    trace.dead = false;
}

bool sim_is_dead(void)
{
    return trace.dead;
}

bool sim_dying(const char *format, ...)
{
    if (trace.effects_left > 0 && --trace.effects_left == 0)
        trace.dead = true;
    if (trace.keep) {
        va_list arguments;
        va_start(arguments, format);
        add(trace.dead ? "the hub is dead before it could " : "the hub: ", format, arguments);
        va_end(arguments);
    }
    return trace.dead;
}
