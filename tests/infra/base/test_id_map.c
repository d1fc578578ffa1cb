/* The map does what a plain array of pairs does, whatever is put in and taken out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "infra/base/id_map.h"
#include "infra/base/rng.h"

#define KEYS  200
#define MOVES 40000

static void check_all(const struct id_map *map, const uint64_t *values)
{
    size_t count = 0;
    for (uint64_t key = 1; key <= KEYS; key++) {
        uint64_t value = 0;
        bool there = id_map_get(map, key << 40, &value);
        assert_int_equal(there, values[key] != 0);
        if (there)
            assert_int_equal(value, values[key]);
        count += there;
    }
    assert_int_equal(map->count, count);
}

static void test_against_an_array(void **state)
{
    (void)state;
    struct id_map map;
    uint64_t values[KEYS + 1] = {0};
    struct rng_key draw = {3, RNG_SIM, 0, 0};
    id_map_init(&map);
    for (uint64_t move = 0; move < MOVES; move++) {
        uint64_t key = 1 + rng_below(&draw, 2 * move, KEYS);
        if (rng_below(&draw, 2 * move + 1, 2) == 0) {
            id_map_set(&map, key << 40, move + 1);
            values[key] = move + 1;
        } else {
            id_map_remove(&map, key << 40);
            values[key] = 0;
        }
        if (move % 97 == 0)
            check_all(&map, values);
    }
    check_all(&map, values);
    id_map_release(&map);
}

static void test_empty(void **state)
{
    (void)state;
    struct id_map map;
    uint64_t value = 7;
    id_map_init(&map);
    assert_false(id_map_get(&map, 5, &value));
    id_map_remove(&map, 5);
    id_map_set(&map, 5, 0);
    assert_true(id_map_get(&map, 5, &value));
    assert_int_equal(value, 0);
    assert_false(id_map_get(&map, 0, &value));
    id_map_release(&map);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_an_array),
        cmocka_unit_test(test_empty),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
