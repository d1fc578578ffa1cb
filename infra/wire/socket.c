#include "infra/wire/socket.h"

#include <ctype.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <zmq.h>

#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"
#include "infra/base/text.h"
#include "infra/wire/envelope.h"

#define QUEUE_MESSAGES       1000 /* per peer and direction */
#define LINGER_MS            500
#define HEARTBEAT_MS         2000
#define HEARTBEAT_TIMEOUT_MS 6000
#define HANDSHAKE_MS         5000
#define RECONNECT_MS         50
#define RECONNECT_MAX_MS     2000
#define DROPPED_MAX          256 /* peers remembered as dropped; the oldest gives way */
#define IGNORED_PER_CALL     64  /* bounds the work that ignored frames can cause in one call */
#define POLL_MAX             256
#define ENDPOINT_MAX         256
#define FRAMES_MAX           3 /* identity, envelope, payload */

struct wire_context {
    void *zmq;
    atomic_int sockets;
};

/* The part that servers and clients share. */
struct link {
    struct wire_context *context;
    void *socket;
    char endpoint[ENDPOINT_MAX];
    uint64_t sequence;
};

struct wire_server {
    struct link link;
    struct wire_peer dropped[DROPPED_MAX];
    int dropped_count, dropped_next;
    uint64_t nameless; /* messages from peers without a proper identity */
};

struct wire_client {
    struct link link;
    bool wants_to_send; /* a send failed: wire_poll also wakes when there is room or a connection */
};

struct frames {
    zmq_msg_t parts[FRAMES_MAX];
    int count;    /* parts held */
    bool surplus; /* more came, and were thrown away */
};

struct wire_context *wire_context_create(void)
{
    struct wire_context *context = MEMORY_NEW(struct wire_context);
    context->zmq = zmq_ctx_new();
    HONE_ASSERT(context->zmq);
    atomic_init(&context->sockets, 0);
    return context;
}

void wire_context_destroy(struct wire_context *context)
{
    if (!context)
        return;
    /* zmq_ctx_term would wait for ever for a socket that nobody closes. */
    HONE_ASSERT(atomic_load(&context->sockets) == 0);
    while (zmq_ctx_term(context->zmq) != 0 && errno == EINTR)
        continue;
    memory_free(context);
}

static bool is_name(const char *bytes, size_t length)
{
    if (length == 0 || length >= WIRE_IDENTITY_MAX)
        return false;
    for (size_t i = 0; i < length; i++) {
        if (!isgraph((unsigned char)bytes[i]))
            return false;
    }
    return true;
}

/* ---- endpoints ---- */

/* Is somebody listening there? libzmq would silently take an ipc path away from its owner. */
static bool ipc_is_served(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path)
        return false;
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return false;
    int rc = connect(fd, (struct sockaddr *)&address, sizeof address);
    bool served = rc == 0 || errno == EAGAIN || errno == EINPROGRESS;
    close(fd);
    return served;
}

/* Writes the endpoint that libzmq understands: its bind takes no host names. */
static int check_tcp(const char *endpoint, char out[ENDPOINT_MAX])
{
    static const char *const hosts[] = {"127.0.0.1", "[::1]", "localhost"};
    const char *address = endpoint + strlen("tcp://");
    const char *colon = strrchr(address, ':');
    if (!colon || colon[1] == '\0')
        return error_set(HONE_EINVAL, "endpoint %s has no port: write tcp://127.0.0.1:PORT",
                         endpoint);
    for (size_t i = 0; i < sizeof hosts / sizeof *hosts; i++) {
        size_t length = strlen(hosts[i]);
        if ((size_t)(colon - address) != length || strncmp(address, hosts[i], length) != 0)
            continue;
        const char *host = i == 2 ? hosts[0] : hosts[i];
        snprintf(out, ENDPOINT_MAX, "tcp://%s%s", host, colon);
        return 0;
    }
    return error_set(HONE_EINVAL,
                     "endpoint %s is not on this machine: tcp is limited to 127.0.0.1, [::1] and "
                     "localhost, because the wire is not authenticated",
                     endpoint);
}

