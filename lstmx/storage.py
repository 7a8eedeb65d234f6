"""Model files: safetensors, with the configuration as JSON in the metadata; and the registry of what they can hold.

A class that is `Stored` and registered gives ``state()``, its configuration (plain JSON values) and arrays by name;
``from_state(config, arrays)``, the same object again; and ``array_shapes(config)``, which checks a configuration and
tells (name, shape, dtype, what its numbers must be) of each array, one at a time, so that a file that asks for too
much is refused before a number is read. `lstmx.load` builds what a file holds.

Tensors have PyTorch-like names ("weight_ih_l0"; in a Sequential "0.weight_ih_l0"). The metadata hold the format
"lstmx", the ``schema`` number of this layout, the ``version`` that wrote it, and ``model``, a JSON object with
``class`` and the configuration. Reading a file never runs code from it: no pickle, no class but those registered,
and every key of the configuration, every name, type and shape is compared with what there must be before a
parameter is read. Equal models give equal files.

Schema 1 holds a layer or a Sequential; schema 2 also what an estimator has learnt: a predictor with its own arrays
beside those of its model ("model.0.weight_ih_l0"); and checkpoints. Schema 3 adds ``digest`` to the metadata: the
SHA-256, in hexadecimal digits, of the text of ``model`` and of each tensor in the order of their names: the JSON list
of its name, type ("float32") and shape, then its numbers, little-endian and C-contiguous. Pipelines came after it:
their arrays have the number of the step first ("1.model.0.weight_ih_l0"), and versions before them say that there is
no such class. So they do of a StreamSnapshot, whose arrays are ``ids``, ``given`` and those of the state, named by
their place in it ("state.0.1"). Files that estimators write have a ``note`` too, JSON of their parameters and of what
they know of their training, and its digest; earlier versions read past it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import inspect
import itertools
import json
import os
import re
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lstmx import formats, tensors
from lstmx._version import __version__
from lstmx.functional import validate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Self, TypeVar

    from lstmx._types import Arrays, Config, PathLike

    C = TypeVar("C", bound=type)

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

SCHEMA = 3
LARGEST_CONFIG = 2**20  # characters of JSON
LARGEST_NOTE = 2**25  # characters
_DTYPES = {"float32": "F32", "float64": "F64", "int64": "I64"}
_TEMPORARY = ".lstmx"  # how the names of the files end that `write` renames once they are whole
_MOST_SEEN = 1000  # files of a folder among which leftovers are looked for
PARAMETER = "finite, or anything with allow_nonfinite"  # what the numbers of an array must be
REGISTRY: dict[str, Any] = {}  # name in a file -> class


class ModelFileError(ValueError):
    """A file that is not a model that this version can read."""


def register(cls: C) -> C:
    """Let files hold a class, by its name; names that begin with "_" are of base classes."""
    if cls.__name__ in REGISTRY and REGISTRY[cls.__name__].__module__ != cls.__module__:
        raise TypeError(f"there is already a class {cls.__name__!r}, and model files know classes by name")
    if not cls.__name__.startswith("_"):
        REGISTRY[cls.__name__] = cls
    return cls


def registered(name: Any, base: type = object, what: str = "layer class") -> Any:
    """The class that is registered as `name`, which must be a `base`; an error calls that `what`."""
    found = REGISTRY.get(name) if isinstance(name, str) else None
    if found is None or not issubclass(found, base):
        raise ValueError(f"there is no {what} {name!r} in lstmx {__version__}")
    return found


class Stored:
    """What a file can hold. A subclass gives `state`, `from_state` and `array_shapes`, and is registered.

    Once the constructor is through, its attributes cannot be set or deleted: where what they say has been used, another
    value would change nothing, or break something. Free are names that begin with "_", methods (to mock them), and what
    a class outside lstmx has added that its constructor does not take.
    """

    _fixed: frozenset[str] | set[str] = frozenset({"note"})  # names that nobody may set once the constructor is through
    _constructed = False
    _note: str | None = None

    if TYPE_CHECKING:  # what a subclass gives

        def state(self) -> tuple[Config, Arrays]: ...
        @classmethod
        def from_state(cls, config: Config, arrays: Arrays) -> Self: ...

    def __init_subclass__(cls) -> None:
        ours = cls.__module__.partition(".")[0] == __name__.partition(".")[0]
        values = (name for name in vars(cls) if not callable(getattr(cls, name)))
        fixed = {*values, *inspect.get_annotations(cls)} if ours else set()
        if "__init__" in vars(cls):
            fixed |= set(inspect.signature(cls.__init__).parameters)
            cls.__init__ = _ends_construction(cls.__init__)  # type: ignore[method-assign]
        cls._fixed = fixed.union(*(getattr(base, "_fixed", ()) for base in cls.__bases__))

    def __setattr__(self, name: str, value: Any) -> None:
        self._check_free(name)
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        self._check_free(name)
        super().__delattr__(name)

    def _check_free(self, name: str) -> None:
        if self._constructed and not name.startswith("_") and (name in self._fixed or not hasattr(self, name)):
            raise AttributeError(f"{name}: {self._remedy(name)}", name=name, obj=self)

    def _remedy(self, name: str) -> str:
        """Why an attribute cannot be set, and what to do instead."""
        kind = type(self).__name__
        if name == "dtype" and hasattr(self, "astype"):
            return f'fixed since this {kind} was made; .astype("float32") and .astype("float64") give another'
        if name in inspect.signature(type(self)).parameters:
            return f"fixed since this {kind} was made; make another: {kind}(..., {name}=...)"
        if hasattr(self, name):
            return f"fixed since this {kind} was made; what can be chosen are the arguments of {kind}(...)"
        return f'{kind} has no such attribute, so this would change nothing; names of your own must begin with "_"'

    def save(self, path: PathLike) -> None:
        """Write configuration and arrays to one safetensors file, atomically: all of it, or nothing.

        `lstmx.load` reads it.

        Parameters
        ----------
        path : str or path-like
            A symbolic link stays one: the file that it leads to is written.

        Raises
        ------
        TypeError, ValueError
            If `path` is no path, or empty.
        OSError
            If there is no such folder, or something there that is not a file, such as a device.
        """
        config, arrays = self._contents()
        write(path, {"class": type(self).__name__} | config, arrays, self._note)

    @property
    def note(self) -> str | None:
        """A text that is saved and loaded along: what the estimator says of itself that this comes from; or None."""
        return self._note

    def with_note(self, note: str | None) -> Self:
        """This object, with another note, of at most ``LARGEST_NOTE`` characters."""
        self._note = note
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_state, self._contents(), self._more()

    def _contents(self) -> tuple[Config, Arrays]:
        """(configuration, arrays): what a file holds."""
        return self.state()

    def _more(self) -> dict[str, Any]:
        """What a copy takes along beside its state."""
        return {} if self._note is None else {"_note": self._note}


def _ends_construction(init: Callable[..., None]) -> Callable[..., None]:
    """The ``__init__`` of a class of `Stored`: at the end of the outermost one the attributes are fixed."""

    @functools.wraps(init)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        if type(self).__init__ is __init__:
            self._constructed = True

    return __init__


def write(path: PathLike, config: Config, arrays: Arrays, note: str | None = None) -> None:
    """Write a configuration, arrays by name and a note, a text, to a safetensors file, atomically."""
    check_target(path)
    write_bytes(path, *_serialise(config, arrays, note))


def write_bytes(path: PathLike, *parts: Any) -> None:
    """Write the file that consists of these parts, bytes one after the other, atomically."""
    target, mode = check_target(path)
    # A file beside the old one, flushed to disk and then renamed: a reader sees the old file or the new one.
    handle, temporary = _open_temporary(*os.path.split(target))
    try:
        try:
            for part in parts:  # no file object in between, whose buffer might not be had, or not be emptied
                left = memoryview(part)
                while left.nbytes:
                    left = left[os.write(handle, left) :]
            os.fsync(handle)
            os.chmod(temporary, 0o666 & ~_umask() if mode is None else mode)
            if fcntl is not None:
                os.replace(temporary, target)  # while it is locked
        finally:
            os.close(handle)
        if fcntl is None:
            os.replace(temporary, target)  # Windows renames no open file
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _sync_folder(os.path.dirname(target))


def _serialise(config: Config, arrays: Arrays, note: str | None) -> list[Any]:
    """What a file consists of. The same for the same model, always."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"))
    if len(text) > LARGEST_CONFIG:
        raise ValueError(f"path: the configuration has {len(text)} characters of JSON, more than {LARGEST_CONFIG}, "
                         "which load would refuse")  # fmt: skip
    arrays = {name: np.asarray(a, a.dtype.newbyteorder("="), order="C") for name, a in arrays.items()}
    metadata = {"digest": _digest(text, arrays), "format": "lstmx", "model": text, "schema": str(SCHEMA),
                "version": __version__}  # fmt: skip
    if note is not None:
        metadata = dict(sorted((metadata | {"note": note, "note_digest": _digest(note, {})}).items()))
    return tensors.parts(arrays, metadata)


