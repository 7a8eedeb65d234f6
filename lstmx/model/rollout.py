"""The closed loop: what a model gives for a step is what it reads at the next.

Inside, time comes first: the arrays of inputs, of results and of what was drawn are (steps, R, ...), where the R rows
are the paths of the first sequence, then those of the second and so on. So the rows of one step lie together, and those
of a window of steps too. Results and noise are float64; what is fed back is rounded to the model's type.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from lstmx.functional import kernels, validate
from lstmx.functional.context import PooledContext, SequenceContext
from lstmx.functional.engine import get_engine
from lstmx.functional.read import Sequences, sequences
from lstmx.functional.states import leaves, nested
from lstmx.layers import Activation, Dense, Dropout, FinalState, Last, MeanPool, Run, Unmask
from lstmx.layers.compiled import CompiledLayers

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from lstmx._types import Array, Context, RandomState, Shape, State


AT_ONCE = 256  # sequences or windows that are read at once


def run(
    model: Any,
    x: Any,
    steps: int,
    *,
    feedback: Any = None,
    exog: Any = None,
    noise: Any = None,
    paths: int | None = None,
    state: State = None,
    window: int | None = None,
    temperature: float = 1.0,
    random_state: RandomState = None,
    return_state: bool = False,
) -> tuple[Array, State]:
    """What `Sequential.rollout` gives, with numbers in float64: (results, state). The state of a window is None."""
    steps = validate.count("steps", steps, 0)
    paths = None if paths is None else validate.count("paths", paths)
    window = None if window is None else validate.count("window", window)
    rng = validate.random_generator("random_state", random_state)
    embedding = model.embedding
    past = sequences(x, model.input_size, model.dtype, single=True, tokens=embedding and embedding.check_tokens)
    lead = () if past.form == "single" else (len(past),)
    past = past.as_batch()
    state = _read_state(model, state, len(past), window, validate.flag("return_state", return_state))
    feed = (_Tokens if embedding else _Columns)(model, feedback, temperature)
    exog = _read_exog(exog, max(steps - 1, 0), len(past), feed, model)
    shape = (*lead, steps) if paths is None else (*lead, paths, steps)
    drawn = feed.draw(noise, rng, shape)
    if paths is not None and drawn is None:
        remedy = 'feedback="sample"' if embedding else "noise="
        raise ValueError(f"paths: got {paths}, but nothing is drawn, so that all would be the same; give {remedy}, or "
                         "leave it out")  # fmt: skip

    reader, repeats, known = _Reader(model), paths or 1, window or 0
    with np.errstate(over="ignore", invalid="ignore"):  # what grows beyond all bounds becomes infinite
        first: Any = None if window is None else _ends(past, window)
        y, state = reader.whole(past, state) if window is None else (reader.window(first), None)
        y, state = np.repeat(y, repeats, axis=0), _each(state, lambda a: np.repeat(a, repeats, axis=-2))
        width = () if embedding else (model.input_size,)
        inputs = np.empty((known + max(steps - 1, 0), len(y), *width), past.dtype)
        if window is not None:
            inputs[:known] = np.repeat(first, repeats, axis=1)
        if exog is not None:
            inputs[known:, :, feed.others] = np.repeat(exog, repeats, axis=1)
        results = np.empty((steps, len(y), *feed.width), feed.dtype)
        state = _loop(reader, feed, y, state, inputs, results, drawn, window)
    return np.ascontiguousarray(results.swapaxes(0, 1)).reshape(*shape, *feed.width), state


def _loop(
    reader: _Reader,
    feed: Any,
    y: Array,
    state: State,
    inputs: Array,
    results: Array,
    drawn: Array | None,
    window: int | None,
) -> State:
    """The steps, one after the other: fills `results`, and of `inputs` the columns that are fed back.

    Parameters
    ----------
    y : ndarray (R, O)
        The outputs after what is known.
    state : of R rows, after the same; of a window None
    inputs : ndarray (W + steps - 1, R, I), of tokens (W + steps - 1, R)
        The known window, of W = 0 steps where the state is carried; then inputs whose exogenous columns are filled.
    results : ndarray (steps, R, O) of float64, of tokens (steps, R) of int64
    drawn : ndarray of float64 of the same shape, or None
    window : int or None

    Returns
    -------
    The state after the last input.
    """
    found = reader.loop(feed, y, state, inputs, results, drawn, window)
    if found is not None:
        return found[0]
    for j, result in enumerate(results):
        feed.result(y, None if drawn is None else drawn[j], result)
        if j + 1 == len(results):
            break
        feed.back(result, inputs[(window or 0) + j])
        if window is None:
            y, state = reader.step(inputs[j], state, y)
        else:
            y = reader.window(inputs[j + 1 : j + 1 + window])
    return state


class _Reader:
    """A model as it is at one moment, and what it gives after the last step of what it reads."""

    def __init__(self, model: Any) -> None:
        self._model, self._first = model, model.layers[0]
        self._compiled = CompiledLayers(model.layers)
        self._run = Run(parameters=self._compiled.parameters, own_steps=True)
        self._context: SequenceContext | None = None

    def whole(self, inputs: Any, state: State) -> tuple[Array, State]:
        """(outputs (N, O), state) of `Sequences`, each of one step or more."""
        inputs, found, first = self._masked(inputs), [], 0
        for part in [inputs] if len(inputs) <= AT_ONCE else inputs.parts(AT_ONCE):
            rows, context = part.all()
            if context.lengths.min(initial=1) == 0:
                n = first + int(context.lengths.argmin())
                there = " that is not masked" if self._first.masks else ""
                raise ValueError(f"x: sequence {n} has no step{there}, must have one or more: the first result is the "
                                 "output after the last")  # fmt: skip
            found.append(self._after(rows, context, _taken(state, slice(first, first + len(part)))))
            first += len(part)
        y, states = zip(*found, strict=True)
        return np.concatenate(y), _joined(states)

    def window(self, x: Any) -> Array:
        """Outputs (R, O) of windows (W, R, ...), without a state."""
        found = []
        for first in range(0, max(x.shape[1], 1), AT_ONCE):
            part = np.ascontiguousarray(x[:, first : first + AT_ONCE].swapaxes(0, 1))
            direct = self._compiled.run(part)
            if direct is not None:
                found.append(direct[:, -1] if self._model.per_step else direct)
                continue
            found.append(self._after(*self._masked(Sequences(part)).all(), None)[0])
        return np.concatenate(found)

    def _masked(self, inputs: Any) -> Sequences:
        return inputs.masked(self._first.are_steps) if self._first.masks else inputs

    def loop(
        self, feed: Any, y: Array, state: State, inputs: Array, results: Array, drawn: Array | None, window: int | None
    ) -> tuple[State] | None:
        """`_loop` in one compiled call: (state,), or None where it cannot do it."""
        program = self._compiled.program if window is None else self._compiled.program_of_last
        if program is None or self._first.masks or feed.mode is None:
            return None
        state = None if window else state
        failed = get_engine().rollout(program, feed.mode, feed.temperature, y, state, inputs, results, drawn,
                                      feed.from_output, feed.to_column, window or 0)  # fmt: skip
        if failed is None:
            return None
        if failed >= 0:  # the error, as the general way raises it
            j, r = divmod(failed, len(y))
            feed.result(y[r : r + 1], None if drawn is None else drawn[j, r : r + 1], results[j, r : r + 1])
        return (state,)

    def step(self, rows: Array, state: State, y: Any) -> tuple[Array, State]:
        """(outputs (R, O), state) after one more step; y are those before, which masked steps leave as they are."""
        if self._first.masks:
            there = np.flatnonzero(self._first.are_steps(rows, rows.dtype))
            if len(there) < len(rows):
                if len(there):
                    some, after = self._step(rows[there], _taken(state, there))
                    y, state = y.copy(), _put(state, there, after)
                    y[there] = some
                return y, state
        return self._step(rows, state)

    def _step(self, rows: Array, state: State) -> tuple[Array, State]:
        found = self._compiled.stream(rows, state, True)
        if found is not None:
            return found
        if self._context is None or self._context.batch != len(rows):
            self._context = SequenceContext.step(len(rows))
        y, _, state, _ = self._model.forward_rows(rows, self._context, state, self._run)
        return y, state

    def _after(self, rows: Array, context: Context, state: State) -> tuple[Array, State]:
        """(outputs, state) of a batch, each in the caller's order."""
        owners = context.owners
        rows, after, state, _ = self._model.forward_rows(rows, context, _taken(state, owners), self._run)
        y = rows
        if not isinstance(after, PooledContext):
            last, running = after.last_rows
            y = np.zeros((after.batch, rows.shape[1]), rows.dtype)
            y[running] = rows[last]
        back = np.argsort(owners)
        return y[back], _taken(state, back)


