#!/bin/sh
# Reward commands: the shipped Python example scores; one that dies or prints garbage stops the run with its name (G8).
set -eu
command -v python3 >/dev/null || { echo "skipped: no python3"; exit 77; }
. "$(dirname "$0")/support.sh"
small_data
small_recipe recipe.yaml
base="stages=[rl] eval.enabled=false rl.steps=2 rl.prompts_per_step=4 rl.group_size=4 rl.actor.slots=16 rl.optimizer.warmup_steps=0"
example="$repository/examples/rewards/length_reward.py"
# shellcheck disable=SC2086
"$hone" run recipe.yaml output_dir="$scratch/good" $base reward.parts.1.name=brevity \
    reward.parts.1.verifier=command \
    "reward.parts.1.command=[python3, $example]" reward.parts.1.weight=0.5 >/dev/null 2>log.txt ||
    { cat log.txt >&2; fail "run with the example reward"; }
"$hone" inspect good --limit 1 >inspect.txt
expect "its part is in the log" grep -q "part brevity: ok" inspect.txt

cat >garbage.sh <<'S'
#!/bin/sh
while read -r line; do echo "this is not JSON"; done
S
chmod +x garbage.sh
# shellcheck disable=SC2086
if "$hone" run recipe.yaml output_dir="$scratch/bad" $base reward.parts.0.name=broken reward.parts.0.verifier=command \
    "reward.parts.0.command=[$scratch/garbage.sh]" reward.parts.0.timeout_s=1 >/dev/null 2>bad.txt; then
    fail "a run whose only reward prints garbage succeeded"
fi
expect "the report names the reward" grep -q broken bad.txt
echo "$checks checks passed"
