#!/bin/sh
# Every header compiles alone.
# usage: headers.sh REPOSITORY BUILD
set -eu
cd "$1"
build=$2
status=0
source=$(mktemp --suffix=.c)
trap 'rm -f "$source"' EXIT
for header in $(git ls-files -c -o --exclude-standard '*.h'); do
    [ -e "$header" ] || continue
    # Templates are included once per instruction set by a file that sets their macros.
    case "$(head -n 1 "$header")" in *"Template:"*) continue ;; esac
    printf '#include "%s"\nextern int alone;\n' "$header" >"$source"
    if ! ${CC:-cc} -std=c17 -D_GNU_SOURCE -Wall -Wextra -Wno-unused-function -Werror -fsyntax-only \
        -I. -I"$build" "$source"; then
        echo "$header does not compile alone"
        status=1
    fi
done
exit $status
