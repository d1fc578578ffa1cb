#!/bin/sh
# Rollouts in flight: a synchronous run whose actor is killed in the middle of them goes on from what they had reported
# and makes the weights of the undisturbed run. Tokens are drawn from cut distributions, whose ids travel with them.
set -eu
. "$(dirname "$0")/support.sh"
small_data
small_recipe recipe.yaml
"$hone" run recipe.yaml output_dir="$scratch/start" stages=[sft] sft.max_steps=30 eval.enabled=false >/dev/null 2>log0.txt ||
    { cat log0.txt >&2; fail "the SFT before"; }
base="stages=[rl] model.path=$scratch/start/sft/final rl.optimizer.warmup_steps=0 eval.enabled=false rl.prompts_per_step=2
    rl.group_size=4 rl.sampling.temperature=3 rl.sampling.top_k=200 rl.truncated_sampling=same_support
    rl.sampling.max_completion_tokens=100 rl.checkpoint_steps=1 rl.keep_checkpoints=10 pools.actors.workers=2 rl.actor.progress_tokens=1"

# An actor dies (-9) right after the hub has told it that what it reported is durable: the first time, and later. Scalar
# arithmetic makes a rollout long beside a message and its way to the disk, in every build: else it is over before.
export HONE_ISA=scalar
for run in quiet early late; do
    case $run in
    quiet) crash="" ;;
    early) crash=progress.durable:1 ;;
    late) crash=progress.durable:3 ;;
    esac
    mkdir "$run.witness"
    # shellcheck disable=SC2086
    HONE_CRASH_AT=$crash HONE_CRASH_WITNESS="$scratch/$run.witness" "$hone" run recipe.yaml output_dir="$scratch/$run" $base \
        rl.staleness_max=0 rl.steps=3 rl.actor.slots=4 >/dev/null 2>log.txt || { tail -n 30 log.txt >&2; fail "the $run run"; }
    expect "logprobs of the cut distributions are the actors' to the bit" test \
        "$(metric "$run/metrics/rl.jsonl" mismatch/unequal_tokens | sort -u)" = 0
    expect "they were compared" grep -q '"mismatch/current_version_tokens": *[1-9]' "$run/metrics/rl.jsonl"
    for step in 1 2 3; do
        sha256sum <"$run/rl/checkpoints/step-$step/model.safetensors" >>"$run.hashes"
    done
    [ $run = quiet ] && continue
    resumed=$(metric $run/metrics/curriculum.jsonl partial/resumed_tokens | awk '{sum += $1} END {print sum + 0}')
    echo "$run: $resumed tokens were not sampled again"
    expect "an actor died" test -e "$run.witness/progress.durable"
    expect "rollouts went on from what was reported" test "$resumed" -gt 0
    expect "the weights are those of the undisturbed run" cmp quiet.hashes "$run.hashes"
    expect "audit" "$hone" audit "$run"
done

echo "$checks checks passed"
