#include "sft/exploration.h"

#include <math.h>
#include <string.h>

/* Numbers in a checkpoint's state: of entropy, then of pass@k. */
#define ENTROPY_NUMBERS (2 + EXPLORATION_STEPS)
#define PASS_NUMBERS    5

void exploration_init(struct exploration *exploration, double floor, double drop)
{
    memset(exploration, 0, sizeof *exploration);
    exploration->floor = floor;
    exploration->drop = drop;
    exploration->best_step = exploration->measured_step = -1;
}

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

enum exploration_pass exploration_measured(struct exploration *exploration, int64_t step,
                                           double pass, double error)
{
    double deviation = sqrt(exploration->best_error * exploration->best_error + error * error);
    double margin = fmax(exploration->drop, 2.0 * deviation);
    exploration->measured_step = step;
    if (exploration->best_step < 0 || pass > exploration->best) {
        exploration->best = pass;
        exploration->best_error = error;
        exploration->best_step = step;
        return PASS_BEST;
    }
    exploration->fell = pass < exploration->best - margin;
    return exploration->fell ? PASS_FELL : PASS_HELD;
}

bool exploration_is_lost(const struct exploration *exploration)
{
    if (exploration->fell)
        return true;
    return exploration->floor > 0.0 && exploration->steps >= 2 * EXPLORATION_STEPS &&
           exploration_now(exploration) < exploration->floor * exploration_first(exploration);
}

void exploration_store(const struct exploration *exploration, struct checkpoint_state *state)
{
    state->numbers[0] = (double)exploration->steps;
    state->numbers[1] = exploration->first_sum;
    memcpy(state->numbers + 2, exploration->recent, sizeof exploration->recent);
    double *pass = state->numbers + ENTROPY_NUMBERS;
    pass[0] = exploration->best;
    pass[1] = exploration->best_error;
    pass[2] = (double)exploration->best_step;
    pass[3] = (double)exploration->measured_step;
    pass[4] = exploration->fell;
    state->number_count = ENTROPY_NUMBERS + PASS_NUMBERS;
}

void exploration_load(struct exploration *exploration, const struct checkpoint_state *state)
{
    exploration_init(exploration, exploration->floor, exploration->drop);
    if (state->number_count != ENTROPY_NUMBERS + PASS_NUMBERS)
        return;
    exploration->steps = (int64_t)state->numbers[0];
    exploration->first_sum = state->numbers[1];
    memcpy(exploration->recent, state->numbers + 2, sizeof exploration->recent);
    const double *pass = state->numbers + ENTROPY_NUMBERS;
    exploration->best = pass[0];
    exploration->best_error = pass[1];
    exploration->best_step = (int64_t)pass[2];
    exploration->measured_step = (int64_t)pass[3];
    exploration->fell = pass[4] != 0.0;
}
