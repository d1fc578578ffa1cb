/* The field table of struct recipe: every key, its default, range and help. */
#ifndef HONE_CONFIG_RECIPE_FIELDS_H
#define HONE_CONFIG_RECIPE_FIELDS_H

#include "infra/config/field.h"

extern const struct config_field recipe_fields[];

#endif
