"""A fuzz of the public interface against lstmx.reference_cells; CI runs it under the sanitizers.

    python tests/fuzz.py --seconds 120 --seed 0
    python tests/fuzz.py --case 17          # exactly this case again

A case is drawn from its number alone: any cell, sizes around the widths of vectors, panels and blocks, every form and
layout of x, states that alias, ways through the threads. Results and gradients are compared with NumPy in float64;
chunks, steps and threads with the whole, bit for bit. Nothing that is given may change, and nothing that comes back may
share memory with it: it is overwritten before the next call.
"""

import argparse
import itertools
import sys
import time
from dataclasses import replace

import numpy as np
from cell_cases import Exact, dropped, dropped_by
from layouts import moved
from test_ownership import copied, observed, overwrite
from test_same_bits import CUTS, cutting, flat
from test_same_bits import same as same_bits
from tolerances import FUZZ

from lstmx import (
    LSTM,
    Cell,
    Dense,
    Dropout,
    Embedding,
    FinalState,
    Last,
    MeanPool,
    Sequential,
    functional,
    reference,
    reference_cells,
)
from lstmx.functional.cell import LAYER_NORMS

SIZES = [1, 2, 3, 5, 7, 8, 9, 13, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 129, 255]
BATCHES = [0, 1, 1, 1, 2, 3, 5, 7, 8, 13, 16, 17, 33, 65, 257]
STEPS = [0, 1, 1, 2, 3, 5, 7, 8, 17, 33, 65, 257]
BOUNDED = ["tanh", "softsign", ("scaled_tanh", 0.8, 1.3)]  # activations
CORNERED = ["hard_sigmoid", "relu", ("elu", 0.7), ("leaky_relu", 0.2), ("thresholded_relu", 0.3)]
WORK = 1_000_000  # multiplications of a pass through one layer, at most


