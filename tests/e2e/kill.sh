#!/bin/sh
# kill -9 of every process once during RL: the run finishes by itself. Then kill -9 of `hone run` itself, started
# again: it continues. The log shows that nothing was lost or trained twice.
set -eu
. "$(dirname "$0")/support.sh"
small_data
small_recipe recipe.yaml
overrides="output_dir=$scratch/run stages=[sft,rl] rl.staleness_max=2 pools.actors.workers=2 eval.enabled=false
    sft.max_steps=2 rl.steps=40 rl.prompts_per_step=8 rl.group_size=4 rl.checkpoint_steps=3 rl.actor.slots=16
    rl.keep_checkpoints=2"

# worker_pid NAME: the process that a log announces last.
batches() {
    [ -e run/metrics/rl.jsonl ] && wc -l <run/metrics/rl.jsonl || echo 0
}
wait_for_batches() {
    tries=0
    while [ "$(batches)" -lt "$1" ]; do
        tries=$((tries + 1))
        [ $tries -lt 1200 ] || { tail -n 20 log.txt run/logs/*.log >&2; fail "no batch $1 within 120 s"; }
        kill -0 "$runner" 2>/dev/null || { cat log.txt >&2; fail "hone run ended early"; }
        sleep 0.1
    done
}
pid_of() { # the live process of this run with these arguments
    pgrep -f "hone $1 --run $scratch/run( --index $2)?" | head -n 1
}

# shellcheck disable=SC2086
"$hone" run recipe.yaml $overrides >table.txt 2>log.txt &
runner=$!
wait_for_batches 2
target=4
for victim in "actor 0" "scorer 0" "curriculum 0" "learner 0" "actor 1"; do
    # shellcheck disable=SC2086
    pid=$(pid_of $victim)
    [ -n "$pid" ] || fail "no process of $victim to kill"
    kill -9 "$pid" || fail "kill of $victim"
    echo "killed $victim (pid $pid) after $(batches) batches"
    wait_for_batches $(($(batches) + 3))
    target=$((target + 3))
done

kill -9 "$runner"
wait "$runner" 2>/dev/null || true
sleep 1
if pgrep -f "hone [a-z]* --run $scratch/run" >/dev/null; then
    fail "workers outlived hone run"
fi
echo "killed hone run after $(batches) batches"
[ ! -e run/rl/final/DONE ] || fail "the run was over before hone run was killed"
# shellcheck disable=SC2086
"$hone" run recipe.yaml $overrides >table.txt 2>log2.txt || { cat log2.txt >&2; fail "the continued run"; }
expect "rl/final is complete" test -e run/rl/final/DONE
"$hone" audit run >audit.txt || { cat audit.txt >&2; fail "audit"; }
expect "forty batches" grep -q "40" audit.txt
cat audit.txt

# A learner that dies when it is told that all is done finds no hub any more: nobody waits for it.
# shellcheck disable=SC2086
HONE_CRASH_AT=stop.received HONE_CRASH_WITNESS=$scratch timeout 120 "$hone" run recipe.yaml $overrides output_dir="$scratch/last" rl.steps=3 rl.optimizer.warmup_steps=0 \
    >/dev/null 2>log3.txt || { tail -n 20 log3.txt last/logs/learner.log >&2; fail "a run whose learner dies last"; }
expect "it died then" test -e stop.received
expect "the result is complete" test -e last/rl/final/DONE
"$hone" audit last >audit.txt || { cat audit.txt >&2; fail "audit of the run whose learner died last"; }
echo "$checks checks passed"
