#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>
#include <time.h>

#include "infra/base/memory.h"
#include "infra/base/text.h"
#include "infra/config/yaml.h"

static struct problems problems;

static int set_up(void **state)
{
    (void)state;
    problems_init(&problems);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    problems_release(&problems);
    return 0;
}

static struct yaml_node *read_text(const char *text)
{
    return yaml_tree_read("r.yaml", text, strlen(text), &problems);
}

/* Reads text that must give exactly these problem lines. */
static void expect_problems(const char *text, const char *lines)
{
    text_clear(&problems.text);
    problems.count = 0;
    yaml_tree_free(read_text(text));
    assert_string_equal(problems.text.data, lines);
}

static void test_tree_and_places(void **state)
{
    (void)state;
    struct yaml_node *root = read_text("a: 1\nb:\n  c: [x, 'y']\n  d: \"q\\n\"\n");
    assert_non_null(root);
    assert_int_equal(problems.count, 0);
    assert_int_equal(root->kind, YAML_TABLE);
    struct yaml_node *a = yaml_node_get(root, "a");
    assert_string_equal(a->text, "1");
    assert_false(a->quoted);
    assert_int_equal(a->place.line, 1);
    assert_int_equal(a->place.column, 4);
    struct yaml_node *b = yaml_node_get(root, "b");
    struct yaml_node *c = yaml_node_get(b, "c");
    assert_int_equal(c->kind, YAML_LIST);
    assert_int_equal(c->count, 2);
    assert_int_equal(c->place.line, 3);
    assert_int_equal(c->place.column, 6);
    assert_int_equal(c->key_place.column, 3);
    assert_false(c->children[0]->quoted);
    assert_true(c->children[1]->quoted);
    assert_string_equal(yaml_node_get(b, "d")->text, "q\n");
    assert_null(yaml_node_get(root, "z"));
    yaml_tree_free(root);
}

static void test_empty_documents(void **state)
{
    (void)state;
    const char *const texts[] = {"", "\n", "# only a comment\n", "\xEF\xBB\xBF# after a mark\n"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct yaml_node *root = read_text(texts[i]);
        assert_non_null(root);
        assert_int_equal(root->kind, YAML_TABLE);
        assert_int_equal(root->count, 0);
        yaml_tree_free(root);
    }
    assert_int_equal(problems.count, 0);
}

static void test_refused_features(void **state)
{
    (void)state;
    expect_problems("a: 1\nb: 2\na: 3\n", "r.yaml:3:1: duplicate key 'a' (first on line 1)\n");
    expect_problems("a: &x 1\nb: *x\n", "r.yaml:1:4: anchors (&x) are not supported\n"
                                        "r.yaml:2:4: aliases (*x) are not supported\n");
    expect_problems("a: !!int 1\n", "r.yaml:1:4: tags (tag:yaml.org,2002:int) are not supported\n");
    expect_problems("a: {<<: {b: 1}}\n", "r.yaml:1:5: merge keys (<<) are not supported\n");
    expect_problems("a: 1\n---\nb: 2\n",
                    "r.yaml:2:1: a recipe is one document; a second one starts here\n");
    expect_problems("[x, y]: 1\n", "r.yaml:1:1: a key must be a plain word\n");
    expect_problems("a: \"x\\0y\"\n", "r.yaml:1:4: a string must not contain a zero byte\n");
    expect_problems("a: \xff\n", "r.yaml:1:1: not UTF-8 text\n");
}

static void test_broken_syntax_has_a_place(void **state)
{
    (void)state;
    expect_problems(
        "a: 1\nb: [1, 2\nc: 3\n",
        "r.yaml:3:2: while parsing a flow sequence: did not find expected ',' or ']'\n");
    expect_problems("a:\n\t- 1\n", "r.yaml:2:1: while scanning for the next token: found character "
                                   "that cannot start any token\n");
}

static double seconds_to_read(const char *text, size_t bytes)
{
    struct timespec start, end;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &start);
    struct yaml_node *root = yaml_tree_read("r.yaml", text, bytes, &problems);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &end);
    assert_null(root);
    return (double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) * 1e-9;
}

/* Each of these keeps an unlimited reader busy for a minute or fills memory. */
static void test_depth_bombs(void **state)
{
    (void)state;
    const size_t bytes = 200 * 1024;
    char *text = memory_alloc(bytes, 1);
    memset(text, '[', bytes);
    assert_true(seconds_to_read(text, bytes) < 5.0);
    assert_string_equal(problems.text.data,
                        "r.yaml:1:33: nested too deeply (more than 32 levels)\n");
    memset(text, '{', bytes);
    assert_true(seconds_to_read(text, bytes) < 5.0);
    for (size_t i = 0; i + 1 < bytes; i += 2)
        memcpy(text + i, "- ", 2);
    assert_true(seconds_to_read(text, bytes) < 5.0);
    memory_free(text);
    assert_true(problems.count >= 3);
}

static void test_alias_bomb(void **state)
{
    (void)state;
    struct text text;
    text_init(&text);
    text_append(&text, "a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for (int i = 1; i < 10; i++) {
        text_printf(&text, "a%d: &a%d [", i, i);
        for (int j = 0; j < 9; j++)
            text_printf(&text, "%s*a%d", j ? "," : "", i - 1);
        text_append(&text, "]\n");
    }
    struct yaml_node *root = yaml_tree_read("r.yaml", text.data, text.length, &problems);
    assert_int_equal(problems.count, 10 + 9 * 9);
    assert_int_equal(root->count, 10);
    yaml_tree_free(root);
    text_release(&text);
}

static void test_size_limits(void **state)
{
    (void)state;
    struct text text;
    text_init(&text);
    for (int i = 0; i <= YAML_ENTRIES_MAX; i++)
        text_printf(&text, "k%d: 1\n", i);
    assert_null(yaml_tree_read("r.yaml", text.data, text.length, &problems));
    assert_non_null(strstr(problems.text.data, "r.yaml:4097:1: more than 4096 entries"));
    text_clear(&text);
    while (text.length <= YAML_BYTES_MAX)
        text_append(&text, "# a long comment that goes on and on and on\n");
    assert_null(yaml_tree_read("r.yaml", text.data, text.length, &problems));
    assert_non_null(strstr(problems.text.data, "r.yaml:1:1: larger than 262144 bytes"));
    text_release(&text);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_tree_and_places),  TEST(test_empty_documents),
        TEST(test_refused_features), TEST(test_broken_syntax_has_a_place),
        TEST(test_depth_bombs),      TEST(test_alias_bomb),
        TEST(test_size_limits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
