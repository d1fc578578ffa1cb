/* Feeds every file of a directory to LLVMFuzzerTestOneInput, then prefixes of it, then mutations
 * that depend on nothing but the seed: what libFuzzer's own driver does, without libFuzzer, so that
 * every test run does it.
 * usage: fuzz_NAME DIRECTORY [MUTATIONS of each file] */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"
#include "infra/base/rng.h"

enum { PREFIXES_MAX = 512, EDITS_MAX = 6, GROWTH_MAX = 64 };

#define INPUT_MAX (16u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

struct corpus {
    const char *directory;
    int64_t mutations;
    int64_t files, inputs;
};

static void feed(struct corpus *corpus, const char *data, size_t bytes)
{
    uint8_t *exact = memory_dup(data, bytes); /* so that reading past the end is seen */
    LLVMFuzzerTestOneInput(exact, bytes);
    memory_free(exact);
    corpus->inputs++;
}

struct draw {
    struct rng_key key;
    uint64_t next;
};

static size_t below(struct draw *draw, size_t bound)
{
    return (size_t)rng_below(&draw->key, draw->next++, bound);
}

/* One edit of the bytes; returns their new count, at most GROWTH_MAX more. */
static size_t edit(struct draw *draw, char *data, size_t bytes)
{
    static const char bytes_of_note[] = "\0\xff\x7f\x80{}[]\":,-+.eE0129 \n\\<>#&*!$=";
    size_t at = below(draw, bytes), length = 1 + below(draw, GROWTH_MAX);
    if (length > bytes - at)
        length = bytes - at;
    switch (below(draw, 5)) {
    case 0:
        data[at] ^= (char)(1 << below(draw, 8));
        return bytes;
    case 1:
        data[at] = bytes_of_note[below(draw, sizeof bytes_of_note - 1)];
        return bytes;
    case 2: /* cut */
        memmove(data + at, data + at + length, bytes - at - length);
        return bytes - length;
    case 3: /* twice */
        memmove(data + at + length, data + at, bytes - at);
        return bytes + length;
    default: /* over another place */
        memmove(data + below(draw, bytes - length + 1), data + at, length);
        return bytes;
    }
}

static int replay_file(void *context, const char *name)
{
    struct corpus *corpus = context;
    char path[HONE_PATH_MAX];
    char *data;
    size_t bytes;
    int rc =
        file_read(path_join(path, sizeof path, corpus->directory, name), INPUT_MAX, &data, &bytes);
    if (rc < 0)
        return rc;
    for (size_t length = 0; length < bytes; length += 1 + bytes / PREFIXES_MAX)
        feed(corpus, data, length);
    feed(corpus, data, bytes);
    char *mutant = memory_alloc(bytes + EDITS_MAX * GROWTH_MAX, 1);
    for (int64_t i = 0; i < corpus->mutations; i++) {
        struct draw draw = {
            .key = {.seed = (uint64_t)corpus->files, .purpose = RNG_SIM, .a = (uint64_t)i}};
        size_t length = bytes;
        memcpy(mutant, data, bytes);
        for (size_t edits = 1 + below(&draw, EDITS_MAX); edits > 0 && length > 0; edits--)
            length = edit(&draw, mutant, length);
        feed(corpus, mutant, length);
    }
    memory_free(mutant);
    memory_free(data);
    corpus->files++;
    return 0;
}

int main(int argc, char **argv)
{
    struct corpus corpus = {.directory = argc > 1 ? argv[1] : "",
                            .mutations = argc > 2 ? strtol(argv[2], NULL, 10) : 0};
    log_set_level(LOG_LEVEL_ERROR);
    if (file_list(corpus.directory, replay_file, &corpus) < 0) {
        fprintf(stderr, "%s\n", error_message());
        return 1;
    }
    printf("%s: %lld files, %lld inputs\n", corpus.directory, (long long)corpus.files,
           (long long)corpus.inputs);
    return corpus.files > 0 ? 0 : 1;
}
