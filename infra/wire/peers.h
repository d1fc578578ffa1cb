/* A server's peers: which connection speaks for which name, and what was last heard from it.
 *
 * A connection is what libzmq calls a routing id, made by the server's own socket, rising with
 * every connection: a peer cannot choose it. N1  A name belongs to the newest connection that
 * claimed it: a restarted worker takes its name over from the connection of its dead predecessor.
 *  N2  A connection speaks for one name.
 *  N3  A full table forgets whom it has not heard for longest.
 * Pointers are valid until the next claim. Owned by one thread. */
#ifndef HONE_WIRE_PEERS_H
#define HONE_WIRE_PEERS_H

#include <stdbool.h>
#include <stdint.h>

#include "infra/wire/keys.h"

#define PEER_NAME_SIZE 64
#define PEER_SLOTS     2048

struct peer_slot {
    char name[PEER_NAME_SIZE]; /* "" free */
    uint32_t connection;
    uint64_t sequence;   /* of the last envelope accepted on this connection */
    uint64_t heard;      /* rises with every message of the server */
    uint64_t generation; /* of the allow-list that its key was last looked up in */
    bool is_dropped;     /* until it says hello */
    bool is_remote;      /* came through the gate, as this role and key */
    Hone__Role role;
    char key[KEY_SIZE];
    int32_t next_name, next_connection; /* in a chain of the index; -1 the end */
};

struct peers;

struct peers *peers_create(void);
void peers_destroy(struct peers *peers);
struct peer_slot *peers_find(struct peers *peers, const char *name); /* NULL: unknown */
struct peer_slot *peers_connection(struct peers *peers, uint32_t connection);
/* The slot of name, now this connection's, fresh unless it was so before; a drop stays. NULL when a
 * newer connection has the name (N1) or the connection another one (N2). */
struct peer_slot *peers_claim(struct peers *peers, const char *name, uint32_t connection);
void peers_heard(struct peers *peers, struct peer_slot *slot);

#endif
