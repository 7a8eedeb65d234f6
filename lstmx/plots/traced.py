"""What pictures read from a trace: the arrays of one sequence, and the values of the cell at one step."""

import numpy as np

QUANTITIES = ("i", "f", "g", "o", "c", "h")


def one_sequence(trace, layer=0, direction=0, sequence=None):
    """Arrays (T, H) of i, f, g, o, c, h and tanh_c along one sequence, by name."""
    if not all(hasattr(trace, name) for name in QUANTITIES):
        raise TypeError(
            f"trace: got {type(trace).__name__}, must be a Trace; for a model plot_trace(model.trace(X)[0])"
        )
    values = {name: getattr(trace, name)[layer, direction] for name in QUANTITIES}
    if sequence is not None:
        values = {name: v[sequence] for name, v in values.items()}
    if isinstance(values["c"], list) or np.ndim(values["c"]) != 2:
        raise ValueError("sequence: the trace holds a batch; say which sequence to draw")
    if not len(values["c"]):
        raise ValueError("trace: this sequence has no steps to draw")
    if hasattr(trace, "tanh_c"):
        shown = trace.tanh_c[layer, direction]
        return values | {"tanh_c": shown if sequence is None else shown[sequence]}
    return values | {"tanh_c": np.tanh(values["c"])}


def read_input(x, names, steps):
    """x as (T, I), and I names."""
    x = np.asarray(x)
    x = x[:, None] if x.ndim == 1 else x
    if x.ndim != 2 or len(x) != steps:
        raise ValueError(
            f"x: got shape {x.shape}, must be ({steps},) or ({steps}, I): the sequence that was traced, step by step"
        )
    names = [f"{k}" for k in range(x.shape[1])] if names is None else [str(name) for name in names]
    if len(names) != x.shape[1]:
        raise ValueError(f"feature_names: got {len(names)}, must be {x.shape[1]}, one for each feature of x")
    return x, names


class CellSteps:
    """One sequence as the cell met it, step by step, with what it found before each step.

    Attributes
    ----------
    values : dict of str to array (T, H)
        As `one_sequence` gives them, and c_before, kept = f c_before and added = i g. h may have another width.
    backward : bool
        Whether the sequence was read from its end.
    plain : bool
        Whether the memory is what was kept and what was added, and nothing else, as in the diagram.
    """

    def __init__(self, one):
        if one["c"].shape != one["f"].shape:
            raise ValueError(
                f"trace: a memory of {one['c'].shape[1]} values for {one['f'].shape[1]} units is no cell of the "
                "diagram; an sLSTM has three values in each unit: see plot_trace"
            )
        with np.errstate(all="ignore"):
            added = one["i"] * one["g"]
            self.backward, before = _before(one["c"], one["f"], added)
            kept = one["f"] * before
            rest = np.abs(one["c"] - kept - added)
            self.plain = not (rest > 1e-3 * np.maximum(1, np.abs(one["c"]))).any()
        self.values = one | {"c_before": before, "kept": kept, "added": added, "h_before": self._h_before(one["h"])}

    def _h_before(self, h):
        first = np.full_like(h[:1], np.nan)
        return np.concatenate([h[1:], first] if self.backward else [first, h[:-1]])

    def first(self):
        """The step that was read first."""
        return len(self.values["c"]) - 1 if self.backward else 0

    def at(self, step, unit=None):
        """(value, low, high) of every quantity: mean and range over the units, or of one unit, then without range."""
        out = {}
        for name, array in self.values.items():
            row = array[step]
            if name == "h_before" and step % len(array) == self.first():
                continue  # the trace does not have it
            out[name] = _spread(row) if unit is None or name not in self._by_unit() else (float(row[unit]), None, None)
        return out

    def _by_unit(self):
        units = self.values["c"].shape[1]
        return {name for name, array in self.values.items() if array.shape[1] == units}


def _spread(row):
    """Mean, least and greatest of a row; of one value that alone."""
    if len(row) == 1:
        return float(row[0]), None, None
    with np.errstate(all="ignore"):
        return float(np.mean(row, dtype=np.float64)), float(np.min(row)), float(np.max(row))


def _before(c, f, added):
    """Whether the steps were read backward, and the memory before each: that which explains the memory better."""
    first = (c - added) / np.where(f == 0, 1, f)
    ways = {False: np.concatenate([first[:1], c[:-1]]), True: np.concatenate([c[1:], first[-1:]])}
    off = {way: np.nansum(np.abs(c - f * before - added), dtype=np.float64) for way, before in ways.items()}
    backward = bool(off[True] < off[False])
    return backward, ways[backward]
