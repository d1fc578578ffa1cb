#!/bin/sh
# Sizes: line <= 100 columns, function <= 70 lines, file <= 800 lines, folder <= 15 modules, and a README in
# every folder. A waiver is a line "kind path[:name] reason" in tests/tidy/waivers.txt.
# usage: limits.sh REPOSITORY BUILD
set -eu
cd "$1"
files=$(git ls-files -c -o --exclude-standard '*.c' '*.h' '*.cu' |
    while read -r file; do [ -e "$file" ] && echo "$file"; done)
status=0

# shellcheck disable=SC2086
awk '
    FILENAME == "tests/tidy/waivers.txt" {
        if ($0 !~ /^#/ && NF >= 3)
            waived[$1 " " $2] = 1
        next
    }
    FNR == 1 { in_body = 0; name = "" }
    {
        line = $0
        gsub(/[\200-\277]/, "", line)
        if (length(line) > 100) {
            printf "%s:%d: %d columns\n", FILENAME, FNR, length(line)
            bad = 1
        }
        lines[FILENAME] = FNR
    }
    /^[a-zA-Z_].*\(/ && !/;[ \t]*$/ { name = $0; sub(/\(.*/, "", name); sub(/.*[ *]/, "", name) }
    /^{/ { in_body = 1; start = FNR }
    /^}/ {
        if (in_body && FNR - start - 1 > 70 && !(("function " FILENAME ":" name) in waived)) {
            printf "%s:%d: function %s has %d lines\n", FILENAME, start, name, FNR - start - 1
            bad = 1
        }
        in_body = 0
    }
    END {
        for (file in lines)
            if (lines[file] > 800 && !(("file " file) in waived)) {
                printf "%s: %d lines\n", file, lines[file]
                bad = 1
            }
        exit bad
    }' tests/tidy/waivers.txt $files || status=1

for folder in $(for file in $files; do dirname "$file"; done | sort -u); do
    [ "$folder" = . ] && continue
    modules=$(git ls-files -c -o --exclude-standard "$folder/*.h" "$folder/*.c" |
        grep -E "^$folder/[^/]*$" | sed 's/\.[ch]$//' | sort -u | wc -l)
    if [ "$modules" -gt 15 ] && ! grep -q "^folder $folder " tests/tidy/waivers.txt; then
        echo "$folder: $modules modules"
        status=1
    fi
    case "$folder" in tests/*) continue ;; esac
    if [ ! -e "$folder/README.md" ]; then
        echo "$folder: no README.md"
        status=1
    fi
done
exit $status
