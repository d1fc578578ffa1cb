/* Ranks of one host over shared memory.
 *
 * Rank 0 makes a block in memory (memfd) and writes its pid, descriptor and a nonce into
 * DIRECTORY/group; the others open it through /proc. Each rank holds a lock on its own byte of the
 * block, which the kernel gives back when the process ends, however it ends: that is how a death is
 * noticed at once, and why nothing is left behind. Vectors are blocks of the same kind.
 *
 * The only way to wait is the barrier: each rank counts its arrivals, and sleeps on `bell` until
 * the others' counts are no less than its own. */
#include "infra/train/rank_group.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "infra/base/assert.h"
#include "infra/base/clock.h"
#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/hash.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"

#define VECTORS_MAX 16
#define SEND_BYTES  (1 << 20)
#define SPINS       200
#define SLEEP_MS    20 /* between looks at who lives */
#define RETRY_MS    20
#define FILE_NAME   "group"
#define FILE_MAX    256
#define ADD_GRAIN   65536
#define PAGE_BYTES  4096

struct member {
    _Atomic int32_t pid; /* 0: has not joined */
    _Atomic uint32_t arrived;
    char pad[56]; /* a cache line each */
};

struct control {
    uint64_t nonce;
    int32_t count;
    _Atomic uint32_t failed;
    _Atomic uint32_t bell;
    struct {
        int32_t fd;
        uint64_t bytes;
    } vectors[VECTORS_MAX];
    uint64_t send_length;
    struct member members[RANKS_MAX];
    double numbers[RANKS_MAX * RANK_NUMBERS_MAX];
    unsigned char send[SEND_BYTES];
};

struct vector {
    unsigned char *base;
    size_t stride, bytes; /* of one rank's, of all */
    int fd;
};

struct local_group {
    struct rank_group group; /* first */
    struct control *control;
    int fd;
    pid_t owner; /* rank 0 */
    uint32_t arrivals;
    struct vector vectors[VECTORS_MAX];
    int32_t vector_count;
    int64_t timeout_ms;
    char name[32];
};

static struct local_group *local(struct rank_group *group)
{
    return (struct local_group *)group;
}

/* ---- who lives ---- */

static int lock_byte(int fd, int32_t rank)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = rank, .l_len = 1};
    return fcntl(fd, F_OFD_SETLK, &lock);
}

static bool byte_is_locked(int fd, int32_t rank)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = rank, .l_len = 1};
    return fcntl(fd, F_OFD_GETLK, &lock) < 0 || lock.l_type != F_UNLCK;
}

static void describe(const struct local_group *g, int32_t rank, char *text, size_t capacity)
{
    int32_t pid = atomic_load(&g->control->members[rank].pid);
    if (pid != 0)
        snprintf(text, capacity, "%s rank %d (pid %d)", g->name, rank, pid);
    else
        snprintf(text, capacity, "%s rank %d", g->name, rank);
}

/* ---- the barrier ---- */

