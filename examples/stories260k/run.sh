#!/bin/sh
# Post-trains stories260K, a checkpoint trained by others.
# usage: examples/stories260k/run.sh MODEL_DIRECTORY STORIES.txt [HONE] [key=value ...]
#   MODEL_DIRECTORY  the checkpoint in Hugging Face layout     STORIES.txt  plain text for the light SFT
set -eu
model=$(realpath "$1")
stories=$(realpath "$2")
shift 2
cd "$(dirname "$0")/../.."
hone=${1:-build/release/hone}
[ $# -gt 0 ] && shift
work=runs/stories260k
python3 examples/stories260k/make_data.py "$stories" $work/data
exec "$hone" run examples/stories260k/recipe.yaml model.path="$model" "$@"