static int check_endpoint(const char *endpoint, char out[ENDPOINT_MAX])
{
    if (strlen(endpoint) >= ENDPOINT_MAX)
        return error_set(HONE_EINVAL, "endpoint longer than %d bytes: %.60s...", ENDPOINT_MAX - 1,
                         endpoint);
    snprintf(out, ENDPOINT_MAX, "%s", endpoint);
    if (text_starts_with(endpoint, "tcp://"))
        return check_tcp(endpoint, out);
    if (text_starts_with(endpoint, "ipc://")) {
        const char *path = endpoint + strlen("ipc://");
        struct sockaddr_un address;
        if (path[0] == '\0' || path[0] == '@' || strlen(path) >= sizeof address.sun_path)
            return error_set(HONE_EINVAL, "endpoint %s: a socket path has 1 to %zu bytes", endpoint,
                             sizeof address.sun_path - 1);
        return 0;
    }
    if (text_starts_with(endpoint, "inproc://") && endpoint[strlen("inproc://")] != '\0')
        return 0;
    return error_set(HONE_EINVAL,
                     "endpoint %s is not ipc://PATH, inproc://NAME or "
                     "tcp://127.0.0.1:PORT",
                     endpoint);
}

/* ---- life cycle ---- */

static void set_option(void *socket, int option, int value)
{
    HONE_ASSERT(zmq_setsockopt(socket, option, &value, sizeof value) == 0);
}

static int link_open(struct link *link, struct wire_context *context, const char *endpoint,
                     int type)
{
    int rc = check_endpoint(endpoint, link->endpoint);
    if (rc < 0)
        return rc;
    link->socket = zmq_socket(context->zmq, type);
    if (!link->socket)
        return error_set(HONE_EIO, "socket for %s: %s", endpoint, zmq_strerror(errno));
    link->context = context;
    atomic_fetch_add(&context->sockets, 1);
    /* One byte more than allowed is read and logged with its sender (W1); libzmq cuts the
     * connection of anything larger. */
    int64_t message_max = (int64_t)WIRE_MESSAGE_MAX + 1;
    HONE_ASSERT(zmq_setsockopt(link->socket, ZMQ_MAXMSGSIZE, &message_max, sizeof message_max) ==
                0);
    set_option(link->socket, ZMQ_LINGER, LINGER_MS);
    set_option(link->socket, ZMQ_SNDHWM, QUEUE_MESSAGES);
    set_option(link->socket, ZMQ_RCVHWM, QUEUE_MESSAGES);
    set_option(link->socket, ZMQ_HEARTBEAT_IVL, HEARTBEAT_MS);
    set_option(link->socket, ZMQ_HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS);
    set_option(link->socket, ZMQ_HEARTBEAT_TTL, HEARTBEAT_TIMEOUT_MS);
    set_option(link->socket, ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS);
    set_option(link->socket, ZMQ_RECONNECT_IVL, RECONNECT_MS);
    set_option(link->socket, ZMQ_RECONNECT_IVL_MAX, RECONNECT_MAX_MS);
    set_option(link->socket, ZMQ_IMMEDIATE, 1);
    if (text_starts_with(link->endpoint, "tcp://["))
        set_option(link->socket, ZMQ_IPV6, 1);
    return 0;
}

static void link_close(struct link *link)
{
    if (!link->socket)
        return;
    zmq_close(link->socket);
    link->socket = NULL;
    atomic_fetch_sub(&link->context->sockets, 1);
}

static int bind_link(struct link *link)
{
    bool is_ipc = text_starts_with(link->endpoint, "ipc://");
    if (is_ipc && ipc_is_served(link->endpoint + strlen("ipc://")))
        return error_set(HONE_EBUSY,
                         "%s is in use: another process of this run is still alive; stop it, or "
                         "use another run directory",
                         link->endpoint);
    if (zmq_bind(link->socket, link->endpoint) == 0)
        return 0;
    if (errno == EADDRINUSE)
        return error_set(HONE_EBUSY,
                         "%s is in use: stop the process that listens there, or choose another "
                         "port",
                         link->endpoint);
    return error_set(HONE_EIO, "bind %s: %s", link->endpoint, zmq_strerror(errno));
}

int wire_server_create(struct wire_server **server, struct wire_context *context,
                       const char *endpoint)
{
    struct wire_server *made = MEMORY_NEW(struct wire_server);
    size_t bytes = sizeof made->link.endpoint;
    *server = NULL;
    int rc = link_open(&made->link, context, endpoint, ZMQ_ROUTER);
    if (rc < 0)
        goto out;
    set_option(made->link.socket, ZMQ_ROUTER_MANDATORY, 1);
    /* A restarted worker takes its name over from the connection of its dead predecessor. */
    set_option(made->link.socket, ZMQ_ROUTER_HANDOVER, 1);
    rc = bind_link(&made->link);
    if (rc < 0)
        goto out;
    HONE_ASSERT(zmq_getsockopt(made->link.socket, ZMQ_LAST_ENDPOINT, made->link.endpoint, &bytes) ==
                0);
    *server = made;
    made = NULL;
out:
    wire_server_destroy(made);
    return rc;
}

