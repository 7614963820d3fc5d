"""The module llmstd beside safetensors.safe_open, on one file: opening it, and every tensor as an array or
a tensor of torch, with and without reading the bytes.

    pip install llmstd numpy safetensors [torch]
    python benches/python_module.py [N_TENSORS] [MEBIBYTES_EACH]

Prints the best of five runs of each, and the ratio (below 1: llmstd is faster).
"""

import json
import os
import sys
import tempfile
import time

import numpy as np
from safetensors import safe_open

import llmstd

N, MIB = (int(word) for word in (sys.argv[1:] + ["400", "1"])[:2])


def best(run, n=5):
    times = []
    for _ in range(n):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def write(path):
    size = MIB << 20
    header = {
        f"layers.{i}.weight": {
            "dtype": "F32",
            "shape": [size // 4096, 1024],
            "data_offsets": [i * size, (i + 1) * size],
        }
        for i in range(N)
    }
    header = json.dumps(header).encode()
    header += b" " * (-len(header) % 8)
    block = np.random.default_rng(0).random(size // 4, dtype="f4").tobytes()
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for _ in range(N):
            file.write(block)


def ours(kind, touch):
    def run():
        model = llmstd.open(path)
        for name in model:
            tensor = model[name] if kind == "numpy" else model.torch(name)
            if touch:
                tensor.sum()

    return run


def theirs(kind, touch):
    framework = {"numpy": "np", "torch": "pt"}[kind]

    def run():
        with safe_open(path, framework) as file:
            for name in file.keys():
                tensor = file.get_tensor(name)
                if touch:
                    tensor.sum()

    return run


with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "model.safetensors")
    write(path)
    kinds = ["numpy"]
    try:
        import torch  # noqa: F401

        kinds.append("torch")
    except ImportError:
        pass
    print(f"{N} tensors of {MIB} MiB")
    for kind in kinds:
        for touch in (False, True):
            what = f"{kind}, {'summed' if touch else 'taken'}"
            mine, other = best(ours(kind, touch)), best(theirs(kind, touch))
            print(f"{what:16} llmstd {mine * 1e3:8.1f} ms  safe_open {other * 1e3:8.1f} ms  ratio {mine / other:.2f}")
