"""A model that was opened: what it is, and its tensors as arrays that lie in its files."""

from __future__ import annotations

import builtins
import json
import mmap
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Optional, Union

from . import _llmstd
from ._dtypes import of_bits, of_numpy, of_torch, unsupported

if TYPE_CHECKING:
    import numpy
    import torch

    StrPath = Union[str, os.PathLike[str]]


class Tensor(NamedTuple):
    """What is known of a tensor without reading it."""

    name: str
    #: The dtype by the standard's name, ``BF16``; ``U8`` where the elements are bytes of blocks.
    dtype: str
    #: The dimensions, slowest first; of blocks the last one counts bytes.
    shape: tuple[int, ...]
    #: The id of the encoding where the elements are bytes of blocks, ``ggml.q4_k``.
    encoding: Optional[str]


class Model(Mapping[str, "numpy.ndarray[Any, Any]"]):
    """A package, or any supported checkpoint: a mapping from names to NumPy arrays. Read only.

    Made by :func:`llmstd.open`. Arrays are views of the files, which are mapped and not read; what
    does not lie in a file as it is (compressed, strided, in shards of ranks, decoded) is made when it
    is asked for. A file must not be written to while it is open.
    """

    def __init__(
        self,
        path: StrPath,
        *,
        standard: bool = False,
        decode: bool = False,
        **how: Any,
    ) -> None:
        self._path = Path(path)
        self._how = {name: value for name, value in how.items() if value is not None}
        self._standard = standard
        self._decode = decode
        self._reader = _llmstd.Reader(path, standard=standard, decode=decode, **self._how)
        self._names: Optional[list[str]] = None
        self._described: Optional[dict[str, Any]] = None
        self._decoded: Optional[Model] = None
        # By path and kind of access.
        self._maps: dict[tuple[str, int], mmap.mmap] = {}

    # What it is.

    @property
    def path(self) -> Path:
        """What was opened."""
        return self._path

    @property
    def format(self) -> str:
        """The format of the files: ``safetensors``, ``gguf``, ``pytorch``, …"""
        return self._reader.format

    @property
    def is_package(self) -> bool:
        """Whether it is a package of the standard."""
        return self._reader.is_package

    @property
    def description(self) -> dict[str, Any]:
        """What the model is in the terms of the standard, as ``model.json`` says it, with every
        hyperparameter written out. Of a foreign checkpoint: as the package that it would become.

        Raises :class:`llmstd.Refused` where its architecture is not known or does not fit it.
        """
        if self._described is None:
            text = self._reader.model or _llmstd.describe(self._path, **self._how)
            self._described = json.loads(text)
        return self._described

    @property
    def architecture(self) -> Optional[str]:
        """The architecture's id; None of a package of which only the container is known."""
        return self.description.get("architecture")

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """Every hyperparameter, by its name in the standard."""
        return self.description["hyperparameters"]

    @property
    def tokens(self) -> dict[str, Any]:
        """Token ids with a meaning: ``bos``, ``eos`` (a list), ``pad``, …"""
        return self.description["tokens"]

    @property
    def tasks(self) -> list[dict[str, Any]]:
        """What the model can be asked, with inputs, outputs and labels; the first is meant if none is
        named. :func:`llmstd.interface` says more."""
        return self.description["tasks"]

    # The names.

    def __iter__(self) -> Iterator[str]:
        if self._names is None:
            self._names = self._reader.names()
        return iter(self._names)

    def __len__(self) -> int:
        if self._names is None:
            self._names = self._reader.names()
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._reader.has(name)

    def __repr__(self) -> str:
        return f"<llmstd.Model {str(self._path)!r}: {self.format}, {len(self)} tensors>"

    def info(self, name: str) -> Tensor:
        """Dtype, shape and encoding of a tensor. KeyError if there is none."""
        dtype, shape, encoding = self._reader.info(self._checked(name))
        return Tensor(name, dtype, tuple(shape), encoding)

    @property
    def tensors(self) -> list[Tensor]:
        """What is known of each tensor, in the order of the names."""
        return [self.info(name) for name in self]

    def _checked(self, name: str) -> str:
        if not self._reader.has(name):
            raise KeyError(name)
        return name

    # The elements.

    def __getitem__(self, name: str) -> numpy.ndarray[Any, Any]:
        """A tensor as an array: a read-only view of its file where it lies there as it is.

        BF16 and FP8 take the package ml_dtypes; without it the error says what else there is. Of a
        tensor that is packed in blocks these are the bytes: :meth:`decode` gives its numbers.
        """
        info = self.info(name)
        return self._array(info, of_numpy(info.dtype))

    def bits(self, name: str) -> numpy.ndarray[Any, Any]:
        """As ``model[name]``, with BF16 and FP8 as unsigned integers of the same width."""
        info = self.info(name)
        return self._array(info, of_bits(info.dtype))

    def raw(self, name: str) -> memoryview:
        """The bytes of a tensor: row-major, packed, little-endian; read only."""
        found = self._mapped(self._checked(name), mmap.ACCESS_READ)
        if found is None:
            return memoryview(self._reader.read(name)).toreadonly()
        buffer, start, length = found
        return memoryview(buffer)[start : start + length]

    def decode(self, name: str) -> numpy.ndarray[Any, Any]:
        """The numbers that a packed tensor stands for, F32 in most layouts; others as they are.

        A tensor that is stored as several (GPTQ, AWQ, …) has the name of the whole here.
        """
        return self._as_numbers()[name]

    def torch(self, name: str) -> torch.Tensor:
        """A tensor of torch on the memory of the file where it lies there as it is, and a copy else.

        It may be written to: the writes are seen by this model's tensors of torch alone, and never
        reach the file.
        """
        import torch

        info = self.info(name)
        dtype = of_torch(info.dtype)
        if 0 in info.shape:
            return torch.empty(info.shape, dtype=dtype)
        found = self._mapped(name, mmap.ACCESS_COPY)
        if found is None:
            flat = torch.frombuffer(self._reader.read(name), dtype=dtype)
        else:
            buffer, start, length = found
            count = length // dtype.itemsize
            flat = torch.frombuffer(buffer, dtype=dtype, count=count, offset=start)
        return flat.reshape(info.shape)

    def close(self) -> None:
        """Lets go of the files. Arrays and tensors that were taken stay valid."""
        self._maps.clear()
        if self._decoded is not None:
            self._decoded.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _as_numbers(self) -> Model:
        if self._decode:
            return self
        if self._decoded is None:
            self._decoded = Model(self._path, standard=self._standard, decode=True, **self._how)
        return self._decoded

    def _array(self, info: Tensor, dtype: numpy.dtype[Any]) -> numpy.ndarray[Any, Any]:
        import numpy

        if 0 in info.shape:
            return numpy.empty(info.shape, dtype)
        found = self._mapped(info.name, mmap.ACCESS_READ)
        if found is None:
            # Made for this call: nobody else has it, and it may be written to.
            return numpy.ndarray(info.shape, dtype, self._reader.read(info.name))
        buffer, start, _ = found
        return numpy.ndarray(info.shape, dtype, buffer, start)

    def _mapped(self, name: str, access: int) -> Optional[tuple[mmap.mmap, int, int]]:
        """The map that a tensor lies in, its first byte there, and the number of its bytes."""
        place = self._reader.place(name)
        if place is None:
            return None
        path, file_len, start, length = place
        key = (os.fspath(path), access)
        found = self._maps.get(key)
        if found is None:
            with builtins.open(path, "rb") as file:
                found = mmap.mmap(file.fileno(), 0, access=access)
            # The headers were read from a file of this name: it has to be this one still.
            self._reader.check_unchanged()
            if len(found) != file_len:
                raise unsupported(f"{path}: has {len(found)} bytes, and had {file_len}")
            self._maps[key] = found
        return found, start, length


def open(
    path: StrPath,
    *,
    standard: bool = False,
    decode: bool = False,
    arch: Optional[str] = None,
    format: Optional[str] = None,
    config: Optional[StrPath] = None,
    step: Optional[str] = None,
    spec: Optional[str] = None,
) -> Model:
    """Opens a package of the standard, or any supported checkpoint: a folder, a weight file, or a shard
    index. Headers are read, weights are not.

    standard: names and tensors of a foreign checkpoint are those of the package that it would become
        (``embed.tokens.weight``, matrices ``[out, in]``, q, k and v apart); nothing is written.
        Without, they are those of its files.
    decode: packed tensors are the numbers that they stand for.
    arch: the architecture, where the config does not say it.
    format: the format that is read, where a folder has several.
    config: the folder with config.json and the tokenizer, where they are not beside the weights.
    step: which of the steps that a trainer left.
    spec: the version of the standard, or a folder laid out as spec/1.0.

    Raises :class:`llmstd.Error` if it cannot be read, and :class:`llmstd.Refused`, with findings, if
    `standard` is asked of what cannot be brought to it.
    """
    return Model(
        path,
        standard=standard,
        decode=decode,
        arch=arch,
        format=format,
        config=config,
        step=step,
        spec=spec,
    )
