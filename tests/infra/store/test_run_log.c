/* The log: what is committed is there after kill -9, a torn tail, a full disk; damage is refused.
 * The program starts itself as `test writer DIRECTORY` for the writer that gets killed: RocksDB's
 * threads do not survive a bare fork. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"
#include "infra/base/rng.h"
#include "infra/store/run_log.h"

#define KILLS         10
#define PAYLOAD_BYTES 700
#define DAMAGE_CASES  12

static char root[64], directory[256];

static int make_root(void **state)
{
    (void)state;
    log_set_level(LOG_LEVEL_ERROR);
    snprintf(root, sizeof root, "%s", "/tmp/hone-store-XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static int remove_root(void **state)
{
    char mounted[128];
    (void)state;
    snprintf(mounted, sizeof mounted, "%s/small", root);
    (void)umount2(mounted, MNT_DETACH); /* left over when the test of the full disk failed */
    return file_remove_tree(root);
}

static void fresh_directory(void)
{
    static int count;
    snprintf(directory, sizeof directory, "%s/log-%d", root, count++);
}

/* Commit `number`: a trajectory with a payload of its own, and a group that counts. */
static void stage_number(struct run_log *log, uint64_t number)
{
    unsigned char key[8], payload[PAYLOAD_BYTES];
    run_log_key_u64(number, key);
    memset(payload, (int)(number * 31 % 251), sizeof payload);
    run_log_put(log, LOG_TRAJECTORIES, key, sizeof key, payload, sizeof payload);
    run_log_put(log, LOG_META, "last", 4, key, sizeof key);
}

static void expect_number(struct run_log *log, uint64_t number)
{
    unsigned char key[8], payload[PAYLOAD_BYTES];
    struct text value;
    text_init(&value);
    run_log_key_u64(number, key);
    memset(payload, (int)(number * 31 % 251), sizeof payload);
    assert_int_equal(run_log_get(log, LOG_TRAJECTORIES, key, sizeof key, &value), 1);
    assert_int_equal(value.length, sizeof payload);
    assert_memory_equal(value.data, payload, sizeof payload);
    text_release(&value);
}

static void must_open(struct run_log **log, bool read_only)
{
    if (run_log_open(log, directory, read_only) < 0)
        fail_msg("%s", error_message());
}

static void write_numbers(uint64_t count)
{
    struct run_log *log;
    must_open(&log, false);
    uint64_t first = run_log_sequence(log) + 1;
    for (uint64_t number = first; number < first + count; number++) {
        stage_number(log, number);
        assert_int_equal(run_log_commit(log), 0);
    }
    run_log_close(log);
}

struct seen {
    int count;
    uint64_t last;
};

static int count_keys(void *context, const void *key, size_t key_bytes, const void *value,
                      size_t value_bytes)
{
    struct seen *seen = context;
    (void)value;
    (void)value_bytes;
    assert_int_equal(key_bytes, 8);
    assert_true(seen->count == 0 || run_log_u64(key) > seen->last);
    seen->last = run_log_u64(key);
    seen->count++;
    return seen->last == 400 ? 42 : 0;
}

