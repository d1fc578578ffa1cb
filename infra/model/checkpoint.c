#include "infra/model/checkpoint.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/fault.h"
#include "infra/base/file.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"
#include "infra/base/text.h"
#include "infra/model/model.h"
#include "infra/model/safetensors.h"
#include "infra/text/tokenizer.h"

#define STATE_FORMAT    1
#define JSON_BYTES_MAX  (4u << 20)
#define FILES_MAX       256 /* files of one checkpoint */
#define NAME_LENGTH_MAX 128
#define STEP_PREFIX     "step-"

static int check_path(const char *path)
{
    if (strlen(path) > HONE_PATH_MAX - 300)
        return error_set(HONE_EINVAL, "path too long: %.100s...", path);
    return 0;
}

/* ---- small JSON files ---- */

static int read_json(const char *directory, const char *name, json_t **root)
{
    char path[HONE_PATH_MAX];
    char *text;
    size_t length;
    json_error_t error;
    *root = NULL;
    int rc = check_path(directory);
    if (rc < 0)
        return rc;
    path_join(path, sizeof path, directory, name);
    if ((rc = file_read(path, JSON_BYTES_MAX, &text, &length)) < 0)
        return rc;
    *root = json_loadb(text, length, JSON_REJECT_DUPLICATES, &error);
    memory_free(text);
    if (!json_is_object(*root)) {
        rc = error_set(HONE_EFORMAT, "%s: %s", path, *root ? "not a JSON object" : error.text);
        json_decref(*root);
        *root = NULL;
    }
    return rc;
}

static int write_json(const char *directory, const char *name, const json_t *root)
{
    char path[HONE_PATH_MAX];
    struct text out;
    char *json = json_dumps(root, JSON_INDENT(2));
    text_init(&out);
    text_append(&out, json);
    text_append_char(&out, '\n');
    path_join(path, sizeof path, directory, name);
    int rc = file_write_atomic(path, out.data, out.length);
    text_release(&out);
    free(json);
    return rc;
}

/* ---- state.json ---- */

struct state_number {
    const char *key;
    int64_t *value;
};

#define STATE_NUMBERS 6

static void state_numbers(struct checkpoint_state *state,
                          struct state_number numbers[STATE_NUMBERS])
{
    numbers[0] = (struct state_number){"step", &state->step};
    numbers[1] = (struct state_number){"batch", &state->batch};
    numbers[2] = (struct state_number){"policy_version", &state->policy_version};
    numbers[3] = (struct state_number){"epoch", &state->epoch};
    numbers[4] = (struct state_number){"position", &state->position};
    numbers[5] = (struct state_number){"tokens", &state->tokens};
}

static int write_state(const char *directory, const struct checkpoint_state *state)
{
    struct checkpoint_state copy = *state;
    struct state_number numbers[STATE_NUMBERS];
    json_t *root = json_object();
    state_numbers(&copy, numbers);
    json_object_set_new(root, "format", json_integer(STATE_FORMAT));
    json_object_set_new(root, "stage", json_string(state->stage));
    for (int i = 0; i < STATE_NUMBERS; i++)
        json_object_set_new(root, numbers[i].key, json_integer(*numbers[i].value));
    json_object_set_new(root, "kl_coef", json_real(state->kl_coef));
    json_object_set_new(root, "recipe_hash", json_string(state->recipe_hash));
    json_object_set_new(root, "weights_hash", json_string(state->weights_hash));
    json_t *remembered = json_array();
    for (int32_t i = 0; i < state->number_count; i++)
        json_array_append_new(remembered, json_real(state->numbers[i]));
    json_object_set_new(root, "numbers", remembered);
    json_t *hashes = json_array();
    for (int32_t i = 0; i < state->version_hash_count; i++)
        json_array_append_new(hashes, json_string(state->version_hashes[i]));
    json_object_set_new(root, "version_hashes", hashes);
    int rc = write_json(directory, "state.json", root);
    json_decref(root);
    return rc;
}

