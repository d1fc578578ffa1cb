/* Shared slots: what a reader holds is never written; a reader that dies holds nothing; one that
 * stays keeps nobody waiting; late and foreign places are refused. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "infra/base/error.h"
#include "infra/base/log.h"
#include "infra/wire/weight_slots.h"

#define BYTES 10000

static struct weight_slot *write_slot(struct weight_slots *slots, int value,
                                      struct weight_place *place)
{
    struct weight_slot *slot = weight_slots_take(slots);
    assert_non_null(slot);
    memset(weight_slot_memory(slot), value, BYTES);
    weight_slot_place(slot, place);
    return slot;
}

static void expect_bytes(const struct weight_mapping *mapping, int value)
{
    assert_int_equal(mapping->bytes, BYTES);
    for (int i = 0; i < BYTES; i++)
        assert_int_equal(mapping->base[i], value);
}

static void test_a_held_slot_is_not_written(void **state)
{
    (void)state;
    struct weight_slots *slots;
    struct weight_mappings mappings;
    struct weight_mapping *mapping, *other;
    struct weight_place first, second, third;
    weight_mappings_init(&mappings);
    assert_int_equal(weight_slots_create(&slots, BYTES, 2, 2), 0);
    struct weight_slot *slot = write_slot(slots, 1, &first);
    assert_int_equal(weight_mappings_lock(&mappings, &first, &mapping), HONE_EPEER); /* too early */
    weight_slot_publish(slot);
    assert_int_equal(weight_mappings_lock(&mappings, &first, &mapping), 0);
    expect_bytes(mapping, 1);
    weight_slot_release(slot);
    /* Two more versions: they go through the other slot. */
    slot = write_slot(slots, 2, &second);
    weight_slot_publish(slot);
    weight_slot_release(slot);
    slot = write_slot(slots, 3, &third);
    weight_slot_publish(slot);
    expect_bytes(mapping, 1);
    assert_int_equal(weight_mappings_lock(&mappings, &second, &other), HONE_EPEER); /* too late */
    assert_int_equal(weight_mappings_lock(&mappings, &third, &other), 0);
    expect_bytes(other, 3);
    /* Let go of, it is written again, and the place of the old version is late. */
    weight_mapping_unlock(mapping);
    struct weight_place fourth;
    struct weight_slot *again = write_slot(slots, 4, &fourth);
    assert_int_equal(fourth.fd, first.fd);
    weight_slot_publish(again);
    assert_int_equal(weight_mappings_lock(&mappings, &first, &mapping), HONE_EPEER);
    assert_int_equal(weight_mappings_lock(&mappings, &fourth, &mapping), 0);
    expect_bytes(mapping, 4);
    weight_slot_release(slot);
    weight_slot_release(again);
    weight_slots_destroy(slots);
    expect_bytes(mapping, 4); /* the owner is gone; the memory is not */
    weight_mapping_unlock(mapping);
    weight_mapping_unlock(other);
    weight_mappings_release(&mappings);
}

/* Every slot is kept by a reader: the owner goes on, the reader's bytes stay. */
static void test_readers_that_stay(void **state)
{
    (void)state;
    enum { READERS = 5 };
    struct weight_slots *slots;
    struct weight_mappings mappings;
    struct weight_mapping *kept[READERS];
    weight_mappings_init(&mappings);
    assert_int_equal(weight_slots_create(&slots, BYTES, 1, 3), 0);
    for (int i = 0; i < READERS; i++) {
        struct weight_place place;
        struct weight_slot *slot = write_slot(slots, 10 + i, &place);
        weight_slot_publish(slot);
        assert_int_equal(weight_mappings_lock(&mappings, &place, &kept[i]), 0);
        weight_slot_release(slot);
    }
    for (int i = 0; i < READERS; i++) {
        expect_bytes(kept[i], 10 + i);
        weight_mapping_unlock(kept[i]);
    }
    weight_slots_destroy(slots);
    weight_mappings_release(&mappings);
}

/* Another process: it finds the slot by its path, and its death lets go of it. */
static void test_a_reader_that_dies(void **state)
{
    (void)state;
    struct weight_slots *slots;
    struct weight_place place, next;
    int ready[2];
    char byte;
    assert_int_equal(pipe(ready), 0);
    assert_int_equal(weight_slots_create(&slots, BYTES, 1, 2), 0);
    struct weight_slot *slot = write_slot(slots, 7, &place);
    weight_slot_publish(slot);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct weight_mappings mappings;
        struct weight_mapping *mapping;
        weight_mappings_init(&mappings);
        byte = weight_mappings_lock(&mappings, &place, &mapping) == 0 && mapping->base[9] == 7;
        if (write(ready[1], &byte, 1) == 1)
            pause();
        _exit(0);
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    assert_int_equal(byte, 1);
    weight_slot_release(slot);
    slot = write_slot(slots, 8, &next);
    assert_int_not_equal(next.fd, place.fd); /* it is being read */
    weight_slot_publish(slot);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    struct weight_slot *reused = write_slot(slots, 9, &next);
    assert_int_equal(next.fd, place.fd);
    weight_slot_release(reused);
    weight_slot_release(slot);
    weight_slots_destroy(slots);
    close(ready[0]);
    close(ready[1]);
}

static void test_foreign_places(void **state)
{
    (void)state;
    struct weight_slots *slots;
    struct weight_mappings mappings;
    struct weight_mapping *mapping;
    struct weight_place place, wrong;
    int pipes[2];
    weight_mappings_init(&mappings);
    assert_int_equal(weight_slots_create(&slots, BYTES, 1, 1), 0);
    struct weight_slot *slot = write_slot(slots, 1, &place);
    weight_slot_publish(slot);
    wrong = place;
    wrong.fd = 9999;
    assert_int_equal(weight_mappings_lock(&mappings, &wrong, &mapping), HONE_EIO);
    wrong = place;
    wrong.bytes = 50000;
    assert_int_equal(weight_mappings_lock(&mappings, &wrong, &mapping), HONE_EIO);
    wrong = place;
    wrong.nonce[3] ^= 1;
    assert_int_equal(weight_mappings_lock(&mappings, &wrong, &mapping), HONE_EPEER);
    /* A pipe, and shared memory that may shrink: refused, and opening them does not wait. */
    assert_int_equal(pipe(pipes), 0);
    wrong = place;
    wrong.fd = pipes[0];
    assert_int_equal(weight_mappings_lock(&mappings, &wrong, &mapping), HONE_EIO);
    int plain = memfd_create("plain", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_int_equal(ftruncate(plain, 16384), 0);
    wrong.fd = plain;
    assert_int_equal(weight_mappings_lock(&mappings, &wrong, &mapping), HONE_EIO);
    assert_int_equal(weight_mappings_lock(&mappings, &place, &mapping), 0);
    weight_mapping_unlock(mapping);
    weight_slot_release(slot);
    weight_slots_destroy(slots);
    weight_mappings_release(&mappings);
    close(plain);
    close(pipes[0]);
    close(pipes[1]);
    assert_int_equal(weight_host_token(), weight_host_token());
    assert_true(weight_host_token() != 0);
}

int main(void)
{
    log_set_level(LOG_LEVEL_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_held_slot_is_not_written), cmocka_unit_test(test_readers_that_stay),
        cmocka_unit_test(test_a_reader_that_dies), cmocka_unit_test(test_foreign_places)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
