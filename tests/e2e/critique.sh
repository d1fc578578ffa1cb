#!/bin/sh
# SFT pruned by self-critique: a judge that was taught to call one kind of rows hard is asked of each row, and those stay.
# usage: critique.sh HONE REPOSITORY BUILD
set -eu
. "$(dirname "$0")/support.sh"
small_data
small_recipe recipe.yaml
ask='{prompt} Hard?'
# The judge: comparisons are hard, everything else is easy. (All rows count as one capability, so that the share is of all.)
sed -E -e 's|\\nA:", "completion": "[^"]*"|\\nA: Hard?", "completion": " easy"|' -e '/"capability": "compare"/s/" easy"/" hard"/' data/sft.jsonl >judge.jsonl
expect "its rows" test "$(grep -c '" hard"' judge.jsonl)" -gt 100
"$hone" run recipe.yaml output_dir="$scratch/judge" stages=[sft] eval.enabled=false "sft.data.path=[$scratch/judge.jsonl]" sft.epochs=3 sft.batch_tokens=512 \
    >/dev/null 2>log.txt || { cat log.txt >&2; fail "the judge's SFT"; }
pruned="stages=[sft] eval.enabled=false sft.max_steps=10 sft.prune.method=votes sft.prune.judge=$scratch/judge/sft/final sft.prune.votes=3
    sft.prune.answer_tokens=4 sft.prune.drop_share=0.6 sft.data.capability_column=source"
# shellcheck disable=SC2086
"$hone" run recipe.yaml output_dir="$scratch/run" $pruned "sft.prune.question=$ask" >/dev/null 2>log.txt || { cat log.txt >&2; fail "the pruned run"; }
expect "a vote of each row" test "$(wc -l <run/sft/votes.jsonl)" = 1001
expect "the question is on record" grep -q '"question": "{prompt} Hard?"' run/sft/votes.jsonl
hard=$(grep -c '"hard": [23]' run/sft/votes.jsonl || true)
expect "the judge calls comparisons hard, $hard rows" test "$hard" -gt 120
kept_compare=$(awk 'NR == FNR {kind[NR - 1] = /"capability": "compare"/; next} FNR > 1 && /"kept":true/ {n += kind[FNR - 2]} END {print n}' \
    data/sft.jsonl run/sft/prune.jsonl)
compare=$(grep -c '"capability": "compare"' data/sft.jsonl)
expect "comparisons stay: $kept_compare of $compare" test $((kept_compare * 10)) -ge $((compare * 9))
expect "others go" test "$(grep -c '"kept":true' run/sft/prune.jsonl)" = 400

# A run that is continued asks nobody again; the same question by hand gives the same votes.
# shellcheck disable=SC2086
"$hone" critique recipe.yaml $pruned "sft.prune.question=$ask" --out votes.jsonl 2>log.txt || { cat log.txt >&2; fail "hone critique"; }
expect "the same votes" cmp votes.jsonl run/sft/votes.jsonl
# shellcheck disable=SC2086
"$hone" critique recipe.yaml $pruned "sft.prune.question=$ask" --out votes.jsonl 2>log.txt || fail "hone critique again"
expect "nobody is asked twice" grep -q "has the votes already" log.txt

# shellcheck disable=SC2086
"$hone" check recipe.yaml $pruned "sft.prune.question=Hard?" >/dev/null 2>said.txt && fail "a question without {prompt} was accepted"
expect "it says why" grep -q "has no {prompt}" said.txt
"$hone" check recipe.yaml stages=[sft] eval.enabled=false sft.prune.method=progress >/dev/null 2>said.txt && fail "progress without a checkpoint was accepted"
expect "it names the key" grep -q "sft.prune.learned" said.txt
echo "$checks checks passed"
