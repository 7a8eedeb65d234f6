"""What the tests of the cell family share: cells, an oracle for whole LSTMs, and what training dropped."""

from types import SimpleNamespace

import numpy as np
from lstm_cases import inputs
from tolerances import FAMILY

from lstmx import LSTM, Cell, reference_cells
from lstmx.functional.cell import suffix

CELLS = {
    "plain": Cell(),
    "clip": Cell(clip=0.4),
    "cell_clip": Cell(cell_clip=0.3),
    "both clips": Cell(clip=0.8, cell_clip=0.25),
    "clips never reached": Cell(clip=50, cell_clip=50),
    "peephole": Cell(peephole=True),
    "peephole, clipped": Cell(peephole=True, clip=0.7, cell_clip=0.4),
    "cifg": Cell(cifg=True),
    "cifg, peephole, clipped": Cell(cifg=True, peephole=True, clip=0.7, cell_clip=0.4),
    "haste": Cell(layer_norm="haste"),
    "haste, cifg, clipped": Cell(layer_norm="haste", cifg=True, clip=0.8, cell_clip=0.6),
    "fastrnn": Cell(layer_norm="fastrnn"),
    "fastrnn, clipped": Cell(layer_norm="fastrnn", clip=0.9, cell_clip=0.9),
    "tflite": Cell(layer_norm="tflite"),
    "tflite, peephole, cell_clip": Cell(layer_norm="tflite", peephole=True, cell_clip=0.5),
    "tflite, cifg, peephole": Cell(layer_norm="tflite", cifg=True, peephole=True, clip=0.9),
    "zoneout": Cell(zoneout=0.3),
    "zoneout of h": Cell(zoneout=(0.3, 0)),
    "zoneout of c": Cell(zoneout=(0, 0.3)),
    "zoneout, haste": Cell(zoneout=0.2, layer_norm="haste"),
    "dropout": Cell(input_dropout=0.3, recurrent_dropout=0.4),
    "dropout by gate": Cell(input_dropout=0.3, recurrent_dropout=0.4, dropout_per_gate=True),
    "recurrent dropout by gate, cifg": Cell(recurrent_dropout=0.4, dropout_per_gate=True, cifg=True),
    "input dropout by gate, haste, zoneout": Cell(
        input_dropout=0.4, dropout_per_gate=True, layer_norm="haste", zoneout=0.2
    ),
    "learned state": Cell(learn_state=True, peephole=True),
    "relu": Cell(activations=("hard_sigmoid", "relu", "relu")),
    "affine": Cell(activations=("hard_sigmoid", ("affine", 0.5, 0.1), ("affine", -0.4, 0.2))),
    "leaky relu": Cell(activations=("sigmoid", "leaky_relu", ("leaky_relu", 0.1))),
    "thresholded relu": Cell(activations=("sigmoid", ("thresholded_relu", 0.2), ("thresholded_relu", 0.1))),
    "scaled tanh": Cell(activations=("sigmoid", ("scaled_tanh", 1.7, 0.6), ("scaled_tanh", 0.6, -1.2))),
    "hard sigmoid": Cell(activations=(("hard_sigmoid", 1 / 6, 0.5), "hard_sigmoid", "hard_sigmoid"), clip=2),
    "elu": Cell(activations=("sigmoid", "elu", ("elu", 0.6)), peephole=True),
    "softsign": Cell(activations=("sigmoid", "softsign", "softsign"), cell_clip=0.6),
    "softplus": Cell(activations=("softplus", "softsign", "softplus"), clip=1),
    "slstm": Cell(slstm=True),
    "slstm of 3 heads": Cell(slstm=True, heads=3),
    "slstm of 3 heads, dropout by gate": Cell(
        slstm=True, heads=3, input_dropout=0.2, recurrent_dropout=0.3, dropout_per_gate=True
    ),
}


def network(cell, *sizes, proj=0, dtype="float64", seed=0, **options):
    """An LSTM of such a cell, all of whose parameters are of order 1; an sLSTM is not projected."""
    lstm = LSTM(*sizes, cell=cell, proj_size=0 if cell.slstm else proj, dtype=dtype, random_state=seed, **options)
    rng, scale = np.random.default_rng(seed + 1), 2 / np.sqrt(sizes[1])
    lstm.set_parameters(
        {n: rng.normal(scale=scale if p.ndim > 1 else 0.7, size=p.shape) for n, p in lstm.parameters().items()}
    )
    return lstm


