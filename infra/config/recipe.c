#include "infra/config/recipe.h"

#include <stdio.h>
#include <string.h>

#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/memory.h"
#include "infra/config/field_reader.h"
#include "infra/config/field_writer.h"
#include "infra/config/override.h"
#include "infra/config/preflight.h"
#include "infra/config/recipe_fields.h"
#include "infra/config/recipe_presets.h"
#include "infra/config/yaml.h"

static void replace_string(const char **slot, const char *value)
{
    const char *copy = memory_strdup(value);
    memory_free((void *)(uintptr_t)*slot);
    *slot = copy;
}

/* The defaults that depend on other values. */
static void resolve(struct recipe *recipe)
{
    if (*recipe->output_dir == '\0') {
        struct text text;
        text_init(&text);
        text_printf(&text, "runs/%s", recipe->name);
        replace_string(&recipe->output_dir, text.data);
        text_release(&text);
    }
    recipe_presets_apply(recipe);
    if (!recipe_baseline_is_of_group(recipe->rl.objective.baseline) &&
        !place_list_has(&recipe->places, "rl.drop_zero_advantage"))
        recipe->rl.drop_zero_advantage = false;
    int64_t longest = recipe->rl.checkpoint_steps * recipe->rl.keep_checkpoints;
    if (recipe->rl.guards.good_after > longest &&
        !place_list_has(&recipe->places, "rl.guards.good_after"))
        recipe->rl.guards.good_after = longest;
    for (int32_t i = 0; i < recipe->reward.parts.count; i++) {
        struct reward_part_settings *part = &recipe->reward.parts.items[i];
        if (*part->name == '\0')
            replace_string(&part->name, part->verifier);
    }
}

static int read_tree(const struct recipe *recipe, struct problems *problems,
                     struct yaml_node **root)
{
    char *data;
    size_t bytes;
    if (!recipe->file) {
        *root = yaml_node_create(YAML_TABLE, &(struct source_place){.source = "recipe"});
        return 0;
    }
    int rc = file_read(recipe->file, YAML_BYTES_MAX, &data, &bytes);
    if (rc < 0)
        return error_prefix("recipe");
    *root = yaml_tree_read(recipe->file, data, bytes, problems);
    memory_free(data);
    return 0;
}

static void apply_overrides(struct recipe *recipe, struct yaml_node *root,
                            const char *const *overrides, int count, struct problems *problems)
{
    struct text text;
    text_init(&text);
    for (int i = 0; i < count; i++) {
        text_clear(&text);
        text_printf(&text, "--set %s", overrides[i]);
        string_list_append(&recipe->given, text.data);
    }
    text_release(&text);
    for (int i = 0; i < count; i++) {
        struct source_place place = {.source = recipe->given.items[i]};
        override_apply(recipe_fields, root, overrides[i], &place, problems);
    }
}

int recipe_read(struct recipe *recipe, const struct recipe_source *source,
                struct problems *problems)
{
    struct yaml_node *root = NULL;
    int before = problems->count;
    memset(recipe, 0, sizeof *recipe);
    field_defaults(recipe_fields, recipe);
    recipe->file = source->path ? memory_strdup(source->path) : NULL;
    int rc = read_tree(recipe, problems, &root);
    if (rc == 0 && root) {
        apply_overrides(recipe, root, source->overrides, source->override_count, problems);
        field_read(recipe_fields, recipe, root, problems, &recipe->places);
        resolve(recipe);
        if (root->kind == YAML_TABLE || problems->count == before) {
            preflight_values(recipe, problems);
            if (source->check)
                source->check(recipe, problems);
        }
    }
    yaml_tree_free(root);
    if (rc == 0 && problems->count > before)
        rc = problems_result(problems);
    if (rc < 0)
        recipe_release(recipe);
    return rc;
}

int recipe_load(struct recipe *recipe, const char *path, const char *const *overrides, int count,
                struct problems *problems)
{
    struct recipe_source source = {.path = path, .overrides = overrides, .override_count = count};
    return recipe_read(recipe, &source, problems);
}

void recipe_release(struct recipe *recipe)
{
    field_release(recipe_fields, recipe);
    place_list_release(&recipe->places);
    string_list_release(&recipe->given);
    memory_free(recipe->file);
    memset(recipe, 0, sizeof *recipe);
}

void recipe_print(const struct recipe *recipe, struct text *text)
{
    field_write_yaml(recipe_fields, recipe, 0, text);
}

void recipe_hash(const struct recipe *recipe, char hex[HASH_HEX_SIZE])
{
    struct text text;
    struct hash hash;
    text_init(&text);
    field_write_yaml(recipe_fields, recipe, FIELD_UNHASHED, &text);
    hash_sha256(text.data, text.length, &hash);
    hash_hex(&hash, hex);
    text_release(&text);
}

bool recipe_has_stage(const struct recipe *recipe, const char *stage)
{
    return string_list_has(&recipe->stages, stage);
}

struct source_place recipe_place_of(const struct recipe *recipe, const char *key)
{
    const struct source_place *place = place_list_find(&recipe->places, key);
    if (place)
        return *place;
    return (struct source_place){.source = recipe->file ? recipe->file : "recipe"};
}

bool recipe_keeps_support(const struct recipe *recipe)
{
    const struct sampling_settings *sampling = &recipe->rl.sampling;
    return recipe->rl.truncated_sampling == RECIPE_TRUNCATED_SAME_SUPPORT &&
           (sampling->top_p < 1 || sampling->top_k > 0 || sampling->min_p > 0);
}

bool recipe_baseline_is_of_group(enum recipe_baseline baseline)
{
    return baseline == RECIPE_BASELINE_GROUP_MEAN || baseline == RECIPE_BASELINE_LEAVE_ONE_OUT;
}

const char *recipe_dtype_name(enum recipe_dtype dtype)
{
    return dtype == RECIPE_FLOAT32 ? "float32" : "bfloat16";
}

void recipe_schema_json(struct text *text)
{
    text_append(text, "{\"$schema\":\"https://json-schema.org/draft/2020-12/schema\","
                      "\"title\":\"hone recipe\",");
    field_write_schema(recipe_fields, text);
    text_append(text, "}\n");
}

void recipe_reference_markdown(struct text *text)
{
    text_append(text,
                "# Recipe reference\n\nEvery key of a recipe. Any of them can be given on the "
                "command line as `key=value`.\n");
    field_write_reference(recipe_fields, "", text);
}
