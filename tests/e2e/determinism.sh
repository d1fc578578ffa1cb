#!/bin/sh
# G7: a synchronous run gives the same weights for any number of actors, slots and threads.
set -eu
. "$(dirname "$0")/support.sh"
small_data
small_recipe recipe.yaml
# A policy that has learnt the format first, so that rewards differ and gradients are not zero.
"$hone" run recipe.yaml output_dir="$scratch/start" stages=[sft] sft.max_steps=40 eval.enabled=false >/dev/null 2>log0.txt ||
    { cat log0.txt >&2; fail "the SFT before"; }
base="stages=[rl] model.path=$scratch/start/sft/final rl.optimizer.warmup_steps=0 rl.staleness_max=0 eval.enabled=false rl.steps=3 rl.prompts_per_step=4 rl.group_size=4
    rl.checkpoint_steps=1 rl.keep_checkpoints=10"
i=0
# workers threads slots prefill_chunk_tokens: 1, 2 and 3 actors with 1 and 2 threads each
while read -r workers threads slots chunk; do
    i=$((i + 1))
    variant="pools.actors.workers=$workers pools.actors.threads=$threads pools.learner.threads=$threads rl.actor.slots=$slots
        rl.actor.prefill_chunk_tokens=$chunk"
    # shellcheck disable=SC2086
    "$hone" run recipe.yaml output_dir="$scratch/run$i" $base $variant </dev/null >/dev/null 2>log$i.txt ||
        { cat log$i.txt >&2; fail "run with $variant"; }
    for step in 1 2 3; do
        sha256sum <"run$i/rl/checkpoints/step-$step/model.safetensors" >>"hashes$i"
    done
    expect "same weights at every step with: $variant" cmp hashes1 hashes$i
    expect "$workers actors had joined" test "$(grep -o '"worker": "actor-[0-9]*"' run$i/metrics/workers.jsonl | sort -u | wc -l)" = "$workers"
done <<END
1 1 16 512
2 1 3 512
3 1 5 5
1 2 7 5
2 2 16 64
3 2 2 512
END
expect "the weights changed from step to step" test "$(sort -u hashes1 | wc -l)" = 3
cat hashes1
echo "$checks checks passed"
