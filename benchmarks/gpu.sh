#!/bin/sh
# Everything to know of a card, in eight minutes, with nothing to download: see benchmarks/README.md.
#
#   benchmarks/gpu.sh OUT [-o CHECKOUT] [-w WHEELS] [-- arguments of python -m benchmarks.gpu]
#
# OUT       folder for rows.jsonl, table.md and log.txt; run again with it, unfinished parts go on.
# CHECKOUT  of the official code. Without it, or without what it needs, its rows say so.
# WHEELS    folder with ours/*.whl (xformers) and official/*.whl (what the official code needs and
#           is not installed); wheels are installed for this run only.
# PYTHON    interpreter, python3 by default.
set -u
out=${1:?"give a folder for the results"}
shift
checkout= wheels=
while getopts o:w: option; do
    case $option in
    o) checkout=$OPTARG ;;
    w) wheels=$OPTARG ;;
    *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))

python=${PYTHON:-python3}
mkdir -p "$out"
out=$(cd "$out" && pwd)
[ -z "$checkout" ] || checkout=$(cd "$checkout" && pwd) || exit 2
[ -z "$wheels" ] || wheels=$(cd "$wheels" && pwd) || exit 2
cd "$(dirname "$0")/.." || exit 2
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1

# The checkpoint fills 5 GB: in memory, where there is room for it.
free=$(df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 { print $4 }')
[ "${free:-0}" -gt 16000000 ] && export TMPDIR=/dev/shm
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 143' INT TERM

install() { # wheels of a folder, into a folder of their own
    ls "$wheels/$1"/*.whl >/dev/null 2>&1 || return 1
    "$python" -m pip install -q --no-index --no-deps --no-compile --target "$work/$1" \
        "$wheels/$1"/*.whl
}

if [ -n "$wheels" ] && install ours; then
    export PYTHONPATH="$PYTHONPATH:$work/ours"
fi
if [ -n "$checkout" ]; then
    # Its packages come before the installed ones, in its own process alone.
    before=
    [ -n "$wheels" ] && install official && before=$work/official:
    printf '#!/bin/sh\nPYTHONPATH="%s$PYTHONPATH" exec "%s" "$@"\n' \
        "$before" "$(command -v "${OFFICIAL_PYTHON:-$python}")" >"$work/official-python"
    chmod +x "$work/official-python"
    set -- --official "$checkout" --official-python "$work/official-python" "$@"
fi

measure() {
    "$python" -m benchmarks.gpu --out "$out/rows.jsonl" --work "$work/checkpoint" "$@"
}

# After a part that was cut, or brought the device down, a new process goes on with the next one.
while :; do
    before=$(wc -c 2>/dev/null <"$out/rows.jsonl")
    measure "$@" 2>>"$out/log.txt"
    status=$?
    [ $status != 0 ] || break
    echo "a process ended with status $status" | tee -a "$out/log.txt"
    # None that measured nothing is started again.
    [ "$(wc -c 2>/dev/null <"$out/rows.jsonl")" != "$before" ] || break
done
"$python" -m benchmarks.gpu_table "$out/rows.jsonl" >"$out/table.md"
cat "$out/table.md"
exit $status