class _Columns:
    """Which outputs are fed back to which columns of the input."""

    mode: str | None
    dtype, mode, temperature = np.dtype(np.float64), "columns", 1.0

    def __init__(self, model: Any, feedback: Any, temperature: float) -> None:
        if temperature != 1:
            raise ValueError(f"temperature: got {temperature!r}, but this model gives numbers, which are not sampled; "
                             "leave it out")  # fmt: skip
        self.I, self.O = model.input_size, model.output_size
        self.width = (self.O,)
        columns = range(self.O) if feedback is None else self._read(feedback)
        if feedback is None and self.O > self.I:
            raise ValueError(f"feedback: the model gives {self.O} outputs and reads {self.I} columns; give, for each "
                             "output, the column to which it is fed back, or None")  # fmt: skip
        pairs = [(j, column) for j, column in enumerate(columns) if column is not None]
        self.from_output, self.to_column = (
            np.array(side, np.intp) for side in (zip(*pairs, strict=True) if pairs else ((), ()))
        )
        self.others = np.setdiff1d(np.arange(self.I), self.to_column)

    def _read(self, feedback: Any) -> list[int | None]:
        want = f"must be None or a list of {self.O}: for each output a column of the {self.I} of the input, or None"
        if isinstance(feedback, str):
            raise ValueError(f"feedback: got {feedback!r}, {want}; tokens are fed back by a model that begins with an "
                             "Embedding")  # fmt: skip
        if not isinstance(feedback, list | tuple | range | np.ndarray) or len(feedback) != self.O:
            got = f"{len(feedback)} entries" if isinstance(feedback, list | tuple | range) else repr(feedback)
            raise ValueError(f"feedback: got {got}, {want}")
        found = [c if c is None else validate.place(f"feedback[{j}]", c, self.I, "columns of the input")
                 for j, c in enumerate(feedback)]  # fmt: skip
        there = [c for c in found if c is not None]
        if len(set(there)) < len(there):
            raise ValueError(f"feedback: got {feedback!r}, in which two outputs go to one column; give each its own")
        return found

    def draw(self, noise: Any, rng: Any, shape: Shape) -> Array | None:
        """What is added to the results, (steps, R, O), or None; `shape` is theirs without O."""
        if noise is None:
            return None
        full, O = (*shape, self.O), self.O
        a = validate.real_array("noise", noise, np.float64)
        if a.ndim == 0 or a.shape == (O,):
            a = validate.finite("noise", a[None] if a.ndim == 0 else a, "give finite deviations")
            if a.min() < 0:
                raise ValueError(f"noise: got {a.min():g}, must be standard deviations of at least 0")
            found = a * rng.standard_normal(full)
        elif a.shape == full:
            found = a
        elif len(full) > 2 and a.ndim == 2 and a.shape[1] == O and len(a):
            a = validate.finite("noise", a, "leave such errors out")
            found = a[rng.integers(len(a), size=shape)]
        else:
            errors = f"(K, {O}) errors to draw from" + ("" if len(full) > 2 else ", with paths= only")
            raise ValueError(f"noise: got shape {a.shape}, must be a standard deviation, ({O},) of them, {errors}, or "
                             f"{full}, what is added to the results")  # fmt: skip
        return _time_first(found, shape)

    def result(self, y: Array, drawn: Array | None, out: Array) -> None:
        """The results of a step: outputs and their noise."""
        out[...] = y
        if drawn is not None:
            out += drawn

    def back(self, result: Array, inputs: Array) -> None:
        """Results become inputs of the next step."""
        inputs[:, self.to_column] = result[:, self.from_output]


