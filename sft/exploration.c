#include "sft/exploration.h"

#include <string.h>

bool exploration_add(struct exploration *exploration, double entropy)
{
    if (exploration->steps < EXPLORATION_STEPS)
        exploration->first_sum += entropy;
    exploration->recent[exploration->steps % EXPLORATION_STEPS] = entropy;
    exploration->steps++;
    return exploration_is_lost(exploration);
}

static int64_t counted(const struct exploration *exploration)
{
    return exploration->steps < EXPLORATION_STEPS ? exploration->steps : EXPLORATION_STEPS;
}

double exploration_first(const struct exploration *exploration)
{
    int64_t count = counted(exploration);
    return count > 0 ? exploration->first_sum / (double)count : 0.0;
}

double exploration_now(const struct exploration *exploration)
{
    int64_t count = counted(exploration);
    double sum = 0.0;
    for (int64_t i = 0; i < count; i++)
        sum += exploration->recent[i];
    return count > 0 ? sum / (double)count : 0.0;
}

bool exploration_is_lost(const struct exploration *exploration)
{
    return exploration->floor > 0.0 && exploration->steps >= 2 * EXPLORATION_STEPS &&
           exploration_now(exploration) < exploration->floor * exploration_first(exploration);
}

void exploration_store(const struct exploration *exploration, struct checkpoint_state *state)
{
    state->numbers[0] = (double)exploration->steps;
    state->numbers[1] = exploration->first_sum;
    memcpy(state->numbers + 2, exploration->recent, sizeof exploration->recent);
    state->number_count = 2 + EXPLORATION_STEPS;
}

void exploration_load(struct exploration *exploration, const struct checkpoint_state *state)
{
    double floor = exploration->floor;
    memset(exploration, 0, sizeof *exploration);
    exploration->floor = floor;
    if (state->number_count != 2 + EXPLORATION_STEPS)
        return;
    exploration->steps = (int64_t)state->numbers[0];
    exploration->first_sum = state->numbers[1];
    memcpy(exploration->recent, state->numbers + 2, sizeof exploration->recent);
}
