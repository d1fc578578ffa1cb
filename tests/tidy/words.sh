#!/bin/sh
# No word that marks unfinished work, no fast-math, no unbounded string calls.
# usage: words.sh REPOSITORY BUILD
set -eu
cd "$1"
status=0
refuse() {
    if git grep --untracked -nEi "$1" -- '*.c' '*.h' '*.cu' '*.sh' '*.md' '*.txt' '*.cmake' '*.yaml' '*.py' \
        ':!tests/tidy/words.sh'; then
        echo "^^^ $2"
        status=1
    fi
}
refuse '\b(TODO|FIXME|XXX|HACK)\b' 'marks unfinished work'
refuse '\b(not implemented|unimplemented)\b' 'says that something is missing'
refuse '(-ffast-math|-Ofast)' 'fast-math breaks the numerics contract'
if git grep --untracked -nE '\b(strcpy|strcat|sprintf|gets|alloca)\(' -- '*.c' '*.h'; then
    echo "^^^ unbounded string call"
    status=1
fi
exit $status
