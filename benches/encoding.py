"""gguf-py on as many values as `cargo bench --bench encoding`: python encoding.py (gguf 0.19.0).

With a shared library of llama.cpp, as PyPI has them, `python encoding.py libllama.so` times instead how it packs
the same values, on one thread as the bench does.
"""

import ctypes
import sys
import time

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import quants

N = 1 << 24
i = np.arange(N, dtype=np.uint32)
values = ((i * np.uint32(0x9E3779B9) >> np.uint32(8)).astype(np.float32) / 2**23 - 1).reshape(4096, -1)


def best(run):
    times = []
    for _ in range(3):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def report(name, what, seconds):
    print(f"{name:14} {what:7} {4 * N / 1e9 / seconds:8.3f} GB/s of F32")


def of_library(path):
    """As `llama-quantize` packs each row, without an importance matrix."""
    quantize = ctypes.CDLL(path).ggml_quantize_chunk
    quantize.restype = ctypes.c_size_t
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    quantize.argtypes = [ctypes.c_int, pointer, pointer, number, number, number, pointer]
    part = values[:256]  # They are searched for, which takes a while.
    for name in ["Q4_0", "Q5_0", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]:
        length, size = quants.GGML_QUANT_SIZES[T[name]]
        packed = np.empty(part.size // length * size, dtype=np.uint8)
        place, into = part.ctypes.data, packed.ctypes.data
        seconds = best(lambda: quantize(int(T[name]), place, into, 0, *part.shape, None))
        report(name, "encode", seconds * values.size / part.size)


if sys.argv[1:]:
    sys.exit(of_library(sys.argv[1]))
out = np.empty_like(values)
report("copy", "", best(lambda: np.copyto(out, values)))
for name in ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "MXFP4"]:
    kind = T[name]
    try:
        blocks = quants.quantize(values, kind)
        report(name, "encode", best(lambda: quants.quantize(values, kind)))
    except NotImplementedError:
        length, size = quants.GGML_QUANT_SIZES[kind]
        blocks = (np.arange(N // length * size, dtype=np.uint32) * 7 % 61).astype(np.uint8).reshape(4096, -1)
    report(name, "decode", best(lambda: quants.dequantize(blocks, kind)))
