/* Who may connect over tcp: a ZAP handler (rfc.zeromq.org/spec/27) with an allow-list.
 *
 * libzmq asks it, inside the process, about every CURVE handshake of the context's sockets; without
 * a handler it would let any key in. The gate has a thread of its own, because a stage in the
 * middle of its work cannot answer, and because libzmq's sockets do not wait for it.
 *  A1  A connection stands only when its key is on the list; its messages carry that key
 *      (gate_key_of), which the handshake has proved.
 *  A2  The list is read again when its file changes, at most RELOAD_MS later. A list that cannot be
 *      read leaves the last one in force, and is logged. generation rises with every change, so
 *      that a server can check again whom it knows: a revoked key's open connections end there.
 * One per context. gate_find and gate_generation may be called from any thread. */
#ifndef HONE_WIRE_GATE_H
#define HONE_WIRE_GATE_H

#include <stdbool.h>
#include <stdint.h>

#include "infra/wire/keys.h"

#define GATE_DOMAIN "hone"

struct gate;

/* Reads the list and answers from here on: call it before anything is bound. zmq: the context. */
int gate_open(struct gate **gate, void *zmq, const char *allowed_path);
/* After zmq_ctx_shutdown, which ends the thread. */
void gate_close(struct gate *gate);
bool gate_find(struct gate *gate, const char *public_key, struct allowed_key *found);
uint64_t gate_generation(const struct gate *gate);
/* The key behind a received part (a zmq_msg_t *); NULL: it did not come through the gate. */
const char *gate_key_of(void *part);

#endif
