"""What watches training: its history, and callbacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lstmx import plots

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Literal

    from lstmx.training.trainer import Trainer


class History:
    """What training measured, one entry per epoch.

    Attributes
    ----------
    history : dict of str to list of float
        "loss", "learning_rate", metrics, and the same with the prefix ``"val_"``.
    stopped : None or {"early", "callback", "interrupted", "failed", "exhausted"}
        Why training ended before its last epoch; "failed" is by an error, "exhausted" because there were no more
        batches.
    best_epoch : int or None
        The epoch (from 0) whose weights early stopping chose.
    """

    def __init__(self) -> None:
        self.history: dict[str, list[float]] = {}
        self.stopped: Literal["early", "callback", "interrupted", "failed", "exhausted"] | None = None
        self.best_epoch: int | None = None

    def append(self, logs: dict[str, Any]) -> None:
        """Add the numbers of one epoch."""
        for name, value in logs.items():
            self.history.setdefault(name, []).append(value)

    def __len__(self) -> int:
        return len(self.history.get("loss", ()))

    def __getitem__(self, name: str) -> list[float]:
        return self.history[name]

    def __repr__(self) -> str:
        last = ", ".join(f"{name}={values[-1]:.4g}" for name, values in self.history.items())
        return f"History({len(self)} epochs{': ' + last if last else ''})"

    def plot(self, ax: Any = None) -> Any:
        """Draw the loss curves (needs matplotlib).

        Parameters
        ----------
        ax : matplotlib Axes, optional

        Returns
        -------
        matplotlib Axes
        """
        return plots.plot_history(self, ax)


class Callback:
    """Called during training: override what is needed.

    ``trainer.model`` is the model (it predicts with the weights of the moment), ``trainer.state`` holds epoch, updates
    and history, and ``trainer.stop()`` ends training after the epoch. Epochs and batches count from 0. Of processes
    that train together ``trainer.rank`` says which this one is.
    """

    def on_train_begin(self, trainer: Trainer) -> None:
        """Before the first epoch."""

    def on_epoch_begin(self, trainer: Trainer, epoch: int) -> None:
        """Before epoch number `epoch`, from 0."""

    def on_batch_end(self, trainer: Trainer, batch: int, loss: float) -> None:
        """After the update of a batch; with ``tbptt`` after all of them."""

    def on_epoch_end(self, trainer: Trainer, epoch: int, logs: dict[str, Any]) -> object:
        """After an epoch; `logs` are its numbers by name. Returning True stops."""

    def on_train_end(self, trainer: Trainer) -> None:
        """After the last epoch, however it ended."""


class _FunctionCallback(Callback):
    def __init__(self, function: Callable[[int, dict[str, Any]], object]) -> None:
        self.function = function

    def on_epoch_end(self, trainer: Trainer, epoch: int, logs: dict[str, Any]) -> object:
        return self.function(epoch, logs)


def get_callbacks(callbacks: Any) -> tuple[Callback, ...]:
    """A tuple of `Callback` from callbacks and functions ``f(epoch, logs)``."""
    if callbacks is None:
        return ()
    if isinstance(callbacks, Callback) or callable(callbacks):
        callbacks = (callbacks,)
    found = []
    for callback in callbacks:
        if isinstance(callback, type):
            raise TypeError(f"callbacks: got the class {callback.__name__}, must be an instance: {callback.__name__}()")
        if not isinstance(callback, Callback) and not callable(callback):
            raise TypeError(f"callbacks: got {callback!r}, must be a lstmx.Callback or a function f(epoch, logs)")
        found.append(callback if isinstance(callback, Callback) else _FunctionCallback(callback))
    return tuple(found)
