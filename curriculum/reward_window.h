/* The rewards of the last WINDOW_REWARDS trajectories, to tell when a verifier is broken (G8).
 * A timeout or an error counts as failed, an abstention does not. Owned by one thread. */
#ifndef HONE_CURRICULUM_REWARD_WINDOW_H
#define HONE_CURRICULUM_REWARD_WINDOW_H

#include <stdbool.h>

#include "infra/base/text.h"
#include "infra/data/trajectory.h"

#define WINDOW_REWARDS 200

struct reward_window {
    struct window_entry {
        enum reward_status status;
        uint32_t failed_parts; /* bit i: part i timed out or was in error */
    } entries[WINDOW_REWARDS];
    int32_t count, next;
    int32_t part_count;
    char part_names[REWARD_PARTS_MAX][32]; /* as the last reward with parts had them */
};

void reward_window_add(struct reward_window *window, const struct reward *reward);
/* More of the window's rewards failed than rate allows; a window that is not full yet counts as if
 * the rest were fine. One whose rewards all failed exceeds every rate. */
bool reward_window_exceeds(const struct reward_window *window, double rate);
/* Appends e.g. "21 of the last 200 rewards failed: part length 21 times". */
void reward_window_describe(const struct reward_window *window, struct text *out);

#endif
