"""When training ends before its last epoch."""

from dataclasses import dataclass

from lstmx.functional import validate


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


def get_early_stopping(value):
    """An `EarlyStopping` from None, False, True, a patience or itself."""
    if value is None or value is False:
        return None
    if isinstance(value, EarlyStopping):
        return value
    return EarlyStopping() if value is True else EarlyStopping(validate.count("early_stopping", value))
