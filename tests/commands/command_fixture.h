/* A temporary directory, a small trained tokenizer in it, and recipes made of overrides. */
#ifndef HONE_TESTS_COMMAND_FIXTURE_H
#define HONE_TESTS_COMMAND_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/log.h"
#include "infra/config/recipe.h"
#include "infra/text/bpe_train.h"
#include "infra/text/tokenizer.h"

static char fixture_root[64];

static inline int fixture_set_up(void **state)
{
    (void)state;
    log_set_level(LOG_LEVEL_ERROR);
    snprintf(fixture_root, sizeof fixture_root, "/tmp/hone_commands_XXXXXX");
    return mkdtemp(fixture_root) != NULL ? 0 : -1;
}

static inline int fixture_tear_down(void **state)
{
    (void)state;
    return file_remove_tree(fixture_root);
}

static inline const char *fixture_path(const char *name)
{
    static char paths[16][HONE_PATH_MAX];
    static int next;
    next = (next + 1) % 16;
    return path_join(paths[next], sizeof paths[next], fixture_root, name);
}

static inline const char *fixture_write(const char *name, const char *content)
{
    const char *path = fixture_path(name);
    assert_int_equal(file_write_atomic(path, content, strlen(content)), 0);
    return path;
}

/* Bytes, and no merge but "ab": <|bos|> 0, <|eos|> 1, <|end|> 2. A text of n bytes without "ab" is
 * n + 1 tokens with bos in front. */
static inline struct tokenizer *fixture_tokenizer(void)
{
    static const char *const extra[] = {"<|end|>"};
    static const char text[] = "ab ab ab";
    const struct bpe_train_options options = {.vocab_size = 260,
                                              .bos = "<|bos|>",
                                              .eos = "<|eos|>",
                                              .extra = extra,
                                              .extra_count = 1,
                                              .add_bos = true};
    struct tokenizer *tokenizer = NULL;
    const char *directory = fixture_path("tokenizer");
    assert_int_equal(file_make_directories(directory), 0);
    assert_int_equal(bpe_train(text, strlen(text), &options, directory), 260);
    if (tokenizer_load(&tokenizer, directory) < 0)
        fail_msg("%s", error_message());
    return tokenizer;
}

/* A recipe that has every stage, with overrides applied; recipe_release it. */
static inline void fixture_recipe(struct recipe *recipe, const char *const *overrides, int count)
{
    const char *all[32] = {"model.path=base", "sft.data.path=a.jsonl", "rl.data.path=b.jsonl",
                           "eval.data.path=c.jsonl", "reward.parts.0.verifier=exact"};
    struct problems problems;
    for (int i = 0; i < count; ++i)
        all[5 + i] = overrides[i];
    problems_init(&problems);
    if (recipe_load(recipe, NULL, all, 5 + count, &problems) < 0)
        fail_msg("%s", problems.text.data);
    problems_release(&problems);
}

#endif
