"""The dtypes of the standard in NumPy's and torch's terms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._llmstd import Error

if TYPE_CHECKING:
    import numpy

# Little-endian, whatever the machine is.
_NUMPY = {
    "BOOL": "?",
    "U8": "u1",
    "I8": "i1",
    "U16": "<u2",
    "I16": "<i2",
    "U32": "<u4",
    "I32": "<i4",
    "U64": "<u8",
    "I64": "<i8",
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
    "C64": "<c8",
    "C128": "<c16",
}

# NumPy has these by the package ml_dtypes.
_ML_DTYPES = {
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}

_TORCH = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "C64": "complex64",
    "C128": "complex128",
}

_BITS = {"BF16": "<u2", **{name: "u1" for name in _ML_DTYPES if name != "BF16"}}

_known: dict[str, Any] = {}


def unsupported(message: str) -> Error:
    """An error of this module, as those of the library are."""
    error = Error(message)
    error.kind = "unsupported"
    return error


def of_numpy(name: str) -> numpy.dtype[Any]:
    """The dtype of NumPy for one of the standard."""
    found = _known.get(name)
    if found is None:
        import numpy

        if name in _NUMPY:
            found = numpy.dtype(_NUMPY[name])
        elif name in _ML_DTYPES:
            found = _of_ml_dtypes(name)
        else:
            raise unsupported(
                f"NumPy has no {name}, whose elements end inside a byte: raw(name) gives the bytes"
            )
        _known[name] = found
    return found


def _of_ml_dtypes(name: str) -> numpy.dtype[Any]:
    import numpy

    try:
        import ml_dtypes

        return numpy.dtype(getattr(ml_dtypes, _ML_DTYPES[name]))
    except (ImportError, AttributeError) as err:
        raise unsupported(
            f"NumPy has {name} by the package ml_dtypes ({err}): install that, or take bits(name), "
            "unsigned integers of the same width, or torch(name)"
        ) from err


def of_bits(name: str) -> numpy.dtype[Any]:
    """The unsigned integers as wide as a dtype that NumPy has not by itself; of others the dtype."""
    import numpy

    return numpy.dtype(_BITS[name]) if name in _BITS else of_numpy(name)


def of_torch(name: str) -> Any:
    """The dtype of torch for one of the standard."""
    import torch

    found = getattr(torch, _TORCH[name], None) if name in _TORCH else None
    if found is None:
        raise unsupported(f"torch {torch.__version__} has no {name}: raw(name) gives the bytes")
    return found