def _digest(text: str, arrays: Arrays) -> str:
    import hashlib

    found = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        a = arrays[name]
        found.update(json.dumps([name, a.dtype.name, a.shape]).encode())
        found.update(np.asarray(a, a.dtype.newbyteorder("<"), order="C").reshape(-1).view(np.uint8))  # type: ignore[arg-type]
    return found.hexdigest()


def _check_path(path: Any, name: str = "path") -> str:
    """A path as a str that is not empty."""
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str):
        raise TypeError(f'{name}: got {path!r}, must be a path of str, such as "model.safetensors"')
    if not text or "\0" in text:
        raise ValueError(
            f"{name}: {repr(text) + ' holds a null character' if text else 'is empty'}; give the path of a file, such "
            'as "model.safetensors"'
        )
    return text


def check_target(path: Any, name: str = "path") -> tuple[str, int | None]:
    """The file that a save to `path` writes, and its mode; or an error that calls the path `name`.

    Returns
    -------
    target : str
        Absolute, symbolic links followed.
    mode : int or None
        Permission bits of the file that is there; None if there is none.
    """
    text = _check_path(path, name)
    if os.path.basename(text) in ("", os.curdir, os.pardir):
        raise IsADirectoryError(f"{name}: {text!r} names a folder; give the path of a file in it")
    target = os.path.realpath(text)
    try:
        found = os.stat(text).st_mode
    except OSError as error:
        if os.path.islink(target):
            raise OSError(f"{name}: {text!r} is a symbolic link that leads back to itself; remove it, or give another "
                          "path") from error  # fmt: skip
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
        found = None
    if found is not None and stat.S_ISDIR(found):
        raise IsADirectoryError(f"{name}: {text!r} is a folder; give the path of a file in it")
    if found is not None and not stat.S_ISREG(found):
        raise OSError(f"{name}: {text!r} is not a file but {_kind(found)}, which would be lost; give another path")
    folder = os.path.dirname(target)
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{name}: there is no folder {folder!r}; make it first")
    return target, None if found is None else found & 0o777


