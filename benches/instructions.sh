#!/usr/bin/env bash
# How many instructions the hot kernels take, by callgrind: numbers that other work on the machine does not
# disturb. Compared with those of instructions.txt, where there is one; more than 5 in 100 above is an error.
#
#     benches/instructions.sh          # compare
#     benches/instructions.sh --write  # write instructions.txt anew
#
# Needs valgrind, which knows no SHA instructions: what is counted of SHA-256 is the way without them. The numbers
# are of one version of the compiler, which stands in the first line; with another one they are printed alone.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/.."
bench=$(cargo bench --bench instructions --no-run --message-format=json 2> /dev/null |
    sed -n 's/.*"executable":"\([^"]*instructions[^"]*\)".*/\1/p' | tail -1)
kept=benches/instructions.txt
compiler=$(rustc --version | cut -d' ' -f1,2)
count() {
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$bench" "$@" 2>&1 > /dev/null |
        sed -n 's/.*Collected : //p'
}
found=$(mktemp)
trap 'rm -f "$found"' EXIT
echo "# $compiler, valgrind, $(uname -m)" > "$found"
"$bench" | while read -r kernel; do
    echo "$kernel $(($(count "$kernel") - $(count "$kernel" none)))" >> "$found"
done
if [ "${1:-}" = --write ]; then
    cp "$found" "$kept"
    cat "$kept"
elif [ ! -e "$kept" ]; then
    cat "$found"
elif ! head -1 "$found" | cmp -s - <(head -1 "$kept"); then
    echo "another compiler or machine than that of $kept: nothing is compared"
    cat "$found"
else
    awk 'NR == FNR { was[$1] = $2; next } /^#/ { next }
        !($1 in was) { printf "%-14s %12d  new\n", $1, $2; next }
        { ratio = $2 / was[$1]; printf "%-14s %12d  %.3f of what it was\n", $1, $2, ratio; if (ratio > 1.05) more = 1 }
        END { if (more) { print "more instructions than before"; exit 1 } }' "$kept" "$found"
fi
