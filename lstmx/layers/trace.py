"""What `LSTM.trace` gives: every gate, the memory and the output at every step."""

import numpy as np


class PerLayer:
    """One traced quantity: ``[layer, direction]`` gives an array (N, T, H), (T, H) or a list of them, as the input was.

    With a single layer and direction the object is also plain: `numpy.asarray` and indexing by anything else see the
    array.
    """

    def __init__(self, values):
        self._values = values

    def _only(self):
        if len(self._values) > 1:
            raise ValueError(
                f"trace: say which layer and direction, as in trace.f[0, 0]; there are {list(self._values)}"
            )
        return self._values[0, 0]

    def __getitem__(self, key):
        if isinstance(key, tuple) and len(key) == 2 and all(isinstance(k, int | np.integer) for k in key):
            if key not in self._values:
                raise IndexError(f"trace: no layer and direction {key}; there are {list(self._values)}")
            return self._values[key]
        return self._only()[key]

    def __array__(self, dtype=None, copy=None):
        return np.array(self._only(), dtype=dtype, copy=copy)

    def __len__(self):
        return len(self._only())

    @property
    def shape(self):
        """The shape of the array, for a single layer and direction."""
        return np.shape(self._only())

    def keys(self):
        """The (layer, direction) pairs."""
        return self._values.keys()

    def __repr__(self):
        return f"PerLayer({ {k: 'list' if isinstance(v, list) else v.shape for k, v in self._values.items()} })"


class Trace:
    """Everything an LSTM did along its sequences.

    Attributes
    ----------
    i, f, g, o : PerLayer
        Input gate, forget gate, candidate, output gate: ``trace.f[layer, direction]`` is an array (N, T, H), a list of
        (T_n, H) or (T, H), as the input was. Direction 1 is the reverse one.
    c, h : PerLayer
        Memory cell and output after each step, likewise.
    """

    def __init__(self, i, f, g, o, c, h):
        self.i, self.f, self.g, self.o, self.c, self.h = i, f, g, o, c, h

    @classmethod
    def of(cls, lstm, tape, context, state):
        """What the tape of an LSTM on packed rows and its final state (h, c) tell."""
        parts = {name: {} for name in "ifgoch"}
        H = lstm.hidden_size
        for layer, (_, all_slabs, *_) in enumerate(tape):
            for direction, slabs in enumerate(all_slabs):
                for name, final in zip("hc", state, strict=True):
                    final = final[layer * len(all_slabs) + direction]
                    after = context.after(slabs[f"{name}_prev"], final, lstm.reversed[direction])
                    parts[name][layer, direction] = context.unpack(after)
                gates = [slabs["gates"][:, k * H : (k + 1) * H] for k in range(lstm.cell.gates)]
                if lstm.cell.cifg:
                    gates.insert(1, 1 - gates[0])
                if lstm.cell.slstm:
                    gates[:2] = _exponential(*gates[:2], *np.split(slabs["c_prev"], 3, axis=1)[1:])
                for name, gate in zip("ifgo", gates, strict=True):
                    parts[name][layer, direction] = context.unpack(gate)
        return cls(**{name: PerLayer(values) for name, values in parts.items()})

    def __repr__(self):
        return f"Trace(i, f, g, o, c, h: {self.i!r})"


def _exponential(a_i, a_f, n, m):
    """The stabilised gates i and f of an sLSTM, from what enters them and the state before."""
    kept = m + np.minimum(a_f, 0) - np.log1p(np.exp(-np.abs(a_f)))
    top = np.where(n == 0, a_i, np.maximum(a_i, kept))
    return np.exp(a_i - top), np.where(n == 0, 0, np.exp(kept - top))