static void test_put_get_delete_scan(void **state)
{
    (void)state;
    struct run_log *log;
    struct text value;
    unsigned char key[8];
    fresh_directory();
    must_open(&log, false);
    text_init(&value);
    run_log_put(log, LOG_GROUPS, "a", 1, "1", 1);
    run_log_put(log, LOG_GROUPS, "a", 1, "two", 3);
    run_log_put(log, LOG_PROMPTS, "a", 1, "", 0);
    assert_true(run_log_has_staged(log));
    assert_int_equal(run_log_get(log, LOG_GROUPS, "a", 1, &value), 0); /* committed values only */
    assert_int_equal(run_log_commit(log), 0);
    assert_false(run_log_has_staged(log));
    assert_int_equal(run_log_commit(log), 0);
    assert_int_equal(run_log_sequence(log), 1);
    assert_int_equal(run_log_get(log, LOG_GROUPS, "a", 1, &value), 1);
    assert_string_equal(value.data, "two");
    assert_int_equal(run_log_get(log, LOG_PROMPTS, "a", 1, &value), 1);
    assert_int_equal(value.length, 0);
    assert_int_equal(run_log_get(log, LOG_LEASES, "a", 1, &value), 0);
    run_log_delete(log, LOG_GROUPS, "a", 1);
    for (uint64_t id = 1000; id > 0; id -= 100) {
        run_log_key_u64(id, key);
        run_log_put(log, LOG_BATCHES, key, sizeof key, "x", 1);
    }
    assert_int_equal(run_log_commit(log), 0);
    assert_int_equal(run_log_get(log, LOG_GROUPS, "a", 1, &value), 0);
    struct seen seen = {0};
    assert_int_equal(run_log_scan(log, LOG_BATCHES, count_keys, &seen), 42);
    assert_int_equal(seen.count, 4);
    run_log_put(log, LOG_GROUPS, "dropped", 7, "x", 1); /* staged, never committed */
    run_log_close(log);
    must_open(&log, false);
    assert_int_equal(run_log_sequence(log), 2);
    assert_int_equal(run_log_get(log, LOG_GROUPS, "dropped", 7, &value), 0);
    assert_int_equal(run_log_scan(log, LOG_GROUPS, count_keys, &seen), 0);
    run_log_close(log);
    text_release(&value);
}

static void test_one_writer(void **state)
{
    (void)state;
    struct run_log *log, *second;
    fresh_directory();
    must_open(&log, false);
    assert_int_equal(run_log_open(&second, directory, false), HONE_EBUSY);
    assert_null(second);
    assert_non_null(strstr(error_message(), directory));
    run_log_close(log);
    must_open(&log, false);
    run_log_close(log);
}

static void test_read_only_beside_the_writer(void **state)
{
    (void)state;
    struct run_log *writer, *reader;
    fresh_directory();
    assert_int_equal(run_log_open(&reader, directory, true), HONE_ENOENT);
    assert_false(file_exists(directory));
    must_open(&writer, false);
    for (uint64_t number = 1; number <= 5; number++) {
        stage_number(writer, number);
        assert_int_equal(run_log_commit(writer), 0);
        must_open(&reader, true);
        assert_int_equal(run_log_sequence(reader), number);
        expect_number(reader, number);
        run_log_close(reader);
    }
    run_log_close(writer);
}

/* ---- kill -9 ---- */

static int writer_main(const char *path)
{
    struct run_log *log;
    if (run_log_open(&log, path, false) < 0) {
        fprintf(stderr, "writer: %s\n", error_message());
        return 1;
    }
    for (;;) {
        uint64_t number = run_log_sequence(log) + 1;
        stage_number(log, number);
        if (run_log_commit(log) < 0)
            return 1;
        if (write(STDOUT_FILENO, &number, sizeof number) != sizeof number)
            return 1;
    }
}

