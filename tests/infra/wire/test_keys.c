/* Key directories: what is made, what is refused, and that no message holds a secret. */
#include "tests/infra/wire/wire_fixture.h"

#include <sys/stat.h>
#include <unistd.h>

#include "infra/base/error.h"
#include "infra/base/memory.h"

static const char *in_keys(const char *file)
{
    static char path[HONE_PATH_MAX];
    return path_join(path, sizeof path, fixture_keys, file);
}

static unsigned mode_of(const char *path)
{
    struct stat status;
    assert_int_equal(stat(path, &status), 0);
    return status.st_mode & 0777;
}

static void test_a_directory_is_made(void **state)
{
    (void)state;
    static const char *const secrets[] = {"hub.key", "learner.key", "actor.key", "scorer.key",
                                          "allowed"};
    static const char *const workers[] = {"hub", "learner", "actor-0", "scorer-x.y_z"};
    struct keys keys;
    char hub[KEY_SIZE] = "";
    assert_int_equal(mode_of(fixture_keys), 0700);
    for (size_t i = 0; i < sizeof secrets / sizeof *secrets; i++)
        assert_int_equal(mode_of(in_keys(secrets[i])), 0600);
    for (size_t i = 0; i < sizeof workers / sizeof *workers; i++) {
        assert_int_equal(keys_load(&keys, fixture_keys, workers[i]), 0);
        assert_int_equal(strlen(keys.own.secret_key), KEY_SIZE - 1);
        assert_string_equal(keys.allowed_path, in_keys("allowed"));
        if (i == 0)
            snprintf(hub, sizeof hub, "%s", keys.own.public_key);
        assert_string_equal(keys.hub_public, hub);
    }
    /* Once: another call would leave workers with keys that nobody knows. */
    assert_int_equal(keys_create(fixture_keys), HONE_EBUSY);
    assert_int_equal(keys_load(&keys, "/nonexistent", "actor-0"), HONE_ENOENT);
}

