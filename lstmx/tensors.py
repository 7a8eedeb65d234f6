"""The safetensors format, by NumPy alone: named arrays in one file, behind a header of JSON.

A file begins with the size of the header in 8 bytes, little-endian. The header has an entry for each tensor,
``{"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}``, and text by name as ``"__metadata__"``. The numbers
follow, tensor after tensor without a gap; offsets count from where they begin.

The package of that name does the same, in Rust: where there is no memory left, it ends the process when it writes, and
raises what is no Exception when it reads.
"""

from __future__ import annotations

import json
import math
import os
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from lstmx._types import Array

LARGEST_HEADER = 10**8  # bytes: what the format allows
# By name: the widest first, in which order they are written, as the format wants numbers aligned.
DTYPES: dict[str, np.dtype[Any]] = {
    "U64": np.dtype("<u8"), "I64": np.dtype("<i8"), "F64": np.dtype("<f8"), "F32": np.dtype("<f4"),
    "U32": np.dtype("<u4"), "I32": np.dtype("<i4"), "F16": np.dtype("<f2"), "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"), "I8": np.dtype("i1"), "U8": np.dtype("u1"), "BOOL": np.dtype("?"),
}  # fmt: skip
WIDTHS = {name: dtype.itemsize for name, dtype in DTYPES.items()} | {"BF16": 2, "F8_E5M2": 1, "F8_E4M3": 1}  # bytes


class FormatError(ValueError):
    """A file that is not in the safetensors format, or damaged."""


class Entry(NamedTuple):
    """A tensor of a file.

    Attributes
    ----------
    dtype : str
        As the header names it: "F32".
    shape : tuple of int
    start : int
        Where in the file its numbers begin.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int


def parts(arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> list[Any]:
    """What a file consists of: its header, then the numbers of each array; no array in the right form is copied.

    The same arrays and metadata give the same bytes.

    Parameters
    ----------
    arrays : dict of str to ndarray
        Of types in `DTYPES`.
    metadata : dict of str to str

    Returns
    -------
    list of bytes and memoryview
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    arrays = {name: np.asarray(a, a.dtype.newbyteorder("<"), order="C") for name, a in arrays.items()}
    order = sorted(arrays, key=lambda name: (list(DTYPES).index(names[arrays[name].dtype]), name))
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name in order:
        a = arrays[name]
        header[name] = {"dtype": names[a.dtype], "shape": a.shape, "data_offsets": [end, end + a.nbytes]}
        end += a.nbytes
    line = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    line += b" " * (-len(line) % 8)
    return [len(line).to_bytes(8, "little") + line, *(arrays[name].reshape(-1).view(np.uint8).data for name in order)]


def read_header(file: Any) -> tuple[dict[str, str], dict[str, Entry]]:
    """The header of a file that is open for reading: (metadata, {name: Entry}).

    Nothing is allocated beyond the size of the header, and all numbers that it promises are there, each in one tensor.

    Raises
    ------
    FormatError
        If it is not in the format; the message is short, and names no file.
    """
    end = os.fstat(file.fileno()).st_size
    size = int.from_bytes(file.read(8), "little")
    if not 2 <= size <= min(LARGEST_HEADER, end - 8):
        raise FormatError(f"its header would have {size} bytes, but the file has {end}")
    try:
        header = json.loads(file.read(size).decode(), object_pairs_hook=unique)
        metadata = header.pop("__metadata__", None) or {}
        "".join([*header, *metadata, *metadata.values()]).encode()  # all of it is text, and can be shown
        found = {name: _entry(**item) for name, item in header.items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise FormatError(f"the header is not JSON as it must be ({error})") from None
    at = 0
    for first, last in sorted(offsets for _, offsets in found.values()):
        if first != at:
            raise FormatError("its tensors overlap, or leave a gap")
        at = last
    if 8 + size + at != end:
        raise FormatError(f"its tensors have {at} bytes, but there are {end - 8 - size}")
    return metadata, {name: entry._replace(start=8 + size + first) for name, (entry, (first, _)) in found.items()}


def _entry(dtype: Any, shape: Any, data_offsets: Any) -> tuple[Any, ...]:
    """(Entry, (first, last)) of an entry of the header."""
    first, last = data_offsets
    if not all(type(number) is int and 0 <= number < 2**63 for number in (*shape, first, last)) or dtype not in WIDTHS:
        raise ValueError("a tensor has a type, a shape or a place that is none")
    if last - first != math.prod(shape) * WIDTHS[dtype]:
        raise ValueError("a tensor is not as long as its shape")
    return Entry(dtype, tuple(shape), 0), (first, last)


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A dict of pairs; a key that comes twice is an error, as programs differ in which of its values they take."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r:.60} comes twice; leave one out")
    return found


def read_array(file: Any, entry: Entry) -> Array:
    """The numbers of a tensor, in this machine's byte order; a FormatError where the type is none of `DTYPES`."""
    try:
        array = np.empty(entry.shape, DTYPES[entry.dtype])
    except (KeyError, ValueError):  # or of more dimensions than NumPy has
        raise FormatError(f"it has a tensor {entry.dtype} {entry.shape}, which nothing here takes") from None
    file.seek(entry.start)
    if file.readinto(array.reshape(-1).view(np.uint8).data) < array.nbytes:
        raise FormatError("it is cut short")
    return array.astype(array.dtype.newbyteorder("="), copy=False)
