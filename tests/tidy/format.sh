#!/bin/sh
# Every C file is as .clang-format has it. Versions of clang-format differ, so one version decides: 14.
# usage: format.sh REPOSITORY BUILD
set -eu
cd "$1"
formatter=clang-format
command -v clang-format-14 >/dev/null && formatter=clang-format-14
case "$($formatter --version 2>/dev/null)" in
*"version 14."*) ;;
*)
    echo "skipped: clang-format 14 is not installed"
    exit 77
    ;;
esac
git ls-files -c -o --exclude-standard '*.c' '*.h' '*.cu' | sort |
    while read -r file; do [ -e "$file" ] && echo "$file"; done |
    xargs $formatter --dry-run -Werror
