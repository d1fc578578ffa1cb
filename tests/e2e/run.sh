#!/bin/sh
# One recipe through SFT, RL, DPO and the evaluations, asynchronous; then again: it says that it is done.
set -eu
. "$(dirname "$0")/support.sh"
small_data
small_recipe recipe.yaml
# shellcheck disable=SC2086
"$hone" run recipe.yaml output_dir="$scratch/run" rl.staleness_max=2 rl.eval_steps=2 pools.actors.workers=2 $short >table.txt 2>log.txt ||
    { cat log.txt >&2; fail "hone run"; }

for stage in base sft rl dpo; do
    expect "the table has a row for $stage" grep -q "^ *$stage " table.txt
    expect "figures of $stage" test -s "run/eval/$stage.json"
    expect "samples of $stage" test -s "run/eval/$stage.samples.jsonl"
done
for step in 2 4; do
    expect "figures of step $step" grep -q '"pass@1"' "run/eval/rl-step-$step.json"
done
expect "evaluations in the metrics" test "$(metric run/metrics/eval.jsonl eval/pass@1_error | wc -l)" = 2
for stage in sft rl dpo; do
    expect "$stage/final is complete" test -e "run/$stage/final/DONE"
    expect "$stage/final loads" "$hone" generate "run/$stage/final" --max-tokens 4 "Q: Tom has 3 pens"
done
expect "summary.json" grep -q '"pass@1"' run/summary.json
for worker in curriculum learner actor-0 actor-1 scorer-0; do
    expect "a log of $worker" test -s "run/logs/$worker.log"
    expect "$worker is pinned" grep -q "pinned to cpu" "run/logs/$worker.log"
    expect "$worker is announced" grep -q "$worker  *pid [0-9]* *cpu" log.txt
done
expect "six batches trained" test "$(metric run/metrics/rl.jsonl step | tail -n 1)" = 6
for value in $(metric run/metrics/rl.jsonl mismatch/unequal_tokens); do
    expect "the learner's logprobs equal the actors' (G6), got $value" test "$value" = 0
done
expect "audit" "$hone" audit run
"$hone" inspect run --time >time.txt || fail "hone inspect --time"
for row in "actor-0  *generate" "actor-1  *total" "learner  *train" "scorer-0  *wait_requests"; do
    expect "the account of the workers' time has $row" grep -q "^$row  *[0-9]" time.txt
done
expect "swaps are in the metrics" grep -q '"weights/swap_ms": [0-9]' run/metrics/workers.jsonl
expect "inspect shows text and logprobs" sh -c "'$hone' inspect run --limit 1 --tokens | grep -q completion"
expect "inspect finds what was trained" sh -c "'$hone' inspect run --limit 1000 --status trained | grep -c '^trajectory' | grep -qx 96"
expect "inspect says in which batch" sh -c "'$hone' inspect run --limit 1 --status trained | grep -q 'its group is trained in batch'"
expect "inspect says that nothing failed" sh -c "'$hone' inspect run --status timeout | grep -q 'no trajectory matches'"
expect "inspect refuses a status that is none" sh -c "! '$hone' inspect run --status happy 2>refused.txt && grep -q zero_advantage refused.txt"

# shellcheck disable=SC2086
"$hone" run recipe.yaml output_dir="$scratch/run" rl.staleness_max=2 rl.eval_steps=2 pools.actors.workers=2 $short >again.txt 2>log2.txt ||
    fail "hone run on a finished run"
expect "it says that stages are done" grep -q "stage rl is done already" log2.txt
expect "it prints the same table" cmp table.txt again.txt
# shellcheck disable=SC2086
if "$hone" run recipe.yaml output_dir="$scratch/run" rl.staleness_max=1 $short 2>other.txt >/dev/null; then
    fail "another recipe was accepted in the same run directory"
fi
expect "the refusal names the differing line" grep -q "staleness_max" other.txt
echo "$checks checks passed"
