"""What PyTorch's files hold, read without PyTorch: ``.pt``, ``.pth``, ``.ckpt``, ``.bin``, TorchScript, safetensors.

Tensors are `torch_pickle.Tensor`, whose numbers are read when NumPy asks for them. Every size is compared with the
file's before anything is made of it.
"""

from __future__ import annotations

import io
import json
import math
import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lstmx import formats
from lstmx.interop.torch.pickles import TYPES, Machine, NotData, Part, Refused, Storage, Tensor
from lstmx.storage import ModelFileError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable


MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the pickle that a file begins with which is no zip archive
LARGEST_HEADER = 2**25  # bytes of JSON
_SAFETENSORS = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
_AGAIN = Refused.remedy


def source_path(path: str | os.PathLike[str]) -> Any:
    """A path of a file that is there, or an error."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path: got {type(path).__name__}, must be the path of a file")
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"path: {str(path)!r} is a folder; give the path of a file in it")
    if not path.exists():
        raise FileNotFoundError(f"path: there is no file {str(path)!r}")
    if not path.is_file():
        raise OSError(f"path: {str(path)!r} is not a file; give the path of one")
    return path


def read(path: str | os.PathLike[str]) -> tuple[str, Any]:
    """What a file holds.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    kind : str
        "PyTorch file", "TorchScript archive", "pickle" or "safetensors file".
    content
        Dicts, lists, tuples, text and numbers; `torch_pickle.Tensor`; `torch_pickle.Record` for what was an object.

    Raises
    ------
    ModelFileError
        If it is none of these, damaged, or asks for more than data.
    """
    path = source_path(path)
    with open(path, "rb") as file:
        head = file.read(512)
        file.seek(0)
        try:
            if head.startswith(b"PK\x03\x04"):
                return _read_zip(path, file)
            if head.startswith(MAGIC):
                size = os.fstat(file.fileno()).st_size
                return "PyTorch file", _read_old(file, size, lambda *place: _stretch(path, *place))
            if head[8:9] == b"{":
                return "safetensors file", _read_safetensors(path, file)
            if head[:1] == b"\x80":
                return "pickle", _read_pickle(path, file)
            if head[257:262] == b"ustar":
                raise ModelFileError(f"{path}: a tar archive, as PyTorch 0.1 wrote" + NotData.remedy)
        except Refused as error:
            raise ModelFileError(f"{path}: {error}{error.remedy}") from None
    known = formats.identify(path) or formats.Kind("something that nobody knows", "give one that torch.save wrote")
    raise ModelFileError(f"{path}: not a file of PyTorch but {known.what}; {known.remedy}")


def _stretch(path: Any, start: int, size: int, crc: int = 0) -> Callable[[], bytes]:
    """A function that reads some bytes of a file; a check sum of 0 was not made."""

    def fetch() -> Any:
        with open(path, "rb") as file:
            file.seek(start)
            found = file.read(size)
        if len(found) < size or (crc and zlib.crc32(found) != crc):
            raise ModelFileError(f"{path}: damaged: a tensor is not what was written" + _AGAIN)
        return found

    return fetch


# Zip archives: what torch.save and torch.jit.save write.


def _read_zip(path: Any, file: Any) -> tuple[str, Any]:
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
        return _read_members(path, file, {member.filename: member for member in members}, len(members))
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OverflowError, struct.error, UnicodeError) as error:
        raise ModelFileError(f"{path}: a zip archive that is damaged or cut short ({error})" + _AGAIN) from None


def _read_members(path: Any, file: Any, members: dict[str, Any], count: int) -> tuple[str, Any]:
    end = os.fstat(file.fileno()).st_size
    if len(members) < count:
        raise ModelFileError(f"{path}: two members of the zip archive have the same name" + _AGAIN)
    roots = [name.removesuffix("/data.pkl") for name in members if name.endswith("/data.pkl")]
    if len(roots) != 1:
        known = formats.identify(path)
        if any(name.endswith("/archive_format") for name in members):
            known = formats.Kind(
                "an archive of torch.export", "save the state dict: torch.save(model.state_dict(), path)"
            )
        raise ModelFileError(f"{path}: not a file of torch.save but {known.what}; {known.remedy}")  # type: ignore[union-attr]

    def place(name: str) -> Any:
        member = members.get(f"{roots[0]}/{name}")
        if member is None:
            raise Refused(f"it lacks {name}, which its pickle refers to")
        if member.compress_type or member.flag_bits & 1:
            raise ModelFileError(f"{path}: {name} is compressed or encrypted, which torch.save never does; unpack the "
                                 "archive, and zip it again without (zip -0)")  # fmt: skip
        if member.header_offset < 0:
            raise zipfile.BadZipFile(f"{name} begins before the file")
        file.seek(member.header_offset)
        head = file.read(30)
        if len(head) < 30 or not head.startswith(b"PK\x03\x04"):
            raise zipfile.BadZipFile(f"no header of {name}")
        start = member.header_offset + 30 + sum(struct.unpack("<HH", head[26:]))
        if start + member.file_size > end:
            raise zipfile.BadZipFile(f"{name} reaches beyond the end")
        return start, member.file_size, member.CRC

    big = f"{roots[0]}/byteorder" in members and _stretch(path, *place("byteorder"))() == b"big"
    storages: dict[Any, Any] = {}

    def storage(kind: str, key: Any, count: int, stretch: Any) -> Any:
        if key not in storages:
            where = place(f"data/{key}")
            _check_size(key, kind, count, where[1])
            storages[key] = Storage(kind, count, _stretch(path, *where), ">" if big else "<")
        return _same(storages[key], key, kind, count, stretch)

    script = f"{roots[0]}/constants.pkl" in members
    start, size, crc = place("data.pkl")
    pickle = io.BytesIO(_stretch(path, start, size, crc)())
    return "TorchScript archive" if script else "PyTorch file", Machine(pickle, size, storage).run()


def _check_size(key: Any, kind: str, count: int, size: int) -> None:
    if count * _width(kind) != size:
        raise Refused(f"its storage {key!r:.60} has {size} bytes, not those of {count} numbers of {kind}")


def _same(found: Any, key: Any, kind: str, count: int, stretch: Any) -> Any:
    """A storage that was met before, or a stretch of it."""
    if (found.kind, found.count) != (kind, count):
        raise Refused(f"its storage {key!r:.60} is of two kinds or sizes")
    if stretch is None:
        return found
    _, first, length = stretch
    if first + length > count:
        raise Refused(f"a part of its storage {key!r:.60} reaches beyond its end")
    return Part(found, first, length)


def _width(kind: str) -> int:
    return int(TYPES[kind][1:]) if TYPES[kind] != "?" else 1


# What PyTorch before 1.6 wrote: five pickles, then the storages.


def _read_old(file: Any, end: int, stretch: Any) -> Any:
    storages: dict[Any, Any] = {}

    def storage(kind: str, key: Any, count: int, part: Any) -> Any:
        if count * _width(kind) > end:
            raise Refused(f"its storage {key!r:.60} is larger than the file")
        return _same(storages.setdefault(key, Storage(kind, count, None)), key, kind, count, part)

    def run() -> Any:
        return Machine(file, end - file.tell(), storage).run()

    run()  # the magic number
    version, _ = run(), run()
    if version != 1001:
        raise Refused(f"it is of version {version!r:.60} of the format, not 1001")
    content, keys = run(), run()
    if type(keys) is not list or sorted(map(str, keys)) != sorted(storages):
        raise Refused("the list of its storages is not that of its tensors")
    for key in keys:
        found = storages[key]
        if file.read(8) != struct.pack("<q", found.count):
            raise Refused(f"its storage {key!r:.60} has not the size that its pickle says")
        start, size = file.tell(), found.count * _width(found.kind)
        if start + size > end:
            raise Refused("it is cut short")
        found.fetch = stretch(start, size)
        file.seek(start + size)
    return content


def _read_pickle(path: Any, file: Any) -> Any:
    """A pickle of tensors, as ``pickle.dump`` writes: each storage is a file of its own inside."""
    end, given = os.fstat(file.fileno()).st_size, 0

    def inside(data: Any = None, *more: Any) -> Any:
        nonlocal given
        if type(data) is not bytes or not data.startswith(MAGIC):
            raise Refused("its pickle has a storage that is none")
        given += len(data)
        if given > end:
            raise Refused("its pickle reads the same storages again and again")
        return _read_old(io.BytesIO(data), len(data), lambda start, size: lambda: data[start : start + size])

    def outside(*_: Any) -> None:
        raise Refused("its pickle refers to a storage outside")

    return Machine(file, end, outside, {"torch.storage._load_from_bytes": inside}).run()


# Safetensors.


def _read_safetensors(path: Any, file: Any) -> dict[str, Tensor]:
    end = os.fstat(file.fileno()).st_size
    size = int.from_bytes(file.read(8), "little")
    if size > min(LARGEST_HEADER, end - 8):
        raise ModelFileError(f"{path}: not a safetensors file, or one that is cut short" + _AGAIN)
    try:
        header = json.loads(file.read(size))
        metadata = header.pop("__metadata__", {})
        if metadata.get("format") == "lstmx":
            raise ModelFileError(f"{path}: saved by lstmx; read it with lstmx.load(path)")
        return {name: _safetensor(path, 8 + size, end, item) for name, item in header.items()}
    except ModelFileError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelFileError(f"{path}: the header is not that of a safetensors file ({error})" + _AGAIN) from None


def _safetensor(path: Any, start: int, end: int, item: Any) -> Tensor:
    """One tensor, of its entry in the header."""
    kind, shape, (first, last) = _SAFETENSORS.get(item["dtype"]), tuple(item["shape"]), item["data_offsets"]
    if kind is None:
        raise ModelFileError(f"{path}: a tensor of type {item['dtype']!r:.20}; there are {', '.join(_SAFETENSORS)}")
    if not all(type(number) is int and number >= 0 for number in (*shape, first, last)) or len(shape) > 32:
        raise ValueError("a shape, or a place, that is none")
    count = math.prod(shape)
    if start + last > end or last - first != count * _width(kind):
        raise ValueError(f"a tensor {shape} of {item['dtype']} that is not at {first} to {last}")
    strides = tuple(math.prod(shape[k + 1 :]) for k in range(len(shape)))
    return Tensor(Storage(kind, count, _stretch(path, start + first, last - first)), 0, shape, strides)
