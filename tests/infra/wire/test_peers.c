/* Names and connections: who owns a name, over restarts, wrap-around and a full table. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "infra/wire/peers.h"

static void test_newest_connection_has_the_name(void **state)
{
    (void)state;
    struct peers *peers = peers_create();
    struct peer_slot *slot = peers_claim(peers, "actor-0", 7);
    assert_non_null(slot);
    slot->sequence = 40;
    slot->is_dropped = true;
    assert_ptr_equal(peers_claim(peers, "actor-0", 7), slot);
    assert_int_equal(slot->sequence, 40);
    assert_null(peers_claim(peers, "actor-0", 6)); /* N1 */
    assert_null(peers_claim(peers, "actor-1", 7)); /* N2 */
    slot = peers_claim(peers, "actor-0", 8);
    assert_non_null(slot);
    assert_int_equal(slot->sequence, 0);
    assert_true(slot->is_dropped); /* a new connection is no excuse */
    assert_null(peers_connection(peers, 7));
    assert_ptr_equal(peers_connection(peers, 8), slot);
    assert_ptr_equal(peers_find(peers, "actor-0"), slot);
    assert_null(peers_claim(peers, "actor-0", 7));
    peers_destroy(peers);
}

static void test_connection_numbers_wrap(void **state)
{
    (void)state;
    struct peers *peers = peers_create();
    assert_non_null(peers_claim(peers, "a", UINT32_MAX));
    assert_non_null(peers_claim(peers, "a", 3));
    assert_null(peers_claim(peers, "a", UINT32_MAX));
    peers_destroy(peers);
}

/* N3, and every slot stays reachable by both of its indexes. */
static void test_full_table_forgets_the_quietest(void **state)
{
    (void)state;
    struct peers *peers = peers_create();
    char name[PEER_NAME_SIZE];
    for (uint32_t i = 0; i < PEER_SLOTS; i++) {
        snprintf(name, sizeof name, "peer-%u", i);
        assert_non_null(peers_claim(peers, name, i * 4096 + 1)); /* one bucket for all */
    }
    peers_heard(peers, peers_find(peers, "peer-0"));
    for (uint32_t i = 0; i < 100; i++) {
        snprintf(name, sizeof name, "new-%u", i);
        assert_non_null(peers_claim(peers, name, PEER_SLOTS * 4096 + i));
    }
    assert_non_null(peers_find(peers, "peer-0"));
    int found = 0;
    for (uint32_t i = 1; i < PEER_SLOTS; i++) {
        snprintf(name, sizeof name, "peer-%u", i);
        struct peer_slot *slot = peers_find(peers, name);
        assert_ptr_equal(slot, peers_connection(peers, i * 4096 + 1));
        assert_true((slot != NULL) == (i > 100));
        found += slot != NULL;
    }
    assert_int_equal(found, PEER_SLOTS - 101);
    peers_destroy(peers);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_newest_connection_has_the_name),
        cmocka_unit_test(test_connection_numbers_wrap),
        cmocka_unit_test(test_full_table_forgets_the_quietest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
