/* Feeds every file of the given directories to LLVMFuzzerTestOneInput, and each of its prefixes:
 * what libFuzzer's own driver does for a corpus, without libFuzzer. */
#include <stdint.h>
#include <stdio.h>

#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/memory.h"

#define INPUT_MAX (16u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

struct corpus {
    const char *directory;
    int files;
};

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
    for (size_t length = 0; length <= bytes; length++) {
        uint8_t *exact = memory_dup(data, length); /* so that reading past the end is seen */
        LLVMFuzzerTestOneInput(exact, length);
        memory_free(exact);
    }
    memory_free(data);
    corpus->files++;
    return 0;
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        struct corpus corpus = {.directory = argv[i]};
        if (file_list(argv[i], replay_file, &corpus) < 0) {
            fprintf(stderr, "%s\n", error_message());
            return 1;
        }
        printf("%s: %d inputs and their prefixes\n", argv[i], corpus.files);
        if (corpus.files == 0)
            return 1;
    }
    return argc > 1 ? 0 : 2;
}
