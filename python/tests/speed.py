"""How long the module takes beside safetensors.safe_open, on one file in the page cache.

    pip install target/wheels/llmstd-*.whl numpy safetensors && python python/tests/speed.py [MB [TENSORS]]

Medians of runs that take turns. Each reads a sum of what it got, so that all pages are looked at. It ends with 1
where the module takes over a fifth longer.
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors import safe_open

import llmstd

MB = int(sys.argv[1]) if 1 < len(sys.argv) else 512
TENSORS = int(sys.argv[2]) if 2 < len(sys.argv) else 512


def write(path):
    n = MB * 2**20 // TENSORS // 4
    names = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(TENSORS)]
    header = {
        name: {"dtype": "F32", "shape": [n], "data_offsets": [4 * n * i, 4 * n * (i + 1)]}
        for i, name in enumerate(names)
    }
    header = json.dumps(header).encode()
    header += b" " * (-len(header) % 8)
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for i in range(TENSORS):
            file.write(np.full(n, i, "f4").tobytes())


def opened_here(path):
    return len(list(llmstd.open(path)))


def opened_there(path):
    with safe_open(path, "np") as file:
        return len(list(file.keys()))


def one_here(path):
    model = llmstd.open(path)
    return float(model[next(iter(model))].sum())


def one_there(path):
    with safe_open(path, "np") as file:
        return float(file.get_tensor(next(iter(file.keys()))).sum())


def all_here(path):
    model = llmstd.open(path)
    return sum(float(model[name].sum()) for name in model)


def all_there(path):
    with safe_open(path, "np") as file:
        return sum(float(file.get_tensor(name).sum()) for name in file.keys())


def seconds(call, path):
    start = time.perf_counter()
    call(path)
    return time.perf_counter() - start


slow = False
with tempfile.TemporaryDirectory() as scratch:
    path = Path(scratch, "model.safetensors")
    write(path)
    for what, here, there, runs in (
        ("open", opened_here, opened_there, 41),
        ("one tensor", one_here, one_there, 41),
        ("all tensors", all_here, all_there, 11),
    ):
        assert here(path) == there(path)
        times = [(seconds(here, path), seconds(there, path)) for _ in range(runs)]
        ours, theirs = (statistics.median(column) for column in zip(*times))
        slow |= 1.2 * theirs < ours
        print(f"{what:12} llmstd {1e3 * ours:9.2f} ms   safe_open {1e3 * theirs:9.2f} ms   {ours / theirs:.2f}")
sys.exit(slow)
