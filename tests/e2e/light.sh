#!/bin/sh
# Light SFT: a stage that trains a policy away from what it could do ends by itself, and its result is what was best.
# usage: light.sh HONE REPOSITORY BUILD
set -eu
. "$(dirname "$0")/support.sh"
small_data
small_recipe recipe.yaml
"$hone" run recipe.yaml output_dir="$scratch/start" stages=[sft] sft.max_steps=120 sft.epochs=10 eval.enabled=false >/dev/null 2>log0.txt ||
    { cat log0.txt >&2; fail "the SFT before"; }
head -n 8 data/sft.jsonl >few.jsonl
"$hone" run recipe.yaml output_dir="$scratch/run" stages=[sft,rl] model.path="$scratch/start/sft/final" sft.data.path=[few.jsonl] sft.epochs=1000 \
    sft.max_steps=400 sft.optimizer.learning_rate=2e-4 sft.exploration="{steps: 10, prompts: 60, samples: 4, k: 4}" rl.steps=1 rl.optimizer.warmup_steps=0 sft.optimizer.warmup_steps=0 \
    eval.enabled=false >out.txt 2>log.txt || { cat log.txt >&2; fail "the run"; }
grep 'pass@k' run/logs/sft.log | sed 's/.*sft: sft: //'
expect "the stage says why it ended" grep -q "sft: enough: it was .* whose weights are the result" run/logs/sft.log
best=$(sed -n 's/.*enough: it was .* after \([0-9]*\) steps.*/\1/p' run/logs/sft.log)
last=$(tail -n 1 run/metrics/sft.jsonl | sed 's/.*"step": *\([0-9]*\).*/\1/')
expect "it ended early" test "$last" -lt 400
expect "after what was best" test "$best" -lt "$last"
expect "the result has the best one's steps" grep -q "\"step\": *$best\b" run/sft/final/state.json
expect "measurements are in the metrics" test "$(metric run/metrics/sft.jsonl 'pass@k' | wc -l)" -ge 2
expect "nothing but the result is left" sh -c "! ls -d run/sft/best run/sft/measured 2>/dev/null"
expect "RL went on from it" test -e run/rl/final/model.safetensors
echo "$checks checks passed"
