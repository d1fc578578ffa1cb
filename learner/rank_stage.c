#include "learner/rank_stage.h"

#include <inttypes.h>
#include <string.h>

#include "infra/base/error.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"
#include "learner/policy.h"

/* The first byte of a command; the rest is its own. */
enum command { COMMAND_BEGIN = 1, COMMAND_TRAIN, COMMAND_STOP };

struct rank_stage {
    const struct learner_options *options;
    struct policy policy;
};

/* ---- rank 0 ---- */

static int tell(struct rank_group *group, enum command command, const void *bytes, size_t length)
{
    unsigned char *message = memory_alloc(1 + length, 1);
    message[0] = (unsigned char)command;
    if (length > 0)
        memcpy(message + 1, bytes, length);
    int rc = group->ops->send(group, message, 1 + length);
    memory_free(message);
    return rc;
}

int ranks_begin(struct rank_group *group, const char *checkpoint)
{
    const char *path = checkpoint ? checkpoint : "";
    return group ? tell(group, COMMAND_BEGIN, path, strlen(path) + 1) : 0;
}

int ranks_train(struct rank_group *group, const Hone__Batch *message)
{
    if (!group)
        return 0;
    size_t length = hone__batch__get_packed_size(message);
    unsigned char *packed = memory_alloc(length, 1);
    hone__batch__pack(message, packed);
    int rc = tell(group, COMMAND_TRAIN, packed, length);
    memory_free(packed);
    return rc;
}

int ranks_stop(struct rank_group *group)
{
    return group ? tell(group, COMMAND_STOP, NULL, 0) : 0;
}

/* ---- the others ---- */

/* The command's bytes after the first, memory_free'd with *message. */
static int receive(struct rank_stage *s, unsigned char **message, size_t *length)
{
    struct rank_group *group = s->options->trainer.group;
    void *bytes = NULL;
    int rc = group->ops->receive(group, &bytes, length);
    *message = bytes;
    if (rc < 0 || *length > 0)
        return rc;
    memory_free(bytes);
    return error_set(HONE_EPEER, "rank 0 sent an empty command");
}

static int begin(struct rank_stage *s)
{
    unsigned char *message;
    size_t length;
    int rc = receive(s, &message, &length);
    if (rc < 0)
        return rc;
    const char *path = (const char *)message + 1;
    if (message[0] != COMMAND_BEGIN || length < 2 || message[length - 1] != '\0')
        rc = error_set(HONE_EPEER, "rank 0 began with command %d", message[0]);
    else if (*path != '\0')
        rc = policy_restore(&s->policy, path);
    memory_free(message);
    return rc;
}

int rank_stage_create(struct rank_stage **stage, const struct learner_options *options,
                      const struct compute *compute)
{
    struct rank_stage *s = MEMORY_NEW(struct rank_stage);
    s->options = options;
    int rc = policy_open(&s->policy, options, compute);
    if (rc == 0)
        rc = begin(s);
    if (rc == 0)
        rc = policy_open_reference(&s->policy, compute);
    if (rc < 0) {
        rank_stage_destroy(s);
        return rc;
    }
    log_info("rank %d: ready after batch %" PRId64, options->trainer.group->rank,
             s->policy.state.batch);
    *stage = s;
    return 0;
}

void rank_stage_destroy(struct rank_stage *stage)
{
    if (!stage)
        return;
    policy_close(&stage->policy);
    memory_free(stage);
}

static int train(struct rank_stage *s, const unsigned char *bytes, size_t length)
{
    struct rl_step_result result;
    struct rl_batch batch;
    Hone__Batch *message = hone__batch__unpack(NULL, length, bytes);
    if (!message)
        return error_set(HONE_EPEER, "rank 0 sent a batch that cannot be read");
    int rc = policy_read_batch(&s->policy, message, &batch);
    hone__batch__free_unpacked(message, NULL);
    if (rc < 0)
        return rc;
    rc = policy_train(&s->policy, &batch, NULL, NULL, &result);
    rl_batch_release(&batch);
    return rc < 0 ? rc : policy_heed_guards(&s->policy);
}

int rank_stage_tick(void *stage, struct stage_wait *wait)
{
    struct rank_stage *s = stage;
    unsigned char *message;
    size_t length;
    *wait = (struct stage_wait){.busy = true};
    int rc = receive(s, &message, &length);
    if (rc < 0)
        return rc;
    switch (message[0]) {
    case COMMAND_TRAIN:
        rc = train(s, message + 1, length - 1);
        break;
    case COMMAND_STOP:
        log_info("rank %d: stop", s->options->trainer.group->rank);
        wait->finished = true;
        break;
    default:
        rc = error_set(HONE_EPEER, "rank 0 sent command %d", message[0]);
        break;
    }
    memory_free(message);
    return rc;
}
