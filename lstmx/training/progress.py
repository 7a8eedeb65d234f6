"""What training shows while it runs."""

import sys
from time import perf_counter


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
