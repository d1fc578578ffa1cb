/* The stages of a run as directories: where each one's result is, and what it starts from. */
#ifndef HONE_COMMANDS_STAGES_H
#define HONE_COMMANDS_STAGES_H

#include <stddef.h>

#include <jansson.h>

#include "infra/config/recipe.h"
#include "infra/launch/run_directory.h"

/* RUN/STAGE/final */
const char *stage_output_model(const struct run_directory *run, const char *stage, char *buffer,
                               size_t capacity);
/* What `stage` starts from: the output of the stage before it in the recipe, or model.path (or the
 * tokenizer of model.init). An output that is missing or damaged is an error that says which stage
 * must run first. */
int stage_input_model(const struct recipe *recipe, const struct run_directory *run,
                      const char *stage, char *buffer, size_t capacity);
/* Whether the stage's output exists and verifies. */
bool stage_is_done(const struct run_directory *run, const char *stage);

/* The hub's account of who waits for whom (curriculum/wait_chain.h): its text and, parsed, a JSON
 * object of the caller's; NULL when there is none. */
json_t *waiting_read(const struct run_directory *run, struct text *text);

#endif
