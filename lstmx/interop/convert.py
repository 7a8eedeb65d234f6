"""From any file of a model to any other: what ``lstmx convert`` does."""

from __future__ import annotations

import importlib
import inspect
import os
from typing import TYPE_CHECKING, Any

from lstmx import formats, storage
from lstmx.interop.imported import Imported
from lstmx.predictors.graph import GraphModel

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from lstmx._types import Array, Arrays, PathLike

__all__ = ["convert", "read"]


def _function(module: str, name: str) -> Any:
    """A function of a module that is loaded only now."""
    return getattr(importlib.import_module(f"lstmx.{module}"), name)


# How the name of a file ends -> what is written to it, and the module and the function that do.
WRITERS = {
    ".safetensors": ("lstmx", "loading", "save"),
    ".onnx": ("ONNX", "interop.onnx.export", "to_onnx"),
    ".weights.h5": ("Keras weights", "interop.keras", "to_keras_weights"),
    ".pt": ("PyTorch state dict", "interop.torch", "save_state_dict"),
    ".pth": ("PyTorch state dict", "interop.torch", "save_state_dict"),
}


def read(path: PathLike, /, **options: Any) -> Imported:
    """A model file of any kind, told by what it holds.

    Parameters
    ----------
    path : str or path-like
    options
        What the importer of that kind takes, such as ``prefix`` or ``head``.

    Returns
    -------
    Imported

    Raises
    ------
    OSError
        If there is no such file.
    ModelFileError
        If nobody knows what it is, or it is damaged.
    TypeError
        For an option that its importer does not have.
    """
    path = os.fspath(path)
    if not os.path.exists(path):
        raise FileNotFoundError(f"source: there is no file {path!r}")
    kind = formats.identify(path)
    if os.path.isdir(path):
        kind = kind or formats.Kind("a folder", "give the path of a file in it")
        raise IsADirectoryError(f"source: {path!r} is {kind.what}; {kind.remedy}")
    if kind is None and storage.is_ours(path):
        _check_arguments("lstmx.load, which reads this file,", {}, options)
        return Saved(f"{path}: a model saved by lstmx", _function("loading", "load")(path))
    reader = "from_torch" if kind is None else kind.reader  # safetensors
    if not reader:
        raise storage.ModelFileError(f"{path}: {kind.what}; {kind.remedy}")  # type: ignore[union-attr]
    read_it = _function(f"interop.{reader.removeprefix('from_')}", "read")
    _check_arguments(f"lstmx.{reader}, which reads this file,", _keywords(read_it), options)
    return read_it(path, **options)


def _keywords(function: Callable[..., Any]) -> list[str]:
    """The names of the arguments that a function takes by keyword alone."""
    return [name for name, one in inspect.signature(function).parameters.items() if one.kind is one.KEYWORD_ONLY]


def _check_arguments(who: str, known: Collection[str], given: Iterable[str]) -> None:
    for name in given:
        if name not in known:
            remedy = f"it has {', '.join(known)}" if known else "leave it out"
            raise TypeError(f"{name}: {who} has no such argument; {remedy}")


class Saved(Imported):
    """A model that lstmx itself has saved: there is nothing to say but what it is."""

    def report(self) -> str:
        """Text: the model, layer by layer."""
        summary = getattr(self.model, "summary", self.model.__repr__)
        return f"{self.source}\n{summary()}"


def check(imported: Imported) -> str:
    """A line about a probe through the original and the model, or about why there was none.

    Raises
    ------
    ValueError
        If outputs differ by more than rounding explains.
    """
    if imported.compare is None:
        return f"not checked: nothing here runs a {imported.source} itself"
    try:
        outputs = imported.compare()
    except Exception as error:  # its classes are those of the framework
        return f"not checked: {str(error).removeprefix('check: ')}"
    return f"checked: {imported.check(outputs)}"