class _Tokens:
    """Which integers are chosen by outputs that tell how probable each is."""

    mode: str | None

    dtype, width, others = np.dtype(np.int64), (), np.empty(0, np.intp)
    from_output = to_column = np.empty(0, np.intp)

    def __init__(self, model: Any, feedback: Any, temperature: float) -> None:
        self._sample = validate.choice(
            "feedback", "argmax" if feedback is None else feedback, ("argmax", "sample")
        ) == "sample"  # fmt: skip
        self.temperature = validate.number("temperature", temperature, 0, open_low=True)
        if not self._sample and self.temperature != 1:
            raise ValueError(f'temperature: got {temperature!r}, but the likeliest token is the same at any; give '
                             'feedback="sample"')  # fmt: skip
        known, given = model.embedding.num_embeddings, model.output_size
        if given > known:
            raise ValueError(f"feedback: the model gives {given} outputs, but its Embedding knows {known} integers; a "
                             "token must be one of these")  # fmt: skip
        last = next(layer for layer in reversed(model.layers) if not isinstance(layer, _AFTER_OUTPUTS))
        self._activation = getattr(last, "activation", None) if isinstance(last, Dense | Activation) else None
        if self._activation not in ("softmax", "linear"):
            raise ValueError(f"feedback: the model ends in {last!r}, must end in a Dense with softmax, or one without "
                             "activation, which gives logits")  # fmt: skip
        if not self._sample:
            self.mode = "argmax"
        elif self._activation == "linear":
            self.mode = "logits"
        else:  # the compiled loop has no logarithm
            self.mode = "probabilities" if self.temperature == 1 else None

    def draw(self, noise: Any, rng: Any, shape: Shape) -> Array | None:
        """A number in [0, 1) for each token, (steps, R), or None."""
        if noise is not None:
            raise ValueError('noise: got some, but this model gives tokens; draw them by feedback="sample", with a '
                             "temperature above 1 for more variety")  # fmt: skip
        return _time_first(rng.random(shape), shape) if self._sample else None

    def result(self, y: Array, drawn: Array | None, out: Array) -> None:
        """The tokens of a step."""
        y = y.astype(np.float64)
        if drawn is None:
            self._check(y, ~np.isnan(y).any(axis=1))
            out[...] = y.argmax(axis=1)
        else:
            sums = np.cumsum(self._weights(y), axis=1)
            total = sums[:, -1]
            self._check(y, (total > 0) & np.isfinite(total))
            out[...] = (sums <= (drawn * total)[:, None]).sum(axis=1)

    @staticmethod
    def _check(y: Array, good: Any) -> None:
        if not good.all():
            raise FloatingPointError(f"rollout: of the outputs {y[good.argmin()]} no token can be chosen; look for NaN "
                                     "or infinity in the parameters, or the state")  # fmt: skip

    def _weights(self, y: Array) -> Array:
        """What the probabilities are proportional to."""
        if self._activation == "softmax":
            if self.temperature == 1:
                return y
            with np.errstate(divide="ignore"):
                y = np.log(y)
        return kernels.each("exp", (y - y.max(axis=1, keepdims=True)) / self.temperature)

    def back(self, result: Array, inputs: Array) -> None:
        """Results become inputs of the next step."""
        inputs[...] = result


