#!/bin/sh
# Two machines, as two network namespaces with a cable between them: the run on one, an actor and a scorer on the other, and a
# cable that is pulled for a while. Needs root and `ip`.
set -eu
if [ "$(id -u)" != 0 ] || ! command -v ip >/dev/null; then
    echo "skipped: network namespaces need root and iproute2"
    exit 77
fi
a=hone-a-$$
b=hone-b-$$
if ! ip netns add "$a" 2>/dev/null; then
    echo "skipped: this machine makes no network namespaces"
    exit 77
fi
. "$(dirname "$0")/support.sh"
trap 'status=$?; kill $(jobs -p) 2>/dev/null || true; ip netns del "$a"; ip netns del "$b" 2>/dev/null || true; rm -rf "$scratch"; exit $status' EXIT
ip netns add "$b"
ip link add "va$$" type veth peer name "vb$$" 2>/dev/null || { echo "skipped: no veth"; exit 77; }
ip link set "va$$" netns "$a"
ip link set "vb$$" netns "$b"
ip -n "$a" addr add 10.77.0.1/24 dev "va$$"
ip -n "$b" addr add 10.77.0.2/24 dev "vb$$"
for end in "$a va$$" "$b vb$$"; do
    # shellcheck disable=SC2086
    set -- "$1" "$2" $end
    ip -n "$3" link set lo up
    ip -n "$3" link set "$4" up
done

small_data
small_recipe recipe.yaml
hub=tcp://10.77.0.1:5555
short="stages=[rl] $short rl.steps=30 rl.staleness_max=2 rl.optimizer.learning_rate=1e-6"
"$hone" keys keys >/dev/null
mkdir -m 700 far
cp keys/actor.key keys/scorer.key keys/hub.public far
for role in actor scorer; do
    # shellcheck disable=SC2086
    ip netns exec "$b" "$hone" $role --join $hub --keys far recipe.yaml output_dir="$scratch/elsewhere" $short >$role.txt 2>&1 &
done
# shellcheck disable=SC2086
timeout 300 ip netns exec "$a" "$hone" run recipe.yaml output_dir="$scratch/run" $short wire.hub=$hub \
    wire.weights=tcp://10.77.0.1:5556 wire.keys=keys pools.actors.remote=true pools.scorers.remote=true >table.txt 2>log.txt &
run=$!
steps() {
    metric run/metrics/rl.jsonl step 2>/dev/null | wc -l
}
for _ in $(seq 600); do
    [ "$(steps)" -ge 2 ] && break
    kill -0 $run 2>/dev/null || { cat log.txt >&2; fail "hone run ended"; }
    sleep 0.1
done
expect "steps are trained from across the cable" test "$(steps)" -ge 2
ip -n "$b" link set "vb$$" down
sleep 1
before=$(steps)
sleep 8 # longer than heartbeats of the connection take to notice
expect "nothing comes through a pulled cable (and the run waits)" test "$(steps)" -le $((before + 3))
expect "the run is alive" kill -0 $run
ip -n "$b" link set "vb$$" up
wait $run || { tail -n 20 log.txt run/logs/*.log actor.txt scorer.txt >&2; fail "hone run"; }
wait || true
expect "thirty batches trained" test "$(metric run/metrics/rl.jsonl step | tail -n 1)" = 30
for value in $(metric run/metrics/rl.jsonl mismatch/unequal_tokens); do
    test "$value" = 0 || fail "logprobs differ (G6)"
done
expect "audit" "$hone" audit run
echo "$checks checks passed"
