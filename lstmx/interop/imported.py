"""What an importer gives: a model, what was found on the way, and how to hold it against the original."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lstmx.functional import messages

__all__ = ["Imported", "Part"]

# What a probe may be off by: a share of how far outputs differ from each other, and float32 rounding through many
# steps, which is relative to their size.
OF_SPREAD, OF_SIZE = 2e-4, 32 * 1.2e-7


@dataclass(frozen=True)
class Part:
    """Something in the source, and what it became.

    Attributes
    ----------
    name : str
        In the source, such as "encoder.lstm".
    found : str
        What it is there, such as "LSTM 40 -> 256, 3 layers".
    layer : str
        What it is here, such as "0: LSTM"; "" where nothing of it is needed.
    """

    name: str
    found: str
    layer: str = ""


@dataclass(frozen=True)
class Imported:
    """A model of another library, read.

    Attributes
    ----------
    source : str
        What it was, such as "PyTorch state dict".
    model : LSTM, Sequential or GraphModel
    parts : tuple of Part
    notes : tuple of str
        What the user should know: tensors that were not needed, a state that is no longer kept, ...
    compare : callable or None
        Runs a probe through the original and the model: ``() -> (ours, theirs)``, arrays of one shape. It raises
        ImportError where the framework is not installed. None where there is no original to run. It may have
        attributes that `check` reads after a call: `against`, what the model was held against and what that leaves
        open; `remedy`, for outputs that differ; `whole`, whether nothing is left to guess.
    guesses : tuple of str
        What was taken for granted and may be wrong, with what says it: a user is warned.
    """

    source: str
    model: Any
    parts: tuple[Part, ...] = ()
    notes: tuple[str, ...] = ()
    compare: Any = None
    guesses: tuple[str, ...] = ()

    def report(self) -> str:
        """Text: what was found, layer by layer, and the notes."""
        columns = [("in the source", "what it is", "here"), *((p.name, p.found, p.layer) for p in self.parts)]
        widths = [max(len(row[k]) for row in columns) for k in range(2)]
        lines = [f"  {a:{widths[0]}s}  {b:{widths[1]}s}  {c}".rstrip() for a, b, c in columns]
        return "\n".join([self.source, *lines, *(f"note: {note}" for note in (*self.notes, *self.guesses))])

    def check(self, outputs: Any = None) -> str:
        """Run the probe; `outputs` are what `compare` gave, where it has been called.

        Returns
        -------
        str
            A line with the largest error.

        Raises
        ------
        ImportError
            If the framework is not installed.
        ValueError
            If there is no original to run, or the outputs differ by more than rounding explains.
        """
        if self.compare is None:
            raise ValueError(f"check: a {self.source} alone says not what the original computes; give the model itself")
        ours, theirs = self.compare() if outputs is None else outputs
        ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
        remedy = getattr(self.compare, "remedy", "") or (
            "all arguments must say what the original does (head, activations, layers, ..)"
        )
        if ours.shape != theirs.shape:
            raise ValueError(f"check: outputs have shape {ours.shape} here, {theirs.shape} there; {remedy}")
        size = float(np.abs(theirs).max(initial=0))
        spread = _spread(theirs)
        error = float(np.abs(ours - theirs).max(initial=0))
        against = getattr(self.compare, "against", "")
        line = f"largest error {error:.1e}, of outputs {theirs.shape} as large as {size:.2g}{against and ', '}{against}"
        if not spread:
            line += "; all of them are alike, so that this probe tells little"
        if not error <= OF_SPREAD * spread + OF_SIZE * size:
            raise ValueError(
                f"check: {line}: this is not the same model; {remedy}; if they say it all, please report it"
            )
        return line


def _spread(outputs: Any) -> float:
    """By how much outputs differ from what they are on average, each feature by itself: at most."""
    if outputs.ndim < 2:
        outputs = outputs.reshape(-1, 1)
    each = outputs.reshape(-1, outputs.shape[-1])
    return (
        float(np.abs(each - each.mean(axis=0)).max(initial=0)) if len(each) > 1 else float(np.abs(each).max(initial=0))
    )


def finish(imported: Imported, check: bool) -> Any:
    """The model; with `check` also a printed line about the probe. Warns of what was guessed and not checked."""
    if check:
        print(f"{imported.source}: {imported.check()}")
    if not getattr(imported.compare, "whole", False):
        for guess in imported.guesses:
            messages.warn(guess)
    return imported.model
