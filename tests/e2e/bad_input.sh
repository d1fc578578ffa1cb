#!/bin/sh
# Bad input gets one clear message and a non-zero exit; nothing half-made is taken for whole.
set -eu
. "$(dirname "$0")/support.sh"
small_data
small_recipe recipe.yaml
quiet="eval.enabled=false output_dir=$scratch/run"

# refuses DESCRIPTION PATTERN COMMAND...: fails, and stderr matches the pattern.
refuses() {
    description=$1
    pattern=$2
    shift 2
    status=0
    timeout 60 "$@" >out.txt 2>err.txt || status=$?
    [ $status -ne 0 ] || fail "$description: accepted"
    [ $status -lt 124 ] || { cat err.txt >&2; fail "$description: exit $status"; }
    grep -Eq "$pattern" err.txt || { cat err.txt >&2; fail "$description: no message with /$pattern/"; }
    checks=$((checks + 1))
}

refuses "unknown command" "did you mean|unknown command" "$hone" rnu
refuses "missing recipe" "nothere.yaml" "$hone" run nothere.yaml
sed 's/learning_rate/lerning_rate/' recipe.yaml >typo.yaml
refuses "unknown key" "typo.yaml:[0-9]+.*lerning_rate.*learning_rate" "$hone" check typo.yaml
refuses "all problems at once" "2 problems" "$hone" check recipe.yaml rl.group_size=one sft.nothing=1
refuses "files and rewards together with values" "5 problems" "$hone" check recipe.yaml rl.group_size=one \
    reward.parts.0.verifier=gsm9k rl.data.path=[none.jsonl] model.path=nowhere sft.nothing=1
refuses "a value out of range" "clip_low" "$hone" check recipe.yaml rl.objective.clip_low=-1
refuses "missing key" "model.path" "$hone" run recipe.yaml $quiet model.path=
mkdir empty
refuses "a model directory without config.json" "config.json" "$hone" generate empty hello
refuses "a recipe whose model has no config.json" "config.json" "$hone" run recipe.yaml $quiet model.path="$scratch/empty"

model=$repository/models/quickstart_base
fresh() {
    rm -rf broken
    cp -r "$model" broken
}
fresh
head -c 100000 "$model/model.safetensors" >broken/model.safetensors
refuses "truncated safetensors" "model.safetensors" "$hone" generate broken hello
fresh
printf '\377\377\377\377\377\377\377\177' | dd of=broken/model.safetensors conv=notrunc 2>/dev/null
refuses "oversized safetensors header" "model.safetensors.*header" "$hone" generate broken hello
fresh
sed -i 's/"data_offsets":\[0,/"data_offsets":[2,/' broken/model.safetensors
refuses "safetensors with a hole or overlap" "model.safetensors" "$hone" generate broken hello
fresh
echo '{' >broken/tokenizer.json
refuses "a tokenizer that does not parse" "tokenizer.json" "$hone" generate broken hello
fresh
sed -i 's/"vocab_size": *[0-9]*/"vocab_size": 64/' broken/config.json
refuses "a tokenizer or weights that do not fit the model" "embed_tokens|vocab" "$hone" generate broken hello

refuses "a missing column" "test.jsonl line 1.*nocolumn" "$hone" eval recipe.yaml eval.data.prompt_column=nocolumn
printf '{"prompt": "a", "answer": "1"}\nnot json\n' >broken.jsonl
refuses "a line that is not JSON" "broken.jsonl line 2" "$hone" eval recipe.yaml "eval.data.path=[$scratch/broken.jsonl]" \
    eval.data.capability_column= eval.data.data_source_column=
refuses "an unknown reward" "gsm9k.*gsm8k" "$hone" check recipe.yaml reward.parts.0.verifier=gsm9k
refuses "a reward command that is missing" "nosuch" "$hone" eval recipe.yaml reward.parts.0.verifier=command \
    "reward.parts.0.command=[$scratch/nosuch]"
refuses "a worker without a run" "run" "$hone" actor
refuses "a run directory that is no run" "recipe.yaml|run.json" "$hone" audit empty
refuses "unknown instruction set" "HONE_ISA" env HONE_ISA=mmx "$hone" generate "$model" hello

touch file
refuses "a run directory that cannot be made" "file" "$hone" run recipe.yaml eval.enabled=false output_dir="$scratch/file/run"
if [ "$(id -u)" -ne 0 ]; then
    mkdir locked
    chmod 500 locked
    refuses "a read-only run directory" "locked" "$hone" run recipe.yaml eval.enabled=false output_dir="$scratch/locked/run"
fi

# A second `hone run` in the same directory is refused while the first one works.
# shellcheck disable=SC2086
"$hone" run recipe.yaml output_dir="$scratch/busy" $short >/dev/null 2>first.txt &
first=$!
tries=0
while [ ! -e busy/status.json ] && [ $tries -lt 100 ]; do
    sleep 0.1
    tries=$((tries + 1))
done
# shellcheck disable=SC2086
refuses "a run directory in use" "in use|holds|busy" "$hone" run recipe.yaml output_dir="$scratch/busy" $short
kill "$first"
wait "$first" 2>/dev/null || true

# A full disk. A checkpoint that cannot be written ends the run with one message; a log that cannot be written is waited
# for, and the terminal says so. Which of the two is met first is chance. With space again it goes on, or the same
# command does.
if [ "$(id -u)" -eq 0 ] && mkdir small && mount -t tmpfs -o size=6m none small 2>/dev/null; then
    # shellcheck disable=SC2086
    "$hone" run recipe.yaml output_dir="$scratch/small/run" $short >/dev/null 2>full.txt &
    runner=$!
    tries=0
    until grep -Eq "[Nn]o space|disk .*is full" full.txt; do
        tries=$((tries + 1))
        if [ $tries -gt 300 ] || { [ $tries -gt 1 ] && ! kill -0 $runner 2>/dev/null; }; then
            cat full.txt >&2
            umount -l small
            fail "a full disk: no message"
        fi
        sleep 0.2
    done
    checks=$((checks + 1))
    ended=no
    kill -0 $runner 2>/dev/null || ended=yes
    mount -o remount,size=200m small
    status=0
    wait $runner || status=$?
    [ $ended = no ] || [ $status -ne 0 ] || { umount -l small; fail "a full disk: exit 0"; }
    # shellcheck disable=SC2086
    [ $status -eq 0 ] || "$hone" run recipe.yaml output_dir="$scratch/small/run" $short >/dev/null 2>resumed.txt ||
        { cat full.txt resumed.txt >&2; umount -l small; fail "the run after the disk was full"; }
    expect "the run is finished" test -s small/run/summary.json
    umount small
    checks=$((checks + 1))
else
    echo "note: no tmpfs could be mounted; the full-disk case was not run"
fi
echo "$checks checks passed"
