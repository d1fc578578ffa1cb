/* Published objectives by name: what rl.objective.preset gives to keys that are not given. A recipe
 * that names a preset and one that writes its values out are the same recipe (equal hash). */
#ifndef HONE_CONFIG_RECIPE_PRESETS_H
#define HONE_CONFIG_RECIPE_PRESETS_H

#include "infra/config/recipe.h"

/* Keys are given when recipe->places has them. */
void recipe_presets_apply(struct recipe *recipe);

#endif
