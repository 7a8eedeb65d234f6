"""Files of Keras 2 and 3 as a configuration and arrays: .keras, .weights.h5, .h5 and .hdf5.

h5py reads them; Keras is not needed, and nothing that a file names is imported or run. What a file says is not trusted:
only hard links are followed, no link or dataset leads to another file, an array is read only where its numbers stand in
the file as they are, and all that is read together is no larger than the file.

There are two layouts. In the older one (`NamedWeights`) an attribute lists the names of the layers in their order, and
each has a list of the names of its arrays. In the newer one (`GroupWeights`) a group such as
"layers/lstm_1/cell/vars" has the arrays "0", "1", ..; it is named by the class of the layer and a counter.
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import os
import zipfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lstmx import formats
from lstmx.interop.keras.hdf5 import LARGEST_EXPANSION, LARGEST_TEXT, MOST_NAMES, Hdf5
from lstmx.storage import ModelFileError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from lstmx._types import PathLike
    from lstmx.interop.keras.config import Part
    from lstmx.interop.keras.hdf5 import Array, Hdf5


DEEPEST = 8  # groups in groups
ROOTS = "layers", "_layer_checkpoint_dependencies"  # in Keras 3 and 2.13, in 2.12


@dataclass(frozen=True)
class KerasFile:
    """A file, open.

    Attributes
    ----------
    kind : str
        What it is, such as "Keras model (.keras)".
    config : dict or None
        Of the model, as it stands in the file; None: weights alone.
    version : str or None
        Of the Keras that wrote it.
    weights : NamedWeights or GroupWeights
    """

    kind: str
    config: dict[str, Any] | None
    version: str | None
    weights: Any


@contextlib.contextmanager
def opened(path: PathLike) -> Iterator[KerasFile]:
    """A `KerasFile`; all that a bad file causes, in the body too, is a ModelFileError that names the path."""
    text = os.fsdecode(path)
    h5py = import_h5py()
    _check_is_file(text)
    with explained(text):
        with open(text, "rb") as file:
            head = file.read(8)
        with contextlib.ExitStack() as stack:
            if head.startswith(b"PK\x03\x04"):
                yield _archive(h5py, text, stack)
            elif head == b"\x89HDF\r\n\x1a\n":
                yield _hdf5(h5py, text, stack)
            else:
                kind = formats.identify(text) or formats.Kind(
                    "of another format, or damaged", "take another copy of it"
                )
                raise ModelFileError(f"{text}: not a file of Keras but {kind.what}; {kind.remedy}")


def import_h5py() -> Any:
    """h5py, or an error that says how to get it."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError("from_keras and to_keras_weights read and write HDF5 by h5py: pip install h5py") from error
    return h5py


@contextlib.contextmanager
def explained(path: PathLike) -> Iterator[None]:
    """Makes what a bad file may cause a ModelFileError that names the file."""
    try:
        yield
    except (ModelFileError, FileNotFoundError, IsADirectoryError, PermissionError, ImportError):
        raise
    except (ValueError, TypeError) as error:
        raise ModelFileError(f"{path}: {error}") from error
    except (OSError, LookupError, RuntimeError, OverflowError, EOFError, zipfile.BadZipFile) as error:
        raise ModelFileError(f"{path}: damaged, or cut short ({error!r:.200}); take another copy of it") from error


def _check_is_file(path: PathLike) -> None:
    if not os.path.exists(path):
        raise FileNotFoundError(f"source: there is no file {path!r}")
    if os.path.isdir(path):
        kind = formats.identify(path) or formats.Kind("a folder", 'give the path of a file, such as "model.keras"')
        raise IsADirectoryError(f"source: {path!r} is {kind.what}; {kind.remedy}")
    if not os.path.isfile(path):
        raise OSError(f"source: {path!r} is not a file; give the path of one")


# The archive of Keras 3.


def _archive(h5py: Any, path: PathLike, stack: contextlib.ExitStack) -> KerasFile:
    archive = stack.enter_context(zipfile.ZipFile(path))
    names = archive.namelist()
    if "config.json" not in names and "model.weights.h5" not in names:
        kind = formats.identify(path) or formats.Kind("a zip archive", "give the file that model.save wrote")
        raise ModelFileError(f"{path}: not a model of Keras but {kind.what}; {kind.remedy}")
    for name in ("config.json", "model.weights.h5"):
        if name not in names:
            raise ValueError(f'an archive of Keras, but without {name!r}; save the model by model.save("model.keras")')
    config = read_json(_member(archive, "config.json", LARGEST_TEXT))
    metadata = read_json(_member(archive, "metadata.json", LARGEST_TEXT)) if "metadata.json" in names else {}
    data = _member(archive, "model.weights.h5")
    file = Hdf5(h5py, stack.enter_context(h5py.File(h5py.h5f.open_file_image(data))), len(data), lambda: data)
    return KerasFile("Keras model (.keras)", config, _text(metadata.get("keras_version")), _weights(file))


