/* One line that an external reward command writes, read into what it says. The forms are listed in
 * command_reward.h. No state; any thread. */
#ifndef HONE_REWARD_ANSWER_LINE_H
#define HONE_REWARD_ANSWER_LINE_H

#include <stddef.h>
#include <stdint.h>

#include "infra/data/trajectory.h"

struct answer_line {
    int64_t id;
    enum reward_status status;
    float value;       /* finite; 0 unless the status is REWARD_OK */
    char message[256]; /* what the command says about a status; "" when nothing */
};

/* A score that is no finite number (NaN, Infinity and -Infinity, as Python prints them, or out of
 * fp32's range) is an answer all the same: REWARD_ERROR, the message says which.
 *
 * NULL, or what is wrong with the line, as "it ..."; then the answer means nothing. */
const char *answer_line_read(struct answer_line *answer, const char *line, size_t length);

#endif