_AFTER_OUTPUTS = Dropout, FinalState, Last, MeanPool, Unmask  # layers that leave classes what they are


def _time_first(a: Array, shape: Shape) -> Array:
    """(steps, R, ...) of an array of the shape (.., steps) of results, and what follows."""
    tail = a.shape[len(shape) :]
    return np.ascontiguousarray(a.reshape(math.prod(shape[:-1]), shape[-1], *tail).swapaxes(0, 1))


def _ends(past: Sequences, window: int) -> Array:
    """(W, N, ...): the last steps of `Sequences`, which must have so many."""
    shortest = past.lengths.min(initial=window)
    if shortest < window:
        n = int(past.lengths.argmin())
        raise ValueError(f"window: got {window}, but sequence {n} of x has {shortest} steps; give a smaller one, or "
                         "more of the past")  # fmt: skip
    if past.form == "list":
        found = past.x[(past.starts + past.lengths - window) + np.arange(window)[:, None]]
    else:
        found = past.x[:, past.x.shape[1] - window :].swapaxes(0, 1)
    return np.ascontiguousarray(found, past.dtype)


def _read_exog(exog: Any, count: int, batch: int, feed: Any, model: Any) -> Array | None:
    """Exogenous inputs (count, N, E) of the model's type, for the columns that no output fills; or None."""
    E, need = len(feed.others), f"{count} step{'s' * (count != 1)} or more: one less than the results"
    if exog is None:
        if E and count:
            raise ValueError(f"exog: got None, but of the {feed.I} columns of the input outputs fill {feed.I - E}; "
                             f"give the other {E} for {need}, as (N, {count}, {E}), or ({count}, {E}) for all; which "
                             "output goes where is feedback=")  # fmt: skip
        return None
    if not E and model.embedding:
        raise ValueError("exog: got some, but this model reads tokens alone; leave it out")
    if not E:
        raise ValueError(f"exog: got some, but outputs fill all {feed.I} columns of the input; leave it out, or say by "
                         "feedback= which outputs are fed back")  # fmt: skip
    with np.errstate(over="ignore"):
        a = validate.real_array("exog", exog, model.dtype)
    if a.ndim not in (2, 3) or a.shape[-1] != E or (a.ndim == 3 and len(a) != batch):
        hint = "; of one column write exog[:, None]" if a.ndim == 1 and E == 1 else ""
        raise ValueError(f"exog: got shape {a.shape}, must be ({batch}, {count}, {E}), or ({count}, {E}) for all "
                         f"sequences: I = {feed.I} columns of the input, of which outputs fill {feed.I - E}"
                         + hint)  # fmt: skip
    if a.shape[-2] < count:
        raise ValueError(f"exog: got {a.shape[-2]} steps, must have {need}; give more, or ask for fewer results")
    if a.ndim == 2:
        return np.broadcast_to(a[:count, None], (count, batch, E))
    return a[:, :count].swapaxes(0, 1)


