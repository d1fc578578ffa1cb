#include "infra/wire/bench.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

#include "infra/base/assert.h"
#include "infra/base/clock.h"
#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/memory.h"
#include "infra/wire/keys.h"

enum { TRANSPORTS = 3, ROUNDS_MAX = 64, ENDPOINT_BYTES = 256 };
#define ROUND_BYTES    ((size_t)64 << 20) /* at most, and ROUND_MESSAGES */
#define ROUND_MESSAGES 50000

static const char *const transport_names[TRANSPORTS] = {"ipc", "tcp", "tcp CURVE"};

struct stream {
    void *zmq;
    char endpoint[ENDPOINT_BYTES];
    struct key_pair server, client;
    bool has_curve;
    size_t message_bytes;
    int messages;
};

static void set_curve(void *socket, const struct key_pair *own, const char *server)
{
    int one = 1;
    HONE_ASSERT(zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, own->secret_key, KEY_SIZE) == 0);
    if (server) {
        HONE_ASSERT(zmq_setsockopt(socket, ZMQ_CURVE_PUBLICKEY, own->public_key, KEY_SIZE) == 0);
        HONE_ASSERT(zmq_setsockopt(socket, ZMQ_CURVE_SERVERKEY, server, KEY_SIZE) == 0);
    } else {
        HONE_ASSERT(zmq_setsockopt(socket, ZMQ_CURVE_SERVER, &one, sizeof one) == 0);
    }
}

static void *send_stream(void *argument)
{
    struct stream *s = argument;
    char *message = memory_alloc(s->message_bytes, 1);
    char done;
    void *socket = zmq_socket(s->zmq, ZMQ_DEALER);
    if (s->has_curve)
        set_curve(socket, &s->client, s->server.public_key);
    HONE_ASSERT(zmq_connect(socket, s->endpoint) == 0);
    for (int i = -1; i < s->messages; i++) { /* the first one waits for the handshake, untimed */
        HONE_ASSERT(zmq_send(socket, message, s->message_bytes, 0) >= 0);
        if (i < 0)
            HONE_ASSERT(zmq_recv(socket, &done, 1, 0) == 1);
    }
    HONE_ASSERT(zmq_recv(socket, &done, 1, 0) == 1);
    zmq_close(socket);
    memory_free(message);
    return NULL;
}

static void receive_one(void *socket, zmq_msg_t *id)
{
    zmq_msg_t body;
    zmq_msg_init(&body);
    HONE_ASSERT(zmq_msg_recv(id, socket, 0) >= 0 && zmq_msg_recv(&body, socket, 0) >= 0);
    zmq_msg_close(&body);
}

static void acknowledge(void *socket, zmq_msg_t *id)
{
    HONE_ASSERT(zmq_send(socket, zmq_msg_data(id), zmq_msg_size(id), ZMQ_SNDMORE) >= 0);
    HONE_ASSERT(zmq_send(socket, "d", 1, 0) == 1);
}

struct timing {
    double rate;   /* messages a second */
    double cpu_us; /* of both ends, for one message: other work on the machine does not count */
};

static double cpu_seconds(void)
{
    struct timespec now;
    HONE_ASSERT(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now) == 0);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static int time_stream(struct stream *s, const char *listen, struct timing *timing)
{
    size_t bytes = sizeof s->endpoint;
    pthread_t sender;
    zmq_msg_t id;
    zmq_msg_init(&id);
    void *socket = zmq_socket(s->zmq, ZMQ_ROUTER);
    if (s->has_curve)
        set_curve(socket, &s->server, NULL);
    if (zmq_bind(socket, listen) != 0 ||
        zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, s->endpoint, &bytes) != 0) {
        zmq_close(socket);
        return error_set(HONE_EIO, "bind %s: %s", listen, zmq_strerror(zmq_errno()));
    }
    HONE_ASSERT(pthread_create(&sender, NULL, send_stream, s) == 0);
    receive_one(socket, &id);
    acknowledge(socket, &id);
    int64_t begin = clock_now_ns(clock_system());
    double cpu_begin = cpu_seconds();
    for (int i = 0; i < s->messages; i++)
        receive_one(socket, &id);
    timing->rate = s->messages * 1e9 / (double)(clock_now_ns(clock_system()) - begin);
    timing->cpu_us = (cpu_seconds() - cpu_begin) * 1e6 / s->messages;
    acknowledge(socket, &id);
    pthread_join(sender, NULL);
    zmq_msg_close(&id);
    zmq_close(socket);
    return 0;
}

