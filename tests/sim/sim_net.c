#include "tests/sim/sim_net.h"

#include <stdio.h>
#include <string.h>

#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/memory.h"
#include "infra/base/rng.h"
#include "infra/wire/envelope.h"
#include "tests/sim/sim_trace.h"

#define NS_PER_MS   1000000
#define LONG_DELAYS 50 /* one message in so many takes ten times as long */

struct message {
    struct message *next;
    int64_t due_ns;
    size_t bytes, payload_bytes; /* the payload follows the envelope; none: SIZE_MAX */
    unsigned char data[];
};

struct queue {
    struct message *first, *last;
    int count;
};

struct wire_context {
    int sockets;
};

struct wire_server {
    struct wire_context *context;
    struct wire_server *next;
    char endpoint[256];
    uint64_t sequence;
};

struct wire_client {
    struct wire_context *context;
    struct wire_client *next;
    char identity[WIRE_IDENTITY_MAX], endpoint[256];
    struct wire_server *server; /* NULL: not connected */
    int64_t up_ns;              /* connected, or free to connect, from then on */
    bool dead;                  /* its process is gone; what it sent is still under way */
    bool dropped;               /* by the server, until its next Hello */
    struct queue to_server, to_client;
    uint64_t sequence;
};

static struct net {
    struct sim_net_options options;
    struct wire_server *servers;
    struct wire_client *clients;
    uint64_t draws;
    int64_t messages;
    bool linger; /* of the next server that is closed */
} net;

static uint64_t draw(uint64_t bound)
{
    struct rng_key key = {net.options.seed, RNG_SIM, 1, 0};
    return rng_below(&key, net.draws++, bound);
}

static int64_t now_ns(void)
{
    return *net.options.now_ns;
}

void sim_net_start(const struct sim_net_options *options)
{
    memset(&net, 0, sizeof net);
    net.options = *options;
}

int64_t sim_net_messages(void)
{
    return net.messages;
}

/* ---- queues ---- */

static void queue_clear(struct queue *queue)
{
    while (queue->first) {
        struct message *next = queue->first->next;
        memory_free(queue->first);
        queue->first = next;
    }
    queue->last = NULL;
    queue->count = 0;
}

static struct message *queue_ready(const struct queue *queue)
{
    return queue->first && queue->first->due_ns <= now_ns() ? queue->first : NULL;
}

static struct message *queue_take(struct queue *queue)
{
    struct message *message = queue->first;
    queue->first = message->next;
    if (!queue->first)
        queue->last = NULL;
    queue->count--;
    return message;
}

static void queue_add(struct queue *queue, struct message *message)
{
    int64_t delay = (int64_t)draw((uint64_t)(net.options.delay_max_ms * NS_PER_MS) + 1);
    if (draw(LONG_DELAYS) == 0)
        delay *= 10;
    message->due_ns = now_ns() + delay;
    if (queue->last && queue->last->due_ns > message->due_ns)
        message->due_ns = queue->last->due_ns; /* X1 */
    message->next = NULL;
    if (queue->last)
        queue->last->next = message;
    else
        queue->first = message;
    queue->last = message;
    queue->count++;
}

/* ---- connections ---- */

static void disconnect(struct wire_client *client)
{
    queue_clear(&client->to_server);
    queue_clear(&client->to_client);
    client->server = NULL;
    client->dropped = false;
}

static void client_free(struct wire_client *client)
{
    struct wire_client **link = &net.clients;
    while (*link != client)
        link = &(*link)->next;
    *link = client->next;
    disconnect(client);
    memory_free(client);
}

/* A new connection takes its name over from an earlier one. */
static void take_over(const struct wire_client *client)
{
    struct wire_client *next;
    for (struct wire_client *other = net.clients; other; other = next) {
        next = other->next;
        if (other == client || other->server != client->server ||
            strcmp(other->identity, client->identity) != 0)
            continue;
        if (other->dead)
            client_free(other);
        else
            disconnect(other);
    }
}

