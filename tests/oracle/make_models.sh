#!/bin/sh
# Makes small checkpoints with hone alone, to compare on: random weights moved by a few steps of sft, so that no
# two weights are alike. Tied and untied heads, grouped and plain attention.
# usage: tests/oracle/make_models.sh HONE DIRECTORY
set -eu
hone=$(realpath "$1")
mkdir -p "$2"
cd "$2"
"$hone" data make --out data --seed 3 --text 4000 --sft 0 --train 0 --test 0 >/dev/null
"$hone" data tokenizer --input data/text.jsonl --vocab 320 --out tokenizer >/dev/null

# make NAME KEY=VALUE...
make() {
    name=$1
    shift
    cat >"$name.yaml" <<EOF
name: $name
seed: 5
output_dir: $name
stages: [sft]
model:
  path: ""
  dtype: float32
  init: {method: random, tokenizer: tokenizer, max_positions: 512}
sft:
  data: {path: data/text.jsonl}
  max_steps: 20
  max_length: 128
  optimizer: {learning_rate: 3e-3}
eval: {enabled: false}
EOF
    sets=""
    for setting in "$@"; do
        sets="$sets --set $setting"
    done
    # shellcheck disable=SC2086
    "$hone" run "$name.yaml" $sets >"$name.log" 2>&1 || {
        cat "$name.log" >&2
        exit 1
    }
    echo "$name/sft/final"
}

init=model.init
make tied $init.hidden_size=64 $init.layers=2 $init.heads=4 $init.kv_heads=2 $init.head_dim=16 \
    $init.intermediate_size=160 $init.tie_embeddings=true
make untied $init.hidden_size=72 $init.layers=3 $init.heads=6 $init.kv_heads=6 $init.head_dim=10 \
    $init.intermediate_size=100 $init.tie_embeddings=false $init.rope_theta=500000
