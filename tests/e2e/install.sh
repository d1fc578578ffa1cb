#!/bin/sh
# cmake --install gives a program that works from elsewhere, with recipes, man page and completions.
set -eu
build=$3
. "$(dirname "$0")/support.sh"
cmake --install "$build" --prefix "$scratch/prefix" >install.txt || { cat install.txt >&2; fail "cmake --install"; }
expect "the program runs" sh -c "cd / && '$scratch/prefix/bin/hone' --version"
for file in share/hone/configs/quickstart.yaml share/man/man1/hone.1 share/bash-completion/completions/hone; do
    expect "$file is installed" test -s "prefix/$file"
done
for command in run check sft rl dpo eval generate tokenize logprobs actor scorer learner curriculum data inspect bench doctor audit replay; do
    expect "help of $command" sh -c "'$hone' $command --help | grep -q '^usage\|^Usage'"
    expect "$command is in the man page" grep -q "$command" prefix/share/man/man1/hone.1
done
echo "$checks checks passed"