def _read_state(model: Any, state: State, batch: int, window: int | None, return_state: bool) -> State:
    """A state of N sequences, or None, checked as far as all layers have it in common."""
    if window is not None:
        if state is not None or return_state:
            name = "return_state" if state is None else "state"
            raise ValueError(f"{name}: got one beside window=, by which every step begins from the initial state; "
                             "leave out one of them")  # fmt: skip
        return None
    if not all(layer.causal for layer in model.layers):
        raise ValueError("window: got None, but a model that reads from the end (a bidirectional or reversed layer) "
                         "has no state to carry; give window=W, by which every step reads the last W inputs "
                         "anew")  # fmt: skip
    if state is None:
        return None
    if not isinstance(state, tuple | list) or len(state) != len(model.layers):
        raise TypeError("state: must be what step, stream or rollout of this model returned, or None")
    return _each(state, lambda a: _of_rows(a, batch))


def _of_rows(a: Array, batch: int) -> Array:
    if not isinstance(a, np.ndarray) or a.ndim < 2 or a.shape[-2] != batch:
        got = f"an array {a.shape}" if isinstance(a, np.ndarray) else type(a).__name__
        raise ValueError(f"state: has {got}, must have arrays of {batch} rows (.., {batch}, width), one for each "
                         "sequence of x")  # fmt: skip
    return a


def _each(state: State, function: Callable[[Array], Any]) -> State:
    """A state whose arrays, (.., N, W), are what `function` makes of them."""
    return nested(state, map(function, leaves(state)))


def _taken(state: State, rows: Any) -> State:
    """The state of some rows."""
    return _each(state, lambda a: a[..., rows, :])


def _put(state: State, rows: Any, part: State) -> State:
    """A state, but of some rows that of `part`."""
    state = _each(state, np.copy)
    for a, b in zip(leaves(state), leaves(part), strict=True):
        a[..., rows, :] = b
    return state


def _joined(states: Any) -> State:
    """One state of several, of the rows of each in turn."""
    if len(states) == 1:
        return states[0]
    return nested(states[0], (np.concatenate(arrays, axis=-2) for arrays in zip(*map(leaves, states), strict=True)))