static void ring(struct local_group *g)
{
    atomic_fetch_add(&g->control->bell, 1);
    syscall(SYS_futex, &g->control->bell, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

static int fail(struct local_group *g, int rc)
{
    atomic_store(&g->control->failed, 1);
    ring(g);
    return rc;
}

/* The first rank that has not arrived as often as this one; -1: all have. */
static int32_t missing(const struct local_group *g)
{
    for (int32_t r = 0; r < g->group.count; r++) {
        uint32_t arrived =
            atomic_load_explicit(&g->control->members[r].arrived, memory_order_acquire);
        if ((int32_t)(arrived - g->arrivals) < 0)
            return r;
    }
    return -1;
}

/* A rank that is needed, had joined, and is no more; -1: none. */
static int32_t dead(const struct local_group *g)
{
    for (int32_t r = 0; r < g->group.count; r++) {
        uint32_t arrived = atomic_load(&g->control->members[r].arrived);
        bool needed = (int32_t)(arrived - g->arrivals) < 0;
        bool joined = atomic_load(&g->control->members[r].pid) != 0; /* it locks before */
        if (needed && joined && r != g->group.rank && !byte_is_locked(g->fd, r))
            return r;
    }
    return -1;
}

/* What a look at the others says while this rank waits: 0 go on waiting. */
static int look(struct local_group *g, const char *what, int64_t waited_ms, int64_t timeout_ms)
{
    char who[96];
    int32_t rank = dead(g);
    if (rank >= 0 && missing(g) >= 0) {
        describe(g, rank, who, sizeof who);
        return fail(g, error_set(HONE_EPEER, "%s has died; rank %d waited for it in %s %u", who,
                                 g->group.rank, what, g->arrivals));
    }
    rank = missing(g);
    if (rank < 0)
        return 0;
    describe(g, rank, who, sizeof who);
    if (atomic_load(&g->control->failed))
        return error_set(HONE_EPEER, "the ranks have given up; rank %d waited for %s in %s %u",
                         g->group.rank, who, what, g->arrivals);
    if (timeout_ms > 0 && waited_ms > timeout_ms)
        return fail(g,
                    error_set(HONE_ETIMEOUT,
                              "%s has not come within %lld s; rank %d waits for it in %s %u", who,
                              (long long)(timeout_ms / 1000), g->group.rank, what, g->arrivals));
    return 0;
}

/* timeout_ms 0: as long as the others live. */
static int wait_for_all(struct local_group *g, const char *what, int64_t timeout_ms)
{
    int64_t begin_ms = clock_now_ms(clock_system());
    for (int spins = 0; spins < SPINS; spins++)
        if (missing(g) < 0)
            return 0;
    for (;;) {
        uint32_t bell = atomic_load(&g->control->bell);
        if (missing(g) < 0)
            return 0;
        const struct timespec nap = {.tv_nsec = SLEEP_MS * 1000000L};
        syscall(SYS_futex, &g->control->bell, FUTEX_WAIT, bell, &nap, NULL, 0);
        int rc = look(g, what, clock_now_ms(clock_system()) - begin_ms, timeout_ms);
        if (rc < 0)
            return rc;
    }
}

static int barrier(struct local_group *g, const char *what, int64_t timeout_ms)
{
    struct member *own = &g->control->members[g->group.rank];
    atomic_store_explicit(&own->arrived, ++g->arrivals, memory_order_release);
    ring(g);
    return wait_for_all(g, what, timeout_ms);
}

/* ---- memory ---- */

static int make_block(const char *name, size_t bytes, int *fd, void **base)
{
    *fd = memfd_create(name, MFD_CLOEXEC);
    if (*fd < 0)
        return error_errno("memfd_create");
    if (ftruncate(*fd, (off_t)bytes) < 0)
        return error_errno("shared memory of %zu bytes", bytes);
    *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
    if (*base == MAP_FAILED)
        return error_errno("map %zu bytes of shared memory", bytes);
    (void)madvise(*base, bytes, MADV_HUGEPAGE); /* advice only */
    return 0;
}

/* The block of another process of this user. */
static int open_block(pid_t pid, int number, size_t bytes, int *fd, void **base)
{
    char path[64];
    struct stat status;
    snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)pid, number);
    *fd = open(path, O_RDWR | O_CLOEXEC);
    if (*fd < 0)
        return error_errno("open %s", path);
    if (fstat(*fd, &status) < 0 || !S_ISREG(status.st_mode) || (size_t)status.st_size != bytes) {
        close(*fd);
        return error_set(HONE_EPEER, "%s is not the shared memory of %zu bytes", path, bytes);
    }
    *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
    if (*base == MAP_FAILED) {
        close(*fd);
        return error_errno("map %zu bytes of shared memory", bytes);
    }
    return 0;
}

