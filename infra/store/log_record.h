/* A protobuf message under a 64-bit id in a keyspace of the log: how all records but the hub's
 * state and the pieces of rollouts are kept. */
#ifndef HONE_STORE_LOG_RECORD_H
#define HONE_STORE_LOG_RECORD_H

#include <protobuf-c/protobuf-c.h>

#include "infra/store/run_log.h"

/* Staged, as run_log_put. */
void log_record_put(struct run_log *log, enum log_keyspace keyspace, uint64_t id,
                    const ProtobufCMessage *message);
/* Committed records only. 1 found (the caller's: wire_free), 0 not there and *message NULL,
 * HONE_ECORRUPT for one that does not parse. */
int log_record_get(struct run_log *log, enum log_keyspace keyspace, uint64_t id,
                   const ProtobufCMessageDescriptor *descriptor, ProtobufCMessage **message);

#endif
