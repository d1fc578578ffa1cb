#!/bin/sh
# G7, asynchronous: two actors, staleness 4, random stalls, tokens of cut distributions in every second run; `hone replay` makes every version again from the log, bit
# for bit. A log that says something else than was trained is found, by its version.
# usage: replay.sh HONE REPOSITORY BUILD [RUNS]
set -eu
runs=${4:-${COUNT:-2}}
alter_log=$3/tests/e2e/alter_log
. "$(dirname "$0")/support.sh"
small_data
small_recipe recipe.yaml
"$hone" run recipe.yaml output_dir="$scratch/start" stages=[sft] sft.max_steps=40 eval.enabled=false >/dev/null 2>log0.txt ||
    { cat log0.txt >&2; fail "the SFT before"; }
base="stages=[rl] model.path=$scratch/start/sft/final rl.optimizer.warmup_steps=0 rl.staleness_max=4 eval.enabled=false
    rl.prompts_per_step=4 rl.group_size=4 pools.actors.workers=2 rl.actor.slots=8 rl.objective.kl_coef=0.01
    rl.checkpoint_steps=3"

# stall RUN: stops an actor, the scorer or the learner for a moment, again and again, while the run goes on.
stall() {
    while [ ! -e "$1/rl/final/DONE" ] && [ ! -e "$1.over" ]; do
        victim=$(shuf -n 1 -e "actor" "actor" "actor" "scorer" "learner")
        pid=$(pgrep -f "hone $victim --run $1" | shuf -n 1)
        if [ -n "$pid" ] && kill -STOP "$pid" 2>/dev/null; then
            sleep "0.$(shuf -n 1 -i 05-40)"
            kill -CONT "$pid" 2>/dev/null || true
            echo "$victim" >>"$1.stalls"
        fi
        sleep "0.$(shuf -n 1 -i 02-20)"
    done
}

i=0
while [ $i -lt "$runs" ]; do
    i=$((i + 1))
    run=$scratch/run$i
    : >"$run.stalls"
    cut=
    [ $((i % 2)) = 0 ] && cut="rl.sampling.top_k=20 rl.sampling.top_p=0.9 rl.truncated_sampling=same_support"
    stall "$run" &
    staller=$!
    # shellcheck disable=SC2086
    "$hone" run recipe.yaml output_dir="$run" seed=$i rl.steps=7 $base $cut >/dev/null 2>log.txt || { cat log.txt >&2; fail "run $i"; }
    touch "$run.over"
    wait $staller
    "$hone" replay "$run" --out "$run.out" >replay.txt 2>err.txt || { cat replay.txt err.txt >&2; fail "replay of run $i"; }
    expect "seven versions of run $i are as logged" test "$(grep -c '^version .* as logged' replay.txt)" = 7
    expect "its weights are those of the run" cmp "$run.out/model.safetensors" "$run/rl/final/model.safetensors"
    stale=$(metric "$run/metrics/rl.jsonl" staleness/max | sort -n | tail -n 1)
    echo "run $i: $(wc -l <"$run.stalls") stalls, oldest token $stale versions stale, 7 versions replayed"
    echo "$stale" >>staleness.txt
done
expect "some run was stalled" sh -c "cat '$scratch'/*.stalls | grep -q ."
expect "the runs were asynchronous" test "$(sort -n staleness.txt | tail -n 1)" -gt 0
expect "the versions of a run differ" test "$(awk '/^version/ {print $3}' replay.txt | sort -u | wc -l)" = 7

"$hone" replay run1 --to 3 --out at3 >replay.txt || fail "replay to version 3"
expect "it stops at version 3" test "$(grep -c '^version' replay.txt)" = 3
expect "version 3 is not the final one" sh -c "! cmp -s at3/model.safetensors run1/rl/final/model.safetensors"
expect "it loads" "$hone" generate at3 --max-tokens 4 "Q: Tom has 3 pens"
if "$hone" replay run1 --to 99 >/dev/null 2>err.txt; then
    fail "a version that was never trained was made"
fi
expect "it says how many there are" grep -q "7 trained batches" err.txt

for change in "2 logprob" "5 token"; do
    rm -rf changed
    cp -r run1 changed
    # shellcheck disable=SC2086
    "$alter_log" changed/rl/log $change
    if "$hone" replay changed >replay.txt 2>err.txt; then
        fail "a log with another $change was replayed as if nothing were wrong"
    fi
    expect "the first version that differs is named ($change)" grep -q "version ${change% *} differs" err.txt
    expect "those before are as logged" test "$(grep -c 'as logged' replay.txt)" = $((${change% *} - 1))
done
sed -i 's/learning_rate: 0.0004/learning_rate: 0.0005/' changed/recipe.yaml
expect "another learning rate is found" sh -c "! '$hone' replay changed >/dev/null 2>err.txt && grep -q 'version 1 differs' err.txt"
echo "$checks checks passed"
