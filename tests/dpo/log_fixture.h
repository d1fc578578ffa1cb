/* A run's log with groups of made-up trajectories. */
#ifndef HONE_TESTS_LOG_FIXTURE_H
#define HONE_TESTS_LOG_FIXTURE_H

#include "tests/infra/train/train_fixture.h"

#include "infra/store/run_log.h"
#include "infra/wire/codec.h"

#define LOG_GROUP_MAX 4

struct log_answer {
    const char *completion; /* lower-case letters, then </s>; NULL: missing */
    float reward;
    enum reward_status status;
    enum finish_reason finish;
};

static inline int32_t log_letter(char c)
{
    return c - '!' + 2; /* as the fixture tokenizer */
}

/* <s>, one token of the prompt, the completion, </s>. */
static inline void log_put_answer(struct run_log *log, uint64_t id, uint64_t group, int32_t sample,
                                  const struct log_answer *answer)
{
    struct trajectory trajectory;
    struct wire_trajectory wire;
    struct text packed;
    unsigned char key[8];
    int32_t letters = (int32_t)strlen(answer->completion), count = 2 + letters + 1;

    trajectory_init(&trajectory, count);
    trajectory.id = id;
    trajectory.prompt_id = trajectory.group_id = group;
    trajectory.sample_index = sample;
    trajectory.prompt_tokens = 2;
    trajectory.token_count = count;
    trajectory.sampling =
        (struct sampling){.temperature = 1.0f, .top_p = 1.0f, .max_completion_tokens = 20};
    trajectory.finish = answer->finish;
    trajectory.reward =
        (struct reward){.status = answer->status,
                        .total = answer->reward,
                        .part_count = 1,
                        .parts = {{.name = "letters", .value = (float)letters, .weight = 1.0f}}};
    trajectory_add_segment(&trajectory, SEGMENT_PROMPT, 2);
    trajectory_add_segment(&trajectory, SEGMENT_POLICY, letters + 1);
    for (int32_t i = 0; i < count; i++) {
        bool sampled = i >= 2;
        char c = i < 2 ? (char)('A' + group % 26) : answer->completion[i - 2];
        trajectory.tokens[i] = i == 0 ? 0 : i == count - 1 ? 1 : log_letter(c);
        trajectory.loss_mask[i] = sampled;
        trajectory.policy_version[i] = sampled ? 0 : -1;
        trajectory.behavior_logprob[i] = sampled ? -0.5f : 0.0f;
    }
    assert_ok(trajectory_validate(&trajectory));
    text_init(&packed);
    wire_trajectory_build(&wire, &trajectory);
    wire_pack(&wire.message.base, &packed);
    run_log_key_u64(id, key);
    run_log_put(log, LOG_TRAJECTORIES, key, sizeof key, packed.data, packed.length);
    wire_trajectory_release(&wire);
    text_release(&packed);
    trajectory_release(&trajectory);
}

static inline void log_put_group(struct run_log *log, uint64_t group,
                                 const struct log_answer *answers, int32_t count)
{
    Hone__GroupRecord record = HONE__GROUP_RECORD__INIT;
    uint64_t ids[LOG_GROUP_MAX];
    unsigned char key[8];
    struct text packed;

    assert_true(count <= LOG_GROUP_MAX);
    for (int32_t i = 0; i < count; i++) {
        ids[i] = answers[i].completion != NULL ? group * 100 + (uint64_t)i + 1 : 0;
        if (ids[i] != 0)
            log_put_answer(log, ids[i], group, i, &answers[i]);
    }
    record.group_id = record.prompt_id = record.order = group;
    record.state = HONE__GROUP_STATE__GROUP_SCORED;
    record.size = count;
    record.n_trajectory_ids = (size_t)count;
    record.trajectory_ids = ids;
    text_init(&packed);
    wire_pack(&record.base, &packed);
    run_log_key_u64(group, key);
    run_log_put(log, LOG_GROUPS, key, sizeof key, packed.data, packed.length);
    text_release(&packed);
}

#endif