static int read_state_string(const json_t *root, const char *directory, const char *key,
                             char *value, size_t capacity)
{
    const char *string = json_string_value(json_object_get(root, key));
    if (!string || strlen(string) >= capacity)
        return error_set(HONE_EFORMAT, "%s/state.json: \"%s\" is missing or too long", directory,
                         key);
    memcpy(value, string, strlen(string) + 1);
    return 0;
}

/* Checkpoints of before have none. */
static int read_version_hashes(const json_t *root, const char *directory,
                               struct checkpoint_state *state)
{
    const json_t *hashes = json_object_get(root, "version_hashes");
    size_t count = json_array_size(hashes);
    if (count > CHECKPOINT_HASHES_MAX)
        return error_set(HONE_EFORMAT, "%s/state.json: \"version_hashes\" has %zu entries, not %d",
                         directory, count, CHECKPOINT_HASHES_MAX);
    for (size_t i = 0; i < count; i++) {
        const char *hex = json_string_value(json_array_get(hashes, i));
        if (!hex || strlen(hex) != HASH_HEX_SIZE - 1)
            return error_set(HONE_EFORMAT,
                             "%s/state.json: \"version_hashes\" holds what is no hash", directory);
        memcpy(state->version_hashes[i], hex, HASH_HEX_SIZE);
    }
    state->version_hash_count = (int32_t)count;
    return 0;
}

static int read_numbers(const json_t *root, const char *directory, struct checkpoint_state *state)
{
    const json_t *list = json_object_get(root, "numbers"); /* a checkpoint of before has none */
    size_t count = json_array_size(list);
    if (count > CHECKPOINT_NUMBERS_MAX)
        return error_set(HONE_EFORMAT, "%s/state.json: \"numbers\" has %zu entries, not %d",
                         directory, count, CHECKPOINT_NUMBERS_MAX);
    for (size_t i = 0; i < count; i++) {
        const json_t *number = json_array_get(list, i);
        if (!json_is_number(number))
            return error_set(HONE_EFORMAT, "%s/state.json: \"numbers\" holds what is no number",
                             directory);
        state->numbers[i] = json_number_value(number);
    }
    state->number_count = (int32_t)count;
    return 0;
}

int checkpoint_read_state(const char *directory, struct checkpoint_state *state)
{
    struct state_number numbers[STATE_NUMBERS];
    json_t *root;
    int rc = read_json(directory, "state.json", &root);
    if (rc < 0)
        return rc;
    *state = (struct checkpoint_state){0};
    state_numbers(state, numbers);
    const json_t *format = json_object_get(root, "format");
    if (!json_is_integer(format) || json_integer_value(format) != STATE_FORMAT) {
        rc = error_set(HONE_EUNSUPPORTED, "%s/state.json: \"format\" is not %d", directory,
                       STATE_FORMAT);
        goto out;
    }
    for (int i = 0; i < STATE_NUMBERS; i++) {
        const json_t *number = json_object_get(root, numbers[i].key);
        if (!json_is_integer(number) || json_integer_value(number) < 0) {
            rc = error_set(HONE_EFORMAT, "%s/state.json: \"%s\" is not an integer >= 0", directory,
                           numbers[i].key);
            goto out;
        }
        *numbers[i].value = json_integer_value(number);
    }
    if ((rc = read_numbers(root, directory, state)) < 0)
        goto out;
    state->kl_coef = json_number_value(json_object_get(root, "kl_coef"));
    if ((rc = read_state_string(root, directory, "stage", state->stage, sizeof state->stage)) < 0 ||
        (rc = read_state_string(root, directory, "recipe_hash", state->recipe_hash,
                                sizeof state->recipe_hash)) < 0)
        goto out;
    rc = read_state_string(root, directory, "weights_hash", state->weights_hash,
                           sizeof state->weights_hash);
    if (rc == 0)
        rc = read_version_hashes(root, directory, state);
out:
    json_decref(root);
    return rc;
}

/* ---- optimizer.safetensors ---- */

static const char *const optimizer_names[] = {"master", "moment1", "moment2"};