void wire_server_destroy(struct wire_server *server)
{
    if (!server)
        return;
    link_close(&server->link);
    memory_free(server);
}

const char *wire_server_endpoint(const struct wire_server *server)
{
    return server->link.endpoint;
}

int wire_client_create(struct wire_client **client, struct wire_context *context,
                       const char *endpoint, const char *identity)
{
    struct wire_client *made = MEMORY_NEW(struct wire_client);
    int rc;
    *client = NULL;
    if (!is_name(identity, strlen(identity))) {
        rc = error_set(HONE_EINVAL, "worker name \"%.80s\" is not 1 to %d printable characters",
                       identity, WIRE_IDENTITY_MAX - 1);
        goto out;
    }
    rc = link_open(&made->link, context, endpoint, ZMQ_DEALER);
    if (rc < 0)
        goto out;
    HONE_ASSERT(zmq_setsockopt(made->link.socket, ZMQ_ROUTING_ID, identity, strlen(identity)) == 0);
    if (zmq_connect(made->link.socket, made->link.endpoint) != 0) {
        rc = error_set(HONE_EIO, "connect %s: %s", endpoint, zmq_strerror(errno));
        goto out;
    }
    *client = made;
    made = NULL;
out:
    wire_client_destroy(made);
    return rc;
}

void wire_client_destroy(struct wire_client *client)
{
    if (!client)
        return;
    link_close(&client->link);
    memory_free(client);
}

/* ---- receiving ---- */

static void frames_close(struct frames *frames)
{
    for (int i = 0; i < frames->count; i++)
        zmq_msg_close(&frames->parts[i]);
    frames->count = 0;
}

/* A whole multi-part message: 1, 0 when there is none, negative. */
static int frames_receive(struct link *link, struct frames *frames)
{
    frames->count = 0;
    frames->surplus = false;
    for (bool more = true; more;) {
        zmq_msg_t part;
        zmq_msg_init(&part);
        if (zmq_msg_recv(&part, link->socket, ZMQ_DONTWAIT) < 0) {
            int code = errno;
            zmq_msg_close(&part);
            /* All parts of a message arrive together, so only the first can be missing. */
            if ((code == EAGAIN || code == EINTR) && frames->count == 0)
                return 0;
            if (code == EINTR)
                continue;
            frames_close(frames);
            return error_set(HONE_EIO, "receive on %s: %s", link->endpoint, zmq_strerror(code));
        }
        more = zmq_msg_more(&part);
        if (frames->count < FRAMES_MAX) {
            frames->parts[frames->count++] = part;
        } else {
            frames->surplus = true;
            zmq_msg_close(&part);
        }
    }
    return 1;
}

/* Decodes [envelope][payload?] from part `first` on. The payload moves into the message. */
static int frames_decode(struct frames *frames, int first, struct wire_message *message)
{
    int count = frames->count - first;
    memset(message, 0, sizeof *message);
    if (count < 1 || count > 2 || frames->surplus)
        return error_set(HONE_EFORMAT, "%s frames than an envelope and a payload",
                         count < 1 ? "fewer" : "more");
    zmq_msg_t *head = &frames->parts[first];
    zmq_msg_t *tail = count == 2 ? &frames->parts[first + 1] : NULL;
    int64_t payload_bytes = tail ? (int64_t)zmq_msg_size(tail) : -1;
    int rc =
        envelope_decode(&message->envelope, zmq_msg_data(head), zmq_msg_size(head), payload_bytes);
    if (rc < 0 || !tail)
        return rc;
    zmq_msg_t *owner = MEMORY_NEW(zmq_msg_t);
    zmq_msg_init(owner);
    zmq_msg_move(owner, tail);
    message->frame = owner;
    message->payload = zmq_msg_data(owner);
    message->payload_bytes = zmq_msg_size(owner);
    return 0;
}

