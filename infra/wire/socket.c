#include "infra/wire/socket.h"

#include <ctype.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"
#include "infra/base/text.h"
#include "infra/wire/endpoint.h"
#include "infra/wire/envelope.h"
#include "infra/wire/gate.h"
#include "infra/wire/peers.h"

#define QUEUE_MESSAGES       1000 /* per peer and direction */
#define LINGER_MS            500
#define HEARTBEAT_MS         2000
#define HEARTBEAT_TIMEOUT_MS 6000
#define HANDSHAKE_MS         5000
#define RECONNECT_MS         50
#define RECONNECT_MAX_MS     2000
#define INBOUND_MAX          (64u << 20) /* what a server is sent at most: a trajectory */
#define IGNORED_PER_CALL     64 /* bounds the work that ignored frames can cause in one call */
#define POLL_MAX             256
#define FRAMES_MAX           4 /* routing id, name, envelope, payload */
#define ROUTING_BYTES        5 /* of an id that the server's own socket made: 0 and a number */

struct wire_context {
    void *zmq;
    atomic_int sockets;
    bool has_keys;
    struct keys keys;
    struct gate *gate; /* NULL: nothing here listens on tcp */
};

/* The part that servers and clients share. */
struct link {
    struct wire_context *context;
    void *socket;
    char endpoint[ENDPOINT_MAX]; /* a server's: all of them, separated by spaces */
    uint64_t sequence;
};

struct wire_server {
    struct link link;
    struct peers *peers;
    uint32_t roles;   /* bits of the roles served to peers that came through the gate */
    uint64_t refused; /* messages from connections that may not say anything here */
};

struct wire_client {
    struct link link;
    char name[WIRE_IDENTITY_MAX];
    void *monitor;      /* events of a tcp connection; NULL otherwise */
    uint64_t failures;  /* handshakes that failed */
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
    (void)zmq_ctx_shutdown(context->zmq); /* ends the gate's thread */
    gate_close(context->gate);
    while (zmq_ctx_term(context->zmq) != 0 && errno == EINTR)
        continue;
    keys_clear(&context->keys);
    memory_free(context);
}

