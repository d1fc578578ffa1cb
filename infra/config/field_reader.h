/* A tree of YAML nodes read into a struct through its field table.
 *
 * The struct holds its defaults before; given values replace them. Lists replace as a whole.
 * Scalars are typed by the table: `2e-5` is a number where a number belongs and a string where a
 * string does; only true and false are booleans; a quoted scalar is never a number. Unknown keys
 * name the nearest valid one. Every problem is added, none stops the reading. */
#ifndef HONE_CONFIG_FIELD_READER_H
#define HONE_CONFIG_FIELD_READER_H

#include "infra/config/field.h"
#include "infra/config/problem.h"
#include "infra/config/yaml.h"

/* places receives where each given key stands. */
void field_read(const struct config_field *table, void *object, const struct yaml_node *root,
                struct problems *problems, struct place_list *places);

#endif