def _member(archive: Any, name: str, largest: float = math.inf) -> bytes:
    """The bytes of a part of an archive."""
    found = [info for info in archive.infolist() if info.filename == name]
    info = found[0]
    if len(found) > 1:
        raise ValueError(f"it has {name!r} {len(found)} times")
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name!r} in it is encrypted, or packed in a way that Keras never uses")
    limit = min(max(2**20, LARGEST_EXPANSION * info.compress_size), largest)
    if info.file_size > limit:
        raise ValueError(f"{name!r} in it would unpack to {info.file_size} bytes, more than the {limit} allowed")
    try:
        with archive.open(info) as file:
            return file.read(info.file_size)
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, NotImplementedError, zlib.error) as error:
        raise ValueError(f"{name!r} in it is damaged ({error}); take another copy of it") from None


def read_json(text: Any) -> dict[str, Any]:
    """A JSON object, or an error."""
    if len(text) > LARGEST_TEXT:
        raise ValueError(f"its configuration has {len(text)} characters, more than the {LARGEST_TEXT} allowed")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its configuration is not JSON as it must be ({error})") from None
    if not isinstance(found, dict):
        raise ValueError(f"its configuration is a JSON {type(found).__name__}, must be an object")
    return found


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and len(value) < 100 else None


# HDF5.


def _hdf5(h5py: Any, path: PathLike, stack: contextlib.ExitStack) -> KerasFile:
    def data() -> Any:
        with open(path, "rb") as file:
            return stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    file = Hdf5(h5py, stack.enter_context(h5py.File(path, "r")), os.path.getsize(path), data)
    root = file.root
    text, version = (file.text(root, name) for name in ("model_config", "keras_version"))
    if text is None:
        return KerasFile("Keras weights (HDF5)", None, version, _weights(file))
    group = file.group("model_weights")
    if group is None:
        raise ValueError("it has a configuration, but no weights; save the model by model.save")
    version = version or file.text(group, "keras_version")
    return KerasFile("Keras model (HDF5)", read_json(text), version, NamedWeights(file.lists(group)))


def _weights(file: Hdf5) -> NamedWeights | GroupWeights:
    """Those of a file without a configuration, or of an archive."""
    for root in ROOTS:
        if file.group(root) is not None:
            return GroupWeights(file, root)
    lists = file.lists(file.root)
    if not lists and _has_groups_of_arrays(file):
        raise ValueError("written by a model of a class of your own, whose call may compute anything; build a "
                         "keras.Sequential of its layers, and give that, or what its save wrote")  # fmt: skip
    if not lists:
        raise ValueError("an HDF5 file, but not one of Keras: it has neither layers nor a list of their names")
    return NamedWeights(lists)


def _has_groups_of_arrays(file: Any) -> bool:
    """Whether there are groups such as "lstm/cell/vars", by the names that a class has given to its layers."""
    places = [f"{name}/{place}" for name in file.names(file.root) for place in ("vars", "cell/vars")]
    return any(file.group(place) is not None for place in places)


