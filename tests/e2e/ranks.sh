#!/bin/sh
# A learner of several processes: the weights of one to the bit at every version, whatever their number, also when it changes from one
# life of the run to the next and when a rank is killed; audit and replay hold.
# usage: ranks.sh HONE REPOSITORY BUILD
set -eu
. "$(dirname "$0")/support.sh"
small_data
small_recipe recipe.yaml
"$hone" run recipe.yaml output_dir="$scratch/start" stages=[sft] sft.max_steps=40 eval.enabled=false >/dev/null 2>log0.txt ||
    { cat log0.txt >&2; fail "the SFT before"; }
steps=10
base="stages=[rl] model.path=$scratch/start/sft/final rl.optimizer.warmup_steps=0 eval.enabled=false rl.prompts_per_step=4 rl.group_size=4
    rl.micro_batch_tokens=512 rl.checkpoint_steps=1 rl.keep_checkpoints=20 rl.gradient_shards=4 rl.steps=$steps"

# run NAME WORKERS [OVERRIDES...]
run() {
    name=$1
    workers=$2
    shift 2
    # shellcheck disable=SC2086
    "$hone" run recipe.yaml output_dir="$scratch/$name" $base pools.learner.workers="$workers" "$@" </dev/null >/dev/null 2>"$name.err"
}

hashes() {
    for step in $(seq $steps); do
        sha256sum <"$1/rl/checkpoints/step-$step/model.safetensors"
    done
}

# await NAME STEP: until that checkpoint is there.
await() {
    for _ in $(seq 600); do
        [ -e "$1/rl/checkpoints/step-$2/DONE" ] && return 0
        sleep 0.05
    done
    fail "$1 does not reach step $2"
}

for workers in 1 2 4; do
    run ranks$workers $workers rl.staleness_max=0 || { cat ranks$workers.err >&2; fail "$workers ranks"; }
    hashes ranks$workers >ranks$workers.hashes
    expect "$workers ranks make the weights of one at every step" cmp ranks1.hashes ranks$workers.hashes
done
expect "the weights changed from step to step" test "$(sort -u ranks1.hashes | wc -l)" = $steps
expect "four processes trained" grep -q "4 ranks train together" ranks4/logs/learner.log

# Another number of ranks in each life of the run.
for life in 2:2 4:5 1:$steps; do
    run changing "${life%:*}" rl.staleness_max=0 &
    pid=$!
    await changing "${life#*:}"
    [ "${life#*:}" = $steps ] || pkill -TERM -f "run recipe.yaml output_dir=$scratch/changing "
    wait $pid || true
done
hashes changing >changing.hashes
expect "a run goes on with another number of ranks" cmp ranks1.hashes changing.hashes
expect "with four" grep -q "4 ranks train together" changing/logs/learner.log
expect "audit" "$hone" audit changing >audit.txt

# A rank is killed: the others name it, and all start again from the last durable checkpoint.
run killed 2 rl.staleness_max=0 &
pid=$!
await killed 2
victim=$(pgrep -f "hone learner --run $scratch/killed --index 1")
kill -9 "$victim"
wait $pid || { cat killed.err killed/logs/learner.log >&2; fail "the run with a killed rank"; }
hashes killed >killed.hashes
expect "the dead rank is named" grep -q "learner rank 1 (pid $victim) has died" killed/logs/learner.log
expect "they went on from a checkpoint" grep -q "continuing after batch" killed/logs/learner.log
expect "no bit is lost" cmp ranks1.hashes killed.hashes
expect "audit after the kill" "$hone" audit killed >audit.txt
"$hone" replay killed >replay.txt 2>err.txt || { cat replay.txt err.txt >&2; fail "replay of the killed run"; }
expect "one process replays what two have trained" test "$(grep -c '^version .* as logged' replay.txt)" = $steps

# Asynchronous, with a critic, adapters and a KL in the reward: replayed by one process.
run other 2 rl.staleness_max=2 "rl.objective={preset: ppo, kl_coef: 0.01}" rl.drop_zero_advantage=false "rl.lora={rank: 4}" ||
    { cat other.err >&2; fail "the asynchronous run"; }
"$hone" replay other >replay.txt 2>err.txt || { cat replay.txt err.txt >&2; fail "replay of the asynchronous run"; }
expect "every version is as logged" test "$(grep -c '^version .* as logged' replay.txt)" = $steps
expect "nothing is left behind" test -z "$(pgrep -f "hone learner --run $scratch" || true)"
if run wrong 3; then
    fail "3 ranks on 4 shards were accepted"
fi
expect "it says what divides what" grep -q "3 learners do not divide rl.gradient_shards (4)" wrong.err
echo "$checks checks passed"
