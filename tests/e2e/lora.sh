#!/bin/sh
# RL of adapters alone: over shared memory and as adapters over chunks the same versions, no token whose logprob differs, an audit that
# balances, a replay that gives the same hashes, and a result that any tool reads.
# usage: lora.sh HONE REPOSITORY BUILD
set -eu
. "$(dirname "$0")/support.sh"
small_data
small_recipe recipe.yaml
"$hone" run recipe.yaml output_dir="$scratch/start" stages=[sft] sft.max_steps=40 eval.enabled=false >/dev/null 2>log0.txt ||
    { cat log0.txt >&2; fail "the SFT before"; }
"$hone" run recipe.yaml output_dir="$scratch/adapted" stages=[sft] sft.max_steps=40 "sft.lora={rank: 8}" eval.enabled=false >/dev/null 2>log0.txt ||
    { cat log0.txt >&2; fail "the SFT of adapters"; }
expect "SFT of adapters loads and is another model" sh -c "'$hone' generate adapted/sft/final --max-tokens 4 'Q: Tom' >/dev/null &&
    ! cmp -s start/sft/final/model.safetensors adapted/sft/final/model.safetensors"
losses=$(metric adapted/metrics/sft.jsonl loss)
expect "it learns" test "$(echo "$losses" | awk 'NR == 1 {first = $1} {last = $1} END {print last < first - 0.05}')" = 1
base="stages=[rl] model.path=$scratch/start/sft/final rl.optimizer.warmup_steps=0 eval.enabled=false rl.steps=6 rl.staleness_max=0
    rl.prompts_per_step=4 rl.group_size=4 rl.actor.slots=16 rl.checkpoint_steps=2 pools.actors.workers=2"
for transport in shared_memory chunks; do
    # shellcheck disable=SC2086
    "$hone" run recipe.yaml output_dir="$scratch/$transport" $base "rl.lora={rank: 4, targets: [q, v]}" weights.transport=$transport log.level=debug \
        >/dev/null 2>$transport.err || { cat $transport.err >&2; fail "the run over $transport"; }
    "$hone" audit $transport >audit.txt || { cat audit.txt >&2; fail "audit ($transport)"; }
    "$hone" replay $transport >$transport.txt 2>err.txt || { cat $transport.txt err.txt >&2; fail "replay ($transport)"; }
    expect "every version is as logged ($transport)" test "$(grep -c '^version .* as logged' $transport.txt)" = 6
    expect "no logprob differs ($transport)" test "$(metric $transport/metrics/rl.jsonl mismatch/unequal_tokens | sort -u)" = 0
done
expect "both ways make the same versions" cmp shared_memory.txt chunks.txt
expect "the result is the same" cmp shared_memory/rl/final/model.safetensors chunks/rl/final/model.safetensors
expect "it loads" sh -c "'$hone' generate chunks/rl/final --max-tokens 4 'Q: Tom has 3 pens' >/dev/null"
expect "versions differ" test "$(awk '/^version/ {print $3}' chunks.txt | sort -u | wc -l)" = 6
sent=$(metric chunks/metrics/rl.jsonl weights/bytes | tail -n 1)
whole=$(wc -c <chunks/rl/final/model.safetensors)
echo "a version over chunks: $sent bytes of $whole"
expect "adapters are what is sent" test "$sent" -lt $((whole / 4))

# A checkpoint holds the adapters: killed and continued, the same.
# shellcheck disable=SC2086
HONE_CRASH_AT=batch.trained:4 HONE_CRASH_WITNESS=$scratch "$hone" run recipe.yaml output_dir="$scratch/killed" $base \
    "rl.lora={rank: 4, targets: [q, v]}" >/dev/null 2>killed.err || { cat killed.err >&2; fail "the killed run"; }
expect "it was killed" test -e batch.trained
"$hone" replay killed >killed.txt 2>err.txt || { cat err.txt >&2; fail "replay of the killed run"; }
expect "a killed learner makes the same versions" cmp killed.txt chunks.txt
echo "$checks checks passed"