static bool connected(struct wire_client *client)
{
    if (client->server)
        return now_ns() >= client->up_ns;
    if (client->dead || now_ns() < client->up_ns)
        return false;
    for (struct wire_server *server = net.servers; server; server = server->next) {
        if (strcmp(server->endpoint, client->endpoint) != 0)
            continue;
        client->server = server;
        client->up_ns =
            now_ns() + (int64_t)draw((uint64_t)net.options.delay_max_ms + 1) * NS_PER_MS;
        take_over(client);
        return now_ns() >= client->up_ns;
    }
    return false;
}

void sim_net_linger(void)
{
    net.linger = true;
}

void sim_net_cut(struct wire_client *client, int64_t down_ms)
{
    disconnect(client);
    client->up_ns = now_ns() + down_ms * NS_PER_MS;
}

void sim_net_stop(void)
{
    HONE_ASSERT(net.servers == NULL);
    while (net.clients) {
        HONE_ASSERT(net.clients->dead);
        client_free(net.clients);
    }
}

/* ---- infra/wire/socket.h ---- */

struct wire_context *wire_context_create(void)
{
    return MEMORY_NEW(struct wire_context);
}

void wire_context_destroy(struct wire_context *context)
{
    if (context)
        HONE_ASSERT(context->sockets == 0);
    memory_free(context);
}

int wire_server_create(struct wire_server **server, struct wire_context *context,
                       const char *endpoint)
{
    *server = MEMORY_NEW(struct wire_server);
    snprintf((*server)->endpoint, sizeof(*server)->endpoint, "%s", endpoint);
    (*server)->context = context;
    (*server)->next = net.servers;
    net.servers = *server;
    context->sockets++;
    return 0;
}

static void leave_server(struct wire_client *client)
{
    struct queue sent = client->to_client;
    if (net.linger)
        client->to_client = (struct queue){0};
    disconnect(client);
    if (net.linger)
        client->to_client = sent;
}

void wire_server_destroy(struct wire_server *server)
{
    if (!server)
        return;
    struct wire_server **link = &net.servers;
    while (*link != server)
        link = &(*link)->next;
    *link = server->next;
    struct wire_client *next;
    for (struct wire_client *client = net.clients; client; client = next) {
        next = client->next;
        if (client->server != server)
            continue;
        if (client->dead)
            client_free(client);
        else
            leave_server(client);
    }
    net.linger = false;
    server->context->sockets--;
    memory_free(server);
}

const char *wire_server_endpoint(const struct wire_server *server)
{
    return server->endpoint;
}

int wire_client_create(struct wire_client **client, struct wire_context *context,
                       const char *endpoint, const char *identity)
{
    *client = MEMORY_NEW(struct wire_client);
    snprintf((*client)->identity, sizeof(*client)->identity, "%s", identity);
    snprintf((*client)->endpoint, sizeof(*client)->endpoint, "%s", endpoint);
    (*client)->context = context;
    (*client)->next = net.clients;
    net.clients = *client;
    context->sockets++;
    return 0;
}

void wire_client_destroy(struct wire_client *client)
{
    if (!client)
        return;
    client->context->sockets--;
    client->dead = true;
    queue_clear(&client->to_client);
    if (client->server == NULL)
        client_free(client);
}

static int decode(struct message *sent, struct wire_message *message)
{
    memset(message, 0, sizeof *message);
    int rc = envelope_decode(&message->envelope, sent->data, sent->bytes,
                             sent->payload_bytes == SIZE_MAX ? -1 : (int64_t)sent->payload_bytes);
    HONE_ASSERT(rc == 0);
    message->frame = sent;
    if (sent->payload_bytes != SIZE_MAX) {
        message->payload = sent->data + sent->bytes;
        message->payload_bytes = sent->payload_bytes;
    }
    net.messages++;
    return 1;
}

/* Any of the connections on which something has arrived. */
static struct wire_client *pick_ready(const struct wire_server *server)
{
    struct wire_client *picked = NULL;
    uint64_t seen = 0;
    for (struct wire_client *client = net.clients; client; client = client->next)
        if (client->server == server && queue_ready(&client->to_server) && draw(++seen) == 0)
            picked = client;
    return picked;
}

