#!/bin/sh
# Rollouts in flight: a synchronous run whose actors are killed in the middle of them goes on from what they had reported
# and makes the weights of the undisturbed run.
set -eu
. "$(dirname "$0")/support.sh"
small_data
small_recipe recipe.yaml
"$hone" run recipe.yaml output_dir="$scratch/start" stages=[sft] sft.max_steps=30 eval.enabled=false >/dev/null 2>log0.txt ||
    { cat log0.txt >&2; fail "the SFT before"; }
base="stages=[rl] model.path=$scratch/start/sft/final rl.optimizer.warmup_steps=0 eval.enabled=false rl.prompts_per_step=6
    rl.group_size=8 rl.checkpoint_steps=1 rl.keep_checkpoints=10 pools.actors.workers=2 rl.actor.progress_tokens=1"

# Four times: both actors stand still, and are killed (-9) if the log has tokens of rollouts in progress.
kill_actors() {
    n=0
    while [ $n -lt 4 ] && [ ! -e "$1/rl/final/DONE" ] && [ ! -e "$1.over" ]; do
        pids=$(pgrep -f "hone actor --run $1" | tr '\n' ' ')
        for pid in $pids; do
            kill -STOP "$pid" 2>/dev/null || true
        done
        sleep 0.1
        signal=-CONT
        if "$hone" audit "$1" 2>/dev/null | grep -q "^in progress"; then
            signal=-KILL
            n=$((n + 1))
            echo "$pids" >>"$1.kills"
        fi
        for pid in $pids; do
            kill $signal "$pid" 2>/dev/null || true
        done
        sleep 0.05 # they work little and stand still much: most of it in the middle of rollouts
    done
}

for run in quiet killed; do
    if [ $run = killed ]; then
        : >killed.kills
        kill_actors "$scratch/killed" &
        killer=$!
    fi
    # shellcheck disable=SC2086
    "$hone" run recipe.yaml output_dir="$scratch/$run" $base rl.staleness_max=0 rl.steps=3 rl.actor.slots=4 >/dev/null 2>log.txt ||
        { tail -n 30 log.txt >&2; fail "the $run run"; }
    for step in 1 2 3; do
        sha256sum <"$run/rl/checkpoints/step-$step/model.safetensors" >>"$run.hashes"
    done
done
touch killed.over
wait "$killer"
resumed=$(metric killed/metrics/curriculum.jsonl partial/resumed_tokens | awk '{sum += $1} END {print sum + 0}')
echo "$(wc -l <killed.kills) times both actors were killed, $resumed tokens were not sampled again"
expect "actors were killed" test -s killed.kills
expect "rollouts went on from what was reported" test "$resumed" -gt 0
expect "the weights are those of the undisturbed run" cmp quiet.hashes killed.hashes
expect "audit" "$hone" audit killed

echo "$checks checks passed"