def problem(lstm, N, T, seed=2):
    """x, state, dy and dstate by name, of order 1; of an sLSTM some units are fresh."""
    x, (h, c), dy, (dh, dc) = inputs(lstm, N, T, seed)
    return {"x": x, "h": h, "c": c, "dy": dy, "dh": dh, "dc": dc}


def dropped(slabs, context, steps=None):
    """The masks of a tape's slabs in the form of the reference, of so many steps; None where nothing was dropped."""
    found = SimpleNamespace(input=None, recurrent=None, zoneout_h=None, zoneout_c=None)
    order = slice(None) if context.order is None else context.order
    for name, slab in (("input", "drop_x"), ("recurrent", "drop_h")):
        if slab in slabs:
            mask = np.empty(slabs[slab].shape)
            mask[:, order] = slabs[slab]
            setattr(found, name, mask)
    for name in ("zoneout_h", "zoneout_c"):
        if name in slabs:
            mask = np.zeros((context.batch, context.steps if steps is None else steps, slabs[name].shape[1]))
            mask[context.places] = slabs[name]
            setattr(found, name, mask)
    return found if any(mask is not None for mask in vars(found).values()) else None


def dropped_by(tape, steps=None):
    """The masks of every layer and direction in the tape of `LSTM.forward`."""
    return [dropped(slabs, tape.context, steps) for _, every, *_ in tape.parts["layers"] for slabs in every]


class Exact:
    """An LSTM in float64 by lstmx.reference_cells: its layers and directions one after the other.

    `tapes` and, after `backward`, `grads` are those of the reference, by the index layer * D + direction.
    """

    def __init__(self, lstm):
        self.lstm = lstm
        self.params = {name: p.astype(float) for name, p in lstm.parameters().items()}

    def _places(self):
        lstm = self.lstm
        for layer in range(lstm.num_layers):
            for d in range(lstm.directions):
                end = suffix(layer, d)
                params = {name.removesuffix(end): p for name, p in self.params.items() if name.endswith(end)}
                yield layer, d, layer * lstm.directions + d, end, params

    def forward(self, x, state=None, lengths=None, masks=None):
        """y, (h, c) of x (N, T, I); `masks` one for each layer and direction."""
        self.tapes, self.given, y, parts, final = {}, state is not None, x.astype(float), [], ([], [])
        for _, d, k, _, params in self._places():
            initial = [params.pop(f"initial_{name}", None) for name in "hc"]
            if state is not None:
                start = tuple(np.array(s[k], float) for s in state)
            elif self.lstm.cell.learn_state:
                start = tuple(np.repeat(a[None], len(x), axis=0) for a in initial)
            else:
                start = None
            out, last, self.tapes[k] = reference_cells.lstm_forward(
                y, params, start, lengths=lengths, reverse=d == 1, cell=self.lstm.cell,
                masks=None if masks is None else masks[k],
            )  # fmt: skip
            parts.append(out)
            for found, value in zip(final, last, strict=True):
                found.append(value)
            if d == self.lstm.directions - 1:
                y, parts = np.concatenate(parts, axis=2), []
        return y, tuple(np.stack(values) for values in final)

    def backward(self, dy, dstate):
        """dx, (dh0, dc0), the gradients of all parameters by name."""
        self.grads, params = {}, {}
        (dh, dc), dx = (np.array(s, float) for s in dstate), 0
        for layer, d, k, end, _ in reversed(list(self._places())):
            width = dh.shape[2]
            part = None if dy is None else dy[..., d * width : (d + 1) * width]
            grads = self.grads[k] = reference_cells.lstm_backward(self.tapes[k], part, (dh[k], dc[k]))
            dx, (dh[k], dc[k]) = dx + grads.x, grads.state
            params |= {name + end: g for name, g in grads.params.items()}
            if self.lstm.cell.learn_state:
                sums = (a.sum(axis=0) * (not self.given) for a in (dh[k], dc[k]))
                params |= {f"initial_{name}{end}": g for name, g in zip("hc", sums, strict=True)}
            if d == 0 and layer:
                dy, dx = dx, 0
        return dx, (dh, dc), {name: params[name] for name in self.params}


def assert_near(found, wanted, dtype):
    """Arrays by name are those of the oracle, measured by the largest value of each, at least 1."""
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        ours = np.asarray(found[name])
        assert ours.shape == value.shape and ours.dtype == dtype, (name, ours.shape, value.shape, ours.dtype)
        off = np.abs(ours - value).max(initial=0) / max(1, np.abs(value).max(initial=0))
        assert off <= FAMILY[dtype], (name, off)  # a NaN would fail too
