#!/bin/sh
# A run whose actors and scorer join over tcp with keys: what is refused, strangers beside it, a joined actor that is
# killed, the result; a run whose learner joins; and no secret anywhere but in key files.
set -eu
. "$(dirname "$0")/support.sh"
small_data
small_recipe recipe.yaml
port=$((20000 + $$ % 20000))
hub=tcp://127.0.0.1:$port
weights=tcp://127.0.0.1:$((port + 1))
short="stages=[rl] $short rl.steps=8 rl.staleness_max=2"

expect "keys are made" "$hone" keys keys >/dev/null
"$hone" keys strangers >/dev/null
cp keys/hub.public strangers
mkdir -m 700 far
cp keys/actor.key keys/scorer.key keys/hub.public far

# refuses WHAT PATTERN COMMAND...: the command fails with a message that says why.
refuses() {
    what=$1
    pattern=$2
    shift 2
    if timeout 60 "$@" >refused.txt 2>&1; then
        fail "$what was accepted"
    fi
    expect "$what is refused for its reason" grep -q "$pattern" refused.txt
}
# shellcheck disable=SC2086
{
    refuses "tcp without keys" "not opened without wire.keys" "$hone" run recipe.yaml output_dir="$scratch/run" $short wire.hub=$hub
    refuses "remote actors without a hub" "an endpoint to join at" "$hone" run recipe.yaml output_dir="$scratch/run" $short \
        pools.actors.remote=true
    refuses "weights at a wildcard" "name one address" "$hone" run recipe.yaml output_dir="$scratch/run" $short \
        wire.hub=$hub 'wire.weights=tcp://*:1' wire.keys=keys
    refuses "a join without keys" "needs one and --keys" "$hone" actor --join $hub recipe.yaml
    refuses "another role's name" "are for the role scorer, not for actor" "$hone" actor --join $hub --keys far --name scorer-x recipe.yaml $short
}
chmod 640 far/actor.key
# shellcheck disable=SC2086
refuses "a readable secret" "chmod 600" "$hone" actor --join $hub --keys far recipe.yaml $short
chmod 600 far/actor.key
sed 's/actor-\*/actor-a*/' far/actor.key >far/actor-b.key
chmod 600 far/actor-b.key
# shellcheck disable=SC2086
refuses "a name that the key is not for" "is for actor-a" "$hone" actor --join $hub --keys far --name actor-b recipe.yaml $short

# join ROLE DIRECTORY NAME: in the background, its log in NAME.txt.
join() {
    # shellcheck disable=SC2086
    "$hone" "$1" --join $hub --keys "$2" --name "$3" recipe.yaml output_dir="$scratch/elsewhere" $short >"$3.txt" 2>&1 &
}
# Two that are there before the hub is, one with another run's keys, one with another recipe.
join actor far actor-a
first=$!
join scorer far scorer-a
join actor strangers actor-stranger
stranger=$!
# shellcheck disable=SC2086
"$hone" run recipe.yaml output_dir="$scratch/run" $short wire.hub=$hub wire.weights=$weights wire.keys=keys \
    pools.actors.remote=true pools.scorers.remote=true >table.txt 2>log.txt &
run=$!
for _ in $(seq 600); do
    [ "$(metric run/metrics/rl.jsonl step 2>/dev/null | tail -n 1)" ] && break
    kill -0 $run 2>/dev/null || { cat log.txt >&2; fail "hone run ended"; }
    sleep 0.1
done
expect "a step was trained with joined workers" test -s run/metrics/rl.jsonl
worker=$(sed -n 's/.*curriculum *pid \([0-9]*\).*/\1/p' log.txt | head -n 1)
expect "the hub's cores are off" grep -q "^Max core file size *0 *0" "/proc/$worker/limits"
expect "and hold no memory" grep -q "^00000000$" "/proc/$worker/coredump_filter"
kill -9 $first
join actor far actor-a
# shellcheck disable=SC2086
if timeout 60 "$hone" actor --join $hub --keys far --name actor-other recipe.yaml $short rl.steps=9 >other.txt 2>&1; then
    fail "another recipe was let in"
fi
expect "another recipe is refused" grep -q "is not this run's" other.txt
for process in /proc/[0-9]*/cmdline; do
    { tr '\0' ' ' <"$process"; } 2>/dev/null || true
done >cmdlines.txt
wait $run || { tail -n 20 log.txt run/logs/*.log actor-*.txt scorer-a.txt >&2; fail "hone run"; }
kill $stranger 2>/dev/null || true
wait || true

expect "eight batches trained" test "$(metric run/metrics/rl.jsonl step | tail -n 1)" = 8
for value in $(metric run/metrics/rl.jsonl mismatch/unequal_tokens); do
    expect "joined actors' logprobs are the learner's (G6), got $value" test "$value" = 0
done
expect "audit" "$hone" audit run
expect "the joined actor worked" grep -q "joined run" actor-a.txt
if grep -q "actor-stranger joins" run/logs/*.log; then
    fail "a stranger joined"
fi
expect "the hub logged the stranger" grep -q "refused a connection from 127.0.0.1" run/logs/curriculum.log
expect "no worker process of the run itself" test ! -e run/logs/actor-0.log
# A learner that joins, on a file system that it shares with the run; the run's own actor reaches it over tcp.
# shellcheck disable=SC2086
timeout 200 "$hone" learner --join $hub --keys keys recipe.yaml output_dir="$scratch/run2" $short wire.weights=$weights wire.keys=keys \
    >learner.txt 2>&1 &
# shellcheck disable=SC2086
timeout 200 "$hone" run recipe.yaml output_dir="$scratch/run2" $short wire.hub=$hub wire.keys=keys pools.learner.remote=true \
    >table2.txt 2>log2.txt || { tail -n 20 log2.txt learner.txt run2/logs/*.log >&2; fail "hone run with a joined learner"; }
wait || true
expect "the joined learner trained" test "$(metric run2/metrics/rl.jsonl step | tail -n 1)" = 8
expect "audit of the second run" "$hone" audit run2
expect "no learner of the run itself" test ! -e run2/logs/learner.log

for secret in $(sed -n 's/^secret //p' keys/*.key); do
    if grep -rlF -e "$secret" run run2 ./*.txt elsewhere 2>/dev/null; then
        fail "a secret is in the files above"
    fi
done
expect "the search finds what is there" grep -rqF -e "$hub" run ./*.txt
echo "$checks checks passed"
