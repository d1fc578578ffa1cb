/* Lines of an external reward command: never a number that is not finite, nor one with a status. */
#include <math.h>

#include "reward/answer_line.h"
#include "tests/fuzz/input_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct answer_line answer;
    if (answer_line_read(&answer, (const char *)data, bytes) != NULL)
        return 0;
    HONE_ASSERT(answer.status >= REWARD_OK && answer.status <= REWARD_ERROR);
    HONE_ASSERT(isfinite(answer.value));
    HONE_ASSERT(answer.status == REWARD_OK || fabsf(answer.value) <= 0.0f);
    HONE_ASSERT(memchr(answer.message, 0, sizeof answer.message) != NULL);
    return 0;
}
