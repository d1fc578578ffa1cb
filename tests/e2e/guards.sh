#!/bin/sh
# A policy that drifts is taken back to its last good checkpoint by itself: logged, audited, replayed bit for bit, the same after a
# kill -9, and given up with a diagnosis when it happens too often.
# usage: guards.sh HONE REPOSITORY BUILD
set -eu
. "$(dirname "$0")/support.sh"
small_data
small_recipe recipe.yaml
"$hone" run recipe.yaml output_dir="$scratch/start" stages=[sft] sft.max_steps=40 eval.enabled=false >/dev/null 2>log0.txt ||
    { cat log0.txt >&2; fail "the SFT before"; }
base="stages=[rl] model.path=$scratch/start/sft/final rl.optimizer.warmup_steps=0 eval.enabled=false rl.steps=16
    rl.prompts_per_step=4 rl.group_size=4 rl.actor.slots=16 rl.checkpoint_steps=2 rl.guards.good_after=1 rl.optimizer.learning_rate=2e-3
    rl.objective.kl_limit=0.05"

run() {
    output=$1
    shift
    # shellcheck disable=SC2086
    "$hone" run recipe.yaml output_dir="$scratch/$output" $base "$@" >"$output.out" 2>"$output.err"
}

for staleness in 0 2; do
    name=back$staleness
    run $name rl.guards.rollbacks_max=8 rl.staleness_max=$staleness || { cat $name.err >&2; fail "the run of staleness $staleness"; }
    backs=$(metric $name/metrics/rl.jsonl guard/action | grep -c '^3$' || true)
    expect "it went back ($staleness)" test "$backs" -gt 0
    "$hone" audit $name >audit.txt || { cat audit.txt >&2; fail "audit ($staleness)"; }
    expect "the audit knows of it ($staleness)" grep -q "$backs times back" audit.txt
    "$hone" replay $name --out $name.replayed >replay.txt 2>err.txt || { cat replay.txt err.txt >&2; fail "replay ($staleness)"; }
    expect "every version is as logged ($staleness)" test "$(grep -c '^version .* as logged' replay.txt)" = 16
    expect "the last version too ($staleness)" cmp $name.replayed/model.safetensors $name/rl/final/model.safetensors
    repeated=$(awk '/^version/ {print $3}' replay.txt | sort | uniq -d | wc -l)
    expect "versions share weights where it went back ($staleness)" test "$repeated" -gt 0
    echo "staleness $staleness: back $backs times in 16 batches, $(metric $name/metrics/rl.jsonl skipped_steps | grep -c '^1$' || true) skipped"
done
metric back2/metrics/rl.jsonl guard/signal | sort | uniq -c | sed 's/^/signal /'

# The learner dies where it hurts: having decided to go back, and having published before the checkpoint of it.
"$hone" replay back0 >replay.txt
first=$(metric back0/metrics/rl.jsonl guard/action | grep -n '^3$' | head -n 1 | cut -d : -f 1)
for point in batch.trained batch.answered; do
    mkdir witness.$point
    HONE_CRASH_AT=$point:$first HONE_CRASH_WITNESS=$scratch/witness.$point run killed.$point rl.guards.rollbacks_max=8 rl.staleness_max=0 ||
        { cat killed.$point.err >&2; fail "the run whose learner was killed at $point"; }
    expect "it was killed at $point" test -e witness.$point/$point
    "$hone" replay killed.$point >replay2.txt 2>err.txt || { cat replay2.txt err.txt >&2; fail "replay of the run killed at $point"; }
    expect "a learner killed at $point makes the same versions" cmp replay.txt replay2.txt
done

if run stopped rl.guards.rollbacks_max=1; then
    fail "a run that goes back all the time is not given up"
fi
expect "it says why" grep -q "kl_drift: KL to the reference, 3 batches running is .*: too often, the run stops" stopped.err
"$hone" audit stopped >audit.txt || { cat audit.txt >&2; fail "audit of the stopped run"; }
expect "its audit balances" grep -q "balanced" audit.txt
echo "$checks checks passed"