static struct safetensor vector_of(const char *name, enum dtype dtype, const void *values,
                                   int64_t count)
{
    return (struct safetensor){.name = name,
                               .dtype = dtype,
                               .rank = 1,
                               .shape = {count},
                               .count = count,
                               .data = values,
                               .bytes = (size_t)count * dtype_bytes(dtype)};
}

static int write_optimizer(const char *directory, const struct checkpoint_content *content)
{
    char path[HONE_PATH_MAX];
    static const char *const metadata[] = {"layout", "flat vectors in hone's canonical order",
                                           NULL};
    const void *const vectors[] = {content->master, content->moment1, content->moment2};
    const enum dtype dtypes[] = {DTYPE_F32, content->moments_dtype, content->moments_dtype};
    struct safetensor tensors[3 + CHECKPOINT_VECTORS_MAX];
    int64_t parameters = model_config_parameter_count(content->config);
    int32_t count = 0;
    HONE_ASSERT(content->extra_count <= CHECKPOINT_VECTORS_MAX);
    for (int i = 0; content->master && i < 3; i++)
        tensors[count++] = vector_of(optimizer_names[i], dtypes[i], vectors[i], parameters);
    for (int32_t i = 0; i < content->extra_count; i++)
        tensors[count++] = vector_of(content->extras[i].name, DTYPE_F32, content->extras[i].values,
                                     content->extras[i].count);
    path_join(path, sizeof path, directory, "optimizer.safetensors");
    return safetensors_write(path, tensors, count, metadata);
}

static int read_vector(struct safetensors *file, const char *path, const char *name,
                       const struct safetensor *wanted, void *to)
{
    const struct safetensor *tensor = safetensors_find(file, name);
    if (!tensor || tensor->count != wanted->count ||
        (tensor->dtype != DTYPE_F32 && tensor->dtype != DTYPE_BF16))
        return error_set(HONE_EFORMAT, "%s: \"%s\" is missing or not %" PRId64 " %s values", path,
                         name, wanted->count, dtype_name(wanted->dtype));
    if (tensor->dtype != wanted->dtype)
        return error_set(HONE_EINVAL,
                         "%s: \"%s\" is kept in %s, this run keeps it in %s: set "
                         "optimizer.moments_dtype as it was",
                         path, name, dtype_name(tensor->dtype), dtype_name(wanted->dtype));
    memcpy(to, tensor->data, tensor->bytes);
    return 0;
}

int checkpoint_read_optimizer(const char *directory, const struct model_config *config,
                              const struct checkpoint_optimizer *optimizer)
{
    char path[HONE_PATH_MAX];
    struct model_config stored;
    struct safetensors *file;
    int64_t count = model_config_parameter_count(config);
    int rc = model_config_read(&stored, directory);
    if (rc < 0)
        return rc;
    if (!model_config_same_shape(config, &stored))
        return error_set(HONE_EINVAL, "checkpoint %s is of a model of another shape", directory);
    path_join(path, sizeof path, directory, "optimizer.safetensors");
    if (!file_exists(path))
        return error_set(HONE_ENOENT,
                         "checkpoint %s has no optimizer state: training cannot go on "
                         "from it",
                         directory);
    if ((rc = safetensors_open(&file, path)) < 0)
        return rc;
    void *const vectors[] = {optimizer->master, optimizer->moment1, optimizer->moment2};
    for (int i = 0; rc == 0 && optimizer->master && i < 3; i++) {
        struct safetensor wanted = {.dtype = i == 0 ? DTYPE_F32 : optimizer->moments_dtype,
                                    .count = count};
        rc = read_vector(file, path, optimizer_names[i], &wanted, vectors[i]);
    }
    for (int32_t i = 0; rc == 0 && i < optimizer->extra_count; i++) {
        const struct checkpoint_vector *extra = &optimizer->extras[i];
        struct safetensor wanted = {.dtype = DTYPE_F32, .count = extra->count};
        rc = read_vector(file, path, extra->name, &wanted, extra->values);
    }
    safetensors_close(file);
    return rc;
}

