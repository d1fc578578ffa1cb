#!/bin/sh
# Modules of a folder include each other in one direction: what a change may touch can be followed.
# usage: circles.sh REPOSITORY BUILD
set -eu
cd "$1"
for folder in curriculum sft dpo tasks; do
    git ls-files -c -o --exclude-standard "$folder/*.c" "$folder/*.h" |
        while read -r file; do
            [ -e "$file" ] || continue
            module=${file%.?}
            sed -n "s|^#include \"\($folder/.*\)\.h\"|\1|p" "$file" | grep -vx "$module" |
                sed "s|^|$module |" || true
        done | tsort >/dev/null || {
        echo "$folder: the modules named above include each other in a circle"
        exit 1
    }
done
