"""What an estimator adds to training: checkpoints, and scikit-learn's callbacks."""

from __future__ import annotations

import functools
import hashlib
import os
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from lstmx import storage
from lstmx.functional import validate
from lstmx.storage import ModelFileError
from lstmx.training import Callback, TrainerState

if TYPE_CHECKING:
    from collections.abc import Callable

    from lstmx._types import Arrays, Config, PathLike
    from lstmx.training import Trainer


try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks  # scikit-learn 1.9
except ImportError:

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Nothing, before scikit-learn 1.9."""

    def with_callbacks(method: Any) -> Any:
        """The method itself, before scikit-learn 1.9."""
        return method


_Method = TypeVar("_Method", bound="Callable[..., Any]")


def _is_fitted_state(name: str) -> bool:
    return name.endswith("_") or name in ("_predictor", "_moments", "_frames")


def fitting(method: _Method) -> _Method:
    """Makes a method a fit: scikit-learn's callbacks end with it, and if it fails, what was fitted before stays."""

    @functools.wraps(method)
    def fit(self: Any, *args: Any, **kwargs: Any) -> Any:
        before = {name: value for name, value in vars(self).items() if _is_fitted_state(name)}
        try:
            return method(self, *args, **kwargs)
        except BaseException:
            for name in [name for name in vars(self) if _is_fitted_state(name) and name not in before]:
                delattr(self, name)
            vars(self).update(before)
            raise

    return with_callbacks(fit)


class FitTasks(Callback):
    """Tells scikit-learn's own callbacks (`sklearn.callback`, 1.9) of every epoch: a task below the fit."""

    def __init__(
        self, context: Any, estimator: Any, data: dict[str, Any], fitted: Callable[[Trainer], dict[str, Any]]
    ) -> None:
        self.context, self.estimator, self.data, self.fitted = context, estimator, data, fitted
        self.task: Any = None

    def on_epoch_begin(self, trainer: Trainer, epoch: int) -> None:
        """A task begins."""
        self.task = self.context.subcontext(task_name="epoch")
        self.task.call_on_fit_task_begin(estimator=self.estimator, **self.data)

    def on_epoch_end(self, trainer: Trainer, epoch: int, logs: dict[str, float]) -> bool | None:
        """A task ends; a callback can end training by returning True."""
        return self.task.call_on_fit_task_end(
            estimator=self.estimator, **self.data, reconstruction_attributes=lambda: self.fitted(trainer)
        )


class Checkpoint(Callback):
    """Writes all that training needs to go on to the same bits, every few epochs and at the end.

    Parameters
    ----------
    path : str or path-like
    every, last : int
        Epochs.
    identity : dict
        Plain JSON values that must be the same when training goes on: the estimator, its parameters, its data.
    """

    def __init__(self, path: PathLike, every: int, last: int, identity: dict[str, Any]) -> None:
        self.path, self.every, self.last, self.identity = path, every, last, identity

    def on_epoch_end(self, trainer: Trainer, epoch: int, logs: dict[str, float]) -> None:
        """Write if it is time."""
        if (epoch + 1) % self.every == 0 or epoch + 1 == self.last:
            self.write(trainer.state)

    def on_train_end(self, trainer: Trainer) -> None:
        """Write if training has ended after an epoch before the last."""
        if trainer.state.history.stopped in ("callback", "early"):
            self.write(trainer.state)

    def write(self, state: TrainerState) -> None:
        """Write the state after an epoch."""
        arrays = {"values": state.values} | {f"moments.{name}": m for name, m in state.moments.items()}
        arrays |= {f"history.{name}": np.array(v, np.float64) for name, v in state.history.history.items()}
        if state.best is not None:
            arrays["best"] = state.best["values"]
        memory = dict(state.memory)
        mark = memory.pop("mark")  # of the training loss, or minus that of what early stopping watches
        config = {
            "class": "Checkpoint",
            "identity": self.identity,
            "epoch": state.epoch,
            "updates": state.updates,
            "rng": state.rng.bit_generator.state,
            "memory": memory | {"best_loss": mark, "best_score": -mark},
            "reason": state.reason,
        }
        storage.write(self.path, config, arrays)


