#!/bin/sh
# The long lane of the simulator: seeds FIRST to FIRST + COUNT - 1, divided over processes. Any failing seed is printed
# with its last events. usage: tests/sim/run.sh FIRST COUNT [PROCESSES] [BUILD]
set -eu
first=$1
count=$2
processes=${3:-$(nproc)}
build=${4:-build/dev}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
share=$(((count + processes - 1) / processes))
i=0
while [ $i -lt "$processes" ]; do
    from=$((first + i * share))
    left=$((first + count - from))
    [ $left -gt $share ] && left=$share
    if [ $left -gt 0 ]; then
        ("$build/tests/sim/test_sim" "$from" "$left" >"$out/$i" 2>&1 || touch "$out/failed") &
    fi
    i=$((i + 1))
done
wait
cat "$out"/[0-9]*
[ ! -e "$out/failed" ]
