#!/bin/sh
# Fuzzes one target with libFuzzer under the address and undefined-behaviour sanitizers. New inputs that reach
# new code stay in build/fuzz/found/TARGET; a crash leaves its input in the current directory.
# usage: tests/fuzz/run.sh TARGET SECONDS      TARGET: the NAME of a tests/fuzz/fuzz_NAME.c
set -eu
if [ $# -ne 2 ] || [ ! -e "$(dirname "$0")/fuzz_$1.c" ]; then
    sed -n '4s/^# //p' "$0" >&2
    exit 2
fi
root=$(cd "$(dirname "$0")/../.." && pwd)
build=$root/build/fuzz
command -v clang >/dev/null || {
    echo "hone: clang with libFuzzer is needed (Debian: clang libclang-rt-dev)" >&2
    exit 1
}
if [ ! -e "$build/build.ninja" ]; then
    cmake -S "$root" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_C_COMPILER=clang -DHONE_WERROR=OFF \
        -DHONE_FUZZ=ON -DHONE_SANITIZE=address,undefined,fuzzer-no-link >/dev/null
fi
ninja -C "$build" "fuzz_$1" >"$build/fuzz_$1.log" || {
    tail -n 40 "$build/fuzz_$1.log" >&2
    exit 1
}
mkdir -p "$build/found/$1"
exec "$build/tests/fuzz/fuzz_$1" -max_total_time="$2" -max_len=65536 -timeout=20 -print_final_stats=1 \
    "$build/found/$1" "$root/tests/fuzz/corpus/$1"
