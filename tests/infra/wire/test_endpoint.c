/* Endpoints as text: what is read out of them and which are none; directories of ipc sockets. */
#include "tests/infra/wire/wire_fixture.h"

#include <sys/stat.h>

#include "infra/base/error.h"

#define KEY "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"

static void test_parse(void **state)
{
    (void)state;
    static const struct {
        const char *text, *address;
        enum endpoint_kind kind;
        bool is_wildcard, is_ipv6;
    } good[] = {
        {"ipc:///run/x", "ipc:///run/x", ENDPOINT_IPC, false, false},
        {"inproc://a b", "inproc://a b", ENDPOINT_INPROC, false, false},
        {"tcp://10.0.0.1:5555", "tcp://10.0.0.1:5555", ENDPOINT_TCP, false, false},
        {"tcp://node-1.cluster:5555", "tcp://node-1.cluster:5555", ENDPOINT_TCP, false, false},
        {"tcp://localhost:1", "tcp://127.0.0.1:1", ENDPOINT_TCP, false, false},
        {"tcp://*:5555", "tcp://*:5555", ENDPOINT_TCP, true, false},
        {"tcp://0.0.0.0:*", "tcp://0.0.0.0:*", ENDPOINT_TCP, true, false},
        {"tcp://[::1]:5555", "tcp://[::1]:5555", ENDPOINT_TCP, false, true},
        {"tcp://[::]:5555", "tcp://[::]:5555", ENDPOINT_TCP, true, true},
        {"tcp://10.0.0.1:5555#" KEY, "tcp://10.0.0.1:5555", ENDPOINT_TCP, false, false},
    };
    struct endpoint e;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_int_equal(endpoint_parse(&e, good[i].text), 0);
        assert_string_equal(e.address, good[i].address);
        assert_int_equal(e.kind, good[i].kind);
        assert_int_equal(e.is_wildcard, good[i].is_wildcard);
        assert_int_equal(e.is_ipv6, good[i].is_ipv6);
        assert_string_equal(e.key, strchr(good[i].text, '#') ? KEY : "");
    }
    static const char *const bad[] = {"tcp://10.0.0.1",
                                      "tcp://10.0.0.1:",
                                      "tcp://:5555",
                                      "tcp://a:70000",
                                      "tcp://a:b",
                                      "tcp://a b:5",
                                      "tcp://a:5#short",
                                      "tcp://a/b:5",
                                      "tcp://[]:5",
                                      "tcp://eth0;a:5",
                                      "udp://a:5",
                                      "10.0.0.1:5555",
                                      "",
                                      "ipc://",
                                      "ipc://@abstract",
                                      "inproc://",
                                      "tcp://a:5#" KEY "x",
                                      "tcp://[::1:5",
                                      "tcp://::1:5"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (endpoint_parse(&e, bad[i]) != HONE_EINVAL)
            fail_msg("\"%s\" is taken for an endpoint", bad[i]);
    }
    char longest[ENDPOINT_MAX + 8];
    memset(longest, 'x', sizeof longest);
    memcpy(longest, "inproc://", 9);
    longest[ENDPOINT_MAX] = '\0';
    assert_int_equal(endpoint_parse(&e, longest), HONE_EINVAL);
}

static void test_choose(void **state)
{
    (void)state;
    struct endpoint e;
    const char *both = "ipc:///run/x tcp://10.0.0.1:5#" KEY;
    assert_int_equal(endpoint_choose(&e, both, false), 0);
    assert_string_equal(e.address, "ipc:///run/x");
    assert_int_equal(endpoint_choose(&e, both, true), 0);
    assert_string_equal(e.address, "tcp://10.0.0.1:5");
    assert_string_equal(e.key, KEY);
    assert_int_equal(endpoint_choose(&e, "ipc:///run/x", true), 0);
    assert_int_equal(endpoint_choose(&e, "tcp://a:5", false), 0);
    assert_int_equal(endpoint_choose(&e, "ipc:///run/x inproc://y", true), HONE_EINVAL);
    assert_int_equal(endpoint_choose(&e, "tcp://a:5 tcp://b:5", false), HONE_EINVAL);
    assert_int_equal(endpoint_choose(&e, "nonsense tcp://a:5", true), HONE_EINVAL);
}

/* W7 */
static void test_directories_of_sockets(void **state)
{
    (void)state;
    struct wire_context *context = wire_context_create();
    struct wire_server *server;
    char directory[128], text[192];
    snprintf(directory, sizeof directory, "%s/sock", fixture_root);
    snprintf(text, sizeof text, "ipc://%s/hub", directory);
    assert_int_equal(wire_server_create(&server, context, text), HONE_ENOENT);
    assert_int_equal(mkdir(directory, 0700), 0);
    static const mode_t loose[] = {0755, 0770, 0701, 0710};
    for (size_t i = 0; i < sizeof loose / sizeof *loose; i++) {
        assert_int_equal(chmod(directory, loose[i]), 0);
        assert_int_equal(wire_server_create(&server, context, text), HONE_EINVAL);
        assert_non_null(strstr(error_message(), "chmod 700"));
        assert_null(server);
    }
    assert_int_equal(chmod(directory, 0700), 0);
    assert_int_equal(wire_server_create(&server, context, text), 0);
    wire_server_destroy(server);
    wire_context_destroy(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parse),
        cmocka_unit_test(test_choose),
        cmocka_unit_test(test_directories_of_sockets),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
