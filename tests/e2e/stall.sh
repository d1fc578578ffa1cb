#!/bin/sh
# A stall names its root. The learner, the actor and the hub are stopped (SIGSTOP) one after another, and a reward command
# sleeps: each time `hone run` says who stands still and asks it for its stack, and `hone inspect --waiting`, status.json
# and the metrics say so too.
set -eu
command -v python3 >/dev/null || { echo "skipped: no python3"; exit 77; }
. "$(dirname "$0")/support.sh"
small_data
small_recipe recipe.yaml
# A reward that sleeps while a file says so.
cat >sleepy.py <<'P'
import json, os, sys, time
for line in sys.stdin:
    row = json.loads(line)
    while os.path.exists("sleep"):
        time.sleep(0.1)
    print(json.dumps({"id": row["id"], "score": float(len(row["completion_ids"]) % 3)}), flush=True)
P
# shellcheck disable=SC2086
"$hone" run recipe.yaml output_dir="$scratch/run" stages=[rl] eval.enabled=false rl.optimizer.warmup_steps=0 rl.objective.kl_limit=0 rl.steps=100000 \
    rl.prompts_per_step=4 rl.group_size=4 rl.actor.slots=8 rl.staleness_max=1 pools.actors.workers=1 log.stall_s=3 \
    reward.parts.0.verifier=command "reward.parts.0.command=[python3, $scratch/sleepy.py]" reward.parts.0.timeout_s=300 \
    >table.txt 2>log.txt &
runner=$!
trap 'status=$?; kill "$runner" 2>/dev/null || true; wait "$runner" 2>/dev/null || true; rm -rf "$scratch"; exit $status' EXIT

# await SECONDS DESCRIPTION COMMAND...
await() {
    tries=$(($1 * 5))
    what=$2
    shift 2
    while ! "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        kill -0 "$runner" 2>/dev/null || { cat log.txt >&2; fail "hone run ended early, before: $what"; }
        [ $tries -gt 0 ] || { tail -n 20 log.txt run/logs/curriculum.log >&2; fail "$what"; }
        sleep 0.2
    done
    checks=$((checks + 1))
}
batches() {
    [ -e run/metrics/rl.jsonl ] && wc -l <run/metrics/rl.jsonl || echo 0
}
more_batches() {
    test "$(batches)" -gt "$seen"
}
going_on() {
    seen=$(batches)
    await 120 "the run goes on $1" more_batches
}
says_root() {
    "$hone" inspect run --waiting | grep -q "$1"
}

going_on "from the start"
for victim in learner actor-0 curriculum; do
    pid=$(pgrep -f "hone ${victim%-0} --run $scratch/run" | head -n 1)
    kill -STOP "$pid"
    await 60 "$victim is named as the root" grep -q "stall: $victim (pid $pid) is at the root of it; the process stopped" log.txt
    if [ $victim != curriculum ]; then
        await 30 "inspect says that $victim is silent" says_root "^  $victim is silent"
        await 30 "status.json says so" grep -q "\"root\": \"$victim\"" run/status.json
        await 30 "and that the run is stalled" grep -q '"state": "stalled"' run/status.json
    fi
    kill -CONT "$pid"
    await 30 "the stack of $victim is in its log" grep -q "stack of the stage" "run/logs/$victim.log"
    expect "frames of it too" grep -q "hone(" "run/logs/$victim.log"
    going_on "after $victim"
done
expect "the chain is in the hub's log" grep -q "stall: nothing has moved for .* because of actor-0: .*actor-0 is silent" run/logs/curriculum.log
expect "the queues too" grep -q "stall: queues: .*credit" run/logs/curriculum.log

touch sleep
await 60 "the scorer is named as the root" grep -q "stall: scorer-0 (pid [0-9]*) is at the root of it" log.txt
expect "inspect says so too" says_root "^  scorer"
rm sleep
going_on "after the scorer"
await 30 "the metrics count stalls" grep -q '"stall/count": [1-9]' run/metrics/curriculum.jsonl
await 30 "status.json says that it goes on" grep -q '"state": "running"' run/status.json
kill "$runner"
wait "$runner" 2>/dev/null || true
"$hone" audit run >audit.txt || { cat audit.txt >&2; fail "audit"; }
echo "$checks checks passed"
