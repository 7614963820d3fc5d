"""Elements and quantized tensors of the LLM Standard as numbers, written from spec/encodings.md alone.

`numbers(dtype, shape, data)` reads a plain tensor, `decode(encoding, shape, parameters, parts)` a quantized one.
"""

import json
import math
import os
import tomllib

import numpy as np

SPEC = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "1.0")
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)

IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)


def table(name):
    """A data file of the standard."""
    with open(os.path.join(SPEC, name), "rb") as file:
        return tomllib.load(file)


BLOCKS = {row["id"]: row for row in table("encodings.toml")["blocks"]}


def grid(name, values):
    """The points of a file of spec/grids: a digit for each coordinate, the number of its value."""
    with open(os.path.join(SPEC, "..", "grids", name + ".txt"), encoding="ascii") as file:
        return np.array([[values[int(digit)] for digit in line.strip()] for line in file], np.float32)


GRIDS = {name: grid(name, values) for name, values in {
    "iq1": [-1, 0, 1], "iq2_xxs": [8, 25, 43], "iq2_xs": [8, 25, 43], "iq2_s": [8, 25, 43],
    "iq3_xxs": [4, 12, 20, 28, 36, 44, 52, 62], "iq3_s": [1, 3, 5, 7, 9, 11, 13, 15]}.items()}


def small_floats(exponent_bits, mantissa_bits, bias, special):
    """Every value of a float of 8 bits; `special` gives the values of bit patterns that are no numbers."""
    values = np.empty(256, np.float32)
    for code in range(256):
        sign = -1.0 if code & 0x80 else 1.0
        e, m = (code & 0x7F) >> mantissa_bits, code & ((1 << mantissa_bits) - 1)
        scale = 2.0 ** (max(e, 1) - bias - mantissa_bits)
        values[code] = sign * scale * (m + ((1 << mantissa_bits) if e else 0))
    for code, value in special.items():
        values[code] = value
    return values


INF = math.inf
TINY = {
    "F8_E4M3": small_floats(4, 3, 7, {0x7F: math.nan, 0xFF: math.nan}),
    "F8_E5M2": small_floats(5, 2, 15, {c: math.nan for c in (0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF)} | {0x7C: INF, 0xFC: -INF}),
    "F8_E4M3FNUZ": small_floats(4, 3, 8, {0x80: math.nan}),
    "F8_E5M2FNUZ": small_floats(5, 2, 16, {0x80: math.nan}),
    "F8_E8M0": np.array([2.0 ** (e - 127) for e in range(255)] + [math.nan], np.float32),
}
# As F8_E4M3, where 0x7F is not a number.
UE4M3 = small_floats(4, 3, 7, {})
PLAIN = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8",
    "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8", "C64": "<c8", "C128": "<c16",
}


def numbers(dtype, shape, data):
    """The elements of a plain tensor; those of BF16 and of floats of 8 bits as F32."""
    if dtype in PLAIN:
        return np.frombuffer(data, PLAIN[dtype]).reshape(shape)
    if dtype == "BF16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32).reshape(shape)
    if dtype in TINY:
        return TINY[dtype][np.frombuffer(data, np.uint8)].reshape(shape)
    raise ValueError(f"elements of {dtype} are not read here")


def nibbles(data):
    """The low halves, then the high ones, along the last axis."""
    return np.concatenate([data & 15, data >> 4], -1)


def stream(words, bits, count):
    """The first `count` values along the last axis, the first in the least bits, some over two words."""
    words = np.ascontiguousarray(words).view(np.uint32)
    all_bits = np.unpackbits(words.view(np.uint8), axis=-1, bitorder="little")[..., : count * bits]
    split = all_bits.reshape(*words.shape[:-1], count, bits).astype(np.int64)
    return (split << np.arange(bits)).sum(-1)


def half(blocks, start):
    return np.ascontiguousarray(blocks[..., start : start + 2]).view("<f2").astype(np.float32)


