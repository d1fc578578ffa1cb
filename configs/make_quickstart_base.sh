#!/bin/sh
# Remakes models/quickstart_base with hone alone: raw text -> tokenizer -> pretraining. The same program gives the same bits; the model that is
# in the repository was made before the order of additions in bf16 attention changed (docs/decisions/0001), so today's are others.
# usage: configs/make_quickstart_base.sh [HONE]      HONE: the program (default build/release/hone)
set -eu
cd "$(dirname "$0")/.."
hone=${1:-build/release/hone}
work=runs/quickstart_base
"$hone" data make --out $work/data --seed 1 --text 300000 --sft 0 --train 0 --test 0
"$hone" data tokenizer --input $work/data/text.jsonl --vocab 512 --out $work/tokenizer
"$hone" run configs/quickstart_base.yaml
rm -rf models/quickstart_base
mkdir -p models
cp -r $work/sft/final models/quickstart_base
rm -f models/quickstart_base/DONE.tmp
echo "made models/quickstart_base: sha256 of model.safetensors"
sha256sum models/quickstart_base/model.safetensors