/* ---- manifest.json and DONE ---- */

static int hash_file(const char *path, struct hash *hash, int64_t *bytes)
{
    struct file_map map;
    int rc = file_map_open(&map, path);
    if (rc < 0)
        return rc;
    hash_sha256(map.data, map.bytes, hash);
    *bytes = (int64_t)map.bytes;
    file_map_close(&map);
    return 0;
}

struct manifest_builder {
    const char *directory;
    json_t *files;
};

static int manifest_add(void *context, const char *name)
{
    struct manifest_builder *builder = context;
    char path[HONE_PATH_MAX], hex[HASH_HEX_SIZE];
    struct hash hash;
    int64_t bytes;
    HONE_ASSERT(strlen(name) <= NAME_LENGTH_MAX);
    path_join(path, sizeof path, builder->directory, name);
    int rc = hash_file(path, &hash, &bytes);
    if (rc < 0)
        return rc;
    hash_hex(&hash, hex);
    json_t *entry = json_object();
    json_object_set_new(entry, "bytes", json_integer(bytes));
    json_object_set_new(entry, "sha256", json_string(hex));
    json_object_set_new(builder->files, name, entry);
    return 0;
}

/* Lists every file there is; then DONE, which holds the manifest's own hash. */
static int seal(const char *directory)
{
    char path[HONE_PATH_MAX], line[HASH_HEX_SIZE + 1];
    struct hash hash;
    int64_t bytes;
    json_t *root = json_object();
    struct manifest_builder builder = {.directory = directory, .files = json_object()};
    json_object_set_new(root, "files", builder.files);
    int rc = file_list(directory, manifest_add, &builder);
    if (rc == 0)
        rc = write_json(directory, "manifest.json", root);
    json_decref(root);
    if (rc < 0)
        return rc;
    path_join(path, sizeof path, directory, "manifest.json");
    if ((rc = hash_file(path, &hash, &bytes)) < 0)
        return rc;
    hash_hex(&hash, line);
    line[HASH_HEX_SIZE - 1] = '\n';
    path_join(path, sizeof path, directory, "DONE");
    return file_write_atomic(path, line, HASH_HEX_SIZE);
}

static int check_done(const char *directory)
{
    char path[HONE_PATH_MAX], hex[HASH_HEX_SIZE];
    struct hash hash;
    char *text;
    size_t length;
    int64_t bytes;
    path_join(path, sizeof path, directory, "DONE");
    if (!file_exists(path))
        return error_set(HONE_ENOENT, "%s has no DONE: not a finished checkpoint of hone",
                         directory);
    int rc = file_read(path, HASH_HEX_SIZE, &text, &length);
    if (rc < 0)
        return rc;
    path_join(path, sizeof path, directory, "manifest.json");
    if (!file_exists(path))
        rc = error_set(HONE_ECORRUPT, "%s: manifest.json is missing", directory);
    else
        rc = hash_file(path, &hash, &bytes);
    if (rc == 0) {
        hash_hex(&hash, hex);
        if (length != HASH_HEX_SIZE || memcmp(text, hex, HASH_HEX_SIZE - 1) != 0)
            rc = error_set(HONE_ECORRUPT, "%s: manifest.json is not the one DONE names", directory);
    }
    memory_free(text);
    return rc;
}

static int check_file(const char *directory, const char *name, const json_t *entry)
{
    char path[HONE_PATH_MAX], hex[HASH_HEX_SIZE];
    struct hash hash;
    int64_t bytes;
    const json_t *size = json_object_get(entry, "bytes");
    const char *expected = json_string_value(json_object_get(entry, "sha256"));
    if (strlen(name) > NAME_LENGTH_MAX || strchr(name, '/') || !json_is_integer(size) || !expected)
        return error_set(HONE_ECORRUPT, "%s: manifest.json: bad entry \"%.128s\"", directory, name);
    path_join(path, sizeof path, directory, name);
    if (!file_exists(path))
        return error_set(HONE_ECORRUPT, "%s: %s is missing", directory, name);
    int rc = file_size(path, &bytes);
    if (rc < 0)
        return rc;
    if (bytes != json_integer_value(size))
        return error_set(HONE_ECORRUPT, "%s: %s has %" PRId64 " bytes, the manifest says %lld",
                         directory, name, bytes, (long long)json_integer_value(size));
    if ((rc = hash_file(path, &hash, &bytes)) < 0)
        return rc;
    hash_hex(&hash, hex);
    if (strcmp(hex, expected) != 0)
        return error_set(HONE_ECORRUPT, "%s: %s does not match its checksum", directory, name);
    return 0;
}