static int dropped_index(const struct wire_server *server, const struct wire_peer *peer)
{
    for (int i = 0; i < server->dropped_count; i++) {
        if (strcmp(server->dropped[i].identity, peer->identity) == 0)
            return i;
    }
    return -1;
}

void wire_server_drop(struct wire_server *server, const struct wire_peer *peer, const char *reason)
{
    if (dropped_index(server, peer) >= 0)
        return;
    log_warn("%s: dropped %s until it says hello again: %s", server->link.endpoint, peer->identity,
             reason);
    server->dropped[server->dropped_next] = *peer;
    server->dropped_next = (server->dropped_next + 1) % DROPPED_MAX;
    if (server->dropped_count < DROPPED_MAX)
        server->dropped_count++;
}

static void restore_peer(struct wire_server *server, int index)
{
    server->dropped[index] = server->dropped[--server->dropped_count];
    server->dropped_next = server->dropped_count % DROPPED_MAX;
}

static bool read_identity(struct wire_server *server, zmq_msg_t *part, struct wire_peer *from)
{
    size_t length = zmq_msg_size(part);
    if (!is_name(zmq_msg_data(part), length)) {
        /* 1, 2, 4, 8 ...: a flood of them does not become a flood of lines. */
        server->nameless++;
        if ((server->nameless & (server->nameless - 1)) == 0)
            log_warn("%s: ignored a message from a peer without a proper name (%llu so far)",
                     server->link.endpoint, (unsigned long long)server->nameless);
        return false;
    }
    memcpy(from->identity, zmq_msg_data(part), length);
    from->identity[length] = '\0';
    return true;
}

/* True when the frames hold a message from a peer in good standing (W1). */
static bool accept_frames(struct wire_server *server, struct frames *frames, struct wire_peer *from,
                          struct wire_message *message)
{
    if (!read_identity(server, &frames->parts[0], from))
        return false;
    int dropped = dropped_index(server, from);
    if (dropped >= 0) {
        if (frames->count != 2 || frames->surplus ||
            !envelope_looks_like_hello(zmq_msg_data(&frames->parts[1]),
                                       zmq_msg_size(&frames->parts[1])))
            return false;
    }
    if (frames_decode(frames, 1, message) < 0) {
        wire_server_drop(server, from, error_message());
        return false;
    }
    if (dropped >= 0 && message->envelope->kind != HONE__KIND__KIND_HELLO) {
        wire_message_release(message);
        return false;
    }
    if (dropped >= 0)
        restore_peer(server, dropped);
    return true;
}

int wire_server_receive(struct wire_server *server, struct wire_peer *from,
                        struct wire_message *message)
{
    struct frames frames;
    memset(message, 0, sizeof *message);
    for (int i = 0; i < IGNORED_PER_CALL; i++) {
        int rc = frames_receive(&server->link, &frames);
        if (rc <= 0)
            return rc;
        bool accepted = accept_frames(server, &frames, from, message);
        frames_close(&frames);
        if (accepted)
            return 1;
    }
    return 0;
}

int wire_client_receive(struct wire_client *client, struct wire_message *message)
{
    struct frames frames;
    memset(message, 0, sizeof *message);
    for (int i = 0; i < IGNORED_PER_CALL; i++) {
        int rc = frames_receive(&client->link, &frames);
        if (rc <= 0)
            return rc;
        rc = frames_decode(&frames, 0, message);
        frames_close(&frames);
        if (rc == 0)
            return 1;
        log_warn("%s: ignored a message: %s", client->link.endpoint, error_message());
    }
    return 0;
}

void wire_message_release(struct wire_message *message)
{
    if (message->envelope)
        wire_free(&message->envelope->base);
    if (message->frame) {
        zmq_msg_close(message->frame);
        memory_free(message->frame);
    }
    memset(message, 0, sizeof *message);
}

/* ---- sending ---- */

static int send_part(struct link *link, const void *data, size_t bytes, int flags)
{
    int rc;
    do
        rc = zmq_send(link->socket, data, bytes, flags | ZMQ_DONTWAIT);
    while (rc < 0 && errno == EINTR);
    return rc;
}

