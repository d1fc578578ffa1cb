#include "infra/telemetry/progress.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "infra/base/memory.h"
#include "infra/base/text.h"

#define REDRAW_MS       100 /* at most 10 redraws a second */
#define LINE_MS         5000
#define BAR_CELLS       20
#define DEFAULT_COLUMNS 80

struct progress {
    struct progress_sink sink;
    char *label, *unit;
    int64_t total;
    int64_t done;
    bool has_update;
    int64_t start_ms;             /* of the whole */
    int64_t first_ms, first_done; /* where the rate counts from */
    int64_t next_draw_ms;
    struct text line;
    struct text shown; /* the line with its terminal sequences */
};

static struct progress_sink find_sink(void)
{
    struct progress_sink sink = {.out = stderr, .clock = clock_system()};
    const char *term = getenv("TERM");
    const char *no_color = getenv("NO_COLOR");
    struct winsize size;
    sink.is_terminal = isatty(STDERR_FILENO) && term && *term && strcmp(term, "dumb") != 0;
    sink.has_color = sink.is_terminal && !(no_color && *no_color);
    bool has_size = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
    sink.columns = has_size ? size.ws_col : DEFAULT_COLUMNS;
    return sink;
}

struct progress *progress_create(const char *label, const char *unit, int64_t total)
{
    struct progress_sink sink = find_sink();
    return progress_create_on(&sink, label, unit, total);
}

struct progress *progress_create_on(const struct progress_sink *sink, const char *label,
                                    const char *unit, int64_t total)
{
    struct progress *progress = MEMORY_NEW(struct progress);
    progress->sink = *sink;
    progress->label = memory_strdup(label);
    progress->unit = memory_strdup(unit);
    progress->total = total;
    progress->start_ms = clock_now_ms(sink->clock);
    /* A bar shows at once; lines wait, so that short work prints one. */
    progress->next_draw_ms = progress->start_ms + (sink->is_terminal ? 0 : LINE_MS);
    text_init(&progress->line);
    text_init(&progress->shown);
    return progress;
}

void progress_set_total(struct progress *progress, int64_t total)
{
    progress->total = total;
}

static void append_duration(struct text *text, int64_t ms)
{
    long long seconds = ms / 1000;
    if (seconds >= 3600)
        text_printf(text, "%lld:%02lld:%02lld", seconds / 3600, seconds / 60 % 60, seconds % 60);
    else
        text_printf(text, "%02lld:%02lld", seconds / 60, seconds % 60);
}

/* Per second; 0 while unknown. */
static double rate_of(const struct progress *progress, int64_t now_ms)
{
    int64_t elapsed_ms = now_ms - progress->first_ms;
    if (!progress->has_update || elapsed_ms <= 0 || progress->done <= progress->first_done)
        return 0;
    return (double)(progress->done - progress->first_done) * 1000.0 / (double)elapsed_ms;
}

/* Appends text as one line: what comes from outside must not move the cursor. */
static void append_safe(struct text *line, const char *text)
{
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        text_append_char(line, c < 0x20 || c == 0x7f ? ' ' : *text);
    }
}

/* "12/100 steps 00:10<01:13 1.2 steps/s loss 1.23" */
static void append_figures(struct progress *progress, const char *detail, int64_t now_ms,
                           bool is_final)
{
    struct text *line = &progress->line;
    double rate = rate_of(progress, now_ms);
    text_printf(line, " %lld", (long long)progress->done);
    if (progress->total > 0)
        text_printf(line, "/%lld", (long long)progress->total);
    text_append_char(line, ' ');
    append_safe(line, progress->unit);
    text_append_char(line, ' ');
    append_duration(line, now_ms - progress->start_ms);
    if (!is_final && progress->total > progress->done) {
        text_append_char(line, '<');
        if (rate > 0)
            append_duration(line,
                            (int64_t)((double)(progress->total - progress->done) * 1000.0 / rate));
        else
            text_append(line, "?");
    }
    if (rate > 0) {
        text_printf(line, rate >= 100 ? " %.0f " : rate >= 10 ? " %.1f " : " %.2g ", rate);
        append_safe(line, progress->unit);
        text_append(line, "/s");
    }
    if (detail && *detail) {
        text_append_char(line, ' ');
        append_safe(line, detail);
    }
}

