#include "infra/wire/gate.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <zmq.h>

#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"

#define HANDLER_ENDPOINT "inproc://zeromq.zap.01"
#define RELOAD_MS        1000
#define FRAMES_MAX       8
#define FRAME_BYTES      256
#define KEY_BYTES        32

struct gate {
    void *socket; /* the thread's, once it runs */
    pthread_t thread;
    pthread_mutex_t mutex; /* over list */
    struct allow_list list;
    atomic_ullong generation;
    uint64_t refused;
    char path[HONE_PATH_MAX];
    struct stat seen; /* of the file that list was read from */
};

/* Parts of a request, in the order of the specification. */
enum { VERSION, REQUEST_ID, DOMAIN, ADDRESS, IDENTITY, MECHANISM, CREDENTIALS, PART_COUNT };

struct request {
    char parts[FRAMES_MAX][FRAME_BYTES]; /* NUL-terminated */
    size_t lengths[FRAMES_MAX];
    int count;
    bool is_broken; /* too many parts, or one too long */
};

/* ---- the list ---- */

static bool is_same_file(const struct stat *a, const struct stat *b)
{
    return a->st_ino == b->st_ino && a->st_dev == b->st_dev && a->st_size == b->st_size &&
           a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec &&
           a->st_ctim.tv_sec == b->st_ctim.tv_sec && a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

static int reload(struct gate *gate)
{
    struct stat status = {0};
    struct allow_list list;
    (void)stat(gate->path, &status);
    int rc = allow_list_read(&list, gate->path);
    gate->seen = status; /* what is wrong is said once, not every second */
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&gate->mutex);
    struct allow_list old = gate->list;
    gate->list = list;
    pthread_mutex_unlock(&gate->mutex);
    atomic_fetch_add(&gate->generation, 1);
    allow_list_release(&old);
    return 0;
}

static void reload_when_changed(struct gate *gate)
{
    struct stat status = {0};
    (void)stat(gate->path, &status);
    if (is_same_file(&status, &gate->seen))
        return;
    if (reload(gate) < 0)
        log_error("the allow-list stays as it was: %s", error_message());
    else
        log_info("read %s again: %d keys", gate->path, gate->list.count);
}

bool gate_find(struct gate *gate, const char *public_key, struct allowed_key *found)
{
    pthread_mutex_lock(&gate->mutex);
    const struct allowed_key *item = allow_list_find(&gate->list, public_key);
    if (item)
        *found = *item;
    pthread_mutex_unlock(&gate->mutex);
    return item != NULL;
}

uint64_t gate_generation(const struct gate *gate)
{
    return atomic_load(&gate->generation);
}

const char *gate_key_of(void *part)
{
    return zmq_msg_gets(part, "User-Id");
}

/* ---- the handler's thread ---- */

/* 1 a request, 0 none, -1 the context ends. */
static int receive_request(struct gate *gate, struct request *request)
{
    memset(request, 0, sizeof *request);
    for (bool more = true; more;) {
        zmq_msg_t part;
        zmq_msg_init(&part);
        if (zmq_msg_recv(&part, gate->socket, request->count == 0 ? ZMQ_DONTWAIT : 0) < 0) {
            int code = errno;
            zmq_msg_close(&part);
            return code == ETERM ? -1 : 0;
        }
        size_t length = zmq_msg_size(&part);
        if (request->count < FRAMES_MAX && length < FRAME_BYTES) {
            memcpy(request->parts[request->count], zmq_msg_data(&part), length);
            request->lengths[request->count++] = length;
        } else {
            request->is_broken = true;
        }
        more = zmq_msg_more(&part);
        zmq_msg_close(&part);
    }
    return 1;
}

static void answer(struct gate *gate, const struct request *request, const char *status,
                   const char *user)
{
    const struct {
        const char *data;
        size_t bytes;
    } parts[] = {{"1.0", 3},
                 {request->parts[REQUEST_ID], request->lengths[REQUEST_ID]},
                 {status, strlen(status)},
                 {"", 0},
                 {user, strlen(user)},
                 {"", 0}};
    size_t count = sizeof parts / sizeof *parts;
    for (size_t i = 0; i < count; i++)
        zmq_send(gate->socket, parts[i].data, parts[i].bytes, i + 1 < count ? ZMQ_SNDMORE : 0);
}

static void decide(struct gate *gate, const struct request *request)
{
    struct allowed_key found;
    char key[KEY_SIZE] = "";
    if (!request->is_broken && request->count == PART_COUNT &&
        strcmp(request->parts[VERSION], "1.0") == 0 &&
        strcmp(request->parts[DOMAIN], GATE_DOMAIN) == 0 &&
        strcmp(request->parts[MECHANISM], "CURVE") == 0 &&
        request->lengths[CREDENTIALS] == KEY_BYTES)
        zmq_z85_encode(key, (const uint8_t *)request->parts[CREDENTIALS], KEY_BYTES);
    if (key[0] != '\0' && gate_find(gate, key, &found)) {
        answer(gate, request, "200", key);
        return;
    }
    /* 1, 2, 4, 8 ...: a flood of attempts does not become a flood of lines. */
    gate->refused++;
    if ((gate->refused & (gate->refused - 1)) == 0)
        log_warn("refused a connection from %.64s: its key %s is not in %s (%llu refused so far)",
                 request->parts[ADDRESS], key, gate->path, (unsigned long long)gate->refused);
    answer(gate, request, "400", "");
}

static void *serve(void *argument)
{
    struct gate *gate = argument;
    for (;;) {
        struct request request;
        zmq_pollitem_t item = {.socket = gate->socket, .events = ZMQ_POLLIN};
        if (zmq_poll(&item, 1, RELOAD_MS) < 0 && errno == ETERM)
            break;
        reload_when_changed(gate);
        int rc = receive_request(gate, &request);
        if (rc < 0)
            break;
        if (rc > 0)
            decide(gate, &request);
    }
    zmq_close(gate->socket);
    return NULL;
}

int gate_open(struct gate **gate, void *zmq, const char *allowed_path)
{
    struct gate *made = MEMORY_NEW(struct gate);
    sigset_t all, before;
    *gate = NULL;
    pthread_mutex_init(&made->mutex, NULL);
    atomic_init(&made->generation, 0);
    snprintf(made->path, sizeof made->path, "%s", allowed_path);
    int rc = reload(made);
    if (rc == 0) {
        made->socket = zmq_socket(zmq, ZMQ_REP);
        if (!made->socket || zmq_bind(made->socket, HANDLER_ENDPOINT) != 0)
            rc = error_set(HONE_EIO, "%s: %s", HANDLER_ENDPOINT, zmq_strerror(errno));
    }
    if (rc < 0) {
        if (made->socket)
            zmq_close(made->socket);
        allow_list_release(&made->list);
        pthread_mutex_destroy(&made->mutex);
        memory_free(made);
        return rc;
    }
    /* Signals are the business of the thread that made the context. */
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    HONE_ASSERT(pthread_create(&made->thread, NULL, serve, made) == 0);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    *gate = made;
    return 0;
}

void gate_close(struct gate *gate)
{
    if (!gate)
        return;
    pthread_join(gate->thread, NULL);
    allow_list_release(&gate->list);
    pthread_mutex_destroy(&gate->mutex);
    memory_free(gate);
}
