"""In which order libraries keep the gates of an LSTM: the one table, and how to get from one order to another.

Gates are i (input), f (forget), g (the candidate, also called c or z) and o (output). Ours are i, f, g, o; with coupled
gates, which have no forget gate of their own, i, g, o.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lstmx._types import Array

__all__ = ["reorder"]


OURS = "ifgo"
ORDERS = {
    "torch": "ifgo",  # also cuDNN, oneDNN, Flax, Equinox
    "keras": "ifgo",  # written i, f, c, o; also RTNeural
    "onnx": "iofg",  # written i, o, f, c
    "onnx peepholes": "iof",
    "peepholes": "ifo",  # ours
}


def reorder(array: Array, have: str, want: str = OURS, axis: int = 0) -> Array:
    """An array whose `axis` has one block for each gate in the order `have`, with these blocks in the order `want`.

    Parameters
    ----------
    array : ndarray
    have, want : str
        A key of `ORDERS`, or the gates themselves, such as "ifgo".
    axis : int

    Examples
    --------
    >>> reorder(np.array([1, 4, 2, 3]), "onnx").tolist()
    [1, 2, 3, 4]
    """
    have, want = ORDERS.get(have, have), ORDERS.get(want, want)
    blocks = np.split(array, len(have), axis=axis)
    return np.concatenate([blocks[have.index(gate)] for gate in want], axis=axis)
