"""What watches training: history, callbacks, early stopping, progress."""

import sys
from dataclasses import dataclass
from time import perf_counter

from lstmx.functional import validate


class History:
    """What training measured, one entry per epoch.

    Attributes
    ----------
    history : dict of str to list of float
        "loss", "learning_rate", metrics, and the same with the prefix "val_".
    stopped : None or {"early", "callback", "interrupted", "failed"}
        Why training ended before its last epoch.
    best_epoch : int or None
        The epoch (from 0) whose weights early stopping chose.
    """

    def __init__(self):
        self.history = {}
        self.stopped = None
        self.best_epoch = None

    def append(self, logs):
        """Add the numbers of one epoch."""
        for name, value in logs.items():
            self.history.setdefault(name, []).append(value)

    def __len__(self):
        return len(self.history.get("loss", ()))

    def __getitem__(self, name):
        return self.history[name]

    def __repr__(self):
        last = ", ".join(f"{name}={values[-1]:.4g}" for name, values in self.history.items())
        return f"History({len(self)} epochs{': ' + last if last else ''})"

    def plot(self, ax=None):
        """Draw the loss curves (needs matplotlib).

        Parameters
        ----------
        ax : matplotlib Axes, optional

        Returns
        -------
        matplotlib Axes
        """
        from lstmx.inspect import plot_history

        return plot_history(self, ax)


class Callback:
    """Called during training: override what is needed.

    ``trainer.model`` is the model (it predicts with the weights of the moment), ``trainer.state`` holds epoch, updates
    and history, and ``trainer.stop()`` ends training after the epoch. Epochs and batches count from 0.
    """

    def on_train_begin(self, trainer):
        """Before the first epoch."""

    def on_epoch_begin(self, trainer, epoch):
        """Before epoch number `epoch`, from 0."""

    def on_batch_end(self, trainer, batch, loss):
        """After the update of a batch."""

    def on_epoch_end(self, trainer, epoch, logs):
        """After an epoch; `logs` are its numbers by name. Returning True stops."""

    def on_train_end(self, trainer):
        """After the last epoch, however it ended."""


class _FunctionCallback(Callback):
    def __init__(self, function):
        self.function = function

    def on_epoch_end(self, trainer, epoch, logs):
        return self.function(epoch, logs)


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when a number has not improved for a while.

    Parameters
    ----------
    patience : int
        Epochs without improvement.
    monitor : str
        A name in the history; "val_loss" is "loss" where there are no validation data.
    min_delta : float
        What counts as an improvement.
    restore_best : bool
        Go back to the weights of the best epoch, also after the last epoch and after Ctrl-C.
    """

    patience: int = 10
    monitor: str = "val_loss"
    min_delta: float = 0.0
    restore_best: bool = True

    def __post_init__(self):
        validate.count("patience", self.patience)
        validate.number("min_delta", self.min_delta, 0)
        validate.flag("restore_best", self.restore_best)

    def sign(self):
        """1 if less is better, -1 if more is."""
        return -1 if "accuracy" in self.monitor else 1


class Progress:
    """A bar with loss and sequences per second (tqdm, on a terminal or in a notebook), else one line per epoch."""

    SHOW_EVERY = 0.1  # seconds; a bar costs more to draw than a small batch to train on

    def __init__(self, bar=True):
        notebook = "ipykernel" in sys.modules
        self._tqdm = self._bar = None
        if bar and (notebook or sys.stderr.isatty()):
            try:
                from tqdm import auto, std

                self._tqdm = auto.tqdm if notebook else std.tqdm
            except ImportError:
                pass

    def begin(self, epoch, epochs, sequences):
        """An epoch starts."""
        self._title = f"epoch {epoch + 1}/{epochs}"
        self._done, self._shown = 0, 0.0
        if self._tqdm is not None:
            self._bar = self._tqdm(total=sequences, desc=self._title, unit="seq")
        else:
            self._start = perf_counter()

    def advance(self, sequences, loss):
        """A batch is done."""
        self._done += sequences
        if self._bar is not None and perf_counter() - self._shown > self.SHOW_EVERY:
            self._show(loss)

    def _show(self, loss):
        self._shown = perf_counter()
        self._bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
        self._bar.update(self._done - self._bar.n)

    def end(self, logs):
        """An epoch is done."""
        numbers = {name: f"{value:.4g}" for name, value in logs.items() if name != "learning_rate"}
        if self._bar is not None:
            self._bar.update(self._done - self._bar.n)
            self._bar.set_postfix(numbers)
            self.close()
        else:
            speed = self._done / max(perf_counter() - self._start, 1e-9)
            text = ", ".join(f"{name} {value}" for name, value in numbers.items())
            print(f"{self._title}: {text}, {speed:.0f} seq/s", file=sys.stderr, flush=True)

    def close(self):
        """Leave the terminal in order, also after an error."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def get_callbacks(callbacks):
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


def get_early_stopping(value):
    """An `EarlyStopping` from None, False, True, a patience or itself."""
    if value is None or value is False:
        return None
    if isinstance(value, EarlyStopping):
        return value
    return EarlyStopping() if value is True else EarlyStopping(validate.count("early_stopping", value))
