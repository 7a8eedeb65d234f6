"""What an output rests on: a share of it for every step and feature of the input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lstmx.data.batches import collect
from lstmx.functional import allocate, sequences, validate
from lstmx.functional.context import PooledContext
from lstmx.functional.messages import warn
from lstmx.inspect.line import mean_gradients
from lstmx.layers import Dense, Embedding, Layer, Masking, Run
from lstmx.layers.base import snapshots
from lstmx.layers.flow import is_recurrent
from lstmx.model import BATCH, Sequential

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike

    from lstmx._types import Array, Context
    from lstmx.functional.read import Sequences
    from lstmx.layers import LSTM


METHODS = ("gradient_x_input", "integrated_gradients", "occlusion")
MOST_POINTS = 4096  # on a line
MOST_ROWS = 2**16  # that run at once


@dataclass(frozen=True, eq=False)
class Attribution:
    """What `attribute` found, for N sequences.

    Attributes
    ----------
    values : in the form of X
        Shares of the output, float64: 0 past each end and on masked steps. For tokens one for each.
    output, baseline_output : ndarray (N,)
        The output that is explained, of X and of the baseline; NaN for a sequence without the step asked for.
    completeness : ndarray (N,)
        The sum of a sequence's values less ``output - baseline_output``: 0 where they explain all of the difference.
    unexplained : ndarray (N,)
        Its size as a share of ``output - baseline_output``.
    chosen : ndarray of int (N,) or None
        Which output it is; None of a weighted sum of them.
    method : str
    batch : bool
        Whether X was a batch, and not one sequence.
    """

    values: Any
    output: Array
    baseline_output: Array
    completeness: Array
    chosen: Array | None
    method: str
    batch: bool = True

    @property
    def unexplained(self) -> Array:
        """See the class."""
        return unexplained(self)


def unexplained(found: Any) -> Array:
    """(N,): the size of completeness as a share of the difference of the outputs; 0 of rounding alone."""
    left, whole = np.abs(found.completeness), np.abs(found.output - found.baseline_output)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(left == 0, 0, left / whole)


def attribute(
    model: Sequential | LSTM,
    X: ArrayLike,
    *,
    output: ArrayLike | None = None,
    method: str = "integrated_gradients",
    baseline: ArrayLike = 0.0,
    steps: int = 64,
    tolerance: float | None = 0.01,
    step: int | None = None,
    logits: bool = False,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
) -> Attribution:
    """How much every step and feature of the input adds to an output.

    Parameters
    ----------
    model : Sequential or LSTM
    X : as `Sequential.predict` takes it, of finite numbers
    output : int or array (O,), optional
        Which of the outputs, or weights of a sum of them; by default the largest of each sequence.
    method : {"gradient_x_input", "integrated_gradients", "occlusion"}
        - "integrated_gradients" (Sundararajan, Taly and Yan 2017): ``(x - baseline)`` times the mean gradient on the
          straight line between the two. The values sum to the output less that of the baseline.
        - "gradient_x_input": ``(x - baseline)`` times the gradient at x: one pass, and little where a gate or a final
          sigmoid is saturated.
        - "occlusion": by how much the output falls if one value (of tokens, one token) is replaced by the baseline. It
          asks the model itself, in ``T * I`` passes, but values that can stand in for each other get nothing.
    baseline : float, array (I,), or in the form of X
        What says nothing: for standardised features their mean, 0. Of tokens, that of the embedded vectors.
    steps : int
        Points on the line, at which the gradient is integrated by the formula of Gauss and Legendre.
    tolerance : float or None
        Which share of the difference of the outputs integrated gradients may leave unexplained. Where `steps` points
        leave more, since the output jumps on the line, up to 4096 are placed where it does; a warning names what
        remains. None: just `steps` points, without a warning.
    step : int, optional
        Without a pooling layer: the step whose output is explained, among those that there are of each sequence; -1,
        the last, by default.
    logits : bool
        Explain what enters a final sigmoid or softmax, which saturates, not the probability that leaves it.
    lengths, mask : as in `Sequential.predict`

    Returns
    -------
    Attribution

    Examples
    --------
    What happens at step 3 in feature 1 is found:

    >>> import numpy as np, lstmx
    >>> model = lstmx.Sequential([lstmx.LSTM(2, 8), lstmx.Last(), lstmx.Dense(8, 1)], random_state=0)
    >>> x = np.zeros((1, 10, 2))
    >>> x[0, 3, 1] = 2.0
    >>> found = lstmx.inspect.attribute(model, x)
    >>> np.unravel_index(np.abs(found.values[0]).argmax(), (10, 2)) == (3, 1)
    True
    >>> bool(np.abs(found.completeness).max() < 1e-5)
    True
    """
    validate.choice("method", method, METHODS)
    validate.count("steps", steps)
    tolerance = read_tolerance(tolerance)
    if step is not None:
        step = validate.whole("step", step)
    net = Net(model, validate.flag("logits", logits))
    inputs = net.read(X, lengths, mask)
    return net.attribute(inputs, output, method, net.read_baseline(baseline, X, lengths, mask), steps,
                         tolerance, step)  # fmt: skip


def read_tolerance(tolerance: float | None) -> float:
    """As a number, infinity for None."""
    return np.inf if tolerance is None else validate.number("tolerance", tolerance, 0)


class Net:
    """The layers of a model on packed rows in inference, from the first that takes numbers.

    Parameters
    ----------
    model : Sequential or recurrent layer
    logits : bool
        Whether outputs are what enters the final activation.
    """

    model: Any
    outputs: Any

    def __init__(self, model: Sequential | Layer, logits: bool = False) -> None:
        if isinstance(model, Sequential):
            self.layers = model.layers
        elif isinstance(model, Layer) and is_recurrent(model):
            self.layers = (model,)
        else:
            raise TypeError(f"model: got {type(model).__name__}, must be a Sequential or an LSTM; fitted estimators "
                            "have lstmx.inspect.explain")  # fmt: skip
        self.model = model
        self.first = next(k for k, layer in enumerate(self.layers) if not isinstance(layer, Embedding | Masking))
        self.tokens = isinstance(self.layers[0], Embedding)
        if logits and not isinstance(self.layers[-1], Dense):
            raise ValueError("logits: the model does not end with a Dense, so that nothing enters its activation")
        self.activation = "linear" if logits else None
        self.parameters = snapshots(self.layers)
        self.outputs = model.output_size() if isinstance(model, Layer) else model.output_size  # type: ignore[call-arg]

    def read(self, X: Any, lengths: Any, mask: Any) -> Sequences:
        """`Sequences` of X."""
        if isinstance(self.model, Sequential):
            return self.model.read(X, lengths=lengths, mask=mask)
        return sequences(X, self.model.input_size, self.model.dtype, lengths=lengths, mask=mask, single=True)

    def read_baseline(self, baseline: Any, X: Any, lengths: Any, mask: Any) -> Any:
        """A number or array (I,) of the net's type, or `Sequences` that are like X."""
        first: Any = self.layers[0]
        size = first.features if self.tokens else self.model.input_size
        several = isinstance(baseline, list | tuple) and any(np.ndim(a) for a in baseline)
        if several or np.ndim(baseline) > 1:
            if self.tokens:
                raise ValueError(f"baseline: must be a number or an array ({size},), an embedded vector")
            try:
                return self.read(baseline, lengths, mask)
            except ValueError as error:
                raise ValueError(f"baseline: must be a number, ({size},), or as X ({error})") from None
        array = validate.real_array("baseline", baseline, self.model.dtype)
        if array.shape not in ((), (size,)):
            raise ValueError(f"baseline: got shape {array.shape}, must be a number, ({size},), or as X")
        return validate.finite("baseline", array, "it must say nothing")

    def attribute(
        self,
        inputs: Sequences,
        output: Any,
        method: Any,
        baseline: Any,
        steps: Any,
        tolerance: Any,
        step: Any,
        of_largest: Any = None,
    ) -> Attribution:
        """`attribute` for `Sequences`; the weights of outputs are ``of_largest[k]`` where the largest is k, by default
        those of this one alone.
        """
        weights, of_largest = self._weights(output), np.eye(self.outputs) if of_largest is None else of_largest
        if not len(inputs):
            raise ValueError("X: holds no sequence")
        parts, single, inputs = [], inputs.form == "single", inputs.as_batch()
        each = baseline.as_batch().parts(BATCH) if hasattr(baseline, "parts") else None
        for part in inputs.parts(BATCH):
            rows, context = self._numbers(part)
            line = baseline if each is None else self._baseline_rows(next(each), context)
            how = method, steps, tolerance, step
            parts.append(self._attribute(part, rows, context, weights, of_largest, line, *how))
        found = collect((values for values, *_ in parts), len(inputs))
        output, base, completeness, chosen, rounding = (np.concatenate(a) for a in list(zip(*parts, strict=True))[1:])
        if step is not None and not np.isfinite(output).any():
            raise IndexError(f"step: got {step}, but no sequence has such a step")
        chosen = None if weights is not None else chosen
        found = Attribution(found[0] if single else found, output, base, completeness, chosen, method, not single)
        if method == "integrated_gradients":
            _warn_of_rest(found, tolerance, rounding)
        return found

    def _weights(self, output: Any) -> Any:
        """Weights (O,) of the outputs; None: the largest counts."""
        if output is None:
            return None
        array = np.asarray(output)
        if array.ndim:
            return validate.shaped("output", array, (self.outputs,), np.float64, "one weight for each output")  # type: ignore[arg-type]
        k = validate.count("output", output, 0)
        if k >= self.outputs:
            raise ValueError(f"output: got {k}, the model has {self.outputs} output{'s' * (self.outputs > 1)}, from 0")
        return np.eye(self.outputs)[k]

    def _numbers(self, part: Sequences) -> tuple[Array, Context]:
        """(rows of numbers, context) of `Sequences`."""
        rows, context = part.all(own=True)
        if not self.tokens and not np.isfinite(rows).all():
            raise ValueError("X: holds NaN or infinite values, of which no output can be explained; fill them, or mark "
                             "steps that are not there by a mask")  # fmt: skip
        if self.tokens:
            rows, context, *_ = self.layers[0].forward_rows(rows, context, None, Run(parameters=self.parameters[0]))
        return rows, context

    def _baseline_rows(self, part: Sequences, context: Context) -> Array:
        rows, own = part.all(own=True)
        if not np.array_equal(own.lengths, context.lengths):
            raise ValueError("baseline: must have the steps that X has")
        return validate.finite("baseline", rows, "it must say nothing")

    def forward(self, rows: Array, context: Context, keep: bool = False) -> tuple[Array, Context, Any]:
        """Outputs of packed rows, their context, and a tape."""
        tape = []
        for layer, own in zip(self.layers[self.first :], self.parameters[self.first :], strict=True):
            activation = self.activation if layer is self.layers[-1] else None
            rows, context, _, entry = layer.forward_rows(rows, context, None, Run(keep, None, own, activation, True))
            tape.append(entry)
        return rows, context, tape

    def gradient(self, tape: Any, dy: Array) -> Array:
        """dL/dx of packed rows."""
        for k in reversed(range(self.first, len(self.layers))):
            layer = self.layers[k]
            out = {name: allocate.empty(p.shape, p.dtype) for name, p in self.parameters[k].arrays.items()}
            dy, _ = layer.backward_rows(tape[k - self.first], dy, out, True)
        return dy

    def _attribute(
        self,
        part: Sequences,
        rows: Array,
        context: Context,
        weights: Any,
        of_largest: Any,
        baseline: Any,
        method: str,
        steps: int,
        tolerance: Any,
        step: int | None,
    ) -> tuple[Any, ...]:
        """(values in the form of X, output, that of the baseline, completeness, chosen, what rounding may add to
        completeness) of a batch, a part of X.
        """
        base = np.broadcast_to(baseline, rows.shape).astype(rows.dtype, "C")
        y, after, tape = self.forward(rows, context, method == "gradient_x_input")
        places, owners = _places(after, step)
        chosen = np.zeros(len(context.given), np.intp)
        if weights is None:
            chosen[owners] = y[places].argmax(axis=1)
            weights = of_largest[chosen]
        weights = np.broadcast_to(weights, (len(chosen), y.shape[1]))

        def outputs(rows: Array) -> Array:
            return _output(*self.forward(rows, context)[:2], weights, step)

        f, f_base = _output(y, after, weights, step), outputs(base)
        away = (rows - base).astype(np.float64)
        if method == "gradient_x_input":
            values = self._gradient(tape, y, after, weights, step) * away
        elif method == "integrated_gradients":
            values = np.zeros(rows.shape)
            points, shares = np.polynomial.legendre.leggauss(steps)
            for point, share in zip((1 + points) / 2, shares / 2, strict=True):
                y, after, tape = self.forward((base + point * away).astype(rows.dtype), context, True)
                values += share * self._gradient(tape, y, after, weights, step)
            values *= away
            if np.isfinite(tolerance):
                self._refine(part, base, away, context, weights, step, (f_base, f), tolerance, values)
        else:
            values = self._occluded(rows, base, context, f, outputs)
        total = np.bincount(context.places[0], values.sum(axis=1), len(f))
        shown = context.unpack(values.sum(axis=1) if self.tokens else values)
        return shown, f, f_base, total - (f - f_base), chosen, self._rounding(context, values, f, f_base)

    def _gradient(self, tape: Any, y: Array, after: Context, weights: Array, step: int | None) -> Array:
        """Of what is explained, weights (N, O) of the outputs y, with respect to packed rows."""
        places, owners = _places(after, step)
        dy = allocate.zeros(y.shape, y.dtype)
        dy[places] = weights[owners]
        return self.gradient(tape, dy)

    def _rounding(self, context: Context, values: Array, *ends: Array) -> Array:
        """(N,) what sums of packed values, and the function at both ends, may be off by."""
        size: Any = sum(np.abs(f) for f in ends)
        size = size + np.bincount(context.places[0], np.abs(values).sum(axis=1), len(size))
        return 100 * np.finfo(self.model.dtype).eps * size

    def _refine(
        self,
        part: Sequences,
        base: Array,
        away: Array,
        context: Context,
        weights: Array,
        step: int | None,
        ends: Any,
        tolerance: Any,
        values: Array,
    ) -> None:
        """Integrate anew, with points where they are needed, for the sequences whose `values` leave too much."""
        row, time = context.places
        whole = ends[1] - ends[0]
        allowed = np.maximum(tolerance * np.abs(whole), self._rounding(context, values, *ends))
        left = np.abs(np.bincount(row, values.sum(axis=1), len(whole)) - whole)
        worse = np.flatnonzero(left > allowed)  # not where there is no output, NaN
        place = np.full(len(whole), -1)
        place[worse] = np.arange(len(worse))
        mine = place[row] >= 0
        at = place[row[mine]], time[mine]
        if not len(worse) or not np.isfinite(left[worse]).all():
            return
        start, way = np.zeros((2, len(worse), int(time[mine].max()) + 1, base.shape[1]))
        start[at], way[at] = base[mine], away[mine]

        def run(chosen: Array, shares: Array, keep: bool) -> Any:
            size = max(1, min(BATCH, MOST_ROWS // way.shape[1]))
            parts = [one(chosen[k : k + size], shares[k : k + size], keep) for k in range(0, len(chosen), size)]
            outputs, gradients = zip(*parts, strict=True)
            return np.concatenate(outputs), np.concatenate(gradients) if keep else None

        def one(chosen: Array, shares: Array, keep: bool) -> Any:
            own = part.context(worse[chosen])
            row, time = own.places
            rows = start[chosen[row], time] + shares[row, None] * way[chosen[row], time]
            y, after, tape = self.forward(rows.astype(base.dtype), own, keep)
            mine = weights[worse[chosen]]
            if not keep:
                return _output(y, after, mine, step), None
            gradients = np.zeros((len(chosen), *way.shape[1:]), base.dtype)
            gradients[row, time] = self._gradient(tape, y, after, mine, step)
            return _output(y, after, mine, step), gradients

        found = mean_gradients(run, way, [f[worse] for f in ends], allowed[worse], MOST_POINTS)
        values[mine] = found[at] * away[mine]

    def _occluded(self, rows: Array, base: Array, context: Context, f: Array, outputs: Callable[..., Any]) -> Array:
        """By how much outputs f fall if one value, or one token, of each sequence at a time is the baseline's."""
        values, owners = np.zeros(rows.shape), context.places[0]
        tried = rows.copy()
        for first, end in zip(context.offsets[:-1].tolist(), context.offsets[1:].tolist(), strict=True):
            now = slice(first, end)
            for column in [slice(None)] if self.tokens else range(rows.shape[1]):
                tried[now, column] = base[now, column]
                fall = np.nan_to_num(f - outputs(tried))[owners[now]]
                values[now, 0 if self.tokens else column] = fall
                tried[now, column] = rows[now, column]
        return values


def _output(y: Array, after: Context, weights: Array, step: int | None) -> Array:
    """(N,) what is explained, weights (N, O) of the outputs y; NaN for a sequence without the step."""
    places, owners = _places(after, step)
    out = np.full(len(weights), np.nan)
    out[owners] = (y[places] * weights[owners]).sum(axis=1)
    return out


def _warn_of_rest(found: Attribution, tolerance: float, rounding: Array) -> None:
    """Say what integrated gradients leave unexplained, but for what `rounding` (N,) may leave."""
    left, whole, share = found.completeness, found.output - found.baseline_output, found.unexplained
    bad = (share > tolerance) & (np.abs(left) > rounding)
    if bad.any():
        n = int(np.where(bad, share, 0).argmax())
        warn(f"integrated gradients leave more than {tolerance:.3g} of the difference from the baseline unexplained in "
             f"{bad.sum()} of {len(left)} sequences, most in sequence {n}: {-left[n]:.3g} of {whole[n]:.3g}; see "
             "completeness, and give more steps")  # fmt: skip


def _places(context: Context, step: int | None) -> tuple[Array, Array]:
    """(packed row, the caller's sequence) of the output of each sequence that has it."""
    if isinstance(context, PooledContext):
        if step is not None:
            raise ValueError("step: the model gives one output for a sequence; leave it out")
        return np.arange(context.batch), context.places[0]
    lengths = context.sort(context.lengths)
    step = -1 if step is None else step
    at = np.full(len(lengths), step) if step >= 0 else lengths + step
    there = np.flatnonzero((at >= 0) & (at < lengths))
    return context.offsets[at[there]] + there, context.owners[there]
