#!/bin/sh
# Includes point down only, and stages never include each other.
# usage: layers.sh REPOSITORY BUILD
set -eu
cd "$1"
git ls-files -c -o --exclude-standard '*.c' '*.h' '*.cu' | grep -v '^tests/' |
    while read -r file; do [ -e "$file" ] && echo "$file"; done |
    xargs awk '
    function rank_of(path,    i, parts) {
        for (i = 1; i <= folder_count; ++i)
            if (index(path, folders[i] "/") == 1)
                return ranks[i]
        return path ~ /\// ? -1 : 99
    }
    function folder_of(path) {
        sub(/\/[^\/]*$/, "", path)
        return path
    }
    function stage_of(path,    parts) {
        split(path, parts, "/")
        return parts[1]
    }
    function add(folder, rank) {
        folders[++folder_count] = folder
        ranks[folder_count] = rank
    }
    BEGIN {
        add("infra/base", 0)
        add("infra/config", 1); add("infra/telemetry", 1); add("infra/compute", 1)
        add("infra/text", 1); add("infra/data", 1)
        add("infra/model", 2); add("infra/wire", 2); add("infra/store", 2)
        add("infra/train", 3); add("infra/launch", 3)
        add("tasks", 4); add("reward", 4); add("curriculum", 4); add("actors", 4)
        add("learner", 4); add("sft", 4); add("dpo", 4)
        add("commands", 5)
    }
    /^#include "/ {
        target = $2
        gsub(/"/, "", target)
        from = rank_of(FILENAME)
        to = rank_of(target)
        if (from < 0) {
            printf "%s: not in a known layer: add its folder to tests/tidy/layers.sh\n", FILENAME
            bad = 1
        } else if (to < 0 || target !~ /\//) {
            printf "%s:%d: include \"%s\" does not start at the repository root\n", FILENAME, FNR, target
            bad = 1
        } else if (to > from) {
            printf "%s:%d: include \"%s\" points up\n", FILENAME, FNR, target
            bad = 1
        } else if (from == 4 && to == 4 && stage_of(FILENAME) != stage_of(target)) {
            printf "%s:%d: a stage includes another stage: \"%s\"\n", FILENAME, FNR, target
            bad = 1
        }
    }
    END { exit bad }'
