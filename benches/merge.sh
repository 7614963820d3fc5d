#!/usr/bin/env bash
# How long `llmstd convert` takes to merge what ranks left, and how much anonymous memory, beside the
# programs that trainers have for it, as a table for RESULTS.md.
#
#     benches/merge.sh LLMSTD [FOLDER]
#
# FOLDER gets about three times SIZE (megabytes, 4000 unless said) on a disk or in /dev/shm. Needs python with
# torch (PYTHON names it); ZERO_PYTHON names one that has deepspeed, VERL_PYTHON one with verl: a row whose
# program is missing is left out. All is timed once, in turn, from files that were just written.
set -euo pipefail
tool=$(realpath "${1:?usage: merge.sh LLMSTD [FOLDER]}")
work=${2:-/dev/shm}/llmstd-merge
python=${PYTHON:-python3}
size=${SIZE:-4000}
ranks=${RANKS:-8}
here=$(dirname "$(realpath "$0")")
has() { "$1" -c "import $2" > /dev/null 2>&1; }
rm -rf "$work"
mkdir -p "$work"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(nproc)}
"$python" "$here/ranks.py" make "$work" "$size" "$ranks" dcp 2> "$work/made"

cpu=$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1)
echo "$cpu, $(nproc) threads; $(date -u +%F); load when it began: $(cut -d' ' -f1-3 /proc/loadavg)"
echo "$("$tool" --version); $size MB, $ranks ranks"
echo
echo "| Work | Clock, s | Anonymous memory, MB |"
echo "| --- | ---: | ---: |"
row() {
    "$python" "$here/ranks.py" row "$@"
    rm -rf "$work/out"
}
row "FSDP2, DCP: llmstd" "$tool" convert -q "$work/dcp" "$work/out" --to hf
row "FSDP2, DCP: dcp_to_torch_save" "$python" -m torch.distributed.checkpoint.format_utils \
    dcp_to_torch "$work/dcp" "$work/out"
rm -rf "$work/dcp"
row "verl: llmstd" "$tool" convert -q "$work/verl" "$work/out" --to hf
if has "${VERL_PYTHON:-$python}" verl; then
    row "verl: its merger" "${VERL_PYTHON:-$python}" -m verl.model_merger merge --backend fsdp \
        --local_dir "$work/verl" --target_dir "$work/out"
fi
rm -rf "$work/verl"
"$python" "$here/ranks.py" make "$work" "$size" "$ranks" zero 2> "$work/made"
row "ZeRO-3: llmstd" "$tool" convert -q "$work/zero" "$work/out" --to hf
zero=${ZERO_PYTHON:-$python}
if has "$zero" deepspeed; then
    row "ZeRO-3: zero_to_fp32.py" "$zero" -m deepspeed.utils.zero_to_fp32 "$work/zero" "$work/out" \
        --safe_serialization
fi
rm -rf "$work"