class Target:
    """A file that is to be written.

    Parameters
    ----------
    path : str or path-like
        Its ending decides what is written.
    arguments
        What the exporter takes, such as ``states`` or ``names``.

    Attributes
    ----------
    what : str

    Raises
    ------
    ValueError, TypeError, OSError
        For another ending; arguments that there are not; a place where no file can be.
    """

    def __init__(self, path: PathLike, /, **arguments: Any) -> None:
        self.path, self.arguments = os.fspath(path), arguments
        found = [WRITERS[ending] for ending in WRITERS if self.path.lower().endswith(ending)]
        if not found:
            raise ValueError(
                f"target: {self.path!r} must end with one of {', '.join(WRITERS)}: the ending decides what is written"
            )
        self.what, *place = found[0]
        self._write = _function(*place)
        known = [name for name in _keywords(self._write) if name != "check"]
        _check_arguments(f"what writes this file ({self.what})", known, arguments)
        storage.check_target(self.path, "target")

    def write(self, model: Any) -> None:
        """Write a model; a graph becomes the Sequential that it is, where the file is not one of lstmx."""
        self._write(self._layers(model), self.path, **self.arguments)

    def _layers(self, model: Any) -> Any:
        if self.what == "lstmx" or not isinstance(model, GraphModel):
            return model
        try:
            return model.to_sequential()
        except ValueError as error:
            why = str(error).removeprefix("to_sequential: ")
            raise ValueError(f"source: its graph is no chain of layers, so {self.what} cannot be written ({why}); "
                             "write .safetensors, which keeps any graph") from error  # fmt: skip

    def check(self, model: Any) -> str:
        """A line about the file beside the model that it was written of; as `check`."""
        model = self._layers(model)
        if self.what == "ONNX":
            made = _function("interop.onnx.export", "written")(model, self.path, **self.arguments)
            return f"{self.what}, {check(made)}"
        try:
            wanted, found = _READ_BACK[self.what](model, self.path, **self.arguments)
        except ImportError as error:
            return f"{self.what}, not checked: {error}"
        if wanted.keys() != found.keys() or any(not _same(a, found[name]) for name, a in wanted.items()):
            raise ValueError(f"check: {self.path} does not hold the arrays of the model; please report it")
        return f"{self.what}, checked: {len(wanted)} arrays come back bit for bit"


def _same(a: Array, b: Array) -> bool:
    return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def _of_lstmx(model: Any, path: PathLike) -> tuple[Arrays, Arrays]:
    return model.state()[1], _function("loading", "load")(path).state()[1]


def _of_torch(model: Any, path: PathLike, **names: Any) -> Iterator[Arrays]:
    import torch

    wanted = _function("interop.torch", "to_torch_state_dict")(model, **names)
    found = torch.load(path, weights_only=True)
    return ({name: tensor.numpy() for name, tensor in state.items()} for state in (wanted, found))


def _of_keras(model: Any, path: PathLike) -> tuple[Arrays, Arrays]:
    from lstmx.interop import keras

    wanted = keras.to_places(model)
    return wanted, keras.read_places(path)


# What a file is -> a function that gives the arrays of the model, and those of the file.
_READ_BACK: dict[str, Callable[..., Any]] = {
    "lstmx": _of_lstmx,
    "PyTorch state dict": _of_torch,
    "Keras weights": _of_keras,
}


def convert(source: PathLike, target: PathLike, *, export: Mapping[str, Any] | None = None, **options: Any) -> Imported:
    """Read a model file and write another.

    Parameters
    ----------
    source, target : str or path-like
        What `source` is, its contents tell; what `target` becomes, its ending.
    export : dict, optional
        Arguments of the exporter, as `Target` takes them.
    options
        Arguments of the importer, as `read` takes them.

    Returns
    -------
    Imported
        What was read.

    Examples
    --------
    >>> import os, tempfile, lstmx
    >>> from lstmx.interop.convert import convert
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     a, b = os.path.join(folder, "a.safetensors"), os.path.join(folder, "b.safetensors")
    ...     lstmx.LSTM(3, 8, random_state=0).save(a)
    ...     convert(a, b).model
    LSTM(input_size=3, hidden_size=8, num_layers=1, bias=True, bidirectional=False, dropout=0.0, dtype='float32')
    """
    target = Target(target, **(export or {}))
    imported = read(source, **options)
    target.write(imported.model)
    return imported