def check_path(path: Any) -> None:
    """Raise at once what writing a checkpoint would raise after some epochs."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"checkpoint: got {path!r}, must be a path or None")
    folder = os.path.dirname(storage.check_target(path, "checkpoint")[0])
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"checkpoint: the folder {folder!r} cannot be written to; give another path")


def read_checkpoint(path: PathLike) -> tuple[Config, Arrays] | None:
    """(configuration, arrays) of a checkpoint; None if there is no such file."""
    if not os.path.exists(path):
        return None
    config, arrays = storage.read(path)
    if config.get("class") != "Checkpoint":
        kind = config.get("class")
        raise ModelFileError(f"checkpoint: {os.fspath(path)!r} is a saved {kind}, not a checkpoint; give another path")
    try:
        _check_checkpoint(config, arrays)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ModelFileError(f"checkpoint: {os.fspath(path)!r} is damaged ({error!r}); remove it, or give another "
                             "path") from error  # fmt: skip
    return config, arrays


def _check_checkpoint(config: Config, arrays: Arrays) -> None:
    """Raise some error if this is not what `Checkpoint` writes."""
    generator = np.random.PCG64()
    validate.keys("its configuration", config, ("class", "identity", "epoch", "updates", "rng", "memory", "reason"))
    validate.keys("memory", config["memory"], ("rate", "count", "best_loss", "best_score", "seen"))
    validate.keys("rng", config["rng"], generator.state)
    validate.count("seed", config["identity"]["seed"], 0)
    validate.count("epoch", config["epoch"], 0)
    validate.count("updates", config["updates"], 0)
    generator.state = config["rng"]
    if not all(isinstance(value, int | float) for value in config["memory"].values()):
        raise ValueError("memory")
    if not isinstance(config["reason"], str | None):
        raise ValueError("reason")
    values, curve = arrays["values"], arrays["history.loss"]
    for name, a in arrays.items():
        if not name.startswith(("history.", "moments.")) and name not in ("values", "best"):
            raise ValueError(f"{name}: unknown")
        if name.startswith("history."):
            good = a.shape == (config["epoch"],) == curve.shape and a.dtype == np.float64
        else:
            good = a.shape == (values.size,) and a.dtype == values.dtype and a.dtype.kind == "f"
        if not good:
            raise ValueError(f"{name}: {a.dtype} {a.shape}")


def restore(checkpoint: tuple[Config, Arrays], identity: dict[str, Any], early_stopping: bool) -> TrainerState:
    """The `TrainerState` of a checkpoint whose identity is this one."""
    config, arrays = checkpoint
    was = config["identity"]
    different = [name for name in identity | was if identity.get(name) != was.get(name)]
    if different:
        name = different[0]
        what = "other data" if name == "data" else f"{name}={was.get(name)}, now it is {identity.get(name)}"
        raise ValueError(
            f"resume: the checkpoint was written with {what}; give what it was written with, or fit with resume=False"
        )
    rng = np.random.Generator(np.random.PCG64())
    rng.bit_generator.state = config["rng"]
    prefixed = {part: {n[len(part) :]: a for n, a in arrays.items() if n.startswith(part)}
                for part in ("moments.", "history.")}  # fmt: skip
    state = TrainerState(arrays["values"], {}, prefixed["moments."], {}, rng, config["epoch"], config["updates"])
    state.history.history = {name: a.tolist() for name, a in prefixed["history."].items()}
    memory, state.reason = dict(config["memory"]), config["reason"]
    loss, score = memory.pop("best_loss"), memory.pop("best_score")
    state.memory = memory | {"mark": -score if early_stopping else loss}
    state.best = {"values": arrays["best"], "tables": {}} if "best" in arrays else None
    return state


def digest(*arrays: Any) -> str:
    """A fingerprint of arrays and of what else is given."""
    found = hashlib.blake2b(digest_size=16)
    for a in arrays:
        if a is None:
            found.update(b"none")
        elif isinstance(a, np.ndarray):
            found.update(f"{a.shape}{a.dtype}".encode())
            for part in a if a.ndim > 1 else [a]:
                found.update(
                    np.ascontiguousarray(part).tobytes() if part.dtype != object else repr(part.tolist()).encode()
                )
        else:
            found.update(repr(a).encode())
    return found.hexdigest()
