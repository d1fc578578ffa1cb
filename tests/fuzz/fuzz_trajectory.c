/* A packed trajectory as the log and the wire hold it: what is accepted is valid, and packs and
 * reads again into the same bytes. */
#include "infra/base/text.h"
#include "infra/wire/codec.h"
#include "tests/fuzz/input_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void pack(const struct trajectory *trajectory, struct text *out)
{
    struct wire_trajectory wire;
    wire_trajectory_build(&wire, trajectory);
    wire_pack(&wire.message.base, out);
    wire_trajectory_release(&wire);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct trajectory trajectory, again;
    struct text first, second;
    Hone__Trajectory *message = hone__trajectory__unpack(NULL, bytes, data);
    if (message == NULL)
        return 0;
    int rc = wire_trajectory_read(message, &trajectory);
    hone__trajectory__free_unpacked(message, NULL);
    if (rc < 0)
        return 0;
    HONE_ASSERT(trajectory_validate(&trajectory) == 0);
    text_init(&first);
    text_init(&second);
    pack(&trajectory, &first);
    message = hone__trajectory__unpack(NULL, first.length, (const uint8_t *)first.data);
    HONE_ASSERT(message != NULL && wire_trajectory_read(message, &again) == 0);
    pack(&again, &second);
    HONE_ASSERT(first.length == second.length &&
                memcmp(first.data, second.data, first.length) == 0);
    hone__trajectory__free_unpacked(message, NULL);
    trajectory_release(&again);
    trajectory_release(&trajectory);
    text_release(&second);
    text_release(&first);
    return 0;
}