static double fraction_of(const struct progress *progress)
{
    if (progress->total <= 0)
        return 0;
    double fraction = (double)progress->done / (double)progress->total;
    return fraction < 0 ? 0 : fraction > 1 ? 1 : fraction;
}

/* Cuts to `columns` code points, so that the line never wraps and the next redraw covers it. */
static void cut(struct text *line, int columns)
{
    int points = 0;
    for (size_t i = 0; i < line->length; i++) {
        if (((unsigned char)line->data[i] & 0xC0) == 0x80)
            continue;
        if (points++ == columns) {
            line->length = i;
            line->data[i] = '\0';
            return;
        }
    }
}

static void draw_bar(struct progress *progress, const char *detail, int64_t now_ms, bool is_final)
{
    struct text *line = &progress->line;
    size_t bar = 0;
    text_clear(line);
    append_safe(line, progress->label);
    if (progress->total > 0) {
        double fraction = fraction_of(progress);
        int full = (int)(fraction * BAR_CELLS);
        text_append_char(line, ' ');
        bar = line->length;
        text_append_char(line, '[');
        for (int i = 0; i < BAR_CELLS; i++)
            text_append_char(line, i < full ? '=' : i == full ? '>' : ' ');
        text_printf(line, "] %3d%%", (int)(fraction * 100));
    }
    append_figures(progress, detail, now_ms, is_final);
    cut(line, progress->sink.columns > 1 ? progress->sink.columns - 1 : DEFAULT_COLUMNS - 1);
    bool has_color = progress->sink.has_color && bar > 0 && line->length > bar + BAR_CELLS + 2;
    struct text *shown = &progress->shown;
    text_clear(shown);
    text_append_char(shown, '\r');
    if (has_color) {
        text_append_bytes(shown, line->data, bar);
        text_printf(shown, "\033[36m%.*s\033[0m%s", BAR_CELLS + 2, line->data + bar,
                    line->data + bar + BAR_CELLS + 2);
    } else {
        text_append_bytes(shown, line->data, line->length);
    }
    text_append(shown, is_final ? "\033[K\n" : "\033[K");
    fwrite(shown->data, 1, shown->length, progress->sink.out); /* one write: no flicker */
}

static void draw(struct progress *progress, const char *detail, int64_t now_ms, bool is_final)
{
    if (progress->sink.is_terminal) {
        draw_bar(progress, detail, now_ms, is_final);
        progress->next_draw_ms = now_ms + REDRAW_MS;
    } else {
        text_clear(&progress->line);
        append_safe(&progress->line, progress->label);
        text_append_char(&progress->line, ':');
        append_figures(progress, detail, now_ms, is_final);
        fprintf(progress->sink.out, "%s\n", progress->line.data);
        progress->next_draw_ms = now_ms + LINE_MS;
    }
    fflush(progress->sink.out);
}

void progress_update(struct progress *progress, int64_t done, const char *detail)
{
    int64_t now_ms = clock_now_ms(progress->sink.clock);
    if (!progress->has_update) {
        progress->has_update = true;
        progress->first_ms = now_ms;
        progress->first_done = done;
    }
    progress->done = done;
    if (now_ms >= progress->next_draw_ms)
        draw(progress, detail, now_ms, false);
}

void progress_finish(struct progress *progress, const char *detail)
{
    draw(progress, detail, clock_now_ms(progress->sink.clock), true);
    memory_free(progress->label);
    memory_free(progress->unit);
    text_release(&progress->line);
    text_release(&progress->shown);
    memory_free(progress);
}
