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

# NaN for every completion of prompts about Mia: a failed reward, tried again, told as such and never a number; training goes on with the rest.
cat >nan.py <<'S'
import json, sys
for count, line in enumerate(sys.stdin):
    row = json.loads(line)
    print('{"id": %d, "score": %s}' % (row["id"], "NaN" if "Mia" in row["prompt"] else count % 2), flush=True)
S
# shellcheck disable=SC2086
if "$hone" run recipe.yaml output_dir="$scratch/limited" $base reward.parts.0.name=sometimes reward.parts.0.verifier=command \
    "reward.parts.0.command=[python3, $scratch/nan.py]" reward.max_error_rate=0.01 >/dev/null 2>nan.txt; then
    fail "a run with more failed rewards than its limit went on"
fi
expect "the report has the limit and the reward" grep -q "too many rewards fail (limit 1 % of 200).*sometimes" nan.txt
# shellcheck disable=SC2086
"$hone" run recipe.yaml output_dir="$scratch/nan" $base reward.parts.0.name=sometimes reward.parts.0.verifier=command \
    "reward.parts.0.command=[python3, $scratch/nan.py]" reward.max_error_rate=1 >/dev/null 2>nan.txt || { cat nan.txt >&2; fail "run with rewards of NaN"; }
"$hone" audit nan >audit.txt || fail "the audit balances"
expect "their groups were dropped" grep -q "reward_failed [1-9]" audit.txt
expect "others took their place" grep -q "batches *2 formed, 2 durable" audit.txt
"$hone" inspect nan --limit 1000 >inspect.txt
expect "no reward in the log is NaN" sh -c '! grep -qi "nan" inspect.txt'
echo "$checks checks passed"