class NamedWeights:
    """A list of arrays for every layer of a model, in an order that the layer knows.

    Parameters
    ----------
    lists : dict of str to list of Array
    """

    def __init__(self, lists: dict[str, list[Array]]) -> None:
        self.lists = {name: list(arrays) for name, arrays in lists.items()}

    def check_order(self, parts: Sequence[Part]) -> None:
        """An error where arrays are not in the order of the layers: those of frozen layers in a model in the model come
        last in files.
        """
        for top in dict.fromkeys(part.top for part in parts):
            kept = {part.options.values.get("trainable", True) for part in parts if part.top == top and part.has_arrays}
            if len(kept) > 1:
                raise ValueError(f"some layers in {top!r} are frozen (trainable=False), whose arrays such a file has "
                                 'in another order; save the model as .keras: model.save("model.keras")')  # fmt: skip

    def take(self, part: Part, slots: Sequence[tuple[str, str]]) -> list[Array]:
        """The next arrays of the layer that a `Part` stands in: one for each of `slots`, (place in a group, name)."""
        arrays = self.lists.get(part.top)
        if arrays is None:
            raise ValueError(f"it has no weights of the layer {part.top!r}; there are those of {sorted(self.lists)}")
        found, self.lists[part.top] = arrays[: len(slots)], arrays[len(slots) :]
        for k, (place, wanted) in enumerate(slots):
            name = found[k].name if k < len(found) else None
            if name is None or not _fits(name, place, wanted):
                what = "is missing" if name is None else f"should be next, but is {name!r}"
                raise ValueError(f"the {wanted} of the layer {part.name!r} {what}; it must be one of the model's own")
        return found

    def check_used(self, parts: Sequence[Part]) -> None:
        """An error where a layer has more arrays than were taken."""
        for top in dict.fromkeys(part.top for part in parts):
            if more := self.lists.get(top):
                raise ValueError(f"the layer {top!r} has more arrays than it should: {[a.name for a in more[:4]]}")

    def layers(self) -> dict[str, dict[str, Array]]:
        """The arrays of every layer by the last word of their names where they differ in it: {layer: {name: Array}}."""
        found = {}
        for layer, arrays in self.lists.items():
            short = {_last(array.name): array for array in arrays}
            found[layer] = short if len(short) == len(arrays) else {array.name: array for array in arrays}
        return found


def _last(name: str) -> str:
    """ "kernel" of "lstm/lstm_cell/kernel:0"."""
    return name.rpartition("/")[2].partition(":")[0]


def _fits(name: str, place: str, wanted: str) -> bool:
    """Whether the name of an array in a file is not that of another array of the layer."""
    last = _last(name)
    known = "kernel", "recurrent_kernel", "bias", "embeddings"
    both = "forward", "backward"
    side = [one for one in both if place.startswith(one)]
    named = [one for one in both if f"{one}_" in name]
    return (last == wanted or last not in known) and not (len(named) == 1 and side and named != side)


class GroupWeights:
    """A group of arrays for every layer of a model.

    Parameters
    ----------
    file : Hdf5
    root : str
        The group that has the groups of the layers.
    """

    def __init__(self, file: Hdf5, root: str) -> None:
        self.file, self.root = file, root
        self._looked = 0

    def take(self, part: Part, slots: Sequence[tuple[str, str]]) -> list[Array]:
        """The arrays of a `Part`: one for each of `slots`, (place in its group, name)."""
        group, found = f"{self.root}/{part.group}", []
        if self.file.group(group) is None:
            raise ValueError(f"it has no group {group!r}, of the layer {part.name!r}; it has weights of another model, "
                             f"with groups {self.file.names(self.file.group(self.root))[:20]}")  # fmt: skip
        for place, name in slots:
            array = self.file.array(f"{group}/{place}")
            if array is None:
                raise ValueError(f"the {name} of the layer {part.name!r} is missing: there is no {group}/{place}")
            found.append(array)
        for folder, count in _counts(place for place, _ in slots).items():
            if self.file.find(f"{group}/{folder}/{count}") is not None:
                raise ValueError(f"the layer {part.name!r} has more arrays than it should: {group}/{folder}/{count}")
        return found

    def check_order(self, parts: Sequence[Part]) -> None:
        """Every array has its place."""

    def check_used(self, parts: Sequence[Part]) -> None:
        """`take` has seen to it."""

    def layers(self) -> dict[str, dict[str, Array]]:
        """The arrays of every layer by their place in its group: {layer: {place: Array}}."""
        names = self.file.names(self.file.group(self.root))
        return {name: dict(self._below(self.file.group(f"{self.root}/{name}"), "", 0)) for name in sorted(names)}

    def _below(self, group: Any, prefix: str, depth: int) -> Iterator[tuple[str, Array]]:
        if group is None or depth > DEEPEST:
            return
        for name in self.file.names(group):
            self._looked += 1
            if self._looked > MOST_NAMES:
                raise ValueError(f"it has more than the {MOST_NAMES} groups and arrays allowed")
            if name == "seed_generator":
                continue
            place = f"{prefix}{name}"
            array = self.file.array(name, group)
            if array is not None:
                yield place, array
            else:
                yield from self._below(self.file.group(name, group), f"{place}/", depth + 1)


def _counts(places: Iterable[str]) -> dict[str, int]:
    """How many arrays there are by their folder."""
    found: dict[str, int] = {}
    for place in places:
        folder = place.rpartition("/")[0]
        found[folder] = found.get(folder, 0) + 1
    return found