def ggml(kind, data, shape):
    row = BLOCKS["ggml." + kind]
    b = data.reshape(-1, row["bytes"])
    d = half(b, 0)
    if kind == "q4_0":
        values = d * (nibbles(b[:, 2:18]).astype(np.float32) - 8)
    elif kind == "q4_1":
        values = d * nibbles(b[:, 4:20]).astype(np.float32) + half(b, 2)
    elif kind in ("q5_0", "q5_1"):
        at = 2 if kind == "q5_0" else 4
        high = np.unpackbits(b[:, at : at + 4], axis=-1, bitorder="little")
        q = (nibbles(b[:, at + 4 : at + 20]) | high << 4).astype(np.float32)
        values = d * (q - 16) if kind == "q5_0" else d * q + half(b, 2)
    elif kind == "q8_0":
        values = d * b[:, 2:].view(np.int8).astype(np.float32)
    elif kind == "mxfp4":
        # Code 8 is 0 here, and scale 255 a number: products are taken before they are F32.
        values = (2.0 ** (b[:, :1] - 127.0) * (E2M1[nibbles(b[:, 1:])] + 0.0)).astype(np.float32)
    elif kind in ("q4_k", "q5_k"):
        values = k_super_block(kind, b, d)
    elif kind == "q2_k":
        scales, d, least = b[:, :16], half(b, 80), half(b, 82)
        q = fields(b[:, 16:80], 2, 32).reshape(-1, 16, 16)
        values = (d * (scales & 15))[..., None] * q - (least * (scales >> 4))[..., None]
    elif kind == "q3_k":
        low = fields(b[:, 32:96], 2, 32)
        high = fields(b[:, :32], 1, 32)
        scales = fields(b[:, 96:104], 4, 8) | fields(b[:, 104:108], 2, 4) << 4
        q = (low.astype(np.int32) - 4 * (1 - high.astype(np.int32))).reshape(-1, 16, 16)
        values = (half(b, 108) * (scales.astype(np.float32) - 32))[..., None] * q.astype(np.float32)
    elif kind == "iq4_nl":
        values = d * IQ4[nibbles(b[:, 2:])]
    elif kind == "iq4_xs":
        high = np.ascontiguousarray(b[:, 2:4]).view("<u2").astype(np.int32) >> 2 * np.arange(8)
        scales = fields(b[:, 4:8], 4, 1) | (high & 3) << 4
        q = nibbles(b[:, 8:].reshape(-1, 8, 16))
        values = (d * (scales.astype(np.float32) - 32))[..., None] * IQ4[q]
    elif kind == "tq2_0":
        values = half(b, 64) * (fields(b[:, :64], 2, 32).astype(np.float32) - 1)
    elif kind == "tq1_0":
        parts = [(b[:, :32], 5), (b[:, 32:48], 5), (b[:, 48:52], 4)]
        trits = [(q[:, None, :] * (3 ** np.arange(n, dtype=np.uint8))[:, None]).reshape(len(b), -1) for q, n in parts]
        q = np.concatenate(trits, 1).astype(np.uint16) * 3 >> 8
        values = half(b, 52) * (q.astype(np.float32) - 1)
    elif kind == "q1_0":
        values = np.where(fields(b[:, 2:], 1, 1) == 1, d, -d)
    elif kind == "q2_0":
        values = (fields(b[:, 2:], 2, 1).astype(np.float32) - 1) * d
    elif kind == "nvfp4":
        # Scales have no sign, and 127 is 0; code 8 is 0.
        scales = np.where(b[:, :4] == 0x7F, 0, UE4M3[b[:, :4] & 0x7F])
        values = scales[..., None] * (E2M1[nibbles(b[:, 4:].reshape(-1, 4, 8))] + 0.0)
    elif kind.startswith(("iq1", "iq2", "iq3")):
        values = on_grid(kind, b, d)
    elif kind == "q6_k":
        low, high, scales, d = b[:, :128], b[:, 128:192], b[:, 192:208].view(np.int8), half(b, 208)
        values = np.empty((len(b), 256), np.float32)
        for i in range(2):
            l, h = low[:, 64 * i : 64 * i + 64], high[:, 32 * i : 32 * i + 32]
            for j in range(4):
                q = (l[:, 32 * (j % 2) : 32 * (j % 2) + 32] >> 4 * (j // 2) & 15) | (h >> 2 * j & 3) << 4
                s = np.repeat(scales[:, 8 * i + 2 * j : 8 * i + 2 * j + 2], 16, axis=1).astype(np.float32)
                at = 128 * i + 32 * j
                values[:, at : at + 32] = d * s * (q.astype(np.float32) - 32)
    else:
        raise ValueError(f"ggml.{kind} is not decoded here")
    return values.reshape(shape)


def fields(data, bits, run):
    """Fields of some bits: those of each run of bytes in the least bits, then in the next, for all runs."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    parts = data.reshape(len(data), -1, 1, run) >> shifts & (1 << bits) - 1
    return parts.reshape(len(data), -1)


def words(data, dtype):
    """Bytes along the last axis as little-endian words."""
    return np.ascontiguousarray(data).view(dtype).astype(np.int64)


def signs(bits):
    """1 or -1 for each of 8 values, by a byte."""
    return 1 - 2 * (bits[..., None] >> np.arange(8) & 1).astype(np.float32)


def seven_signs(bits):
    """Signs of which 7 are there: the eighth makes the number of negative ones even."""
    bits = bits & 127
    return signs(bits | (bits[..., None] >> np.arange(7)).sum(-1) % 2 << 7)


def on_grid(kind, b, d):
    """Blocks whose 32 groups of 8 values are points of a grid."""
    by_word, by_part = 7 * np.arange(4), lambda scale, times: np.repeat(scale.astype(np.float32), times, 1)[..., None]
    if kind == "iq2_xxs":
        both = b[:, 2:].reshape(-1, 8, 8)
        word = words(both[..., 4:], "<u4")
        points, sign = GRIDS[kind][both[..., :4]].reshape(-1, 32, 8), seven_signs(word >> by_word).reshape(-1, 32, 8)
        scale = by_part(d * (0.5 + (word[..., 0] >> 28).astype(np.float32)) * np.float32(0.25), 4)
    elif kind == "iq2_xs":
        q = words(b[:, 2:66], "<u2")
        points, sign = GRIDS[kind][q & 511], seven_signs(q >> 9)
        scale = by_part(d * (0.5 + fields(b[:, 66:], 4, 1).astype(np.float32)) * np.float32(0.25), 2)
    elif kind == "iq2_s":
        points = GRIDS[kind][b[:, 2:34] | fields(b[:, 66:74], 2, 1).astype(np.int64) << 8]
        sign = signs(b[:, 34:66])
        scale = by_part(d * (0.5 + fields(b[:, 74:], 4, 1).astype(np.float32)) * np.float32(0.25), 2)
    elif kind == "iq3_xxs":
        word = words(b[:, 66:], "<u4")
        points = GRIDS[kind][b[:, 2:66]].reshape(-1, 32, 8)
        sign = seven_signs(word[..., None] >> by_word).reshape(-1, 32, 8)
        scale = by_part(d * (0.5 + (word >> 28).astype(np.float32)) * np.float32(0.5), 4)
    elif kind == "iq3_s":
        points = GRIDS[kind][b[:, 2:66] | fields(b[:, 66:74], 1, 1).astype(np.int64) << 8].reshape(-1, 32, 8)
        sign = signs(b[:, 74:106])
        scale = by_part(d * (1 + 2 * fields(b[:, 106:], 4, 1).astype(np.float32)), 4)
    else:  # A point of IQ1 is moved by 1/8, up or down.
        if kind == "iq1_s":
            high = words(b[:, 34:], "<u2")
            scale = by_part(d * (2 * (high >> 12 & 7) + 1).astype(np.float32), 4)
            index, down = b[:, 2:34] | (high[..., None] >> 3 * np.arange(4) & 7).reshape(-1, 32) << 8, np.repeat(high >> 15, 4, 1)
        else:
            tail, high = words(b[:, 48:], "<u2"), fields(b[:, 32:48], 4, 1).astype(np.int64)
            d = (tail >> 12 << 4 * np.arange(4)).sum(-1, keepdims=True).astype(np.uint16).view(np.float16).astype(np.float32)
            scale = by_part(d * (2 * (tail[..., None] >> 3 * np.arange(4) & 7) + 1).reshape(-1, 16).astype(np.float32), 2)
            index, down = b[:, :32] | (high & 7) << 8, high >> 3
        points, sign = GRIDS["iq1"][index] + np.where(down == 1, np.float32(-0.125), np.float32(0.125))[..., None], 1
    return scale * points * sign


def k_super_block(kind, b, d):
    """256 values in 8 blocks with scales and minima of 6 bits."""
    least, packed = half(b, 2), b[:, 4:16]
    scales = np.concatenate([packed[:, :4] & 63, (packed[:, 8:] & 15) | (packed[:, :4] >> 6) << 4], 1)
    minima = np.concatenate([packed[:, 4:8] & 63, (packed[:, 8:] >> 4) | (packed[:, 4:8] >> 6) << 4], 1)
    low = b[:, -128:].reshape(-1, 4, 1, 32)
    q = np.concatenate([low & 15, low >> 4], 2).reshape(-1, 8, 32)
    if kind == "q5_k":
        q = q | (b[:, 16:48, None] >> np.arange(8) & 1).astype(np.uint8).transpose(0, 2, 1) << 4
    return (d * scales)[..., None] * q.astype(np.float32) - (least * minima)[..., None]


def scales_of(parts):
    """The part `scale` as numbers: bytes are powers of two."""
    dtype, scale = parts["scale"]
    return TINY["F8_E8M0"][scale] if dtype == "U8" else scale.astype(np.float32)


def awq(words, count):
    """Values of 4 bits, eight a word, in the order of AWQ's kernels."""
    q = stream(words, 4, count).reshape(len(words), -1, 8)
    return q[..., [0, 4, 1, 5, 2, 6, 3, 7]].reshape(len(words), count)


def pairs(data):
    """Two values a byte, the first in the low half."""
    return np.stack([data & 15, data >> 4], -1).reshape(*data.shape[:-1], -1)


def grouped(scales, n):
    """One entry for each group along the last axis, repeated for its values."""
    return np.repeat(scales, n // scales.shape[-1], axis=-1)


def spread(grid, shape):
    """A grid with an entry for all, each row, or each block, as one entry for each value."""
    grid = grid.reshape(grid.shape or (1,))
    if grid.ndim < len(shape):
        grid = grid.reshape(*grid.shape, *[1] * (len(shape) - grid.ndim))
    for axis, n in enumerate(shape):
        grid = np.repeat(grid, -(-n // grid.shape[axis]), axis)
        grid = np.take(grid, range(n), axis)
    return grid


def decode(encoding, shape, parameters, parts):
    """The numbers of a quantized tensor, F32; `parts` gives (dtype, array) by role, the payload under its own."""
    if encoding.startswith("ggml."):
        return ggml(encoding[5:], parts["payload"][1], shape)
    raw = {role: array for role, (_, array) in parts.items()}
    f = {role: array.astype(np.float32) for role, array in raw.items()}
    dtype = next((d for role, (d, _) in parts.items() if role in ("scales", "scale")), "F32")
    n = shape[-1]

    def rounded(x):
        x = x.astype(np.float32)
        if dtype == "F16":
            return x.astype(np.float16).astype(np.float32)
        if dtype == "BF16":
            bits = x.view(np.uint32)
            return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32)
        return x

    payload = raw.get("payload")
    if encoding in ("gptq", "awq"):
        bits = parameters.get("bits", 4)
        rows, columns = shape[-2:]
        groups = raw["scales"].shape[0]
        if encoding == "gptq":
            q = stream(payload.T, bits, columns)
            z = stream(raw["qzeros"], bits, rows)
            if parameters.get("format") != "gptq_v2":
                z = (z + 1) % (1 << bits)
            group = raw.get("g_idx", np.arange(columns) // (columns // groups))
        else:
            q, z = awq(payload, rows).T, awq(raw["qzeros"], rows)
            group = np.arange(columns) // (columns // groups)
        return rounded(f["scales"][group].T * (q - z[group].T))
    if encoding in ("bitsandbytes.nf4", "bitsandbytes.fp4"):
        state = json.loads(bytes(raw["quant_state"]))
        flat = payload.reshape(-1)
        q = np.stack([flat >> 4, flat & 15], -1).reshape(-1)[: math.prod(shape)]
        scale = f["absmax"]
        if "nested_absmax" in raw:
            of_block = np.arange(scale.size) // state["nested_blocksize"]
            scale = f["nested_quant_map"][raw["absmax"]] * f["nested_absmax"][of_block]
            scale = scale + np.float32(state["nested_offset"])
        scale = np.repeat(scale, state["blocksize"])[: q.size]
        return (f["quant_map"][q] * scale).reshape(shape)
    if encoding == "bitsandbytes.int8":
        return f["payload"] * f["scb"][:, None] * np.float32(1 / 127)
    if encoding in ("mxfp4.blocks", "mxfp4.openai"):
        values = TINY["F8_E8M0"][raw["scales"]][..., None] * E2M1[pairs(payload)]
        values = values.reshape(*payload.shape[:-2], -1)
        return values if list(values.shape) == list(shape) else np.swapaxes(values, -1, -2)
    if encoding == "fp8.block":
        rows, columns = parameters["block"]
        scale = np.repeat(np.repeat(scales_of(parts), rows, -2), columns, -1)
        return f["payload"] * scale[..., : shape[-2], :n]
    if encoding == "mlx.affine":
        q = stream(payload, parameters["bits"], n)
        return rounded(rounded(grouped(f["scales"], n) * q) + grouped(f["biases"], n))
    if encoding.endswith(".nvfp4"):
        q = stream(payload, 4, n) if payload.dtype == np.uint32 else pairs(payload)
        scale = TINY["F8_E4M3"][raw["scale"]] if raw["scale"].dtype == np.uint8 else f["scale"]
        if "global" in f:
            scale = scale / f["global"] if encoding.startswith("compressed") else scale * f["global"]
        return E2M1[q] * grouped(scale, n)
    if encoding == "mlx.mxfp4":
        return grouped(TINY["F8_E8M0"][raw["scales"]], n) * E2M1[stream(payload, 4, n)]
    if encoding == "compressed-tensors.pack":
        bits = parameters["bits"]
        q = stream(payload, bits, n) - (1 << bits - 1)
        if "zero" in raw:
            zero = stream(raw["zero"].T, bits, shape[-2]).T - (1 << bits - 1)
            q = q - grouped(zero, n)
        return rounded(q * grouped(f["scale"], n))
    if encoding == "torchao.int4":
        low = pairs(payload.view(np.uint8)).astype(np.int8)
        q = np.where(low < 8, low, low - 16)
        return rounded(rounded(q * grouped(f["scale"].T, n)) + grouped(f["zero_point"].T, n))
    if encoding in ("scaled", "torchao.int8", "torchao.intx", "torchao.float8"):
        zero = raw.get("zero", raw.get("zero_point"))
        q = f["payload"] if zero is None else f["payload"] - spread(zero.astype(np.float32), shape)
        product = q * spread(f["scale"], shape)
        # torchao's differences are whole numbers of 9 bits at most, which every type holds.
        return rounded(product) if encoding == "scaled" or parameters.get("dtype") == dtype else product
    raise ValueError(f"{encoding} is not decoded here")
