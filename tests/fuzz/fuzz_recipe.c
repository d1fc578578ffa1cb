/* Recipes: the YAML tree keeps its limits; a recipe is refused with a problem, or loads, and then
 * what it prints loads again and prints the same (recipe.h, 1). */
#include "infra/config/recipe.h"
#include "infra/config/yaml.h"
#include "tests/fuzz/input_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void check_tree(const struct yaml_node *node, int depth)
{
    HONE_ASSERT(depth <= YAML_DEPTH_MAX);
    HONE_ASSERT(node->count <= YAML_ENTRIES_MAX);
    HONE_ASSERT((node->kind == YAML_SCALAR) == (node->text != NULL));
    for (int32_t i = 0; i < node->count; i++) {
        HONE_ASSERT((node->kind == YAML_TABLE) == (node->children[i]->key != NULL));
        check_tree(node->children[i], depth + 1);
    }
}

static void check_round_trip(const struct recipe *recipe)
{
    struct text first, second;
    struct recipe again;
    struct problems problems;
    text_init(&first);
    text_init(&second);
    problems_init(&problems);
    recipe_print(recipe, &first);
    if (recipe_load(&again, input_file((const uint8_t *)first.data, first.length), NULL, 0,
                    &problems) < 0) {
        fprintf(stderr, "%s\n%s", first.data, problems.text.data);
        HONE_ASSERT(false);
    }
    recipe_print(&again, &second);
    HONE_ASSERT(first.length == second.length &&
                memcmp(first.data, second.data, first.length) == 0);
    recipe_release(&again);
    problems_release(&problems);
    text_release(&second);
    text_release(&first);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct recipe recipe;
    struct problems problems;
    problems_init(&problems);
    struct yaml_node *tree = yaml_tree_read("fuzz", (const char *)data, bytes, &problems);
    HONE_ASSERT(tree != NULL || problems.count > 0);
    if (tree != NULL)
        check_tree(tree, 0);
    yaml_tree_free(tree);
    problems_release(&problems);

    problems_init(&problems);
    if (recipe_load(&recipe, input_file(data, bytes), NULL, 0, &problems) == 0) {
        HONE_ASSERT(problems.count == 0);
        check_round_trip(&recipe);
        recipe_release(&recipe);
    } else if (bytes <= YAML_BYTES_MAX) {
        HONE_ASSERT(problems.count > 0);
    }
    problems_release(&problems);
    return 0;
}
