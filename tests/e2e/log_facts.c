/* What a run's log says, for the scripts that check it from outside.
 *
 *   log_facts LOG                    a line per batch: its number, state, groups and weights hash
 *   log_facts LOG --acked JOURNAL    every trajectory noted in the journal as acknowledged is there
 *   log_facts --open LOG             opens it for writing, as a hub that comes back does
 *   log_facts --checkpoint DIRECTORY the step of the newest checkpoint that is whole; 0: none
 *   log_facts --write DIRECTORY      a writer: commits until it is killed, prints what is
 *                                    acknowledged
 *   log_facts --count DIRECTORY      how many of those commits a log has, none missing between */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infra/base/clock.h"
#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/log.h"
#include "infra/model/checkpoint.h"
#include "infra/store/run_log.h"
#include "infra/wire/envelope.h"

#define PAYLOAD_BYTES 4096

static int fail(void)
{
    fprintf(stderr, "log_facts: %s\n", error_message());
    return 1;
}

static int print_batch(void *context, const void *key, size_t key_bytes, const void *value,
                       size_t value_bytes)
{
    ProtobufCMessage *base;
    (void)context;
    (void)key;
    (void)key_bytes;
    if (wire_unpack(&base, &hone__batch_record__descriptor, value, value_bytes) < 0)
        return HONE_EFORMAT;
    const Hone__BatchRecord *batch = (const Hone__BatchRecord *)(void *)base;
    printf("batch %lld %s %s groups", (long long)batch->number,
           batch->has_durable && batch->durable ? "durable" : "open",
           batch->weights_hash ? batch->weights_hash : "-");
    for (size_t i = 0; i < batch->n_group_ids; i++)
        printf(" %llu", (unsigned long long)batch->group_ids[i]);
    printf("\n");
    wire_free(base);
    return 0;
}

static int check_acked(struct run_log *log, const char *journal)
{
    char what[64];
    unsigned long long id, count = 0, lost = 0;
    FILE *file = fopen(journal, "r");
    struct text value;
    text_init(&value);
    while (file != NULL && fscanf(file, "%63s %llu", what, &id) == 2) {
        unsigned char key[8];
        if (strcmp(what, "acknowledged") != 0)
            continue;
        run_log_key_u64(id, key);
        count++;
        if (run_log_get(log, LOG_TRAJECTORIES, key, sizeof key, &value) != 1) {
            fprintf(stderr, "trajectory %llu was acknowledged and is lost\n", id);
            lost++;
        }
    }
    if (file != NULL)
        fclose(file);
    text_release(&value);
    printf("%llu acknowledged, %llu lost\n", count, lost);
    return lost > 0 || count == 0;
}

/* Commit n puts record n; it is printed once it is acknowledged. */
static int write_for_ever(const char *directory)
{
    struct run_log *log;
    static unsigned char payload[PAYLOAD_BYTES];
    if (run_log_open(&log, directory, false) < 0)
        return fail();
    for (uint64_t n = run_log_sequence(log) + 1;; n++) {
        unsigned char key[8];
        run_log_key_u64(n, key);
        memset(payload, (int)(n % 251), sizeof payload);
        run_log_put(log, LOG_TRAJECTORIES, key, sizeof key, payload, sizeof payload);
        if (run_log_commit(log) < 0)
            return fail();
        printf("%llu\n", (unsigned long long)n);
        fflush(stdout);
        clock_sleep_ms(1); /* a disk that does not sync must not fill up */
    }
}

static int count_record(void *context, const void *key, size_t key_bytes, const void *value,
                        size_t value_bytes)
{
    uint64_t *count = context;
    bool right = key_bytes == 8 && run_log_u64(key) == *count + 1 && value_bytes == PAYLOAD_BYTES &&
                 *(const unsigned char *)value == (*count + 1) % 251;
    if (!right)
        return error_set(HONE_ECORRUPT, "record %llu is missing or wrong",
                         (unsigned long long)*count + 1);
    ++*count;
    return 0;
}

static int count_records(const char *directory)
{
    struct run_log *log;
    uint64_t count = 0;
    if (run_log_open(&log, directory, false) < 0) /* as a writer that comes back does */
        return fail();
    int rc = run_log_scan(log, LOG_TRAJECTORIES, count_record, &count);
    run_log_close(log);
    if (rc < 0)
        return fail();
    printf("%llu\n", (unsigned long long)count);
    return 0;
}

static int newest_checkpoint(const char *directory)
{
    char path[HONE_PATH_MAX];
    int rc = checkpoint_newest(directory, path, sizeof path);
    if (rc < 0 && rc != HONE_ENOENT)
        return fail();
    const char *dash = rc == 0 ? strrchr(path, '-') : NULL;
    printf("%s\n", dash != NULL ? dash + 1 : "0");
    return 0;
}

int main(int argc, char **argv)
{
    struct run_log *log;
    log_set_level(LOG_LEVEL_ERROR);
    if (argc == 3 && strcmp(argv[1], "--open") == 0) {
        if (run_log_open(&log, argv[2], false) < 0)
            return fail();
        run_log_close(log);
        return 0;
    }
    if (argc == 3 && strcmp(argv[1], "--checkpoint") == 0)
        return newest_checkpoint(argv[2]);
    if (argc == 3 && strcmp(argv[1], "--write") == 0)
        return write_for_ever(argv[2]);
    if (argc == 3 && strcmp(argv[1], "--count") == 0)
        return count_records(argv[2]);
    if (argc != 2 && (argc != 4 || strcmp(argv[2], "--acked") != 0)) {
        fprintf(stderr, "usage: log_facts LOG [--acked JOURNAL]\n");
        return 2;
    }
    if (run_log_open(&log, argv[1], true) < 0)
        return fail();
    int rc = argc == 4 ? check_acked(log, argv[3])
                       : run_log_scan(log, LOG_BATCHES, print_batch, NULL) < 0;
    run_log_close(log);
    return rc;
}