static int add_vector(struct local_group *g, size_t bytes, bool own, void **vector)
{
    HONE_ASSERT(g->vector_count < VECTORS_MAX);
    int32_t index = g->vector_count;
    struct vector *v = &g->vectors[index];
    void *base = NULL;
    v->stride = own ? (bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES : 0;
    v->bytes = own ? v->stride * (size_t)g->group.count : bytes;
    v->fd = -1;
    int rc = 0;
    if (g->group.rank == 0) {
        rc = make_block("hone-ranks", v->bytes, &v->fd, &base);
        g->control->vectors[index].fd = v->fd;
        g->control->vectors[index].bytes = v->bytes;
    }
    if (rc == 0)
        rc = barrier(g, "making shared memory", g->timeout_ms);
    if (rc == 0 && g->group.rank > 0)
        rc = open_block(g->owner, g->control->vectors[index].fd, v->bytes, &v->fd, &base);
    if (rc == 0)
        rc = barrier(g, "opening shared memory", g->timeout_ms);
    if (rc < 0)
        return fail(g, rc);
    v->base = base;
    g->vector_count++;
    *vector = v->base + v->stride * (size_t)g->group.rank;
    return 0;
}

static int own_vector(struct rank_group *group, size_t bytes, void **vector)
{
    return add_vector(local(group), bytes, true, vector);
}

static int shared_vector(struct rank_group *group, size_t bytes, void **vector)
{
    return add_vector(local(group), bytes, false, vector);
}

static const struct vector *vector_of(const struct local_group *g, const void *memory)
{
    for (int32_t i = 0; i < g->vector_count; i++) {
        const struct vector *v = &g->vectors[i];
        if (memory == v->base + v->stride * (size_t)g->group.rank)
            return v;
    }
    return NULL;
}

/* ---- collectives ---- */

struct add_job {
    const struct vector *own;
    int32_t ranks;
    int64_t begin;
    bool first;
    float *sum;
};

static void add_range(void *context, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct add_job *job = context;
    for (int64_t block = job->begin + begin; block < job->begin + end; block += PAGE_BYTES) {
        int64_t last =
            block + PAGE_BYTES < job->begin + end ? block + PAGE_BYTES : job->begin + end;
        for (int32_t r = 0; r < job->ranks; r++) {
            const float *from =
                (const float *)(const void *)(job->own->base + job->own->stride * (size_t)r);
            if (r == 0 && job->first)
                memcpy(job->sum + block, from + block, (size_t)(last - block) * sizeof *from);
            else
                for (int64_t i = block; i < last; i++)
                    job->sum[i] += from[i];
        }
    }
}

static int add(struct rank_group *group, struct parallel *pool, const float *own, int64_t begin,
               int64_t end, bool first, float *sum)
{
    struct local_group *g = local(group);
    struct add_job job = {vector_of(g, own), group->count, begin, first, sum};
    HONE_ASSERT(job.own != NULL && vector_of(g, sum) != NULL);
    int rc = barrier(g, "sum of gradients", g->timeout_ms);
    if (rc < 0)
        return rc;
    parallel_for(pool, end - begin, ADD_GRAIN, add_range, &job);
    return barrier(g, "end of the sum", g->timeout_ms); /* the vectors may be written again */
}

static int join(struct rank_group *group, void *vector)
{
    HONE_ASSERT(vector_of(local(group), vector) != NULL);
    return barrier(local(group), "joining a vector", local(group)->timeout_ms);
}

static int exchange(struct rank_group *group, int32_t each, double *values)
{
    struct local_group *g = local(group);
    HONE_ASSERT(each <= RANK_NUMBERS_MAX);
    size_t bytes = (size_t)each * sizeof *values;
    memcpy(g->control->numbers + (size_t)group->rank * RANK_NUMBERS_MAX,
           values + (size_t)group->rank * (size_t)each, bytes);
    int rc = barrier(g, "exchange", g->timeout_ms);
    for (int32_t r = 0; rc == 0 && r < group->count; r++)
        memcpy(values + (size_t)r * (size_t)each,
               g->control->numbers + (size_t)r * RANK_NUMBERS_MAX, bytes);
    return rc < 0 ? rc : barrier(g, "end of the exchange", g->timeout_ms);
}

static int send_bytes(struct rank_group *group, const void *bytes, size_t length)
{
    struct local_group *g = local(group);
    HONE_ASSERT(group->rank == 0);
    g->control->send_length = length;
    int rc = 0;
    for (size_t done = 0; rc == 0 && (done < length || done == 0); done += SEND_BYTES) {
        size_t piece = length - done < SEND_BYTES ? length - done : SEND_BYTES;
        memcpy(g->control->send, (const unsigned char *)bytes + done, piece);
        rc = barrier(g, "command", g->timeout_ms);
        if (rc == 0)
            rc = barrier(g, "end of the command", g->timeout_ms);
    }
    return rc;
}

static int receive_bytes(struct rank_group *group, void **bytes, size_t *length)
{
    struct local_group *g = local(group);
    unsigned char *received = NULL;
    HONE_ASSERT(group->rank > 0);
    int rc = barrier(g, "command", 0);
    *length = rc == 0 ? (size_t)g->control->send_length : 0;
    if (rc == 0)
        received = memory_alloc(*length, 1);
    for (size_t done = 0; rc == 0 && (done < *length || done == 0); done += SEND_BYTES) {
        size_t piece = *length - done < SEND_BYTES ? *length - done : SEND_BYTES;
        if (done > 0)
            rc = barrier(g, "command", g->timeout_ms);
        if (rc == 0)
            memcpy(received + done, g->control->send, piece);
        if (rc == 0)
            rc = barrier(g, "end of the command", g->timeout_ms);
    }
    if (rc < 0)
        memory_free(received);
    *bytes = rc == 0 ? received : NULL;
    return rc;
}

static void close_local(struct rank_group *group)
{
    struct local_group *g = local(group);
    for (int32_t i = 0; i < g->vector_count; i++) {
        munmap(g->vectors[i].base, g->vectors[i].bytes);
        close(g->vectors[i].fd);
    }
    if (g->control)
        munmap(g->control, sizeof *g->control);
    if (g->fd >= 0)
        close(g->fd);
    memory_free(g);
}

static const struct rank_group_ops local_ops = {.own = own_vector,
                                                .shared = shared_vector,
                                                .add = add,
                                                .join = join,
                                                .exchange = exchange,
                                                .send = send_bytes,
                                                .receive = receive_bytes,
                                                .close = close_local};

/* ---- meeting ---- */

static int open_first(struct local_group *g, const char *path)
{
    char text[FILE_MAX];
    void *base;
    int rc = make_block("hone-ranks", sizeof *g->control, &g->fd, &base);
    if (rc < 0)
        return rc;
    g->control = base;
    g->owner = getpid();
    int64_t seed[] = {getpid(), clock_now_ns(clock_system()), clock_unix_ms(clock_system())};
    g->control->nonce = hash_u64(seed, sizeof seed);
    g->control->count = g->group.count;
    if (lock_byte(g->fd, 0) < 0)
        return error_errno("lock of rank 0");
    atomic_store(&g->control->members[0].pid, getpid());
    int length = snprintf(text, sizeof text, "%d %d %llu\n", (int)getpid(), g->fd,
                          (unsigned long long)g->control->nonce);
    return file_write_atomic(path, text, (size_t)length);
}

/* One attempt to join the group that the file tells of: 1 joined, 0 there is none (yet). */
static int try_to_join(struct local_group *g, const char *path)
{
    char *text;
    size_t bytes;
    int pid, number;
    unsigned long long nonce;
    int32_t nobody = 0, rank = g->group.rank;
    void *base;
    if (file_read(path, FILE_MAX, &text, &bytes) < 0)
        return 0;
    int found = sscanf(text, "%d %d %llu", &pid, &number, &nonce);
    memory_free(text);
    if (found != 3 || open_block((pid_t)pid, number, sizeof *g->control, &g->fd, &base) < 0)
        return 0;
    g->control = base;
    g->owner = (pid_t)pid;
    bool good = g->control->nonce == nonce && !atomic_load(&g->control->failed) &&
                byte_is_locked(g->fd, 0) && lock_byte(g->fd, rank) == 0 &&
                atomic_compare_exchange_strong(&g->control->members[rank].pid, &nobody, getpid());
    if (good && g->control->count != g->group.count)
        return error_set(HONE_EINVAL, "%s rank 0 has made a group of %d, this is rank %d of %d",
                         g->name, g->control->count, rank, g->group.count);
    if (good)
        return 1;
    munmap(g->control, sizeof *g->control);
    close(g->fd);
    g->control = NULL;
    g->fd = -1;
    return 0;
}

static int join_others(struct local_group *g, const char *path, int64_t join_ms)
{
    int64_t begin_ms = clock_now_ms(clock_system());
    int joined = 0;
    while ((joined = try_to_join(g, path)) == 0) {
        error_clear();
        if (clock_now_ms(clock_system()) - begin_ms > join_ms)
            return error_set(HONE_ETIMEOUT, "%s rank 0 has not opened a group within %lld s",
                             g->name, (long long)(join_ms / 1000));
        clock_sleep_ms(RETRY_MS);
    }
    return joined < 0 ? joined : 0;
}

/* Who has not joined holds no lock yet: that is no death. */
static int wait_for_members(struct local_group *g, int64_t join_ms)
{
    int64_t begin_ms = clock_now_ms(clock_system());
    for (int32_t r = 0; r < g->group.count;) {
        if (atomic_load(&g->control->members[r].pid) != 0) {
            r++;
            continue;
        }
        if (clock_now_ms(clock_system()) - begin_ms > join_ms)
            return fail(g, error_set(HONE_ETIMEOUT, "%s rank %d has not joined within %lld s",
                                     g->name, r, (long long)(join_ms / 1000)));
        clock_sleep_ms(RETRY_MS);
    }
    return 0;
}

int rank_group_open_local(struct rank_group **group, const struct rank_group_options *options)
{
    char path[HONE_PATH_MAX];
    HONE_ASSERT(options->count >= 2 && options->count <= RANKS_MAX && options->rank >= 0 &&
                options->rank < options->count);
    struct local_group *g = MEMORY_NEW(struct local_group);
    g->group = (struct rank_group){&local_ops, options->rank, options->count};
    g->fd = -1;
    g->timeout_ms = options->timeout_ms;
    snprintf(g->name, sizeof g->name, "%s", options->name);
    path_join(path, sizeof path, options->directory, FILE_NAME);
    int rc = options->rank == 0 ? open_first(g, path) : join_others(g, path, options->join_ms);
    if (rc == 0 && options->rank == 0)
        rc = wait_for_members(g, options->join_ms);
    if (rc == 0)
        rc = barrier(g, "meeting", options->join_ms);
    if (rc < 0) {
        close_local(&g->group);
        return rc;
    }
    if (options->rank == 0)
        log_info("%d ranks train together", options->count);
    *group = &g->group;
    return 0;
}

void rank_group_close(struct rank_group *group)
{
    if (group)
        group->ops->close(group);
}
