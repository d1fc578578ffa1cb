/* A network in memory: the second implementation of infra/wire/socket.h, linked in place of the
 * first. There is one per process; a seed decides every delay.
 *
 *  X1  What one side of a connection sends arrives in order, later; connections overtake each
 *      other.
 *  X2  A connection that is cut, or whose server dies, loses what was under way in both directions;
 *      it comes back by itself. What a dead client had sent still arrives, until another takes its
 *      name.
 *  X3  Sends fail as the real ones do: no connection, no such peer, a full queue (HONE_EPEER).
 *
 * Envelopes are encoded, checked and decoded as on a real socket. */
#ifndef HONE_TESTS_SIM_NET_H
#define HONE_TESTS_SIM_NET_H

#include <stdbool.h>
#include <stdint.h>

#include "infra/wire/socket.h"

struct sim_net_options {
    uint64_t seed;
    const int64_t *now_ns;
    int64_t delay_max_ms; /* of a message, drawn; and ten times that now and then */
    int queue_max;        /* messages of one direction that are under way */
};

void sim_net_start(const struct sim_net_options *options);
void sim_net_stop(void); /* every socket is closed; what is under way is lost */
/* X2; for down_ms no new connection. */
void sim_net_cut(struct wire_client *client, int64_t down_ms);
/* The next server to be closed ends in an orderly way: what it has sent still arrives. */
void sim_net_linger(void);
int64_t sim_net_messages(void); /* delivered since the start */

#endif
