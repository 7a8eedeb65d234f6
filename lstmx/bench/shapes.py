"""The shapes that are measured, by name: here, in the asv suite and on the command line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lstmx._types import Array


@dataclass(frozen=True, order=True)
class Shape:
    """T steps, N sequences, I inputs, H hidden units; ragged where `shortest` is given: lengths from there to T.

    Examples
    --------
    >>> shape = parse("7..29,64,12,64")
    >>> shape.T, shape.shortest, shape.name, shape.label
    (29, 7, '7..29,64,12,64', 'T7..29 N64 I12 H64')
    """

    T: int
    N: int
    I: int
    H: int
    shortest: int | None = None

    @property
    def _steps(self) -> str:
        return str(self.T) if self.shortest is None else f"{self.shortest}..{self.T}"

    @property
    def name(self) -> str:
        """As it is written on the command line: "T,N,I,H"."""
        return f"{self._steps},{self.N},{self.I},{self.H}"

    @property
    def label(self) -> str:
        """As it is named in the asv suite."""
        return f"T{self._steps} N{self.N} I{self.I} H{self.H}"

    @property
    def lengths(self) -> Array | None:
        """(N,), spread evenly from the shortest to T, in random order; None if all are T."""
        if self.shortest is None:
            return None
        spread = np.linspace(self.shortest, self.T, self.N).round().astype(np.int64)
        return np.random.default_rng(0).permutation(spread)

    @property
    def steps(self) -> int:
        """The time steps of all sequences together, padding left out."""
        return self.N * self.T if self.shortest is None else int(self.lengths.sum())  # type: ignore[union-attr]

    @property
    def flops(self) -> int:
        """Floating-point operations of a forward pass: 2 T N 4H (I + H)."""
        return 8 * self.steps * self.H * (self.I + self.H)


def parse(text: str) -> Shape:
    """The shape "T,N,I,H" or, ragged, "T0..T1,N,I,H"."""
    found = re.fullmatch(r"(?:(\d+)\.\.)?(\d+),(\d+),(\d+),(\d+)", text.replace(" ", ""))
    numbers = [int(n) for n in found.groups(default="1")] if found else [0]
    if min(numbers) < 1 or numbers[0] > numbers[1]:
        raise ValueError(
            f'shape: got {text!r}, must be one of {", ".join(GROUPS)}, or "T,N,I,H" such as "50,32,128,128", or '
            'with lengths from T0 to T1 "T0..T1,N,I,H" such as "7..29,64,12,64"'
        )
    return Shape(*numbers[1:], shortest=numbers[0] if found[1] else None)  # type: ignore[index, misc]


def _shapes(text: str) -> tuple[Shape, ...]:
    return tuple(parse(part) for part in text.split())


DENSE = _shapes(
    """1,1,1,16 1,1,128,128 1,1,512,512 100,1,1,32 100,1,16,64 100,1,128,128 100,1,256,256 100,1,512,512 30,64,1,32
    30,64,8,50 50,32,64,64 50,32,128,128 50,32,256,256 50,32,512,512 20,256,128,128 20,256,256,256 20,64,1024,1024
    500,16,32,100 60,5,100,250 60,8,64,192 300,20,10,80 40,40,224,224"""
)
ODD = _shapes("37,19,5,50 50,32,100,100 23,7,33,77 40,3,10,130")  # no multiple of anything
RAGGED = _shapes("7..29,64,12,64 20..200,32,16,128 1..50,128,8,32")
FIT = _shapes("30,32,4,50 100,64,16,128")  # N is the size of a batch
STEP = _shapes("1,1,1,16 1,1,1,32 1,1,1,64")
CELLS = _shapes("50,32,64,128 100,1,32,128 50,128,128,256")
STREAM = _shapes("4096,1,1,16 4096,1,1,20 4096,1,1,32 4096,1,1,40")

# Group -> the shapes for each kind of task.
GROUPS = {
    "quick": {
        "dense": _shapes("100,1,1,32 30,64,8,50"),
        "ragged": RAGGED[:1],
        "fit": FIT[:1],
        "step": STEP[1:2],
        "stream": STREAM[2:3],
        "cells": CELLS[1:2],
    },
    "default": {
        "dense": _shapes(
            """1,1,128,128 100,1,1,32 100,1,128,128 30,64,8,50 37,19,5,50 60,5,100,250 60,8,64,192 300,20,10,80
            50,32,128,128 40,40,224,224 20,256,128,128"""
        ),
        "ragged": RAGGED,
        "fit": FIT,
        "step": STEP,
        "stream": STREAM,
        "cells": CELLS,
    },
    "table": {"dense": DENSE, "ragged": RAGGED, "fit": FIT, "step": STEP, "stream": STREAM, "cells": CELLS},
    "odd": {
        "dense": ODD,
        "ragged": _shapes("3..19,37,5,50"),
        "fit": (),
        "step": _shapes("1,1,3,50"),
        "stream": (),
        "cells": (),
    },
}
GROUPS["all"] = {kind: GROUPS["table"][kind] + GROUPS["odd"][kind] for kind in GROUPS["table"]}

# What the asv suite follows, commit by commit.
TRACKED = _shapes("100,1,1,32 100,1,128,128 30,64,8,50 37,19,5,50 50,32,128,128 20,256,128,128 500,16,32,100") + RAGGED


def series(shape: Shape, quick: bool) -> int:
    """How many sequences an epoch of `fit` has: 4096, fewer where that would take long."""
    many = 256 if quick else 4096
    return many if shape.flops / shape.N * many < 2e10 else many // 4
