"""HDF5 as Keras writes it, read by h5py with nothing trusted: see `lstmx.interop.keras.files`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray


LARGEST_TEXT = 2**24  # bytes of a configuration, and of an attribute
LARGEST_EXPANSION = 16  # what a list of texts, or a part of an archive, may be as a multiple of its size in the file
LARGEST_LIST = 2**28  # bytes of a list of texts, beside that
LONGEST_NAME = 2**12
SMALLEST_HEAP = 2**12  # bytes
MOST_NAMES = 10_000  # of layers, of arrays of a layer, of members of a group
SAVE_AGAIN = "load it in Keras and save it again"


class Array(NamedTuple):
    """An array of which only the header has been read.

    Attributes
    ----------
    name : str
    shape : tuple of int
    read : callable
        Gives the numbers: float32 or float64.
    """

    name: str
    shape: tuple[int, ...]
    read: Any

    @classmethod
    def of(cls, name: str, value: Any) -> Self:
        """One that is there already."""
        return cls(name, value.shape, lambda: as_float(name, value))


def as_float(name: str, value: Any) -> NDArray[Any]:
    """Numbers as float32, or float64 where they are that; an error where they are no numbers or not finite."""
    value = np.asarray(value)
    if value.dtype.kind != "f":
        raise ValueError(f"the array {name!r} has the type {value.dtype}, must be floating-point numbers")
    value = value.astype(np.float64 if value.dtype.itemsize >= 8 else np.float32)
    if not np.isfinite(value).all():
        raise ValueError(f"the array {name!r} has values that are NaN or infinite; take weights of before they were so")
    return value


class Hdf5:
    """What may be taken out of an HDF5 file.

    Parameters
    ----------
    h5py : module
    file : h5py.File
    size : int
        Bytes of the file.
    data : callable
        Gives them: bytes, or a map of the file.
    """

    _longest: Any

    def __init__(self, h5py: Any, file: Any, size: int, data: Callable[[], Any]) -> None:
        self.h5py, self.root, self.size = h5py, file["/"].id, size
        self._left, self._bytes, self._longest = size, data, None
        if file.id.get_create_plist().get_sizes() != (8, 8):
            raise ValueError(f"an HDF5 file of a kind that Keras never writes; {SAVE_AGAIN}")

    def child(self, parent: Any, name: str) -> Any:
        """The object of a name in a group; None where there is none."""
        key = name.encode()
        if not name or name == "." or not isinstance(parent, self.h5py.h5g.GroupID) or not parent.links.exists(key):
            return None
        if parent.links.get_info(key).type != self.h5py.h5l.TYPE_HARD:
            raise ValueError(
                f"{name!r} in it is a link to another place or file, which is never followed; {SAVE_AGAIN}"
            )
        return self.h5py.h5o.open(parent, key)

    def find(self, path: str, parent: Any = None) -> Any:
        """The object of a path such as "layers/lstm"; None where there is none."""
        found = self.root if parent is None else parent
        for name in path.split("/"):
            found = None if found is None else self.child(found, name)
        return found

    def group(self, path: str, parent: Any = None) -> Any:
        """The group of a path; None where there is none."""
        found = self.find(path, parent)
        return found if isinstance(found, self.h5py.h5g.GroupID) else None

    def names(self, group: Any) -> list[str]:
        """The names in a group."""
        count = group.get_num_objs()
        if count > MOST_NAMES:
            raise ValueError(f"a group in it has {count} members, more than the {MOST_NAMES} allowed")
        return [name.decode() for name in group]

    def array(self, path: str, parent: Any = None) -> Array | None:
        """The `Array` of a path; None where there is none."""
        found = self.find(path, parent)
        if not isinstance(found, self.h5py.h5d.DatasetID):
            return None
        plist, h5d, shape, kind = found.get_create_plist(), self.h5py.h5d, found.shape, found.dtype
        plain = plist.get_layout() in (h5d.COMPACT, h5d.CONTIGUOUS) and not plist.get_nfilters()
        if not plain or plist.get_external_count():
            raise ValueError(f"the array {path!r} is packed, or its numbers stand in another place, which Keras never "
                             f"writes; {SAVE_AGAIN}")  # fmt: skip
        half = kind.kind == "V" and kind.itemsize == 2 and self.text(found, "dtype") == "bfloat16"
        if kind.kind != "f" and not half:
            raise ValueError(f"the array {path!r} has the type {kind}, must be floating-point numbers")
        size = math.prod(shape or ()) * kind.itemsize
        if shape is None or size > self.size or found.get_storage_size() < size:
            raise ValueError(f"the array {path!r} says that its shape is {shape}, but the file is too small for it")

        def read() -> Any:
            self._left -= size
            if self._left < 0:
                raise ValueError("its arrays together are larger than the file: they lie over each other")
            value = np.empty(shape, kind)
            found.read(self.h5py.h5s.ALL, self.h5py.h5s.ALL, value)
            return as_float(path, _from_bfloat16(value) if half else value)

        return Array(path, shape, read)

    def text(self, item: Any, name: str) -> str | None:
        """An attribute that is a text; None where there is none."""
        value = self._attribute(item, name, single=True)
        return None if value is None else value.decode() if isinstance(value, bytes) else value

    def texts(self, item: Any, name: str) -> list[str]:
        """An attribute that is a list of texts, which may be cut in parts of its name with a number."""
        whole = self._list(item, name)
        parts = [] if whole is None else [whole]
        while whole is None and (part := self._list(item, f"{name}{len(parts)}")) is not None:
            parts.append(part)
            if sum(map(len, parts)) > MOST_NAMES:
                raise ValueError(f"{name!r} in it has more than the {MOST_NAMES} names allowed")
        return [text for part in parts for text in part]

    def _list(self, item: Any, name: str) -> Any:
        value = self._attribute(item, name, single=False)
        if value is None:
            return None
        found = [one if isinstance(one, str) else one.decode() for one in value.ravel().tolist()]
        if len(found) > MOST_NAMES or any(len(one) > LONGEST_NAME for one in found):
            raise ValueError(f"{name!r} in it has {len(found)} names, or longer ones than Keras gives")
        return found

    def _attribute(self, item: Any, name: str, single: bool) -> Any:
        h5py = self.h5py
        if not h5py.h5a.exists(item, name.encode()):
            return None
        attribute = h5py.h5a.open(item, name.encode())
        kind, count = attribute.get_type(), math.prod(attribute.shape or ())
        if not single and count == 0:
            return np.empty(0, "S1")
        string = isinstance(kind, h5py.h5t.TypeStringID)
        if not string or attribute.get_storage_size() > min(LARGEST_TEXT, self.size) or bool(attribute.shape) == single:
            raise ValueError(f"the attribute {name!r} is not {'a text' if single else 'a list of texts'} of at most "
                             f"{LARGEST_TEXT} bytes")  # fmt: skip
        if kind.is_variable_str() and count * self.longest_text() > LARGEST_LIST + LARGEST_EXPANSION * self.size:
            raise ValueError(f"the attribute {name!r} would be longer than the file: it has one text many times")
        kept = h5py.Group if isinstance(item, h5py.h5g.GroupID) else h5py.Dataset
        return kept(item).attrs[name]

    def longest_text(self) -> int:
        """Bytes of the longest text of variable length in the file, or more: all of them stand in heaps, which begin
        with "GCOL"; lists refer to them. An error where HDF5 would not come to the end of a heap.
        """
        if self._longest is None:
            self._longest, data = 0, self._bytes()
            at = data.find(b"GCOL")
            while at >= 0:
                self._longest = max([self._longest, *_sizes_in_heap(data, at)])
                at = data.find(b"GCOL", at + 4)
        return self._longest

    def lists(self, group: Any) -> dict[str, list[Array]]:
        """The arrays of every layer, in the order of the layers and of the layer's own list."""
        found: dict[str, list[Array]] = {}
        for layer in self.texts(group, "layer_names"):
            own = self.group(layer, group)
            if own is None or layer in found:
                raise ValueError(
                    f"it lists the layer {layer!r}, which {'is there twice' if own else 'it does not have'}"
                )
            found[layer] = []
            for name in self.texts(own, "weight_names"):
                array = self.array(name, own)
                if array is None:
                    raise ValueError(f"it lists the array {name!r} of the layer {layer!r}, which it does not have")
                found[layer].append(array)
        return found


def _sizes_in_heap(data: Any, at: int) -> Iterator[int]:
    """The sizes of the texts in a global heap of HDF5: 16 bytes before each of them have its number and size.

    What has the number 0 is free, its size that of the header too. HDF5 walks from one to the next as this does, and
    where one has no size, walks for ever.
    """
    size = int.from_bytes(data[at + 8 : at + 16], "little")
    if data[at + 4 : at + 5] != b"\1" or not SMALLEST_HEAP <= size <= len(data) - at:
        return  # HDF5 refuses it, or it is none
    end, at = at + size, at + 16
    while at + 16 <= end:
        number, size = int.from_bytes(data[at : at + 2], "little"), int.from_bytes(data[at + 8 : at + 16], "little")
        step = 16 + size + -size % 8 if number else size
        if not 0 < step <= end - at:
            raise ValueError("a heap of texts in it has one that does not end in the heap")
        if number:
            yield size
        at += step


def _from_bfloat16(value: NDArray[Any]) -> NDArray[Any]:
    return (value.view("<u2").astype(np.uint32) << 16).view(np.float32)
