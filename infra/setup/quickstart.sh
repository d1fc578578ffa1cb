#!/bin/sh
# Installs what hone needs, builds it and runs the main job: a small base model through SFT, online RL and
# DPO, ending in a table of pass@1. Safe to run again: it continues or says that it is done.
# usage: infra/setup/quickstart.sh [key=value ...]     recipe overrides, e.g. seed=2
set -eu
cd "$(dirname "$0")/../.."
. infra/setup/packages.sh

# shellcheck disable=SC2086
hone_install $hone_build_packages
hone_build release
hone=build/release/hone

seed=1
for override in "$@"; do
    case "$override" in seed=*) seed=${override#seed=} ;; esac
done
if [ ! -e runs/quickstart/data/test.jsonl ]; then
    say "data: making arithmetic word problems in runs/quickstart/data"
    "$hone" data make --out runs/quickstart/data
fi
say "run: configs/quickstart.yaml into runs/quickstart/seed-$seed"
exec "$hone" run configs/quickstart.yaml "output_dir=runs/quickstart/seed-$seed" "$@"