int checkpoint_verify(const char *directory)
{
    static const char *const required[] = {"config.json", "model.safetensors", "state.json"};
    json_t *root;
    int rc = check_path(directory);
    if (rc < 0)
        return rc;
    if (!file_is_directory(directory))
        return error_set(HONE_ENOENT, "checkpoint %s does not exist", directory);
    if ((rc = check_done(directory)) < 0 || (rc = read_json(directory, "manifest.json", &root)) < 0)
        return rc;
    json_t *files = json_object_get(root, "files");
    for (size_t i = 0; rc == 0 && i < sizeof required / sizeof *required; i++)
        if (!json_object_get(files, required[i]))
            rc = error_set(HONE_ECORRUPT, "%s: the manifest does not list %s", directory,
                           required[i]);
    if (rc == 0 && json_object_size(files) > FILES_MAX)
        rc = error_set(HONE_ECORRUPT, "%s: the manifest lists more than %d files", directory,
                       FILES_MAX);
    for (void *i = json_object_iter(files); rc == 0 && i; i = json_object_iter_next(files, i))
        rc = check_file(directory, json_object_iter_key(i), json_object_iter_value(i));
    json_decref(root);
    return rc;
}

/* ---- writing ---- */

static int write_files(const char *directory, const struct checkpoint_content *content)
{
    int rc = file_make_directories(directory);
    if (rc == 0)
        rc = model_config_write(content->config, content->base_directory, content->weights_dtype,
                                directory);
    if (rc == 0)
        rc = model_write_flat(content->config, content->weights, content->weights_dtype, directory);
    if (rc == 0 && content->base_directory)
        rc = tokenizer_copy(content->base_directory, directory);
    if (rc == 0 && (content->master || content->extra_count > 0))
        rc = write_optimizer(directory, content);
    if (rc == 0)
        rc = write_state(directory, content->state);
    if (rc == 0)
        rc = seal(directory);
    if (rc == 0)
        rc = file_sync_directory(directory);
    return rc;
}

int checkpoint_write(const char *directory, const struct checkpoint_content *content)
{
    char temporary[HONE_PATH_MAX], previous[HONE_PATH_MAX];
    HONE_ASSERT((content->moment1 == NULL) == (content->moment2 == NULL));
    HONE_ASSERT((content->master == NULL) == (content->moment1 == NULL));
    int rc = check_path(directory);
    if (rc < 0)
        return rc;
    snprintf(temporary, sizeof temporary, "%s.tmp", directory);
    snprintf(previous, sizeof previous, "%s.old", directory);
    if ((rc = file_remove_tree(temporary)) < 0 || (rc = file_remove_tree(previous)) < 0 ||
        (rc = write_files(temporary, content)) < 0)
        goto fail;
    /* A step trained again after a resume replaces its directory; it is never without a whole copy.
     */
    fault_point("checkpoint.before_rename");
    if (file_exists(directory) && (rc = file_rename_synced(directory, previous)) < 0)
        goto fail;
    if ((rc = file_rename_synced(temporary, directory)) < 0)
        goto fail;
    fault_point("checkpoint.after_rename");
    return file_remove_tree(previous);
fail:
    return error_prefix("checkpoint %s", directory);
}

/* ---- the directory of checkpoints ---- */

struct step_list {
    int64_t *steps;
    size_t count, capacity;
};

