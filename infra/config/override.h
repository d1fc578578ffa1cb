/* "a.b=c" on the command line, applied to the tree of a recipe before it is read, so that
 * overridden and written values go through the same checks. */
#ifndef HONE_CONFIG_OVERRIDE_H
#define HONE_CONFIG_OVERRIDE_H

#include "infra/config/field.h"
#include "infra/config/problem.h"
#include "infra/config/yaml.h"

/* Sets the value in the tree, creating what is missing on the way. List elements go by index; one
 * past the last appends. The value of a scalar field is taken as it stands, unless it is in double
 * quotes; that of a list or table may be written in YAML's flow style ("[a, b]"). place->source
 * must outlive the tree; it names the override in problems. */
void override_apply(const struct config_field *table, struct yaml_node *root, const char *text,
                    const struct source_place *place, struct problems *problems);

#endif
