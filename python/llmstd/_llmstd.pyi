"""The native half: calls of the library, with JSON as text."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional, Union

_StrPath = Union[str, os.PathLike[str]]

__version__: str

class Error(Exception):
    """It could not be done."""

    #: Whose fault it is: ``io``, ``malformed``, ``unsupported``, ``limit``; ``findings`` of Refused.
    kind: str

class Refused(Error):
    """Something is wrong with the model."""

    #: What: dicts with rule, level, message, and file, tensor, key, help where they are known.
    findings: list[dict[str, Any]]

class Reader:
    format: str
    is_package: bool
    model: Optional[str]
    def __new__(
        cls,
        path: _StrPath,
        *,
        standard: bool,
        decode: bool,
        arch: Optional[str] = None,
        format: Optional[str] = None,
        config: Optional[_StrPath] = None,
        step: Optional[str] = None,
        spec: Optional[str] = None,
    ) -> Reader: ...
    def names(self) -> list[str]: ...
    def has(self, name: str) -> bool: ...
    def info(self, name: str) -> tuple[str, list[int], Optional[str]]: ...
    def place(self, name: str) -> Optional[tuple[Path, int, int, int]]: ...
    def read(self, name: str) -> bytearray: ...
    def check_unchanged(self) -> None: ...

def main(arguments: Sequence[str]) -> int: ...
def describe(
    path: _StrPath,
    *,
    arch: Optional[str] = None,
    format: Optional[str] = None,
    config: Optional[_StrPath] = None,
    step: Optional[str] = None,
    spec: Optional[str] = None,
) -> str: ...
def convert(source: _StrPath, destination: _StrPath, **options: Any) -> str: ...
def validate(paths: Sequence[_StrPath], **options: Any) -> str: ...
def diff(old: _StrPath, new: _StrPath, **options: Any) -> str: ...
def manifest(path: _StrPath, **options: Any) -> str: ...
def inspect(path: _StrPath, **options: Any) -> str: ...
def interface(path: _StrPath, **options: Any) -> str: ...
def verify(path: _StrPath, **options: Any) -> str: ...
