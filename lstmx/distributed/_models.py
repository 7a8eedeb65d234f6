"""A model on its way to the workers: the bytes of its file, which a process loads once."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lstmx.functional import validate
from lstmx.functional.threads import Section, num_threads
from lstmx.predictors import Forecaster, GraphModel
from lstmx.storage import Stored

if TYPE_CHECKING:
    from collections.abc import Iterator

METHODS = ("predict", "predict_proba", "predict_log_proba", "decision_function", "score_samples", "score_steps",
           "predict_steps", "transform")  # fmt: skip
MOST_LOADED = 8  # models that a process keeps
_loaded: collections.OrderedDict[str, Any] = collections.OrderedDict()  # by digest, the last used last
_loading = Section()


class Packed:
    """A model as the bytes of its file.

    Attributes
    ----------
    content : bytes
    digest : str
        SHA-256 of the content.
    """

    def __init__(self, content: bytes) -> None:
        self.content, self.digest = content, hashlib.sha256(content).hexdigest()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.content,)

    def __sizeof__(self) -> int:
        return object.__sizeof__(self) + len(self.content)  # Dask asks for it

    def __repr__(self) -> str:
        return f"<model of {len(self.content)} bytes, {self.digest[:8]}>"


def pack(model: Any) -> Packed:
    """A model, or the file of one, as it is now."""
    from lstmx import loading

    if isinstance(model, str | os.PathLike):
        model = loading.load(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        loading.save(model, path)
        return Packed(path.read_bytes())


def unpack(packed: Packed) -> Any:
    """What `lstmx.load` gives for it; loaded once, while this process keeps it."""
    from lstmx import loading

    with _loading.turn:
        found = _loaded.get(packed.digest)
        if found is None:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model.safetensors"
                path.write_bytes(packed.content)
                found = _loaded[packed.digest] = loading.load(path)
        _loaded.move_to_end(packed.digest)
        while len(_loaded) > MOST_LOADED:
            _loaded.popitem(last=False)
    return found


@dataclass(frozen=True)
class Call:
    """Which method of a model is called.

    Attributes
    ----------
    method : str
    horizon : int or None
        Steps of a forecast.
    """

    method: str
    horizon: Any

    def __call__(self, model: Any, X: Any, lengths: Any = None) -> Any:
        """What the model gives for sequences X, on one thread: a worker that has more runs as many calls at once."""
        with num_threads(1):
            if isinstance(model, Forecaster):
                return model.predict(self.horizon, y=list(X))
            return getattr(model, self.method)(X, **({} if lengths is None else {"lengths": lengths}))


def read_call(model: Any, method: str, horizon: int | None) -> Call:
    """A `Call` that this model, as `unpack` gives it, can answer."""
    validate.choice("method", method, METHODS)
    kind = type(model).__name__
    if isinstance(model, GraphModel):
        raise TypeError("model: got a GraphModel, which does not say which axis counts the sequences; give "
                        "model.to_sequential()")  # fmt: skip
    can = [name for name in METHODS if isinstance(model, Stored) and callable(getattr(model, name, None))]
    if not can:
        raise TypeError(f"model: got {kind}, which predicts nothing by itself; put layers into an lstmx.Sequential")
    if isinstance(model, Forecaster):
        can = ["predict"]
        if model.config["exogenous"]:
            raise ValueError("model: the forecaster was fitted with exogenous variables, which a collection of series "
                             "does not bring; fit without X, or forecast where the variables are")  # fmt: skip
        horizon = model.config["horizon"] if horizon is None else validate.count("horizon", horizon)
    elif horizon is not None:
        raise ValueError(f"horizon: got {horizon}, but a {kind} forecasts nothing; leave it out")
    if method not in can:
        raise ValueError(f"method: got {method!r}, but of a {kind} it must be one of {', '.join(map(repr, can))}")
    return Call(method, horizon)


@contextlib.contextmanager
def named(partition: str) -> Iterator[None]:
    """Errors within say which partition they are about."""
    try:
        yield
    except (ValueError, TypeError) as error:
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(f"{partition}: {error}") from error
    except Exception as error:
        error.add_note(f"lstmx.distributed.predict, {partition}")
        raise