void wire_context_secure(struct wire_context *context, const struct keys *keys)
{
    HONE_ASSERT(!context->has_keys && atomic_load(&context->sockets) == 0);
    context->keys = *keys;
    context->has_keys = true;
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

/* ---- life cycle ---- */

static void set_option(void *socket, int option, int value)
{
    HONE_ASSERT(zmq_setsockopt(socket, option, &value, sizeof value) == 0);
}

/* A key is passed with its NUL: that is how libzmq knows Z85 from raw bytes. */
static void set_key(void *socket, int option, const char *key)
{
    HONE_ASSERT(zmq_setsockopt(socket, option, key, KEY_SIZE) == 0);
}

static int link_open(struct link *link, struct wire_context *context, int type)
{
    link->socket = zmq_socket(context->zmq, type);
    if (!link->socket)
        return error_set(HONE_EIO, "a socket: %s", zmq_strerror(errno));
    link->context = context;
    atomic_fetch_add(&context->sockets, 1);
    /* One byte more than allowed is read and logged with its sender (W1); libzmq cuts the
     * connection of anything larger. */
    int64_t message_max = (type == ZMQ_ROUTER ? INBOUND_MAX : WIRE_MESSAGE_MAX) + INT64_C(1);
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

/* Options of a socket hold for what it binds next: tcp is authenticated, or not bound at all. The
 * gate is open before that, and outlives every socket of the context: libzmq would let anybody in
 * where it finds no handler. */
static int arm_server(struct link *link, const struct endpoint *endpoint)
{
    struct wire_context *context = link->context;
    bool is_tcp = endpoint->kind == ENDPOINT_TCP;
    if (is_tcp && (!context->has_keys || context->keys.allowed_path[0] == '\0'))
        return error_set(
            HONE_EINVAL,
            "%s is not opened without keys and an allow-list, on this machine's own "
            "address neither: make them with `hone keys DIR` and name DIR in wire.keys",
            endpoint->address);
    if (is_tcp && !context->gate) {
        int rc = gate_open(&context->gate, context->zmq, context->keys.allowed_path);
        if (rc < 0)
            return rc;
    }
    if (!is_tcp && strstr(link->endpoint, "tcp://")) /* a ZAP domain cannot be unset */
        return error_set(HONE_EINVAL, "%s: tcp comes last in a list", endpoint->address);
    set_option(link->socket, ZMQ_IPV6, endpoint->is_ipv6);
    if (!is_tcp)
        return 0;
    set_key(link->socket, ZMQ_CURVE_SECRETKEY, context->keys.own.secret_key);
    set_option(link->socket, ZMQ_CURVE_SERVER, 1);
    HONE_ASSERT(zmq_setsockopt(link->socket, ZMQ_ZAP_DOMAIN, GATE_DOMAIN, strlen(GATE_DOMAIN)) ==
                0);
    return 0;
}

/* Adds where libzmq says that it listens, with the key by which clients know it is us. */
static int note_endpoint(struct link *link, const struct endpoint *endpoint)
{
    char last[ENDPOINT_MAX];
    size_t bytes = sizeof last, length = strlen(link->endpoint);
    bool is_tcp = endpoint->kind == ENDPOINT_TCP;
    HONE_ASSERT(zmq_getsockopt(link->socket, ZMQ_LAST_ENDPOINT, last, &bytes) == 0);
    int added = snprintf(link->endpoint + length, sizeof link->endpoint - length, "%s%s%s%s",
                         length > 0 ? " " : "", last, is_tcp ? "#" : "",
                         is_tcp ? link->context->keys.own.public_key : "");
    if ((size_t)added < sizeof link->endpoint - length)
        return 0;
    link->endpoint[length] = '\0';
    return error_set(HONE_EINVAL, "the endpoints %s and %s are longer than %d bytes",
                     link->endpoint, last, ENDPOINT_MAX - 1);
}

static int listen_at(struct link *link, const char *text)
{
    struct endpoint endpoint;
    int rc = endpoint_parse(&endpoint, text);
    if (rc == 0)
        rc = endpoint_check_directory(&endpoint);
    if (rc == 0)
        rc = arm_server(link, &endpoint);
    if (rc < 0)
        return rc;
    if (endpoint_is_served(&endpoint))
        return error_set(HONE_EBUSY,
                         "%s is in use: another process of this run is still alive; stop it, or "
                         "use another run directory",
                         endpoint.address);
    if (zmq_bind(link->socket, endpoint.address) == 0)
        return note_endpoint(link, &endpoint);
    if (errno == EADDRINUSE)
        return error_set(HONE_EBUSY,
                         "%s is in use: stop the process that listens there, or choose another "
                         "port",
                         endpoint.address);
    if (errno == ENODEV)
        return error_set(HONE_EINVAL,
                         "%s is no address of this machine: write one of its numeric addresses",
                         endpoint.address);
    return error_set(HONE_EIO, "bind %s: %s", endpoint.address, zmq_strerror(errno));
}

/* Whom a process serves over tcp follows from what it is (W6). */
static uint32_t served_roles(const struct wire_context *context)
{
    if (context->keys.own.role == HONE__ROLE__ROLE_CURRICULUM)
        return UINT32_MAX;
    return UINT32_C(1) << HONE__ROLE__ROLE_ACTOR;
}

int wire_server_create(struct wire_server **server, struct wire_context *context,
                       const char *endpoints)
{
    struct wire_server *made = MEMORY_NEW(struct wire_server);
    char one[ENDPOINT_MAX + 1];
    size_t length;
    made->peers = peers_create();
    made->roles = served_roles(context);
    *server = NULL;
    int rc = link_open(&made->link, context, ZMQ_ROUTER);
    if (rc == 0)
        set_option(made->link.socket, ZMQ_ROUTER_MANDATORY, 1);
    do { /* an empty list is an endpoint that does not parse */
        length = strcspn(endpoints, " ");
        snprintf(one, sizeof one, "%.*s", (int)length, endpoints);
        if (rc == 0)
            rc = listen_at(&made->link, one);
        endpoints += length + strspn(endpoints + length, " ");
    } while (*endpoints);
    if (rc == 0)
        *server = made;
    else
        wire_server_destroy(made);
    return rc;
}

void wire_server_destroy(struct wire_server *server)
{
    if (!server)
        return;
    link_close(&server->link);
    peers_destroy(server->peers);
    memory_free(server);
}

const char *wire_server_endpoint(const struct wire_server *server)
{
    return server->link.endpoint;
}

/* libzmq tries again for ever and says nothing: its events are where a wrong key shows. */
static int watch_handshakes(struct wire_client *client)
{
    struct link *link = &client->link;
    char name[64];
    snprintf(name, sizeof name, "inproc://dial-%p", (void *)client);
    int events = ZMQ_EVENT_HANDSHAKE_FAILED_AUTH | ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL |
                 ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL;
    client->monitor = zmq_socket(link->context->zmq, ZMQ_PAIR);
    if (!client->monitor || zmq_socket_monitor(link->socket, name, events) != 0 ||
        zmq_connect(client->monitor, name) != 0)
        return error_set(HONE_EIO, "events of %s: %s", link->endpoint, zmq_strerror(errno));
    set_option(client->monitor, ZMQ_LINGER, 0);
    return 0;
}

static void tell_failures(struct wire_client *client)
{
    struct {
        uint16_t event;
        uint32_t value;
    } __attribute__((packed)) told;
    char address[ENDPOINT_MAX];
    while (client->monitor && zmq_recv(client->monitor, &told, sizeof told, ZMQ_DONTWAIT) >= 0) {
        (void)zmq_recv(client->monitor, address, sizeof address, 0);
        bool is_refused = told.event == ZMQ_EVENT_HANDSHAKE_FAILED_AUTH;
        client->failures++;
        if ((client->failures & (client->failures - 1)) == 0)
            log_warn("%s: no connection for %s (%llu tries): %s", client->link.endpoint,
                     client->name, (unsigned long long)client->failures,
                     is_refused
                         ? "its key is not on the allow-list there"
                         : "the handshake failed; is that a hone that listens on tcp, and is the "
                           "public key by which it is known here its own?");
    }
}

static int dial(struct wire_client *client, const struct endpoint *endpoint)
{
    struct link *link = &client->link;
    const struct keys *keys = &link->context->keys;
    snprintf(link->endpoint, sizeof link->endpoint, "%s", endpoint->address);
    if (endpoint->kind == ENDPOINT_TCP) {
        if (!link->context->has_keys)
            return error_set(HONE_EINVAL, "%s is not dialled without keys: give --keys DIR",
                             endpoint->address);
        set_key(link->socket, ZMQ_CURVE_SERVERKEY,
                endpoint->key[0] != '\0' ? endpoint->key : keys->hub_public);
        set_key(link->socket, ZMQ_CURVE_PUBLICKEY, keys->own.public_key);
        set_key(link->socket, ZMQ_CURVE_SECRETKEY, keys->own.secret_key);
        set_option(link->socket, ZMQ_IPV6, 1);
        int rc = watch_handshakes(client);
        if (rc < 0)
            return rc;
    }
    if (endpoint->is_wildcard)
        return error_set(HONE_EINVAL, "%s is no address to dial", endpoint->address);
    if (zmq_connect(link->socket, endpoint->address) != 0)
        return error_set(HONE_EIO, "connect %s: %s", endpoint->address, zmq_strerror(errno));
    return 0;
}

int wire_client_create(struct wire_client **client, struct wire_context *context,
                       const char *endpoints, const char *identity)
{
    struct wire_client *made = MEMORY_NEW(struct wire_client);
    struct endpoint endpoint;
    int rc;
    *client = NULL;
    if (!is_name(identity, strlen(identity))) {
        rc = error_set(HONE_EINVAL, "worker name \"%.80s\" is not 1 to %d printable characters",
                       identity, WIRE_IDENTITY_MAX - 1);
        goto out;
    }
    snprintf(made->name, sizeof made->name, "%s", identity);
    if ((rc = endpoint_choose(&endpoint, endpoints, context->has_keys)) < 0 ||
        (rc = link_open(&made->link, context, ZMQ_DEALER)) < 0 || (rc = dial(made, &endpoint)) < 0)
        goto out;
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
    if (client->monitor)
        zmq_close(client->monitor);
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

void wire_server_drop(struct wire_server *server, const struct wire_peer *peer, const char *reason)
{
    struct peer_slot *slot = peers_find(server->peers, peer->identity);
    if (!slot || slot->is_dropped)
        return;
    log_warn("%s: dropped %s until it says hello again: %s", server->link.endpoint, peer->identity,
             reason);
    slot->is_dropped = true;
}

/* The connection may say nothing here. 1, 2, 4, 8 ...: a flood of messages does not become a flood
 * of lines. */
static struct peer_slot *refuse(struct wire_server *server, zmq_msg_t *part, const char *name,
                                const char *reason)
{
    const char *key = gate_key_of(part), *address = zmq_msg_gets(part, "Peer-Address");
    server->refused++;
    if ((server->refused & (server->refused - 1)) == 0)
        log_warn("%s: ignored a message from \"%s\"%s%s%s%s: %s (%llu ignored so far)",
                 server->link.endpoint, name, key && address ? " at " : "",
                 key && address ? address : "", key ? " with key " : "", key ? key : "", reason,
                 (unsigned long long)server->refused);
    return NULL;
}

/* The name that a connection claims with its first message is one that its key allows. */
static struct peer_slot *admit(struct wire_server *server, zmq_msg_t *part, const char *name,
                               uint32_t connection)
{
    struct gate *gate = server->link.context->gate;
    const char *key = gate_key_of(part);
    struct allowed_key found = {0};
    uint64_t generation = gate ? gate_generation(gate) : 0;
    if (key && !(gate && gate_find(gate, key, &found)))
        return refuse(server, part, name, "its key is not allowed");
    if (key && !key_names_match(found.names, name))
        return refuse(server, part, name, "its key is not for that name");
    if (key && !(server->roles >> found.role & 1))
        return refuse(server, part, name, "its role is not served here");
    struct peer_slot *slot = peers_claim(server->peers, name, connection);
    if (!slot)
        return refuse(server, part, name,
                      peers_connection(server->peers, connection)
                          ? "its connection speaks for another name"
                          : "a newer connection has that name");
    slot->is_remote = key != NULL;
    slot->role = found.role;
    slot->generation = generation;
    snprintf(slot->key, sizeof slot->key, "%s", key ? key : "");
    return slot;
}

/* Whether its key is still on the list, and for the same. */
static bool is_still_allowed(struct wire_server *server, struct peer_slot *slot)
{
    struct gate *gate = server->link.context->gate;
    struct allowed_key found;
    if (!slot->is_remote || slot->generation == gate_generation(gate))
        return true;
    uint64_t generation = gate_generation(gate);
    if (!gate_find(gate, slot->key, &found) || found.role != slot->role ||
        !key_names_match(found.names, slot->name))
        return false;
    slot->generation = generation;
    return true;
}

/* Who sent the frames; NULL when it may say nothing here. */
static struct peer_slot *identify(struct wire_server *server, struct frames *frames)
{
    const unsigned char *id = zmq_msg_data(&frames->parts[0]);
    zmq_msg_t *part = &frames->parts[1];
    char name[WIRE_IDENTITY_MAX] = "";
    if (frames->count < 2)
        return refuse(server, &frames->parts[0], name, "an empty message");
    if (!is_name(zmq_msg_data(part), zmq_msg_size(part)))
        return refuse(server, part, name, "it gives no proper name");
    memcpy(name, zmq_msg_data(part), zmq_msg_size(part));
    if (zmq_msg_size(&frames->parts[0]) != ROUTING_BYTES || id[0] != 0)
        return refuse(server, part, name, "it chose a routing id of its own");
    uint32_t connection =
        (uint32_t)id[1] << 24 | (uint32_t)id[2] << 16 | (uint32_t)id[3] << 8 | id[4];
    struct peer_slot *slot = peers_connection(server->peers, connection);
    if (!slot || strcmp(slot->name, name) != 0)
        return admit(server, part, name, connection);
    if (!is_still_allowed(server, slot))
        return refuse(server, part, name, "its key was revoked");
    return slot;
}

/* What a Hello says of its sender is what the sender's key says, and an envelope's number is above
 * those before it (W5, W6). */
static int check_claims(const struct peer_slot *slot, const Hone__Envelope *envelope)
{
    const Hone__Hello *hello = envelope->hello;
    if (envelope->sequence <= slot->sequence)
        return error_set(HONE_EPEER, "message %llu came after %llu: replayed or out of order",
                         (unsigned long long)envelope->sequence,
                         (unsigned long long)slot->sequence);
    if (slot->is_remote && hello && hello->role != slot->role)
        return error_set(HONE_EPEER, "it says hello as %s, its key is that of %s",
                         role_name(hello->role), role_name(slot->role));
    if (slot->is_remote && hello && strcmp(hello->worker, slot->name) != 0)
        return error_set(HONE_EPEER, "it says hello as %.64s", hello->worker);
    return 0;
}

/* True when the frames hold a message from a peer in good standing (W1). */
static bool accept_frames(struct wire_server *server, struct frames *frames, struct wire_peer *from,
                          struct wire_message *message)
{
    struct peer_slot *slot = identify(server, frames);
    if (!slot)
        return false;
    snprintf(from->identity, sizeof from->identity, "%s", slot->name);
    if (slot->is_dropped && (frames->count != 3 || frames->surplus ||
                             !envelope_looks_like_hello(zmq_msg_data(&frames->parts[2]),
                                                        zmq_msg_size(&frames->parts[2]))))
        return false;
    if (frames_decode(frames, 2, message) < 0) {
        wire_server_drop(server, from, error_message());
        return false;
    }
    bool is_hello = message->envelope->kind == HONE__KIND__KIND_HELLO;
    if (check_claims(slot, message->envelope) < 0 || (slot->is_dropped && !is_hello)) {
        wire_server_drop(server, from, error_message());
        wire_message_release(message);
        return false;
    }
    slot->is_dropped = false;
    slot->sequence = message->envelope->sequence;
    peers_heard(server->peers, slot);
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
    tell_failures(client);
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

int wire_client_descriptor(const struct wire_client *client)
{
    int descriptor;
    size_t bytes = sizeof descriptor;
    HONE_ASSERT(zmq_getsockopt(client->link.socket, ZMQ_FD, &descriptor, &bytes) == 0);
    return descriptor;
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
    struct peer_slot *slot = peers_find(server->peers, to->identity);
    if (!slot || !is_still_allowed(server, slot)) {
        zmq_msg_close(&frame);
        return error_set(HONE_EPEER, "%s is not connected to %s", to->identity, link->endpoint);
    }
    const unsigned char id[ROUTING_BYTES] = {
        0, (unsigned char)(slot->connection >> 24), (unsigned char)(slot->connection >> 16),
        (unsigned char)(slot->connection >> 8), (unsigned char)slot->connection};
    if (send_part(link, id, sizeof id, ZMQ_SNDMORE) < 0) {
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
    if (send_part(link, client->name, strlen(client->name), ZMQ_SNDMORE) < 0 ||
        send_frames(link, &frame, payload, payload_bytes) < 0) {
        client->wants_to_send = errno == EAGAIN;
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