static void test_list_add_and_revoke(void **state)
{
    (void)state;
    struct text list;
    struct keys keys, shared;
    text_init(&list);
    assert_int_equal(keys_load(&shared, fixture_keys, "actor-7"), 0);
    assert_int_equal(keys_add(fixture_keys, "actor-7"), 0);
    assert_int_equal(keys_load(&keys, fixture_keys, "actor-7"), 0);
    assert_string_equal(keys.own.names, "actor-7");
    assert_string_not_equal(keys.own.public_key, shared.own.public_key);
    assert_int_equal(keys_add(fixture_keys, "actor-7"), HONE_EBUSY);
    assert_int_equal(keys_list(fixture_keys, &list), 0);
    assert_non_null(strstr(list.data, keys.own.public_key));
    assert_non_null(strstr(list.data, "actor-7 "));
    assert_null(strstr(list.data, keys.own.secret_key));
    assert_int_equal(keys_revoke(fixture_keys, "actor-7"), 0);
    text_clear(&list);
    assert_int_equal(keys_list(fixture_keys, &list), 0);
    assert_null(strstr(list.data, keys.own.public_key));
    assert_non_null(strstr(list.data, shared.own.public_key));
    assert_false(file_exists(in_keys("actor-7.key")));
    assert_int_equal(keys_revoke(fixture_keys, "actor-7"), HONE_ENOENT);
    static const char *const bad[] = {
        "",          "actor",   "actor-",   "hub",          "*",
        "learner-2", "actor 1", "actor-/x", "supervisor-1", "actor-*-1"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(keys_add(fixture_keys, bad[i]), HONE_EINVAL);
    text_release(&list);
}

/* K2 */
static void test_loose_permissions_are_refused(void **state)
{
    (void)state;
    static const mode_t loose[] = {0640, 0604, 0660, 0644};
    struct keys keys;
    for (size_t i = 0; i < sizeof loose / sizeof *loose; i++) {
        assert_int_equal(chmod(in_keys("actor.key"), loose[i]), 0);
        assert_int_equal(keys_load(&keys, fixture_keys, "actor-0"), HONE_EINVAL);
        assert_non_null(strstr(error_message(), "chmod 600"));
        assert_int_equal(keys.own.secret_key[0], 0);
    }
    assert_int_equal(chmod(in_keys("actor.key"), 0600), 0);
    struct allow_list list;
    assert_int_equal(chmod(in_keys("allowed"), 0620), 0);
    assert_int_equal(allow_list_read(&list, in_keys("allowed")), HONE_EINVAL);
    assert_non_null(strstr(error_message(), "written by others"));
    assert_int_equal(chmod(in_keys("allowed"), 0600), 0);
    assert_int_equal(chmod(fixture_keys, 0770), 0);
    assert_int_equal(keys_load(&keys, fixture_keys, "actor-0"), HONE_EINVAL);
    assert_int_equal(chmod(fixture_keys, 0700), 0);
    assert_int_equal(keys_load(&keys, fixture_keys, "actor-0"), 0);
}

/* K1: whatever is wrong with a key file, no message holds a part of it. */
static void test_bad_key_files(void **state)
{
    (void)state;
    struct keys keys;
    struct key_pair pair;
    char text[512], other[2][KEY_SIZE];
    assert_int_equal(keys_load(&keys, fixture_keys, "actor-0"), 0);
    const char *public = keys.own.public_key, *secret = keys.own.secret_key;
    const char *const bad[] = {
        "names actor-*\npublic %s\n",
        "names actor-*\nsecret %s\nsecret %s\n",
        "names actor-*\npublic %s\nsecret %sX\n",
        "names nobody\npublic %s\nsecret %s\n",
        "names actor-*\npublic %s\nsecret  %s\n",
        "names actor-*\npublic %s\nsecret %s\nmore\n",
        "public %s\nsecret %s\n",
        "",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        snprintf(text, sizeof text, bad[i], i == 1 ? secret : public, secret);
#pragma GCC diagnostic pop
        assert_int_equal(key_pair_parse(&pair, "a.key", text), HONE_EFORMAT);
        assert_null(strstr(error_message(), secret));
        assert_int_equal(pair.secret_key[0], 0);
    }
    zmq_curve_keypair(other[0], other[1]);
    snprintf(text, sizeof text, "names actor-*\npublic %s\nsecret %s\n", public, other[1]);
    assert_int_equal(key_pair_parse(&pair, "a.key", text), HONE_EFORMAT);
    assert_null(strstr(error_message(), other[1]));
    snprintf(text, sizeof text, "names actor-*\npublic %s\nsecret %s\n", public, secret);
    assert_int_equal(key_pair_parse(&pair, "a.key", text), 0);
    /* A key for others does not become this worker's because of its file's name. */
    assert_int_equal(keys_add(fixture_keys, "actor-a"), 0);
    char from[HONE_PATH_MAX];
    snprintf(from, sizeof from, "%s", in_keys("actor-a.key"));
    assert_int_equal(rename(from, in_keys("actor-b.key")), 0);
    assert_int_equal(keys_load(&keys, fixture_keys, "actor-b"), HONE_EINVAL);
    assert_int_equal(unlink(in_keys("actor-b.key")), 0);
}

static void test_allow_lists(void **state)
{
    (void)state;
    struct allow_list list;
    struct keys keys;
    char text[512];
    assert_int_equal(keys_load(&keys, fixture_keys, "actor-0"), 0);
    const char *key = keys.own.public_key;
    static const char *const bad[] = {"%s",
                                      "%s actor",
                                      "%s actor actor-*  x",
                                      "%s scorer actor-*",
                                      "%s actor learner",
                                      "%s hub actor-1",
                                      "x%s actor actor-1",
                                      "%s actor actor-*\n%s actor actor-2"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        snprintf(text, sizeof text, bad[i], key, key);
#pragma GCC diagnostic pop
        assert_int_equal(allow_list_parse(&list, "allowed", text), HONE_EFORMAT);
        assert_null(list.items);
    }
    snprintf(text, sizeof text, "# who\n\n%s actor actor-gpu*\n", key);
    assert_int_equal(allow_list_parse(&list, "allowed", text), 0);
    const struct allowed_key *found = allow_list_find(&list, key);
    assert_non_null(found);
    assert_int_equal(found->role, HONE__ROLE__ROLE_ACTOR);
    assert_true(key_names_match(found->names, "actor-gpu7"));
    assert_false(key_names_match(found->names, "actor-cpu7"));
    assert_false(key_names_match("actor-1", "actor-12"));
    assert_null(allow_list_find(&list, keys.hub_public));
    assert_null(allow_list_find(&list, ""));
    allow_list_release(&list);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_directory_is_made),
        cmocka_unit_test(test_list_add_and_revoke),
        cmocka_unit_test(test_loose_permissions_are_refused),
        cmocka_unit_test(test_bad_key_files),
        cmocka_unit_test(test_allow_lists),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