def _kind(mode: int) -> str:
    kinds = {"a device": (stat.S_ISCHR, stat.S_ISBLK), "a pipe": (stat.S_ISFIFO,), "a socket": (stat.S_ISSOCK,)}
    return next((kind for kind, tests in kinds.items() if any(test(mode) for test in tests)), "something else")


def _open_temporary(folder: str, name: str) -> tuple[int, str]:
    """(descriptor, path) of a new file in `folder` that will be renamed to `name`.

    It is locked until it is closed, so that other saves can tell it from what killed ones have left, which is removed.
    """
    import tempfile

    start = "." + name
    while len(os.fsencode(start)) > 255 - len("." + 8 * "x" + _TEMPORARY):
        start = start[:-1]
    _remove_leftovers(folder, start, name)
    while True:
        try:
            handle, path = tempfile.mkstemp(_TEMPORARY, start + ".", folder)
        except OSError as error:
            error.filename = os.path.join(folder, name)  # that of the user
            raise
        if fcntl is not None:
            with contextlib.suppress(OSError):  # a file system without locks: then nobody removes it
                fcntl.flock(handle, fcntl.LOCK_EX)
        if os.path.exists(path):
            return handle, path
        os.close(handle)  # another save took it for a leftover before it was locked


def _remove_leftovers(folder: str, start: str, name: str) -> None:
    """Remove the temporary files of killed saves to `name`; what cannot be removed stays.

    Where a folder has more files than `_MOST_SEEN`, it is no use to look at all of them at each save: some may stay.
    """
    ours = re.compile(re.escape(start) + r"\.[a-z0-9_]{8}" + re.escape(_TEMPORARY))
    older = re.compile(re.escape("." + name) + r"\.[a-z0-9_]{8}")  # before schema 3: could be a user's file as well
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in itertools.islice(entries, _MOST_SEEN):
            if ours.fullmatch(entry.name) or (older.fullmatch(entry.name) and _is_cut_short(entry)):
                with contextlib.suppress(OSError):
                    _remove_unlocked(entry.path)


