/* Bytes <-> messages, with limits, for the sockets and the log.
 *
 *  E1  Decoding allocates at most 16 times the input plus 64 KiB, whatever the input says, and
 *      nests no deeper than the message types do (none is recursive).
 *  E2  An envelope carries exactly the message that its kind names, no longer than that kind's
 *      limit; a payload frame comes with a WEIGHTS_CHUNK, of the length that it declares, and with
 *      nothing else.
 *  E3  An envelope's bytes begin with its kind, and bytes beyond that kind's limit are refused
 *      before they are decoded.
 * No state: any thread. */
#ifndef HONE_WIRE_ENVELOPE_H
#define HONE_WIRE_ENVELOPE_H

#include <stdbool.h>
#include <stddef.h>

#include "infra/wire/hone.pb-c.h"

#define WIRE_DECODE_FACTOR 16
#define WIRE_DECODE_SLACK  (64u << 10)

/* Decodes any message type. *message is freed with wire_free. HONE_EFORMAT when it is malformed or
 * breaks E1. */
int wire_unpack(ProtobufCMessage **message, const ProtobufCMessageDescriptor *descriptor,
                const void *data, size_t bytes);
void wire_free(ProtobufCMessage *message); /* NULL is fine */

/* Decodes an envelope and checks E2; payload_bytes < 0 means that no payload frame came. */
int envelope_decode(Hone__Envelope **envelope, const void *data, size_t bytes,
                    int64_t payload_bytes);
/* E2 for an envelope about to be sent. */
int envelope_check(const Hone__Envelope *envelope, size_t packed_bytes, int64_t payload_bytes);
/* A hub that has not had this peer's Hello answers its heartbeat with one that waits for "hello".
 */
#define ENVELOPE_WAITS_FOR_HELLO "hello"
bool envelope_asks_for_hello(const Hone__Envelope *envelope);
/* Whether encoded bytes claim to be a Hello, without decoding them. */
bool envelope_looks_like_hello(const void *data, size_t bytes);

#endif
