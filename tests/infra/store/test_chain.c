/* The hash chain and the file of the acknowledged head. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"
#include "infra/store/acked.h"
#include "infra/store/chain.h"
#include "infra/store/run_log.h"

#define COMMITS 20

static unsigned char keys[COMMITS][8], records[COMMITS][CHAIN_RECORD_BYTES];

static struct chain build(void)
{
    struct chain chain = {0};
    for (int i = 0; i < COMMITS; i++) {
        struct hash content;
        hash_sha256(&i, sizeof i, &content);
        chain = chain_next(&chain, &content);
        run_log_key_u64(chain.sequence, keys[i]);
        chain_record(&chain, &content, records[i]);
    }
    return chain;
}

static int verify_from(int first, int skip, struct chain *chain)
{
    *chain = (struct chain){0};
    for (int i = first; i < COMMITS; i++) {
        int rc = i == skip ? 0 : chain_verify(chain, keys[i], 8, records[i], CHAIN_RECORD_BYTES);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static void test_verifies_what_it_built(void **state)
{
    (void)state;
    struct chain built = build(), checked;
    assert_int_equal(verify_from(0, -1, &checked), 0);
    assert_int_equal(checked.sequence, COMMITS);
    assert_memory_equal(&checked.head, &built.head, sizeof built.head);
    assert_int_equal(verify_from(7, -1, &checked), 0); /* trimmed */
    assert_memory_equal(&checked.head, &built.head, sizeof built.head);
}

static void test_refuses_holes_and_changes(void **state)
{
    (void)state;
    struct chain checked;
    build();
    for (int skip = 1; skip < COMMITS - 1; skip++) {
        assert_int_equal(verify_from(0, skip, &checked), HONE_ECORRUPT);
        assert_non_null(strstr(error_message(), "hole"));
    }
    for (int i = 0; i < COMMITS; i++) {
        for (int byte = 0; byte < CHAIN_RECORD_BYTES; byte += 9) {
            records[i][byte] ^= 4;
            assert_int_equal(verify_from(0, -1, &checked), HONE_ECORRUPT);
            records[i][byte] ^= 4;
        }
    }
    assert_int_equal(chain_verify(&checked, keys[0], 7, records[0], CHAIN_RECORD_BYTES),
                     HONE_ECORRUPT);
    assert_int_equal(chain_verify(&checked, keys[0], 8, records[0], 10), HONE_ECORRUPT);
}

static void test_acked_file(void **state)
{
    (void)state;
    char directory[] = "/tmp/hone-acked-XXXXXX", path[HONE_PATH_MAX];
    struct chain chain = build(), read;
    assert_non_null(mkdtemp(directory));
    path_join(path, sizeof path, directory, "ACKED");
    assert_int_equal(acked_read(path, &read), 0);
    assert_int_equal(read.sequence, 0);
    int fd = acked_open(path, &(struct chain){0});
    assert_true(fd >= 0);
    assert_int_equal(acked_write(fd, &chain), 0);
    assert_int_equal(acked_read(path, &read), 0);
    assert_int_equal(read.sequence, COMMITS);
    assert_memory_equal(&read.head, &chain.head, sizeof read.head);
    log_set_level(LOG_LEVEL_ERROR);
    char *data;
    size_t bytes;
    assert_int_equal(file_read(path, 1000, &data, &bytes), 0);
    for (size_t i = 0; i < bytes; i++) { /* torn */
        assert_int_equal(file_write_atomic(path, data, i), 0);
        assert_int_equal(acked_read(path, &read), 0);
        assert_int_equal(read.sequence, 0);
    }
    data[3] ^= 1;
    assert_int_equal(file_write_atomic(path, data, bytes), 0);
    assert_int_equal(acked_read(path, &read), 0);
    assert_int_equal(read.sequence, 0);
    memory_free(data);
    assert_int_equal(file_remove_tree(directory), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_verifies_what_it_built),
        cmocka_unit_test(test_refuses_holes_and_changes),
        cmocka_unit_test(test_acked_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
