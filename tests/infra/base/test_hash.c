#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "infra/base/hash.h"
#include "infra/base/rng.h"

static void test_sha256(void **state)
{
    (void)state;
    /* FIPS 180-2, appendix B.1 and B.2. */
    struct hash hash;
    char hex[HASH_HEX_SIZE];
    hash_sha256("abc", 3, &hash);
    hash_hex(&hash, hex);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    const char *text = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
    struct hash_state running;
    hash_begin(&running);
    hash_update(&running, text, 10);
    hash_update(&running, text + 10, strlen(text) - 10);
    hash_end(&running, &hash);
    hash_hex(&hash, hex);
    assert_string_equal(hex, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

static uint32_t crc_bit_by_bit(const unsigned char *data, size_t bytes)
{
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i < bytes; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ (0x82F63B78u & (0u - (crc & 1u)));
    }
    return ~crc;
}

static void test_crc32c(void **state)
{
    (void)state;
    assert_int_equal(hash_crc32c(0, "123456789", 9), 0xE3069283u);
    assert_int_equal(hash_crc32c_portable(0, "123456789", 9), 0xE3069283u);
    unsigned char zeros[32] = {0};
    assert_int_equal(hash_crc32c(0, zeros, 32), 0x8A9136AAu); /* RFC 3720, B.4 */

    unsigned char data[203];
    struct rng_key key = {.seed = 3, .purpose = RNG_SIM};
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (unsigned char)rng_u64(&key, i);
    for (size_t offset = 0; offset < 9; offset++) {
        for (size_t bytes = 0; bytes + offset <= sizeof data; bytes += 7) {
            uint32_t expected = crc_bit_by_bit(data + offset, bytes);
            assert_int_equal(hash_crc32c(0, data + offset, bytes), expected);
            assert_int_equal(hash_crc32c_portable(0, data + offset, bytes), expected);
            uint32_t first = hash_crc32c(0, data + offset, bytes / 3);
            assert_int_equal(hash_crc32c(first, data + offset + bytes / 3, bytes - bytes / 3),
                             expected);
        }
    }
}

static void test_u64_spreads(void **state)
{
    (void)state;
    /* Every output bit must change for about half of the single-bit input changes. */
    int flips[64] = {0};
    uint64_t base = 0x1234567890abcdefu;
    for (int round = 0; round < 64; round++, base = base * 6364136223846793005u + 1) {
        uint64_t plain = hash_u64(&base, sizeof base);
        for (int bit = 0; bit < 64; bit++) {
            uint64_t changed = base ^ ((uint64_t)1 << bit);
            uint64_t difference = plain ^ hash_u64(&changed, sizeof changed);
            for (int i = 0; i < 64; i++)
                flips[i] += (int)((difference >> i) & 1);
        }
    }
    for (int i = 0; i < 64; i++)
        assert_in_range(flips[i], 1700, 2400);
    assert_int_not_equal(hash_u64("", 0), hash_u64("\0", 1));
}

static void test_checksum(void **state)
{
    (void)state;
    static const unsigned char empty[CHECKSUM_BYTES] = {0x99, 0xaa, 0x06, 0xd3, 0x01, 0x47,
                                                        0x98, 0xd8, 0x60, 0x01, 0xc3, 0x24,
                                                        0x46, 0x8d, 0x49, 0x7f};
    enum { BYTES = 5000 };
    unsigned char data[BYTES];
    struct checksum whole, got;
    checksum_of("", 0, &got);
    assert_memory_equal(got.bytes, empty, sizeof empty);
    for (int i = 0; i < BYTES; i++)
        data[i] = (unsigned char)(i * 31 + i / 256);
    checksum_of(data, BYTES, &whole);
    for (size_t cut = 0; cut <= BYTES; cut += 97) {
        struct checksum_state running;
        checksum_begin(&running);
        checksum_update(&running, data, cut);
        checksum_update(&running, data + cut, BYTES - cut);
        checksum_end(&running, &got);
        assert_memory_equal(&got, &whole, sizeof got);
    }
    for (size_t i = 0; i < BYTES; i += 13) {
        data[i] ^= (unsigned char)(1u << (i % 8));
        checksum_of(data, BYTES, &got);
        assert_memory_not_equal(&got, &whole, sizeof got);
        data[i] ^= (unsigned char)(1u << (i % 8));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_sha256), cmocka_unit_test(test_crc32c),
                                       cmocka_unit_test(test_u64_spreads),
                                       cmocka_unit_test(test_checksum)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
