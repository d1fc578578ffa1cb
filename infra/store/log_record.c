#include "infra/store/log_record.h"

#include <inttypes.h>

#include "infra/base/error.h"
#include "infra/wire/codec.h"
#include "infra/wire/envelope.h"

void log_record_put(struct run_log *log, enum log_keyspace keyspace, uint64_t id,
                    const ProtobufCMessage *message)
{
    unsigned char key[8];
    struct text bytes;
    text_init(&bytes);
    run_log_key_u64(id, key);
    wire_pack(message, &bytes);
    run_log_put(log, keyspace, key, sizeof key, bytes.data, bytes.length);
    text_release(&bytes);
}

int log_record_get(struct run_log *log, enum log_keyspace keyspace, uint64_t id,
                   const ProtobufCMessageDescriptor *descriptor, ProtobufCMessage **message)
{
    unsigned char key[8];
    struct text bytes;
    text_init(&bytes);
    run_log_key_u64(id, key);
    *message = NULL;
    int rc = run_log_get(log, keyspace, key, sizeof key, &bytes);
    if (rc > 0 && wire_unpack(message, descriptor, bytes.data, bytes.length) < 0)
        rc = error_set(HONE_ECORRUPT, "%s %" PRIu64 " in the log: %s", descriptor->short_name, id,
                       error_message());
    text_release(&bytes);
    return rc;
}