static pid_t start_writer(int *acks)
{
    int ends[2];
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        dup2(ends[1], STDOUT_FILENO);
        execl("/proc/self/exe", "test", "writer", directory, (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    *acks = ends[0];
    return pid;
}

static void test_kill_loses_nothing_acknowledged(void **state)
{
    (void)state;
    struct rng_key key = {.seed = 5, .purpose = RNG_SIM};
    uint64_t acked = 0, beyond = 0;
    fresh_directory();
    for (uint64_t kill_count = 0; kill_count < KILLS; kill_count++) {
        int acks, status;
        uint64_t wanted = acked + 1 + rng_below(&key, kill_count, 60), number;
        pid_t pid = start_writer(&acks);
        while (acked < wanted) {
            assert_int_equal(read(acks, &number, sizeof number), sizeof number);
            assert_true(number > acked);
            acked = number;
        }
        assert_int_equal(kill(pid, SIGKILL), 0);
        while (read(acks, &number, sizeof number) == sizeof number)
            acked = number; /* acknowledged before the signal took effect */
        close(acks);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        struct run_log *log;
        must_open(&log, kill_count % 2 == 1);
        assert_true(run_log_sequence(log) >= acked);
        /* One commit may have been durable and not yet acknowledged. */
        assert_true(run_log_sequence(log) <= acked + 1);
        beyond += run_log_sequence(log) - acked;
        acked = run_log_sequence(log);
        for (number = 1; number <= acked; number++)
            expect_number(log, number);
        run_log_close(log);
    }
    printf("%d kills, %d commits, %d of them durable but not acknowledged\n", KILLS, (int)acked,
           (int)beyond);
}

/* ---- damage ---- */

/* The newest write-ahead log. */
static void wal_path(char path[HONE_PATH_MAX])
{
    DIR *handle = opendir(directory);
    struct dirent *entry;
    char newest[256] = "";
    while ((entry = readdir(handle))) {
        if (text_ends_with(entry->d_name, ".log") && strcmp(entry->d_name, newest) > 0)
            snprintf(newest, sizeof newest, "%s", entry->d_name);
    }
    closedir(handle);
    assert_true(newest[0]);
    path_join(path, HONE_PATH_MAX, directory, newest);
}

static void remove_acked(void)
{
    char path[HONE_PATH_MAX];
    assert_int_equal(unlink(path_join(path, sizeof path, directory, "ACKED")), 0);
}

static void test_torn_tail_is_tolerated(void **state)
{
    (void)state;
    for (off_t cut = 1; cut < 600; cut += 197) {
        char path[HONE_PATH_MAX];
        int64_t bytes;
        struct run_log *log;
        fresh_directory();
        write_numbers(40);
        wal_path(path);
        assert_int_equal(file_size(path, &bytes), 0);
        assert_int_equal(truncate(path, bytes - cut), 0);
        remove_acked(); /* a write torn by a power cut was never acknowledged */
        must_open(&log, false);
        assert_int_equal(run_log_sequence(log), 39);
        expect_number(log, 39);
        stage_number(log, 40);
        assert_int_equal(run_log_commit(log), 0);
        run_log_close(log);
        must_open(&log, true);
        assert_int_equal(run_log_sequence(log), 40);
        run_log_close(log);
    }
}

static void test_lost_acknowledged_commits_are_refused(void **state)
{
    (void)state;
    char path[HONE_PATH_MAX];
    int64_t bytes;
    struct run_log *log;
    fresh_directory();
    write_numbers(10);
    must_open(&log, false); /* moves the first ten into tables */
    run_log_close(log);
    write_numbers(10);
    wal_path(path);
    assert_int_equal(file_size(path, &bytes), 0);
    assert_int_equal(truncate(path, bytes - 50), 0);
    assert_int_equal(run_log_open(&log, directory, false), HONE_ECORRUPT);
    assert_non_null(strstr(error_message(), "commits 20 to 20 were acknowledged"));
    wal_path(path);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(run_log_open(&log, directory, true), HONE_ECORRUPT);
    remove_acked(); /* what the message says */
    must_open(&log, false);
    run_log_close(log);
}

static void flip(const char *path, off_t offset)
{
    unsigned char byte;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_int_equal(pread(fd, &byte, 1, offset), 1);
    byte ^= 0x10;
    assert_int_equal(pwrite(fd, &byte, 1, offset), 1);
    close(fd);
}

static void test_damage_in_the_middle_is_refused(void **state)
{
    (void)state;
    char path[HONE_PATH_MAX];
    int64_t bytes;
    struct run_log *log;
    fresh_directory();
    write_numbers(60);
    wal_path(path);
    assert_int_equal(file_size(path, &bytes), 0);
    for (int i = 0; i < DAMAGE_CASES; i++) {
        off_t offset = bytes * i / (DAMAGE_CASES + 4) + 11;
        flip(path, offset);
        if (run_log_open(&log, directory, true) != HONE_ECORRUPT)
            fail_msg("a flip at %lld of %lld was not refused", (long long)offset, (long long)bytes);
        if (i == DAMAGE_CASES / 2)
            assert_int_equal(run_log_open(&log, directory, false), HONE_ECORRUPT);
        flip(path, offset);
    }
    must_open(&log, false);
    assert_int_equal(run_log_sequence(log), 60);
    run_log_close(log);
}

/* ---- full disk ---- */

/* Commits until the disk is full; returns the number of the last acknowledged one. */
static uint64_t fill(struct run_log *log, uint64_t limit)
{
    static char payload[64 << 10];
    uint64_t number = run_log_sequence(log);
    while (number < limit) {
        unsigned char key[8];
        run_log_key_u64(number + 1, key);
        memset(payload, (int)number + 1, sizeof payload);
        run_log_put(log, LOG_LEASES, key, sizeof key, payload, sizeof payload);
        if (run_log_commit(log) < 0)
            break;
        number++;
    }
    return number;
}

static void expect_full_then_resume(struct run_log *log, bool stays_full, void (*make_space)(void))
{
    struct text value;
    unsigned char key[8];
    text_init(&value);
    uint64_t acked = fill(log, 4000);
    assert_true(acked > 0 && acked < 4000);
    assert_int_equal(error_last(), HONE_ENOSPC);
    assert_non_null(strstr(error_message(), "full"));
    assert_true(run_log_has_staged(log));
    if (stays_full)
        assert_int_equal(run_log_commit(log), HONE_ENOSPC);
    make_space();
    if (run_log_commit(log) < 0)
        fail_msg("did not resume: %s", error_message());
    assert_false(run_log_has_staged(log));
    uint64_t last = run_log_sequence(log);
    assert_true(last >= acked + 1 && last <= acked + 2); /* a failed write may have been durable */
    for (uint64_t number = 1; number <= acked + 1; number++) {
        run_log_key_u64(number, key);
        assert_int_equal(run_log_get(log, LOG_LEASES, key, sizeof key, &value), 1);
    }
    printf("%d commits before the disk was full\n", (int)acked);
    text_release(&value);
}

static void raise_limit(void)
{
    struct rlimit limit;
    getrlimit(RLIMIT_FSIZE, &limit);
    limit.rlim_cur = limit.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static void test_file_size_limit(void **state)
{
    (void)state;
    struct run_log *log;
    struct rlimit limit;
    fresh_directory();
    must_open(&log, false);
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &limit);
    limit.rlim_cur = 3 << 20;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    expect_full_then_resume(log, false, raise_limit);
    run_log_close(log);
    must_open(&log, true);
    run_log_close(log);
}

static char filler[HONE_PATH_MAX];

static void remove_filler(void)
{
    assert_int_equal(unlink(filler), 0);
}

static void test_full_disk(void **state)
{
    (void)state;
    char mounted[128], ballast[HONE_PATH_MAX];
    struct run_log *log;
    snprintf(mounted, sizeof mounted, "%s/small", root);
    assert_int_equal(file_make_directories(mounted), 0);
    if (mount("tmpfs", mounted, "tmpfs", 0, "size=100m") != 0) {
        printf("skipped: cannot mount a small file system (%s)\n", strerror(errno));
        skip();
    }
    snprintf(directory, sizeof directory, "%s/log", mounted);
    path_join(filler, sizeof filler, mounted, "filler");
    path_join(ballast, sizeof ballast, directory, "BALLAST");
    must_open(&log, false);
    assert_true(file_exists(ballast));
    int fd = open(filler, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(posix_fallocate(fd, 0, 50 << 20), 0);
    close(fd);
    expect_full_then_resume(log, true, remove_filler);
    run_log_close(log);
    /* Not a byte left: the log opens all the same, on the ballast's space. */
    fd = open(filler, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    static const char zeros[1 << 16];
    while (write(fd, zeros, sizeof zeros) > 0)
        continue;
    close(fd);
    assert_true(file_exists(ballast));
    must_open(&log, false);
    assert_false(file_exists(ballast));
    run_log_put(log, LOG_GROUPS, "last words", 10, "x", 1);
    assert_int_equal(run_log_commit(log), 0);
    run_log_close(log);
    assert_int_equal(umount2(mounted, MNT_DETACH), 0);
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "writer") == 0)
        return writer_main(argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_put_get_delete_scan),
        cmocka_unit_test(test_one_writer),
        cmocka_unit_test(test_read_only_beside_the_writer),
        cmocka_unit_test(test_kill_loses_nothing_acknowledged),
        cmocka_unit_test(test_torn_tail_is_tolerated),
        cmocka_unit_test(test_lost_acknowledged_commits_are_refused),
        cmocka_unit_test(test_damage_in_the_middle_is_refused),
        cmocka_unit_test(test_file_size_limit),
        cmocka_unit_test(test_full_disk),
    };
    return cmocka_run_group_tests(tests, make_root, remove_root);
}
