#!/bin/sh
# Real arithmetic from GSM8K through pretraining, SFT, RL and DPO.
# usage: examples/gsm8k_calculator/run.sh GSM8K_TRAIN.jsonl GSM8K_TEST.jsonl [HONE] [key=value ...]
set -eu
train=$(realpath "$1")
test=$(realpath "$2")
shift 2
cd "$(dirname "$0")/../.."
hone=${1:-build/release/hone}
[ $# -gt 0 ] && shift
data=runs/gsm8k_calculator/data
mkdir -p $data
"$hone" data calculator --input "$train" --out $data/train.jsonl
"$hone" data calculator --input "$test" --exclude "$train" --out $data/test.jsonl
"$hone" data equations --text 2500000 --exclude $data/test.jsonl --out $data/equations.jsonl
"$hone" data tokenizer --input $data/equations.jsonl --vocab 260 --out runs/gsm8k_calculator/tokenizer
"$hone" run examples/gsm8k_calculator/base.yaml
exec "$hone" run examples/gsm8k_calculator/recipe.yaml "$@"
