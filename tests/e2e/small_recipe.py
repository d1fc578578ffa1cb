"""The quickstart's recipe cut down to a scratch directory of its own: what support.sh's small_data and small_recipe are to
the shell scripts."""
import os
import re


def small_recipe(call, hone, repository, scratch):
    """Makes the data with `call(hone, ...)` and returns the path of the recipe."""
    data = os.path.join(scratch, "data")
    call(hone, "data", "make", "--out", data, "--seed", "7", "--sft", "50", "--train", "200", "--test", "20")
    with open(os.path.join(repository, "configs/quickstart.yaml")) as file:
        text = file.read().replace("runs/quickstart/data", data)
    text = re.sub("\n  filter: .*", "", text).replace("drop_zero_advantage: true", "drop_zero_advantage: false")
    text = text.replace("models/quickstart_base", os.path.join(repository, "models/quickstart_base"))
    recipe = os.path.join(scratch, "recipe.yaml")
    with open(recipe, "w") as file:
        file.write(text)
    return recipe