def _remove_unlocked(path: str) -> None:
    """Remove a file, unless a running save holds it: an OSError then."""
    if fcntl is None:  # Windows itself refuses to remove an open file
        os.unlink(path)
        return
    handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    finally:
        os.close(handle)


def _is_cut_short(entry: Any) -> bool:
    """Whether a file is the beginning of a model file, of no use, and nobody has written to it for an hour."""
    try:
        found = entry.stat(follow_symlinks=False)
        if not stat.S_ISREG(found.st_mode) or time.time() - found.st_mtime < 3600:
            return False
        with open(entry.path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            line = file.read(size) if size <= tensors.LARGEST_HEADER else b""
        if b'"format":"lstmx"' not in line:
            return False
        if len(line) < size:
            return True
        ends = [tensor["data_offsets"][1] for name, tensor in json.loads(line).items() if name != "__metadata__"]
        return found.st_size < 8 + size + max(ends, default=0)
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):  # it is something else
        return False


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: str) -> None:
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def load(path: PathLike, allow_nonfinite: bool) -> Any:
    """What `Stored.save` wrote, of a class that is registered."""
    path = Path(_check_path(path))
    (cls, config, needs, note), arrays = _read(path, _plan)
    with _explained(path):
        if not allow_nonfinite:
            for name in (name for name, need in needs.items() if need == PARAMETER):
                validate.finite(name, arrays[name], "load with allow_nonfinite=True to look at such a model")
        found = cls.from_state(config, {name: arrays[name] for name in needs})
        return found if note is None else found.with_note(note)


def is_ours(path: PathLike) -> bool:
    """Whether a file says that lstmx wrote it."""
    try:
        with open(path, "rb") as file:
            return tensors.read_header(file)[0].get("format") == "lstmx"
    except tensors.FormatError:
        return False


def read(path: PathLike) -> tuple[Config, Arrays]:
    """(configuration, arrays) of a file that `write` wrote; the numbers may be anything."""
    return _read(Path(_check_path(path)), lambda path, config, entries, metadata: config)


def _read(path: Any, plan: Callable[..., Any]) -> tuple[Any, Arrays]:
    """What ``plan(path, config, entries, metadata)`` makes of configuration and header, and then the arrays by name."""
    if not path.is_file():
        try:
            found = os.stat(path).st_mode
        except OSError as error:
            raise FileNotFoundError(f"path: there is no file {str(path)!r}") from error
        if stat.S_ISDIR(found):
            kind = formats.identify(path) or formats.Kind("a folder", "give the path of a saved model")
            raise IsADirectoryError(f"path: {str(path)!r} is {kind.what}; {kind.remedy}")
        raise OSError(f"path: {str(path)!r} is not a file but {_kind(found)}; give the path of a saved model")
    try:
        with open(path, "rb") as file:
            metadata, entries = tensors.read_header(file)
            config = _read_config(path, metadata)
            planned = plan(path, config, entries, metadata)
            arrays = {name: tensors.read_array(file, entry) for name, entry in entries.items()}
    except tensors.FormatError as error:
        known = formats.identify(path)
        if known is not None:
            raise ModelFileError(f"{path}: not a safetensors file but {known.what}; {known.remedy}") from error
        raise ModelFileError(f"{path}: not a safetensors file, or one that is damaged or cut short ({error}); take "
                             "another copy of it") from error  # fmt: skip
    wanted = metadata.get("digest")
    if (wanted is not None or int(metadata["schema"]) >= 3) and wanted != _digest(metadata["model"], arrays):
        what = "lacks the digest of its contents" if wanted is None else "does not hold what was written to it"
        raise ModelFileError(f"{path}: damaged: the file {what}; take another copy of it, or make it again")
    return planned, arrays


