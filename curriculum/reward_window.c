#include "curriculum/reward_window.h"

#include <string.h>

static bool failed(enum reward_status status)
{
    return status == REWARD_TIMEOUT || status == REWARD_ERROR;
}

void reward_window_add(struct reward_window *window, const struct reward *reward)
{
    struct window_entry entry = {reward->status, 0};
    for (int32_t i = 0; i < reward->part_count; i++)
        if (failed(reward->parts[i].status))
            entry.failed_parts |= 1u << i;
    if (reward->part_count > 0) {
        window->part_count = reward->part_count;
        for (int32_t i = 0; i < reward->part_count; i++)
            memcpy(window->part_names[i], reward->parts[i].name, sizeof window->part_names[i]);
    }
    window->entries[window->next] = entry;
    window->next = (window->next + 1) % WINDOW_REWARDS;
    window->count += window->count < WINDOW_REWARDS;
}

static int32_t failed_count(const struct reward_window *window)
{
    int32_t count = 0;
    for (int32_t i = 0; i < window->count; i++)
        count += failed(window->entries[i].status);
    return count;
}

bool reward_window_exceeds(const struct reward_window *window, double rate)
{
    int32_t count = failed_count(window);
    return (double)count > rate * WINDOW_REWARDS || count == WINDOW_REWARDS;
}

void reward_window_describe(const struct reward_window *window, struct text *out)
{
    int32_t without_parts = 0, named = 0;
    text_printf(out, "%d of the last %d rewards failed:", failed_count(window), window->count);
    for (int32_t part = 0; part < window->part_count; part++) {
        int32_t count = 0;
        for (int32_t i = 0; i < window->count; i++)
            count += (window->entries[i].failed_parts >> part) & 1;
        if (count > 0)
            text_printf(out, "%s part %s %d times", named++ > 0 ? "," : "",
                        window->part_names[part], count);
    }
    for (int32_t i = 0; i < window->count; i++)
        without_parts += failed(window->entries[i].status) && window->entries[i].failed_parts == 0;
    if (without_parts > 0)
        text_printf(out, "%s %d before any part saw them (rollout given up, no text)",
                    named > 0 ? "," : "", without_parts);
}