static int compare_rates(const void *a, const void *b)
{
    double x = ((const struct timing *)a)->rate, y = ((const struct timing *)b)->rate;
    return (x > y) - (x < y);
}

static int compare_cpu(const void *a, const void *b)
{
    double x = ((const struct timing *)a)->cpu_us, y = ((const struct timing *)b)->cpu_us;
    return (x > y) - (x < y);
}

/* The medians of each figure. */
static struct timing median(struct timing *timings, int rounds)
{
    struct timing middle;
    qsort(timings, (size_t)rounds, sizeof *timings, compare_rates);
    middle.rate = timings[rounds / 2].rate;
    qsort(timings, (size_t)rounds, sizeof *timings, compare_cpu);
    middle.cpu_us = timings[rounds / 2].cpu_us;
    return middle;
}

static int bench_size(struct stream *s, const char *directory, int rounds, FILE *out)
{
    struct timing timings[TRANSPORTS][ROUNDS_MAX], middle[TRANSPORTS];
    char listen[ENDPOINT_BYTES];
    s->messages = (int)(ROUND_BYTES / s->message_bytes);
    s->messages = s->messages > ROUND_MESSAGES ? ROUND_MESSAGES : s->messages;
    for (int i = 0; i < rounds * TRANSPORTS; i++) {
        int transport = i % TRANSPORTS;
        s->has_curve = transport == 2;
        snprintf(listen, sizeof listen, "ipc://%s/%zu-%d", directory, s->message_bytes, i);
        int rc = time_stream(s, transport == 0 ? listen : "tcp://127.0.0.1:*",
                             &timings[transport][i / TRANSPORTS]);
        if (rc < 0)
            return rc;
    }
    for (int t = 0; t < TRANSPORTS; t++)
        middle[t] = median(timings[t], rounds);
    for (int t = 0; t < TRANSPORTS; t++)
        fprintf(out, "%-10s %8zu %12.0f %9.1f %10.2f %12.1f %10.2f\n", transport_names[t],
                s->message_bytes, middle[t].rate, middle[t].rate * (double)s->message_bytes / 1e6,
                middle[t].rate / middle[1].rate, middle[t].cpu_us,
                middle[t].cpu_us / middle[1].cpu_us);
    return 0;
}

int wire_bench(FILE *out, int rounds)
{
    static const size_t sizes[] = {1 << 10, 64 << 10, 1 << 20};
    char directory[] = "/tmp/hone-bench-XXXXXX";
    struct stream s = {.zmq = zmq_ctx_new()};
    int rc = 0;
    HONE_ASSERT(rounds >= 1 && rounds <= ROUNDS_MAX);
    if (!mkdtemp(directory))
        rc = error_errno("mkdtemp %s", directory);
    if (rc == 0 && (zmq_curve_keypair(s.server.public_key, s.server.secret_key) != 0 ||
                    zmq_curve_keypair(s.client.public_key, s.client.secret_key) != 0))
        rc = error_set(HONE_EUNSUPPORTED, "this libzmq has no CURVE");
    fprintf(out, "%-10s %8s %12s %9s %10s %12s %10s\n", "transport", "bytes", "messages/s", "MB/s",
            "/ plain", "cpu us each", "/ plain");
    for (size_t i = 0; rc == 0 && i < sizeof sizes / sizeof *sizes; i++) {
        s.message_bytes = sizes[i];
        rc = bench_size(&s, directory, rounds, out);
    }
    zmq_ctx_term(s.zmq);
    (void)file_remove_tree(directory);
    return rc;
}
