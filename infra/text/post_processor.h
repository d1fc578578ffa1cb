/* The post-processor of a tokenizer.json, for single texts: TemplateProcessing (special tokens in
 * front of and behind the text), ByteLevel (which changes no id) and sequences of them. */
#ifndef HONE_TEXT_POST_PROCESSOR_H
#define HONE_TEXT_POST_PROCESSOR_H

#include <jansson.h>

#include "infra/text/token_list.h"

struct post_processor {
    struct token_list prefix;
    struct token_list suffix;
};

/* json may be NULL or null: nothing is added. */
int post_processor_parse(struct post_processor *processor, const json_t *json, const char *where);
void post_processor_release(struct post_processor *processor);

#endif
