"""What the command ``llmstd`` does, with its JSON as dicts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Optional, Union

from . import _llmstd

if TYPE_CHECKING:
    import os

    StrPath = Union[str, os.PathLike[str]]


def convert(
    source: StrPath,
    destination: StrPath,
    *,
    to: Optional[str] = None,
    arch: Optional[str] = None,
    dtype: Optional[str] = None,
    lossy: bool = False,
    decode: bool = False,
    quant: Optional[str] = None,
    generic: bool = False,
    force: bool = False,
    verify: bool = False,
    check_outputs: bool = False,
    strict: bool = False,
    dry_run: bool = False,
    allow_no_tokenizer: bool = False,
    max_shard_size: Optional[int] = None,
    follow_links: bool = True,
    format: Optional[str] = None,
    config: Optional[StrPath] = None,
    step: Optional[str] = None,
    threads: Optional[int] = None,
    spec: Optional[str] = None,
) -> dict[str, Any]:
    """Converts a checkpoint into the standard, or out of it, as ``llmstd convert`` does.

    The options are those of the command (``llmstd convert --help``): `to` is std if neither it nor the
    ending of the destination says another one, `dtype` casts, `quant` packs a GGUF file in blocks,
    `max_shard_size` is in bytes. Nothing is left under the destination's name unless it is whole.

    Returns the report (schema ``convert``). Raises :class:`llmstd.Refused` with the findings that keep
    it from being converted.
    """
    text = _llmstd.convert(
        source,
        destination,
        to=to,
        arch=arch,
        dtype=dtype,
        lossy=lossy,
        decode=decode,
        quant=quant,
        generic=generic,
        force=force,
        verify=verify,
        check_outputs=check_outputs,
        strict=strict,
        dry_run=dry_run,
        allow_no_tokenizer=allow_no_tokenizer,
        max_shard_size=max_shard_size,
        follow_links=follow_links,
        format=format,
        config=config,
        step=step,
        threads=threads,
        spec=spec,
    )
    return json.loads(text)


def validate(
    *paths: StrPath,
    level: Optional[str] = None,
    deep: bool = False,
    files: bool = False,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    format: Optional[str] = None,
    threads: Optional[int] = None,
    spec: Optional[str] = None,
) -> dict[str, Any]:
    """Proves that packages keep the standard, or that checkpoints can be brought to it.

    What is wrong is no exception: it is in the result (schema ``validate``), whose ``valid`` says
    whether everything could be checked and nothing is wrong. No ``llmstd.toml`` is read.

    level: container, schema or full, instead of the one that each claims.
    deep: read every byte. files: hash long tensor files as a whole too.
    select, ignore: rules, by their numbers or beginnings of them.
    """
    text = _llmstd.validate(
        list(paths),
        level=level,
        deep=deep,
        files=files,
        select=list(select),
        ignore=list(ignore),
        format=format,
        threads=threads,
        spec=spec,
    )
    return json.loads(text)


def diff(
    old: StrPath,
    new: StrPath,
    *,
    deep: bool = False,
    arch: Optional[str] = None,
    generic: bool = False,
    format: Optional[str] = None,
    threads: Optional[int] = None,
    spec: Optional[str] = None,
) -> dict[str, Any]:
    """Says what changed between two versions of a model, and whom it breaks (schema ``diff``).

    Each side is a package, a manifest.json alone, or a foreign checkpoint. ``result["verdict"]["class"]``
    is identical, metadata, weights, compatible or breaking.

    deep: hash the weights anew, and say how far changed values are apart.
    generic: compare foreign checkpoints under their own names.
    """
    text = _llmstd.diff(
        old,
        new,
        deep=deep,
        arch=arch,
        generic=generic,
        format=format,
        threads=threads,
        spec=spec,
    )
    return json.loads(text)


def manifest(
    path: StrPath,
    *,
    arch: Optional[str] = None,
    generic: bool = False,
    format: Optional[str] = None,
    threads: Optional[int] = None,
    spec: Optional[str] = None,
) -> dict[str, Any]:
    """Hashes a model: the digests of its weights, structure, tokenizer and the rest (schema
    ``manifest``). Of a foreign checkpoint: as the package that it would become, unless `generic`."""
    text = _llmstd.manifest(
        path, arch=arch, generic=generic, format=format, threads=threads, spec=spec
    )
    return json.loads(text)


def inspect(
    path: StrPath,
    *,
    format: Optional[str] = None,
    config: Optional[StrPath] = None,
    step: Optional[str] = None,
    spec: Optional[str] = None,
) -> dict[str, Any]:
    """Says what a checkpoint is, by its headers (schema ``inspect``)."""
    text = _llmstd.inspect(path, format=format, config=config, step=step, spec=spec)
    return json.loads(text)


def interface(
    path: StrPath,
    *,
    name: Optional[str] = None,
    arch: Optional[str] = None,
    spec: Optional[str] = None,
) -> dict[str, Any]:
    """Says what a model can be asked: inputs, outputs, labels, parameters with defaults (schema
    ``interface``). `name` is the name it is served under, that of the folder if nothing is said."""
    return json.loads(_llmstd.interface(path, name=name, arch=arch, spec=spec))


def verify(
    path: StrPath,
    *,
    against: Optional[StrPath] = None,
    threads: Optional[int] = None,
    spec: Optional[str] = None,
) -> dict[str, Any]:
    """Hashes every byte of a package again, and says which tensors are damaged (schema ``verify``);
    ``result["whole"]`` says whether none is. `against` is the manifest to hold it to, instead of its
    own."""
    return json.loads(_llmstd.verify(path, against=against, threads=threads, spec=spec))
