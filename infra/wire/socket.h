/* ZeroMQ sockets that carry envelopes.
 *
 * A server binds a ROUTER and knows its peers by name; a client connects a DEALER and puts its name
 * before every message. Every socket has bounded queues, heartbeats, a message size limit, LINGER
 * bounded. Nothing blocks: receive returns 0 when there is nothing, and wire_poll waits with a
 * deadline on any set of sockets.
 *  W1  A frame that does not parse, is too large, or breaks a message's own rules drops that peer:
 *      it is logged with its name and everything more from it is ignored until a new Hello.
 *  W2  Sends to an unknown or full peer fail; they never vanish silently.
 *  W3  An envelope carries exactly the message that its kind names, within that kind's size limit,
 *      and a payload only with WEIGHTS_CHUNK (infra/wire/envelope.h). A received kind's message is
 *      never NULL.
 *  W4  A client ignores (and logs) what W1 forbids; it has no other server to turn to.
 *  W5  Envelopes of a connection are numbered, rising; a number that does not rise drops the peer.
 *  W6  tcp is CURVE with an allow-list (infra/wire/gate.h), on this machine's own addresses too,
 *      or it is not opened. A peer that comes through it speaks for one name, of those that its key
 *      is for, and in its Hello for the role that its key is for; nothing else is delivered. A hub
 *      serves every role, any other process actors alone.
 *  W7  An ipc socket lives in a directory that nobody else may enter.
 * Endpoints: infra/wire/endpoint.h. Owned by one thread. */
#ifndef HONE_WIRE_SOCKET_H
#define HONE_WIRE_SOCKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "infra/wire/hone.pb-c.h"
#include "infra/wire/keys.h"

#define WIRE_PROTOCOL     2
#define WIRE_IDENTITY_MAX 64
#define WIRE_MESSAGE_MAX  (256u << 20) /* a batch is the largest envelope */

struct wire_context; /* one per process (or simulator) */
struct wire_server;
struct wire_client;

struct wire_peer {
    char identity[WIRE_IDENTITY_MAX]; /* "actor-0", NUL-terminated */
};

/* A received envelope; payload points at the extra frame (NULL when none). Release after use. */
struct wire_message {
    Hone__Envelope *envelope;
    const void *payload;
    size_t payload_bytes;
    void *frame; /* owns the payload */
};

struct wire_context *wire_context_create(void);
void wire_context_destroy(struct wire_context *context);
/* Before any socket: tcp is dialled with these keys, and may be listened to when they come with an
 * allow-list. A copy is kept. */
void wire_context_secure(struct wire_context *context, const struct keys *keys);

/* endpoints: one, or several separated by spaces, tcp last. HONE_EBUSY when an address is taken,
 * HONE_EINVAL when it must not be listened to (W6, W7). */
int wire_server_create(struct wire_server **server, struct wire_context *context,
                       const char *endpoints);
void wire_server_destroy(struct wire_server *server);
/* 1 received, 0 nothing there, negative on a socket error. Malformed frames are handled (W1) and
 * skipped. */
int wire_server_receive(struct wire_server *server, struct wire_peer *from,
                        struct wire_message *message);
/* Sends an envelope (its sequence is set here) and an optional payload frame, copied. 0, HONE_EPEER
 * when the peer is unknown or its queue is full, HONE_EFORMAT when the envelope breaks W3. */
int wire_server_send(struct wire_server *server, const struct wire_peer *to,
                     Hone__Envelope *envelope, const void *payload, size_t payload_bytes);
/* Ignores the peer until its next Hello, with a reason for the log. */
void wire_server_drop(struct wire_server *server, const struct wire_peer *peer, const char *reason);
/* Where it listens, in the words of a client: with port * the one that the system chose, with tcp
 * its key; several are separated by spaces. */
const char *wire_server_endpoint(const struct wire_server *server);

/* endpoints: one, or a server's list: tcp is taken by who has keys, the others by who has none.
 * identity: this worker's name, unique in the run. */
int wire_client_create(struct wire_client **client, struct wire_context *context,
                       const char *endpoints, const char *identity);
void wire_client_destroy(struct wire_client *client);
int wire_client_receive(struct wire_client *client, struct wire_message *message);
/* HONE_EPEER while there is no connection: nothing is queued for a server that is not there (a
 * connection takes some milliseconds, and comes back by itself when the server does), so the caller
 * tries again later. */
int wire_client_send(struct wire_client *client, Hone__Envelope *envelope, const void *payload,
                     size_t payload_bytes);
/* Readable when something may have come: for who waits on more clients than wire_poll takes. After
 * a send it need not be; then, and until nothing comes any more, ask wire_client_receive. */
int wire_client_descriptor(const struct wire_client *client);

void wire_message_release(struct wire_message *message);

/* Waits until one of the servers/clients has input, a client whose last send failed can send again,
 * or timeout_ms (-1: for ever). NULL entries are skipped. Returns how many are ready, 0 when a
 * signal came. */
int wire_poll(struct wire_server *const *servers, int server_count,
              struct wire_client *const *clients, int client_count, int timeout_ms);

const char *wire_kind_name(Hone__Kind kind);

#endif