class Draw:
    """The random choices of one case."""

    def __init__(self, case):
        self.rng = np.random.default_rng(case)
        self.dtype = self.one("float32", "float64")

    def one(self, *choices):
        return choices[self.rng.integers(len(choices))]

    def sizes(self):
        """N, T, I, H of a case that is over in milliseconds."""
        while True:
            N, T, I, H = (self.one(*c) for c in (BATCHES, STEPS, SIZES, SIZES))
            if N * T * H * (I + H) < WORK and N * T < 600:
                return N, T, I, H

    def normal(self, *shape):
        return self.rng.normal(size=shape).astype(self.dtype)

    def laid(self, a):
        """The same values in an array of any layout, or of the other byte order."""
        kind = self.one("plain", "plain", "strided", "reversed", "fortran", "unaligned", "swapped", "read-only")
        if kind == "strided":
            wide = np.full([2 * n for n in a.shape], -1, a.dtype)
            wide[(slice(None, None, 2),) * a.ndim] = a
            return wide[(slice(None, None, 2),) * a.ndim]
        if kind == "reversed":
            back = (slice(None, None, -1),) * a.ndim
            return a[back].copy()[back]
        if kind == "unaligned":
            return moved(a)
        a = {"fortran": np.asfortranarray(a), "swapped": a.astype(a.dtype.newbyteorder())}.get(kind, a.copy())
        a.flags.writeable = kind != "read-only"
        return a

    def cell(self, T, H):
        """The plain cell, or one of any options that H units may have; and a projection or 0.

        Only those whose rounding errors do not grow without bound over T steps, and in float32 none with a corner, on
        whose other side it may stand.
        """
        proj, corners = self.one(0, 0, 0, 1, 3, 16), self.dtype == "float64"
        if self.one(True, False):
            return Cell(), proj
        rates = self.one(0, 0, 0, 0.3), self.one(0, 0, 0, 0.4)
        options = {"input_dropout": rates[0], "recurrent_dropout": rates[1],
                   "dropout_per_gate": any(rates) and self.one(False, True)}  # fmt: skip
        if corners and self.one(False, False, False, True):
            return Cell(slstm=True, heads=self.one(*(q for q in (1, 2, 3, 4) if H % q == 0)), **options), 0
        norm = self.one(None, None, *LAYER_NORMS) if corners and H > 7 and T < 9 else None
        options |= {
            "peephole": norm in (None, "tflite") and self.one(False, True), "cifg": self.one(False, False, True),
            "layer_norm": norm, "zoneout": (self.one(0, 0, 0.2), self.one(0, 0, 0.3)),
            "learn_state": self.one(False, False, True),
        }  # fmt: skip
        if corners:
            options |= {"clip": self.one(None, None, 0.7), "cell_clip": self.one(None, None, 0.5)}
        if self.one(False, False, True):
            gates = self.one("sigmoid", "hard_sigmoid") if corners else "sigmoid"
            candidate = self.one(*BOUNDED, "softplus", ("affine", 0.5, 0.1), *(CORNERED if corners else ()))
            options["activations"] = gates, candidate, self.one(*BOUNDED)
        return Cell(**options), proj

    def state(self, h, c, slstm=False):
        """None, two arrays of these shapes or, where both are the same, one array twice or views that overlap."""
        kind = self.one("none", "two", "two", *(("one", "overlap") if h == c else ()))
        if kind == "none":
            return None
        if kind == "one":
            return (self.laid(self.normal(*h)),) * 2
        if kind == "overlap":
            both = self.normal(2, *h)
            count = both[0].size
            return both[0], both.reshape(-1)[count // 2 :][:count].reshape(h)
        second = self.normal(*c)
        if slstm:  # a normaliser is positive, or 0 where nothing was seen
            n = np.split(second, 3, axis=-1)[1]
            n[:] = np.where(n < -0.5, 0, np.abs(n) + 0.1)
        return self.laid(self.normal(*h)), self.laid(second)

    def input(self, N, T, I, tokens=None):
        """(x in some form, lengths to give or None, plain (N, T, I), lengths of all)."""
        form = self.one("array", "array", "lengths", "list", "single", "windows")
        N = 1 if form == "single" else N
        plain = self.normal(N, T, I) if tokens is None else self.rng.integers(tokens, size=(N, T))
        every = np.full(N, T, np.int64)
        if form in ("lengths", "list"):
            every = self.rng.integers(0, T + 1, N)
        if form == "list":
            return [self.laid(a[:n]) for a, n in zip(plain, every, strict=True)], None, plain, every
        if form == "lengths":
            given = plain.copy()
            if tokens is None:
                given[np.arange(T) >= every[:, None]] = np.nan
            return self.laid(given), self.one(every, every.tolist(), self.laid(every)), plain, every
        if form == "windows" and N and T and tokens is None:
            series = self.normal(N + T - 1, I)
            x = np.lib.stride_tricks.sliding_window_view(series, T, axis=0).swapaxes(1, 2)
            return x, None, x.copy(), every
        return self.laid(plain[0] if form == "single" else plain), None, plain, every


def call(function, *given, **options):
    """The result, copied; what came back is then overwritten."""
    result, mine, found = observed(function, given, options)
    kept = copied(result)
    overwrite(found, mine)
    return kept


def same(found, wanted):
    """Equal bits; an empty batch as a list has no array at all."""
    assert bool(list(flat(found))) == bool(list(flat(wanted)))
    if list(flat(wanted)):
        same_bits(found, wanted)


def near(found, wanted, dtype, name):
    """Nested results that are close, measured by the largest of each array."""
    found, wanted = ([a for _, a in flat(nested)] for nested in (found, wanted))
    assert len(found) == len(wanted), (name, len(found), len(wanted))
    for a, b in zip(found, wanted, strict=True):
        assert a.shape == b.shape and a.dtype == dtype, (name, a.shape, b.shape, a.dtype)
        if a.size:
            off = np.abs(a - b).max() / max(1.0, np.abs(b).max())
            assert off <= FUZZ[dtype], (name, off)


def refused(function, *given, error=RuntimeError, **options):
    try:
        function(*given, **options)
    except error:
        return
    raise AssertionError(f"{function} went on, must raise {error}")


def in_form(x, padded, lengths):
    """Of (N, T, F) what a call on x gives: a list, one sequence, or the whole."""
    if isinstance(x, list):
        return [a[:n] for a, n in zip(padded, lengths, strict=True)]
    return padded[0] if x.ndim < 3 else padded


def lstm_case(draw):
    N, T, I, H = draw.sizes()
    cell, proj = draw.cell(T, H)
    lstm = LSTM(I, H, draw.one(1, 1, 2, 3), bidirectional=draw.one(False, True), bias=draw.one(False, True),
                proj_size=proj, cell=cell, dtype=draw.dtype, random_state=int(draw.rng.integers(99)))  # fmt: skip
    vectors = {name: draw.normal(*p.shape) / 4 for name, p in lstm.parameters().items() if p.ndim == 1}
    lstm.set_parameters({name: lstm.parameters()[name] + value for name, value in vectors.items()})
    x, given, plain, lengths = draw.input(N, T, I)
    single = not isinstance(x, list) and x.ndim == 2
    shapes = lstm._state_shapes(len(plain))
    forms = lstm._state_shapes() if single else shapes
    drawn, ddrawn = draw.state(*forms, slstm=cell.slstm), draw.state(*forms)

    def whole(state):
        if state is None:
            return None
        return tuple(np.reshape(np.array(s, float), shape) for s, shape in zip(state, shapes, strict=True))

    def of_form(pair):
        return tuple(s[:, 0] for s in pair) if single else pair

    exact, zero = Exact(lstm), tuple(np.zeros(shape) for shape in shapes)
    y_, state_ = exact.forward(plain.astype(float), whole(drawn), lengths)
    wanted = in_form(x, y_, lengths), of_form(state_)
    y, state = found = call(lstm, x, drawn, lengths=given)
    near(found, wanted, draw.dtype, "call")
    *again, tape = call(lstm.forward, x, drawn, lengths=given, rng=0)
    if cell.drops:
        y_, state_ = exact.forward(plain, whole(drawn), lengths, dropped_by(tape, T))
        near(tuple(again), (in_form(x, y_, lengths), of_form(state_)), draw.dtype, "forward")
    else:
        same(again, [y, state])
    trace = call(lstm.trace, x, drawn, lengths=given)
    last = [trace.h[lstm.num_layers - 1, d] for d in range(lstm.directions)]
    same([np.concatenate(parts, axis=-1) for parts in zip(*last, strict=True)] if isinstance(x, list)
         else np.concatenate(last, axis=-1), y)  # fmt: skip

    dy = draw.one(None, 1, 1)
    full = None if dy is None else draw.normal(len(plain), T, lstm.output_size())
    if full is not None:
        dy = in_form(x, full, lengths)
        dy = [draw.laid(a) for a in dy] if isinstance(dy, list) else draw.laid(dy)
        full = np.where((np.arange(T) < lengths[:, None])[..., None], full, 0).astype(float)
    dx, dstate, params = exact.backward(full, whole(ddrawn) or zero)
    dx = in_form(x, dx, lengths), of_form(dstate), params
    times = draw.one(1, 2, 3)
    for k in reversed(range(times)):
        grads = call(lstm.backward, tape, dy, ddrawn, retain=k > 0)
        near(tuple(grads), dx, draw.dtype, "backward")
        if k == times - 1:
            first = grads
        same(tuple(grads), tuple(first))
    refused(lstm.backward, tape, dy, ddrawn)
    with cutting(draw.one(*CUTS), int(draw.one(2, 3, 7))):
        same(call(lstm, x, drawn, lengths=given), [y, state])
        *_, tape = call(lstm.forward, x, drawn, lengths=given, rng=0)
        same(tuple(call(lstm.backward, tape, dy, ddrawn)), tuple(first))
    if T and not lstm.bidirectional and given is None and not isinstance(x, list):
        stream_case(draw, lstm, x, drawn, y, state)


def stream_case(draw, lstm, x, state, y, after):
    """Chunks, steps and outputs into given arrays are the whole, or errors."""
    axis, T = x.ndim - 2, x.shape[-2]
    cut = sorted(draw.rng.integers(0, T + 1, 2))
    parts, now = [], state
    for part in np.split(x, cut, axis=axis):
        if draw.one(False, True) and part.shape[axis] < 9:
            for t in range(part.shape[axis]):
                found, now = call(lstm.step, part.take(t, axis), now)
                parts.append(np.expand_dims(found, axis))
        else:
            found, now = call(lstm.stream, part, now)
            parts.append(found)
    same([np.concatenate(parts, axis=axis), now], [y, after])
    begin = lstm(x.take(range(0), axis))[1] if state is None else state
    h, c = (np.array(s, lstm.dtype, order="C") for s in begin)
    out = draw.one("own", "the state", "h is c", "y is x", "state overlaps", "wrong shape")
    given = x.astype(lstm.dtype, order="C")
    if out in ("own", "the state"):
        into = (np.empty_like(y), (h, c) if out == "the state" else (np.empty_like(h), np.empty_like(c)))
        found = lstm.stream(given, (h, c), out=into)
        assert found[0] is into[0] and found[1][0] is into[1][0]
        same(found, [y, after])
    elif h.size and y.size:
        long = np.zeros(2 * h.size, lstm.dtype)
        wrong = {"h is c": (np.empty_like(y), (h, h)), "y is x": (given[..., :1].repeat(y.shape[-1], -1), (c, c)),
                 "state overlaps": (np.empty_like(y), (long[: h.size].reshape(h.shape),
                                                       long[h.size // 2 :][: h.size].reshape(h.shape))),
                 "wrong shape": (np.empty((*y.shape, 1), lstm.dtype), (h, c))}[out]  # fmt: skip
        if out != "state overlaps" or h.size > 1:
            refused(lstm.stream, given, (h.copy(), c.copy()), out=wrong, error=ValueError)


def function_case(draw):
    N, T, I, H = draw.sizes()
    x, given, plain, lengths = draw.input(N, T, I)
    (cell, proj), bias = draw.cell(T, H), draw.one(False, True)
    cell = replace(cell, learn_state=False)  # a matter of layers
    params = {}
    for p in cell.parameters(I, H, bias, proj):
        scale = np.sqrt(H).astype(draw.dtype) if len(p.shape) > 1 else draw.one(1, 2)
        params[p.name] = draw.laid(draw.normal(*p.shape) / scale)
    if draw.one(False, True):  # an order of arguments that is not that of the cell
        params = dict(reversed(params.items()))
    native = {name: w.astype(float) for name, w in params.items()}
    options = {"reverse": draw.one(False, True), "cell": cell}
    y, state, tape = call(functional.lstm_forward, x, lengths=given, rng=0, **params, **options)
    options |= {"lengths": lengths, "masks": dropped(tape.parts["slabs"], tape.context, T)}
    y_, state_, tape_ = reference_cells.lstm_forward(plain.astype(float), native, **options)
    single = not isinstance(x, list) and x.ndim == 2
    dtype = "float32" if all(w.dtype.newbyteorder("=") == np.float32 for w in params.values()) else "float64"
    near((y, state), (in_form(x, y_, lengths), tuple(s[0] for s in state_) if single else state_), dtype, "function")
    grads = call(functional.lstm_backward, tape, y, state, retain=True)
    same(tuple(call(functional.lstm_backward, tape, y, state)), tuple(grads))
    refused(functional.lstm_backward, tape, y, state)
    wanted = reference_cells.lstm_backward(tape_, y_, state_)
    pair = tuple(s[0] for s in wanted.state) if single else wanted.state
    params = {name: wanted.params[name] for name in grads.params}
    near(tuple(grads), (in_form(x, wanted.x, lengths), pair, params), dtype, "function's backward")


def softmax(a):
    e = np.exp(a - a.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


ACTIVATIONS = {
    "linear": (lambda a: a, lambda y, d: d),
    "relu": (lambda a: np.maximum(a, 0), lambda y, d: d * (y > 0)),
    "tanh": (np.tanh, lambda y, d: d * (1 - y * y)),
    "sigmoid": (reference.sigmoid, lambda y, d: d * y * (1 - y)),
    "softmax": (softmax, lambda y, d: y * (d - (d * y).sum(axis=-1, keepdims=True))),
}


def pooled(kind, y, lengths, directions):
    """(N, F) of (N, T, F), and how a gradient spreads back, by a matrix of weights (N, T) for each half of F."""
    half = y.shape[2] // directions
    T = y.shape[1]
    last = (np.arange(T) == np.maximum(lengths, 1)[:, None] - 1) & (lengths > 0)[:, None]
    first = (np.arange(T) == 0) & (lengths > 0)[:, None]
    mean = (np.arange(T) < lengths[:, None]) / np.maximum(lengths, 1)[:, None]
    one, two = {Last: (last, last), FinalState: (last, first), MeanPool: (mean, mean)}[kind]
    weight = np.concatenate([np.repeat(w[..., None], n, axis=2) for w, n in ((one, half), (two, y.shape[2] - half))],
                            axis=2).astype(float)  # fmt: skip
    return (weight * y).sum(axis=1), lambda d: weight * d[:, None]


def model_case(draw):
    N, T, I, H = draw.sizes()
    tokens = draw.one(None, None, 11)
    x, given, plain, lengths = draw.input(N, T, I, tokens)
    lstm = LSTM(I, H, bidirectional=draw.one(False, True))
    head, activation, size = draw.one(None, Last, FinalState, MeanPool), draw.one(*ACTIVATIONS), draw.one(1, 3, 17)
    layers = [Embedding(11, I)] if tokens else [Dropout(0.0)]
    layers += [lstm, *([head()] if head else []), Dense(lstm.output_size(), size, activation)]
    model = Sequential(layers, random_state=0).astype(draw.dtype)
    lstm, dense = model.layers[1], model.layers[-1]
    weight, bias = (p.astype(float) for p in dense.parameters().values())
    inputs = model.layers[0].parameters()["weight"].astype(float)[plain] if tokens else plain.astype(float)
    exact, (act, act_back) = Exact(lstm), ACTIVATIONS[activation]
    h, _ = exact.forward(inputs, None, lengths)
    pool, spread = pooled(head, h, lengths, lstm.directions) if head else (h, lambda d: d)
    y_ = act(pool @ weight.T + bias)
    running = (np.arange(T) < lengths[:, None])[..., None]
    single = not isinstance(x, list) and x.ndim == (1 if tokens else 2)
    if head:
        wanted = y_[0] if single else y_
    else:
        y_ = np.where(running, y_, 0)
        wanted = [a[:n] for a, n in zip(y_, lengths, strict=True)] if isinstance(x, list) else y_[0] if single else y_
    y = call(model.predict, x, lengths=given)
    near(y, wanted, draw.dtype, "predict")
    again, tape = call(model.forward, x, lengths=given, rng=0)
    same([again], [y])
    dy = [np.cos(a) for a in y] if isinstance(y, list) else np.cos(y)
    grads = call(model.backward, tape, dy)
    refused(model.backward, tape, dy)
    d = act_back(y_, np.cos(y_))
    d = d if head else np.where(running, d, 0)
    flat, rows = d.reshape(-1, size), pool.reshape(-1, pool.shape[-1])
    dx, _, params = exact.backward(spread(d @ weight), [np.zeros((lstm.directions, len(plain), H))] * 2)
    wanted = {f"1.{n}": g for n, g in params.items()} | {
        f"{len(layers) - 1}.weight": flat.T @ rows, f"{len(layers) - 1}.bias": flat.sum(axis=0)}  # fmt: skip
    if tokens:
        table = np.zeros((11, I))
        np.add.at(table, plain[running[..., 0]], dx[running[..., 0]])
        wanted = {"0.weight": table} | wanted
    near([grads.params[n] for n in wanted], list(wanted.values()), draw.dtype, "model's backward")
    if not tokens:
        near(grads.x, in_form(x, dx, lengths), draw.dtype, "dx")
    with cutting(draw.one(*CUTS), 3):
        same([call(model.predict, x, lengths=given, batch_size=int(draw.one(1, 2, 7, 256)))], [y])
    if T and not lstm.bidirectional and not isinstance(x, list) and given is None:
        step_case(draw, model, x, y, head, tokens)


def step_case(draw, model, x, y, head, tokens):
    """A model streamed step by step, each step in another layout, gives what it gives for the whole."""
    state, found, axis = None, [], x.ndim - (1 if tokens else 2)
    for t in range(min(x.shape[axis], 20)):
        x_t = x.take(t, axis)
        y_t, state = model.step(draw.laid(x_t) if np.ndim(x_t) else x_t, state)
        found.append(y_t)
    if head is None:
        same(np.stack(found, axis=y.ndim - 2), y.take(range(len(found)), axis=y.ndim - 2))
    elif len(found) == x.shape[axis]:
        near(found[-1], y, draw.dtype, "step") if head is MeanPool else same(found[-1], y)


CASES = [lstm_case, lstm_case, model_case, function_case]


def run(case):
    draw = Draw(case)
    draw.one(*CASES)(draw)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=0, help="the first case is a million times this")
    parser.add_argument("--case", type=int, help="run one case alone")
    options = parser.parse_args()
    if options.case is not None:
        run(options.case)
        return
    end, start = time.monotonic() + options.seconds, options.seed * 1_000_000
    for case in itertools.count(start):
        if time.monotonic() > end:
            break
        try:
            run(case)
        except BaseException:
            print(f"case {case} failed; again: python tests/fuzz.py --case {case}", file=sys.stderr, flush=True)
            raise
    print(f"{case - start} cases passed")


if __name__ == "__main__":
    main()
