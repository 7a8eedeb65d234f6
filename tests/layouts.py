"""Arrays that lie in memory as few do."""

import numpy as np


def moved(array, by=1):
    """A copy that begins `by` bytes after an aligned address; by default it is not aligned."""
    out = np.empty(array.nbytes + by, np.uint8)[by:].view(array.dtype).reshape(array.shape)
    out[...] = array
    assert out.flags.aligned == (by % array.itemsize == 0) or not out.size
    return out
