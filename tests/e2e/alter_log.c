/* Changes one thing in every trajectory of a logged batch, as a correct commit: the log is whole
 * and says something else than was trained. Negative control of replay.sh. usage: alter_log LOG
 * BATCH logprob|token */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "curriculum/hub_store.h"
#include "infra/base/error.h"
#include "infra/base/text.h"
#include "infra/store/run_log.h"
#include "infra/wire/codec.h"

/* The last sampled token; its neighbour's id is in the vocabulary too. */
static void alter(struct trajectory *trajectory, bool token)
{
    int32_t last = trajectory->token_count - 1;
    if (token)
        trajectory->tokens[last] ^= 1;
    else
        trajectory->behavior_logprob[last] -= 0.5f;
}

static int alter_batch(struct run_log *log, int64_t number, bool token)
{
    struct logged_batch batch;
    int rc = hub_read_batch(log, number, &batch);
    if (rc <= 0)
        return rc < 0 ? rc : error_set(HONE_ENOENT, "no batch %lld", (long long)number);
    rc = 0;
    for (size_t i = 0; rc == 0 && i < batch.message.n_trajectories; i++) {
        struct trajectory trajectory;
        struct wire_trajectory wire;
        struct text bytes;
        unsigned char key[8];
        if ((rc = wire_trajectory_read(batch.message.trajectories[i], &trajectory)) < 0)
            break;
        alter(&trajectory, token);
        wire_trajectory_build(&wire, &trajectory);
        text_init(&bytes);
        wire_pack(&wire.message.base, &bytes);
        run_log_key_u64(trajectory.id, key);
        run_log_put(log, LOG_TRAJECTORIES, key, sizeof key, bytes.data, bytes.length);
        text_release(&bytes);
        wire_trajectory_release(&wire);
        trajectory_release(&trajectory);
    }
    hub_release_batch(&batch);
    return rc == 0 ? run_log_commit(log) : rc;
}

int main(int argc, char **argv)
{
    struct run_log *log = NULL;
    if (argc != 4)
        return 2;
    int rc = run_log_open(&log, argv[1], false);
    if (rc == 0)
        rc = alter_batch(log, strtoll(argv[2], NULL, 10), strcmp(argv[3], "token") == 0);
    if (rc < 0)
        fprintf(stderr, "alter_log: %s\n", error_message());
    run_log_close(log);
    return rc < 0;
}
