/* The model that is timed: a directory (--model) or a row of a table of shapes (--shape), whose
 * weights are then random and in memory only. */
#ifndef HONE_COMMANDS_BENCH_MODEL_SHAPE_H
#define HONE_COMMANDS_BENCH_MODEL_SHAPE_H

#include "infra/config/command.h"
#include "infra/model/model_config.h"

int model_shape_config(const struct command_line *line, struct model_config *config);
/* Flat fp32 weights [model_config_parameter_count], read or drawn. */
int model_shape_weights(const struct command_line *line, const struct model_config *config,
                        float *flat);

/* Parameters that a step multiplies with: all but an embedding that is not the head too. */
int64_t model_shape_read_parameters(const struct model_config *config);

#endif
