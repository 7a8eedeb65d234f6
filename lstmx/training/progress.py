"""What training shows while it runs."""

from __future__ import annotations

import sys
from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any


class Progress:
    """A bar (tqdm, on a terminal or in a notebook), else one line per epoch.

    Parameters
    ----------
    bar : bool
        False for lines everywhere.
    whole : bool
        Whether one bar counts all epochs, the lines are those of scikit-learn, on standard output, and the last says
        why training ended. Else each epoch has a bar that counts sequences, or a line on standard error with its speed.
    """

    SHOW_EVERY = 0.1  # seconds; a bar costs more to draw than a small batch to train on

    def __init__(self, bar: bool = True, whole: bool = False) -> None:
        notebook = "ipykernel" in sys.modules
        self.whole, self._tqdm, self._bar = whole, None, None
        if bar and (notebook or sys.stderr.isatty()):
            try:
                from tqdm import auto, std

                self._tqdm = auto.tqdm if notebook else std.tqdm
            except ImportError:
                pass

    def begin(self, epoch: int, epochs: int, sequences: int) -> None:
        """An epoch starts, of so many sequences; None: nobody knows."""
        self._epoch, self._title = epoch, f"epoch {epoch + 1}/{epochs}"
        self._done, self._shown, self._start = 0, 0.0, perf_counter()
        if self._tqdm is not None and self._bar is None:
            what = {"total": epochs, "unit": "epoch"} if self.whole else {"total": sequences, "unit": "seq"}
            self._bar = self._tqdm(**what, desc=None if self.whole else self._title)

    def advance(self, sequences: int, loss: float) -> None:
        """A batch is done."""
        self._done += sequences
        if self._bar is not None and not self.whole and perf_counter() - self._shown > self.SHOW_EVERY:
            self._shown = perf_counter()
            self._bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
            self._bar.update(self._done - self._bar.n)

    def end(self, logs: dict[str, Any]) -> None:
        """An epoch is done."""
        digits = ".6g" if self.whole else ".4g"
        numbers = {name: f"{value:{digits}}" for name, value in logs.items() if name != "learning_rate"}
        if self._bar is not None:
            self._bar.update((self._epoch + 1 if self.whole else self._done) - self._bar.n)
            self._bar.set_postfix(numbers)
            if not self.whole:
                self.close()
        elif self.whole:
            text = ", ".join(f"{name} = {value}" for name, value in numbers.items())
            print(f"Iteration {self._epoch + 1}, {text}", flush=True)
        else:
            speed = self._done / max(perf_counter() - self._start, 1e-9)
            text = ", ".join(f"{name} {value}" for name, value in numbers.items())
            print(f"{self._title}: {text}, {speed:.0f} seq/s", file=sys.stderr, flush=True)

    def close(self, reason: str | None = None) -> None:
        """The end of training, for a reason or after an error: leave the terminal in order."""
        file = sys.stdout if self._bar is None else sys.stderr
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if reason and self.whole:
            print(reason, file=file, flush=True)