/* Numbers, checks and packs the envelope into a frame, which the caller closes. */
static int pack_frame(struct link *link, Hone__Envelope *envelope, const void *payload,
                      size_t payload_bytes, zmq_msg_t *frame)
{
    size_t bytes = hone__envelope__get_packed_size(envelope);
    int rc = envelope_check(envelope, bytes, payload ? (int64_t)payload_bytes : -1);
    if (rc < 0)
        return error_prefix("send on %s", link->endpoint);
    envelope->sequence = ++link->sequence;
    bytes = hone__envelope__get_packed_size(envelope);
    if (zmq_msg_init_size(frame, bytes) != 0)
        return error_set(HONE_ENOMEM, "a message of %zu bytes", bytes);
    hone__envelope__pack(envelope, zmq_msg_data(frame));
    return 0;
}

/* The envelope and the payload; once the first part is taken the others are as well. 0 or -1 and
 * errno. */
static int send_frames(struct link *link, zmq_msg_t *frame, const void *payload,
                       size_t payload_bytes)
{
    int rc;
    do
        rc = zmq_msg_send(frame, link->socket, ZMQ_DONTWAIT | (payload ? ZMQ_SNDMORE : 0));
    while (rc < 0 && errno == EINTR);
    if (rc >= 0 && payload)
        rc = send_part(link, payload, payload_bytes, 0);
    return rc < 0 ? -1 : 0;
}

int wire_server_send(struct wire_server *server, const struct wire_peer *to,
                     Hone__Envelope *envelope, const void *payload, size_t payload_bytes)
{
    struct link *link = &server->link;
    zmq_msg_t frame;
    int rc = pack_frame(link, envelope, payload, payload_bytes, &frame);
    if (rc < 0)
        return rc;
    if (send_part(link, to->identity, strlen(to->identity), ZMQ_SNDMORE) < 0) {
        if (errno == EHOSTUNREACH)
            rc = error_set(HONE_EPEER, "%s is not connected to %s", to->identity, link->endpoint);
        else if (errno == EAGAIN)
            rc = error_set(HONE_EPEER, "the queue of %s on %s is full", to->identity,
                           link->endpoint);
        else
            rc = error_set(HONE_EIO, "send on %s: %s", link->endpoint, zmq_strerror(errno));
    } else if (send_frames(link, &frame, payload, payload_bytes) < 0) {
        rc = error_set(HONE_EIO, "send to %s on %s: %s", to->identity, link->endpoint,
                       zmq_strerror(errno));
    }
    zmq_msg_close(&frame);
    return rc;
}

int wire_client_send(struct wire_client *client, Hone__Envelope *envelope, const void *payload,
                     size_t payload_bytes)
{
    struct link *link = &client->link;
    zmq_msg_t frame;
    int rc = pack_frame(link, envelope, payload, payload_bytes, &frame);
    if (rc < 0)
        return rc;
    if (send_frames(link, &frame, payload, payload_bytes) < 0) {
        if (errno == EAGAIN)
            rc = error_set(HONE_EPEER, "%s is not connected, or its queue is full", link->endpoint);
        else
            rc = error_set(HONE_EIO, "send on %s: %s", link->endpoint, zmq_strerror(errno));
    }
    zmq_msg_close(&frame);
    return rc;
}

static void watch(zmq_pollitem_t *items, int *count, void *socket, short events)
{
    items[*count].socket = socket;
    items[(*count)++].events = events;
}

int wire_poll(struct wire_server *const *servers, int server_count,
              struct wire_client *const *clients, int client_count, int timeout_ms)
{
    zmq_pollitem_t items[POLL_MAX];
    int count = 0;
    HONE_ASSERT(server_count >= 0 && client_count >= 0);
    HONE_ASSERT(server_count + client_count <= POLL_MAX);
    memset(items, 0, sizeof items);
    for (int i = 0; i < server_count; i++) {
        if (servers[i])
            watch(items, &count, servers[i]->link.socket, ZMQ_POLLIN);
    }
    for (int i = 0; i < client_count; i++) {
        short events = ZMQ_POLLIN;
        if (clients[i] && clients[i]->wants_to_send)
            events |= ZMQ_POLLOUT;
        if (clients[i])
            watch(items, &count, clients[i]->link.socket, events);
    }
    int ready = zmq_poll(items, count, timeout_ms);
    if (ready < 0 && errno == EINTR)
        return 0;
    if (ready < 0)
        return error_set(HONE_EIO, "poll: %s", zmq_strerror(errno));
    /* Woken once: a caller that then has nothing to send must not spin. */
    for (int i = client_count - 1, at = count - 1; i >= 0; i--) {
        if (clients[i] && items[at--].revents & ZMQ_POLLOUT)
            clients[i]->wants_to_send = false;
    }
    return ready;
}
