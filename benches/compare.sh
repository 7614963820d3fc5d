#!/usr/bin/env bash
# How long the commands take beside the limit of the machine and beside other programs, as a table for
# RESULTS.md. Everything is timed in one run and in turn, and the best of RUNS counts: in seconds of the
# clock, and in seconds of processors, which other work on the machine disturbs less.
#
#     benches/compare.sh LLMSTD [FOLDER]
#
# FOLDER gets 10 GB; the default is /dev/shm, where no disk is measured. Needs openssl, and python with
# torch, safetensors, gguf and model_signing for the rows that compare with them (PYTHON names it), and the source of
# llama.cpp for those of its converter (LLAMA_CPP names the folder); a row whose program is missing is left out. hyperfine, where there is one, does the timing of the clock.
set -euo pipefail
tool=$(realpath "${1:?usage: compare.sh LLMSTD [FOLDER]}")
work=${2:-/dev/shm}/llmstd-bench
python=${PYTHON:-python3}
runs=${RUNS:-3}
here=$(dirname "$(realpath "$0")")
mkdir -p "$work"
has() { "$python" -c "import $1" 2> /dev/null; }

[ -e "$work/bin/config.json" ] || "$python" "$here/models.py" llama "$work/bin"
[ -e "$work/many/model.safetensors.index.json" ] || "$python" "$here/models.py" experts "$work/many" 500000 50
[ -e "$work/std" ] || "$tool" convert -q "$work/bin" "$work/std"
[ -e "$work/twin" ] || cp -r "$work/std" "$work/twin"
weights=$work/std/$(ls "$work/std" | grep 'safetensors$' | head -1)

cpu=$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1)
echo "$cpu, $(nproc) threads, $(grep -o -m1 sha_ni /proc/cpuinfo || echo 'no SHA instructions'); $(date -u +%F);"
echo "load when it began: $(cut -d' ' -f1-3 /proc/loadavg); $("$tool" --version); best of $runs"
echo
echo "| Work | Clock, s | Processors, s | Memory, MB |"
echo "| --- | ---: | ---: | ---: |"

# row NAME BEFORE COMMAND…: BEFORE is run untimed before each.
row() {
    local name=$1 before=$2 best='' cpu='' peak=''
    shift 2
    for _ in $(seq "$runs"); do
        eval "$before"
        # A command that fails is no row of a table.
        /usr/bin/time -o "$work/said" -f '%e %U %S %M' "$@" > /dev/null 2> "$work/err" ||
            { echo "$name: $(tail -1 "$work/err")" >&2; return; }
        read -r clock user system kb < "$work/said"
        best=$(printf '%s\n' $best "$clock" | sort -g | head -1)
        cpu=$(printf '%s\n' $cpu "$(echo "$user + $system" | bc)" | sort -g | head -1)
        peak=$(printf '%s\n' $peak $((kb / 1000)) | sort -g | head -1)
    done
    if command -v hyperfine > /dev/null; then
        hyperfine -N -r "$runs" --prepare "$before" --export-json "$work/hf.json" "$(printf '%q ' "$@")" > /dev/null 2>&1 &&
            best=$("$python" -c "import json,sys; print(round(json.load(open(sys.argv[1]))['results'][0]['min'], 2))" "$work/hf.json")
    fi
    echo "| $name | $best | $cpu | $peak |"
}

row 'cp of the .bin' "rm -f $work/x" cp "$work/bin/pytorch_model.bin" "$work/x"
row '.bin to std, with hashes' "rm -rf $work/out" "$tool" convert -q "$work/bin" "$work/out"
has safetensors && row 'the same by torch and safetensors, no hashes' "rm -f $work/x" "$python" -c \
    "import sys,torch; from safetensors.torch import save_file; save_file(torch.load(sys.argv[1], mmap=True), sys.argv[2])" \
    "$work/bin/pytorch_model.bin" "$work/x"
rm -rf "$work/x" "$work/out"
row 'openssl dgst -sha256 of the one file' : openssl dgst -sha256 "$weights"
row 'manifest' : "$tool" manifest "$work/std"
has model_signing && row 'model_signing: the hashes of this folder' : "$python" -c \
    "import sys,model_signing; model_signing.hashing.Config().hash(sys.argv[1])" "$work/std"
row 'validate --deep' : "$tool" validate --deep "$work/std"
row 'validate --deep --files' : "$tool" validate --deep --files "$work/std"
row 'cmp of two equal files' : cmp "$weights" "$work/twin/${weights##*/}"
row 'diff --deep of two equal packages' : "$tool" diff --deep "$work/std" "$work/twin"
row 'inspect of 500,000 tensors in 50 files' : "$tool" inspect "$work/many"
row 'cp of these' "rm -rf $work/x" cp -r "$work/many" "$work/x"
rm -rf "$work/x"
row 'convert of these' "rm -rf $work/out" "$tool" convert -q --generic "$work/many" "$work/out"
rm -rf "$work/out"
row 'HF to GGUF, f16' "rm -f $work/x.gguf" "$tool" convert -q "$work/bin" "$work/x.gguf" --dtype f16 --lossy --allow-no-tokenizer
row 'HF to GGUF, q8_0' "rm -f $work/x.gguf" "$tool" convert -q "$work/bin" "$work/x.gguf" --quant q8_0 --allow-no-tokenizer
if [ -n "${LLAMA_CPP:-}" ]; then
    mkdir -p "$work/pieces"
    ln -sf "$work/bin/pytorch_model.bin" "$work/bin/config.json" "$work/pieces/"
    cp "$here/../fixtures/tokenizer/pieces-bpe/tokenizer.model" "$work/pieces/"
    for kind in f16 q8_0; do
        row "llama.cpp's converter, $kind" "rm -f $work/x.gguf" "$python" "$LLAMA_CPP/convert_hf_to_gguf.py" \
            "$work/pieces" --outfile "$work/x.gguf" --outtype "$kind"
    done
fi
has gguf && row 'gguf-py: q8_0 of the tensors alone' "rm -f $work/x.gguf" "$python" "$here/models.py" gguf "$weights" "$work/x.gguf"
rm -f "$work/x.gguf"
row 'convert of a tiny package' "rm -rf $work/out" "$tool" convert -q "$here/../fixtures/demo/v1" "$work/out"
row '--version' : "$tool" --version
