#!/bin/sh
# The hard-prompt filter: what hone filter measures, runs that choose by it, and what they say afterwards.
# usage: filter.sh HONE REPOSITORY BUILD
set -eu
. "$(dirname "$0")/support.sh"
small_data
small_recipe recipe.yaml
"$hone" run recipe.yaml output_dir="$scratch/start" stages=[sft] sft.max_steps=60 eval.enabled=false >/dev/null 2>log.txt ||
    { cat log.txt >&2; fail "the SFT before"; }
base="stages=[rl] model.path=$scratch/start/sft/final rl.optimizer.warmup_steps=0 eval.enabled=false rl.prompts_per_step=4
    rl.group_size=4 rl.actor.slots=16 rl.checkpoint_steps=2 rl.drop_zero_advantage=true"

# Measuring: the same figures on one thread and on all; every prompt once.
# shellcheck disable=SC2086
"$hone" filter recipe.yaml $base --samples 4 --out pools.jsonl rl.filter.certificate=16 >table.txt 2>log.txt ||
    { cat log.txt >&2; fail "hone filter"; }
# shellcheck disable=SC2086
"$hone" filter recipe.yaml $base --samples 4 --out again.jsonl rl.filter.certificate=16 rl.actor.slots=3 >/dev/null 2>log.txt ||
    { cat log.txt >&2; fail "hone filter with fewer slots"; }
expect "measurements do not depend on batching" cmp pools.jsonl again.jsonl
expect "every prompt has a row" test "$(grep -c '"pool"' pools.jsonl)" = 200
expect "none is unseen" test "$(grep -c '"pool": "unseen"' pools.jsonl)" = 0
expect "what never passed was sampled up to the certificate" \
    test "$(grep '"passed": 0' pools.jsonl | grep -vc '"judged": 16, .*"parked"')" = 0
expect "a table" grep -q '^all ' table.txt

# A synchronous run that starts from it depends on no timing, and not on the death of the hub.
chosen="rl.filter={mode: on, pools: $scratch/pools.jsonl, round_steps: 3, expire_steps: 4, certificate: 16, mix: [compare=2]}"
run_sync() {
    name=$1
    shift
    # shellcheck disable=SC2086
    "$hone" run recipe.yaml output_dir="$scratch/$name" $base rl.steps=8 rl.staleness_max=0 "$chosen" "$@" \
        >/dev/null 2>"$name.err" || { cat "$name.err" >&2; fail "the run $name"; }
    "$hone" audit "$name" >audit.txt || { cat audit.txt >&2; fail "audit of $name"; }
}
run_sync one
run_sync two pools.actors.workers=2
(export HONE_CRASH_AT=lease.sent:9 HONE_CRASH_WITNESS="$scratch" && run_sync killed)
expect "the hub was killed" test -e lease.sent
for name in two killed; do
    expect "the same weights ($name)" cmp one/rl/final/model.safetensors $name/rl/final/model.safetensors
    "$hone" inspect $name --pools >$name.txt
done
"$hone" inspect one --pools >one.txt
expect "the same pools" sh -c "sed '/^Pools as/,\$d' one.txt >a && sed '/^Pools as/,\$d' two.txt >b && cmp a b"
expect "rounds have begun" test "$(metric one/metrics/curriculum.jsonl filter/round | tail -n 1)" -ge 2
expect "the audit knows of pools" grep -q 'every measurement counted once' audit.txt

# An asynchronous run measures on idle actors (more slots than training may fill), ends with none of them in flight, and tells of moves.
# shellcheck disable=SC2086
"$hone" run recipe.yaml output_dir="$scratch/probing" $base rl.steps=10 rl.staleness_max=1 rl.actor.slots=64 "rl.filter={mode: on, probe_groups: 2}" >/dev/null 2>log.txt ||
    { cat log.txt >&2; fail "the run with probes"; }
"$hone" audit probing >audit.txt || { cat audit.txt >&2; fail "audit of the run with probes"; }
expect "prompts were probed" sh -c "! grep -q 'probe 0$' audit.txt"
expect "nothing is left in flight" grep -q '0 in flight' audit.txt
"$hone" inspect probing --pools >pools.txt
expect "prompts have left the unseen" grep -Eq '^unseen +[0-9]+ +[1-9]' pools.txt
prompt=$("$hone" inspect probing --limit 1 | sed -n 's/.* prompt \([0-9]*\) .*/\1/p')
expect "a prompt's history" sh -c "'$hone' inspect probing --pools --prompt $prompt | grep -q 'group  '"
expect "trajectories of probes are found" sh -c "'$hone' inspect probing --status probe --limit 1 | grep -q 'dropped (probe)'"

# What cannot be.
says() {
    wanted=$1
    shift
    "$@" >said.txt 2>&1 && fail "it should have failed: $*"
    grep -q "$wanted" said.txt || { cat said.txt >&2; fail "no '$wanted'"; }
    checks=$((checks + 1))
}
sed 's/"prompt": "..../"prompt": "0000/' pools.jsonl >other.jsonl
# shellcheck disable=SC2086
says "it has none of the 200 prompts" "$hone" run recipe.yaml output_dir="$scratch/bad" $base "rl.filter={mode: on, pools: $scratch/other.jsonl}"
head -n 3 pools.jsonl >torn.jsonl && echo '{"prompt": "12' >>torn.jsonl
# shellcheck disable=SC2086
says "torn.jsonl:4: " "$hone" run recipe.yaml output_dir="$scratch/torn" $base "rl.filter={mode: on, pools: $scratch/torn.jsonl}"
# shellcheck disable=SC2086
says "expected CAPABILITY=FACTOR" "$hone" check recipe.yaml $base "rl.filter={mode: on, mix: [compare]}"
# shellcheck disable=SC2086
says "low <= high_min <= high" "$hone" check recipe.yaml $base "rl.filter={mode: on, high: 0.4}"
# shellcheck disable=SC2086
says "this run has no RL log" "$hone" inspect start --pools
echo "$checks checks passed"
