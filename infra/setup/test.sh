#!/bin/sh
# Installs what hone's tests need, builds, and runs every test. Long lanes have their own commands
# (see tests/README.md).
# usage: infra/setup/test.sh [PRESET]      dev (default), asan, tsan
set -eu
cd "$(dirname "$0")/../.."
. infra/setup/packages.sh
preset=${1:-dev}

# shellcheck disable=SC2086
hone_install $hone_build_packages $hone_test_packages
hone_build "$preset"
say "test: ctest in build/$preset"
exec ctest --test-dir "build/$preset" --output-on-failure --no-tests=error -j "$(nproc)"
