"""What watches training: when it ends before its last epoch, which weights are kept, and how the rate falls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lstmx.functional import validate

if TYPE_CHECKING:
    from typing import Any

    from lstmx.training.trainer import TrainerState


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

    def __post_init__(self) -> None:
        validate.count("patience", self.patience)
        validate.number("min_delta", self.min_delta, 0)
        validate.flag("restore_best", self.restore_best)

    def watcher(self, validated: bool) -> Watcher:
        """The `Watcher` with these rules, with or without validation data."""
        monitor = "loss" if self.monitor == "val_loss" and not validated else self.monitor
        sign = -1 if "accuracy" in self.monitor else 1
        return Watcher(monitor, sign, self.patience, self.min_delta, keep=self.restore_best)


@dataclass(frozen=True)
class Watcher:
    """Judges every epoch by one number: keeps the best weights, sets the learning rate, and says when training ends.

    It changes nothing of its own: what it has seen is in the ``memory``, ``best`` and ``reason`` of the `TrainerState`.

    Parameters
    ----------
    monitor : str
        A name in the history.
    sign : {1, -1}
        1 if less is better, -1 if more is.
    patience : int or inf
        Epochs in a row without an improvement.
    min_delta : float
        What counts as an improvement.
    keep : bool
        Whether training ends with the weights of the best epoch.
    sklearn : bool
        Whether the rules are those of scikit-learn's MLPClassifier: any gain makes an epoch the best, one of just
        min_delta is an improvement, and training ends with one epoch more than `patience`. Else an epoch must gain more
        than min_delta to be the best, and only then is it an improvement.
    schedule : {"constant", "invscaling", "adaptive"}
        Whether the rate is the optimiser's, falls from `rate` as the power `power_t` of the sequences seen, or is
        divided by 5 when patience is at an end, until it has fallen to 1e-6; only then does training end.
    """

    monitor: str
    sign: int
    patience: float
    min_delta: float
    keep: bool
    sklearn: bool = False
    schedule: str = "constant"
    rate: float | None = None
    power_t: float = 0.5

    def start(self, seen: int = 0) -> dict[str, Any]:
        """The memory before the first epoch: plain numbers."""
        return {"mark": np.inf, "count": 0, "seen": seen, "rate": self._scheduled(self.rate, seen)}

    def _scheduled(self, rate: float | None, seen: int) -> float | None:
        return self.rate / (seen + 1) ** self.power_t if self.schedule == "invscaling" else rate

    def judge(self, state: TrainerState, logs: dict[str, Any], sequences: int) -> bool:
        """Whether to go on after an epoch that has trained on so many sequences."""
        memory, score = state.memory, self.sign * logs[self.monitor]
        if self.sklearn:
            best, better = score < memory["mark"], score <= memory["mark"] - self.min_delta
        else:
            best = better = state.history.best_epoch is None or score < memory["mark"] - self.min_delta
        if best:
            memory["mark"] = np.inf if np.isnan(score) else score
            state.history.best_epoch = state.epoch
            if self.keep:
                state.keep()
        memory["count"] = 0 if better else memory["count"] + 1
        memory["seen"] += sequences
        memory["rate"] = self._scheduled(memory["rate"], memory["seen"])
        if memory["count"] < self.patience + self.sklearn:
            return True
        if self.schedule == "adaptive" and memory["rate"] > 1e-6:
            memory["rate"], memory["count"] = memory["rate"] / 5, 0
            return True
        what = {"loss": "Training loss", "val_loss": "Validation loss", "val_score": "Validation score"}
        state.reason = (f"{what.get(self.monitor, self.monitor)} did not improve more than tol={self.min_delta:g} for "
                        f"{self.patience} consecutive epochs.")  # fmt: skip
        return False


def get_early_stopping(value: Any) -> EarlyStopping | None:
    """An `EarlyStopping` from None, False, True, a patience or itself."""
    if value is None or value is False:
        return None
    if isinstance(value, EarlyStopping):
        return value
    return EarlyStopping() if value is True else EarlyStopping(validate.count("early_stopping", value))
