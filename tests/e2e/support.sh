# Sourced by the e2e scripts: a scratch directory, small data, a small recipe, and checks that say what failed.
# Expects $1 = the program, $2 = the repository.

hone=$1
repository=$2
scratch=$(mktemp -d "${TMPDIR:-/tmp}/hone-e2e.XXXXXX")
trap 'status=$?; kill $(jobs -p) 2>/dev/null || true; rm -rf "$scratch"; exit $status' EXIT
cd "$scratch"
checks=0

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

# expect DESCRIPTION COMMAND...: the command must succeed.
expect() {
    description=$1
    shift
    "$@" || fail "$description"
    checks=$((checks + 1))
}

# metric FILE NAME: the values of one metric, a line each.
metric() {
    sed -n "s|.*\"$2\": *\([-0-9.e+]*\).*|\1|p" "$1"
}

small_data() {
    "$hone" data make --out data --seed 7 --sft 1000 --train 200 --test 40 >/dev/null
}

# small_recipe FILE: the quickstart's recipe cut down to seconds, every group trained and prompts unfiltered; further overrides are given
# to `hone run`.
small_recipe() {
    sed -e '/^  filter: /d' -e 's/drop_zero_advantage: true/drop_zero_advantage: false/' -e "s|runs/quickstart/data|$scratch/data|" -e "s|models/quickstart_base|$repository/models/quickstart_base|" \
        "$repository/configs/quickstart.yaml" >"$1"
}

# Overrides that make a run of the small recipe short.
short="rl.steps=6 rl.prompts_per_step=4 rl.group_size=4 rl.checkpoint_steps=2 rl.actor.slots=16
    rl.optimizer.warmup_steps=0 sft.max_steps=40 dpo.max_steps=3 dpo.batch_pairs=4 dpo.pairs_max=12 eval.max_prompts=20 eval.samples=1 eval.k=1
    eval.slots=16"