@contextlib.contextmanager
def _explained(path: Any) -> Iterator[None]:
    """Makes what a bad file may cause a ModelFileError that names the file."""
    try:
        yield
    except ModelFileError:
        raise
    except (TypeError, ValueError, KeyError, RecursionError, OverflowError) as error:
        raise ModelFileError(f"{path}: {error!r}" if isinstance(error, KeyError) else f"{path}: {error}") from error


def _read_config(path: Any, metadata: Any) -> Config:
    if metadata.get("format") != "lstmx":
        raise ModelFileError(
            f"{path}: a safetensors file, but not a model saved by lstmx (its metadata lack format=lstmx); if it "
            "holds parameters of PyTorch, lstmx.from_torch reads it"
        )
    schema = metadata.get("schema", "")
    if not schema.isdecimal() or len(schema) > 6 or not 1 <= int(schema) <= SCHEMA:
        raise ModelFileError(
            f"{path}: written by lstmx {metadata.get('version')} with schema {schema[:20]!r}; lstmx {__version__} "
            f"reads up to {SCHEMA}: upgrade lstmx"
        )
    text = metadata.get("model", "")
    if len(text) > LARGEST_CONFIG:
        raise ModelFileError(
            f"{path}: a configuration of {len(text)} characters; the largest allowed is {LARGEST_CONFIG}"
        )
    try:
        config = json.loads(text, object_pairs_hook=tensors.unique)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path}: the configuration is not JSON as it must be ({error})") from None
    if not isinstance(config, dict):
        raise ModelFileError(f"{path}: the configuration is not a JSON object")
    return config


def _plan(path: Any, config: Config, entries: Any, metadata: Any) -> tuple[Any, Config, dict[str, str], str | None]:
    """Check all but the numbers: (class, its configuration, what the numbers of each array must be)."""
    kind = config.pop("class", None)
    if kind == "Checkpoint":
        raise ModelFileError(f"{path}: a checkpoint of a training; fit an estimator with checkpoint=path, resume=True")
    names, needs = set(entries), {}
    with _explained(path):
        cls = registered(kind)
        for name, shape, dtype, needs[name] in cls.array_shapes(config):
            _check_tensor(path, name, entries, names, shape, dtype)
    if names:
        raise ModelFileError(f"{path}: tensors that no layer has: {sorted(names)[:5]}")
    return cls, config, needs, _read_note(path, metadata)


def _read_note(path: Any, metadata: Any) -> str | None:
    note = metadata.get("note")
    if note is not None and (len(note) > LARGEST_NOTE or metadata.get("note_digest") != _digest(note, {})):
        raise ModelFileError(f"{path}: damaged: the file does not hold what was written to it; take another copy of "
                             "it, or make it again")  # fmt: skip
    return note


def _check_tensor(path: Any, name: str, entries: Any, names: set[str], shape: Any, dtype: str) -> None:
    """Compare the file's header with what is needed, and take the name from `names`."""
    if name not in names:  # also what ends a configuration of a billion layers
        raise ModelFileError(f"{path}: the tensor {name!r} is missing")
    found, wanted = entries[name], (_DTYPES[dtype], tuple(shape))
    if (found.dtype, found.shape) != wanted:
        raise ModelFileError(f"{path}: the tensor {name!r} is {found.dtype} {found.shape}, must be "
                             f"{wanted[0]} {wanted[1]}")  # fmt: skip
    names.discard(name)