int wire_server_receive(struct wire_server *server, struct wire_peer *from,
                        struct wire_message *message)
{
    struct wire_client *client;
    while ((client = pick_ready(server)) != NULL) {
        struct message *sent = queue_take(&client->to_server);
        int rc = decode(sent, message);
        memcpy(from->identity, client->identity, sizeof from->identity);
        if (client->dropped && message->envelope->kind == HONE__KIND__KIND_HELLO)
            client->dropped = false;
        bool ignored = client->dropped;
        if (client->dead && client->to_server.count == 0)
            client_free(client);
        if (!ignored)
            return rc;
        wire_message_release(message);
    }
    return 0;
}

int wire_client_receive(struct wire_client *client, struct wire_message *message)
{
    (void)connected(client);
    if (!queue_ready(&client->to_client))
        return 0;
    return decode(queue_take(&client->to_client), message);
}

void wire_message_release(struct wire_message *message)
{
    if (message->envelope)
        wire_free(&message->envelope->base);
    memory_free(message->frame);
    memset(message, 0, sizeof *message);
}

static int pack(Hone__Envelope *envelope, uint64_t sequence, const void *payload,
                size_t payload_bytes, struct message **message)
{
    envelope->sequence = sequence;
    size_t bytes = hone__envelope__get_packed_size(envelope);
    int rc = envelope_check(envelope, bytes, payload ? (int64_t)payload_bytes : -1);
    if (rc < 0)
        return rc;
    struct message *made =
        memory_alloc(1, sizeof *made + bytes + (payload != NULL ? payload_bytes : 0));
    made->bytes = bytes;
    made->payload_bytes = payload != NULL ? payload_bytes : SIZE_MAX;
    hone__envelope__pack(envelope, made->data);
    if (payload != NULL)
        memcpy(made->data + bytes, payload, payload_bytes);
    *message = made;
    return 0;
}

static int send_on(struct queue *queue, Hone__Envelope *envelope, uint64_t sequence,
                   const void *payload, size_t payload_bytes)
{
    struct message *message;
    if (queue->count >= net.options.queue_max)
        return error_set(HONE_EPEER, "the queue is full");
    int rc = pack(envelope, sequence, payload, payload_bytes, &message);
    if (rc == 0)
        queue_add(queue, message);
    return rc;
}

int wire_server_send(struct wire_server *server, const struct wire_peer *to,
                     Hone__Envelope *envelope, const void *payload, size_t payload_bytes)
{
    if (sim_dying("send %s to %s", wire_kind_name(envelope->kind), to->identity))
        return 0;
    for (struct wire_client *client = net.clients; client; client = client->next) {
        if (client->server == server && !client->dead && connected(client) &&
            strcmp(client->identity, to->identity) == 0)
            return send_on(&client->to_client, envelope, ++server->sequence, payload,
                           payload_bytes);
    }
    return error_set(HONE_EPEER, "%s is not connected", to->identity);
}

void wire_server_drop(struct wire_server *server, const struct wire_peer *peer, const char *reason)
{
    for (struct wire_client *client = net.clients; client; client = client->next)
        if (client->server == server && strcmp(client->identity, peer->identity) == 0)
            client->dropped = true;
    sim_trace("%s is dropped: %s", peer->identity, reason);
}

int wire_client_send(struct wire_client *client, Hone__Envelope *envelope, const void *payload,
                     size_t payload_bytes)
{
    if (!connected(client))
        return error_set(HONE_EPEER, "%s is not connected", client->endpoint);
    sim_trace("%s sends %s", client->identity, wire_kind_name(envelope->kind));
    return send_on(&client->to_server, envelope, ++client->sequence, payload, payload_bytes);
}

int wire_poll(struct wire_server *const *servers, int server_count,
              struct wire_client *const *clients, int client_count, int timeout_ms)
{
    (void)servers;
    (void)server_count;
    (void)clients;
    (void)client_count;
    (void)timeout_ms;
    HONE_ASSERT(!"a simulated process does not wait");
    return 0;
}