/* "step-120" -> 120; -1 for any other name. */
static int64_t step_of_name(const char *name)
{
    const char *digits = name + strlen(STEP_PREFIX);
    int64_t step = 0;
    if (!text_starts_with(name, STEP_PREFIX) || *digits == '\0' || strlen(digits) > 18)
        return -1;
    for (; *digits; digits++) {
        if (*digits < '0' || *digits > '9')
            return -1;
        step = step * 10 + (*digits - '0');
    }
    return step;
}

static int step_visit(void *context, const char *name)
{
    struct step_list *list = context;
    int64_t step = step_of_name(name);
    char canonical[32];
    snprintf(canonical, sizeof canonical, STEP_PREFIX "%" PRId64, step);
    if (step < 0 || strcmp(canonical, name) != 0)
        return 0;
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? 2 * list->capacity : 16;
        list->steps = memory_resize(list->steps, list->count, capacity, sizeof *list->steps);
        list->capacity = capacity;
    }
    list->steps[list->count++] = step;
    return 0;
}

static int compare_steps_descending(const void *a, const void *b)
{
    int64_t left = *(const int64_t *)a, right = *(const int64_t *)b;
    return left < right ? 1 : left > right ? -1 : 0;
}

/* Steps present under a directory, newest first; memory_free list->steps. */
static int list_steps(const char *directory, struct step_list *list)
{
    *list = (struct step_list){0};
    int rc = check_path(directory);
    if (rc == 0)
        rc = file_list(directory, step_visit, list);
    if (list->count > 1)
        qsort(list->steps, list->count, sizeof *list->steps, compare_steps_descending);
    return rc;
}

static void step_path(char path[HONE_PATH_MAX], const char *directory, int64_t step)
{
    char name[32];
    snprintf(name, sizeof name, STEP_PREFIX "%" PRId64, step);
    path_join(path, HONE_PATH_MAX, directory, name);
}

int checkpoint_newest(const char *directory, char *path, size_t capacity)
{
    struct step_list list;
    char candidate[HONE_PATH_MAX];
    if (!file_is_directory(directory))
        return error_set(HONE_ENOENT, "no checkpoint in %s", directory);
    int rc = list_steps(directory, &list);
    if (rc < 0)
        goto out;
    for (size_t i = 0; i < list.count; i++) {
        step_path(candidate, directory, list.steps[i]);
        if (checkpoint_verify(candidate) == 0) {
            HONE_ASSERT(strlen(candidate) < capacity);
            memcpy(path, candidate, strlen(candidate) + 1);
            goto out;
        }
        log_warn("checkpoint skipped: %s", error_message());
    }
    rc = error_set(HONE_ENOENT, "no complete checkpoint in %s", directory);
out:
    memory_free(list.steps);
    return rc;
}

/* What an interrupted write or replacement leaves behind. */
static int remove_leftover(void *context, const char *name)
{
    char path[HONE_PATH_MAX], stem[32];
    size_t length = strlen(name);
    if (length < 5 || length - 4 >= sizeof stem ||
        !(text_ends_with(name, ".tmp") || text_ends_with(name, ".old")))
        return 0;
    memcpy(stem, name, length - 4);
    stem[length - 4] = '\0';
    if (step_of_name(stem) < 0)
        return 0;
    return file_remove_tree(path_join(path, sizeof path, context, name));
}

int checkpoint_prune(const char *directory, int keep, int64_t also)
{
    struct step_list list;
    char path[HONE_PATH_MAX];
    int valid = 0;
    HONE_ASSERT(keep >= 1);
    int rc = list_steps(directory, &list);
    for (size_t i = 0; rc == 0 && i < list.count; i++) {
        step_path(path, directory, list.steps[i]);
        if (valid == keep)
            rc = list.steps[i] == also ? 0 : file_remove_tree(path);
        else if (checkpoint_verify(path) == 0)
            valid++;
        else
            log_warn("checkpoint left as it is: %s", error_message());
    }
    memory_free(list.steps);
    if (rc == 0) {
        char *context = memory_strdup(directory);
        rc = file_list(directory, remove_leftover, context);
        memory_free(context);
    }
    return rc;
}
