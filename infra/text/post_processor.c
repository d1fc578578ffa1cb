#include "infra/text/post_processor.h"

#include <stdio.h>
#include <string.h>

#include "infra/base/error.h"
#include "infra/text/bpe.h"
#include "infra/text/json_field.h"

#define DEPTH_MAX     8
#define ADDED_IDS_MAX 64

static int append_special(struct token_list *side, const json_t *special_tokens, const char *name,
                          const char *where)
{
    char inner[JSON_FIELD_WHERE_MAX];
    snprintf(inner, sizeof(inner), "%s.special_tokens[\"%.60s\"]", where, name);
    const json_t *token = json_object_get(special_tokens, name);
    if (!json_is_object(token))
        return error_set(HONE_EFORMAT, "%s is missing", inner);
    json_t *ids = NULL;
    int rc = json_field_array(token, inner, "ids", &ids);
    for (size_t i = 0; i < json_array_size(ids) && rc == 0; i++) {
        const json_t *id = json_array_get(ids, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) > BPE_ID_MAX)
            return error_set(HONE_EFORMAT, "%s.ids[%zu] is not a token id", inner, i);
        if (side->count == ADDED_IDS_MAX)
            return error_set(HONE_EUNSUPPORTED, "%s: more than %d ids", inner, ADDED_IDS_MAX);
        token_list_append(side, (int32_t)json_integer_value(id));
    }
    return rc;
}

/* One element of "single": reads it as a special token's name or as the text ("A"). */
static int read_element(const json_t *element, const char *where, const char **special,
                        const char **sequence)
{
    json_t *body = NULL;
    *special = *sequence = NULL;
    if (json_object_get(element, "SpecialToken") != NULL) {
        int rc = json_field_object(element, where, "SpecialToken", &body);
        return rc < 0 ? rc : json_field_string(body, where, "id", special);
    }
    int rc = json_field_object(element, where, "Sequence", &body);
    return rc < 0 ? rc : json_field_string(body, where, "id", sequence);
}

static int parse_template(struct post_processor *processor, const json_t *json, const char *where)
{
    json_t *single = NULL;
    struct token_list prefix, suffix;
    token_list_init(&prefix);
    token_list_init(&suffix);
    const json_t *special_tokens = json_object_get(json, "special_tokens");
    int texts = 0;
    int rc = json_field_array(json, where, "single", &single);
    for (size_t i = 0; i < json_array_size(single) && rc == 0; i++) {
        const char *special = NULL, *sequence = NULL;
        rc = read_element(json_array_get(single, i), where, &special, &sequence);
        if (rc == 0 && special != NULL)
            rc = append_special(texts == 0 ? &prefix : &suffix, special_tokens, special, where);
        else if (rc == 0 && (strcmp(sequence, "A") != 0 || ++texts > 1))
            rc =
                error_set(HONE_EUNSUPPORTED, "%s.single[%zu]: sequence \"%s\"", where, i, sequence);
    }
    if (rc == 0 && texts == 0)
        rc = error_set(HONE_EUNSUPPORTED, "%s.single does not contain the text", where);
    if (rc == 0) { /* a later template goes around the earlier ones */
        token_list_append_ids(&prefix, processor->prefix.ids, processor->prefix.count);
        token_list_append_ids(&processor->suffix, suffix.ids, suffix.count);
        token_list_release(&processor->prefix);
        processor->prefix = prefix;
        token_list_init(&prefix);
    }
    token_list_release(&prefix);
    token_list_release(&suffix);
    return rc;
}

static int parse_into(struct post_processor *processor, const json_t *json, const char *where,
                      int depth)
{
    const char *type = NULL;
    if (!json_is_object(json))
        return error_set(HONE_EFORMAT, "%s: an object is expected", where);
    int rc = json_field_string(json, where, "type", &type);
    if (rc < 0)
        return rc;
    if (strcmp(type, "ByteLevel") == 0) /* trims offsets, which hone does not use */
        return 0;
    if (strcmp(type, "TemplateProcessing") == 0)
        return parse_template(processor, json, where);
    if (strcmp(type, "Sequence") != 0)
        return error_set(HONE_EUNSUPPORTED, "%s: post-processor \"%s\" is not supported", where,
                         type);
    if (depth == DEPTH_MAX)
        return error_set(HONE_EFORMAT, "%s: sequences nested more than %d deep", where, DEPTH_MAX);
    json_t *list = NULL;
    if ((rc = json_field_array(json, where, "processors", &list)) < 0)
        return rc;
    for (size_t i = 0; i < json_array_size(list) && rc == 0; i++) {
        char inner[JSON_FIELD_WHERE_MAX];
        snprintf(inner, sizeof(inner), "%s[%zu]", where, i);
        rc = parse_into(processor, json_array_get(list, i), inner, depth + 1);
    }
    return rc;
}

int post_processor_parse(struct post_processor *processor, const json_t *json, const char *where)
{
    token_list_init(&processor->prefix);
    token_list_init(&processor->suffix);
    int rc = 0;
    if (json != NULL && !json_is_null(json))
        rc = parse_into(processor, json, where, 0);
    if (rc < 0)
        post_processor_release(processor);
    return rc;
}

void post_processor_release(struct post_processor *processor)
{
    token_list_release(&processor->prefix);
    token_list_release(&processor->suffix);
}
