"""The one door to the compiled core: validate, allocate, choose.

`lstm_forward`, `lstm_backward` and `lstm_step` are one layer in one direction, arrays in and arrays out;
`lstmx.reference` has the same functions in NumPy. The layers of `lstmx.LSTM` stand on the same compiled loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, overload

import numpy as np

from lstmx._core import allocate as allocate
from lstmx.functional import masks, validate
from lstmx.functional.cell import Cell
from lstmx.functional.context import SequenceContext
from lstmx.functional.engine import get_engine
from lstmx.functional.panels import Weights
from lstmx.functional.read import give_state, read_gradient, read_state, sequences

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import ArrayLike

    from lstmx._types import Array, Arrays, DType, Pair, PairLike, RandomState


__all__ = ["Gradients", "Tape", "lstm_backward", "lstm_forward", "lstm_step"]


class Gradients(NamedTuple):
    """Gradients of a scalar loss: with respect to x, to the initial state (dh0, dc0), and to the parameters by name."""

    x: Any
    state: Any
    params: Arrays


class Tape:
    """What a forward pass in training keeps for its backward pass; used up by it unless that is told to retain."""

    def __init__(self, owner: object, context: Any, version: object = 0, **parts: Any) -> None:
        self.owner = owner
        self._context = context  # or, until somebody asks for it, the shape of the array that it is of
        self.version = version
        self.parts = parts
        self.used = False

    @property
    def context(self) -> Any:
        """The context of the batch."""
        if isinstance(self._context, tuple):
            *batch, steps, _ = self._context
            self._context = SequenceContext(np.full(batch or 1, steps, np.int64), steps, "array" if batch else "single")
        return self._context

    def use(self, retain: bool | None, version: object = 0) -> dict[str, Any]:
        """The parts, once; again only after ``retain=True``. None: the owner's backward has no such argument."""
        if self.used:
            advice = "" if retain is None else "give that one retain=True, or "
            raise RuntimeError(f"tape: already used by a backward pass; {advice}run forward again")
        if self.version != version:
            raise RuntimeError("tape: the parameters have been set since its forward pass; run forward again")
        self.used = not retain
        return self.parts


def read_tape(tape: object, owner: object) -> Tape:
    """A tape, if `owner` made it."""
    wanted = "lstm_forward" if owner is lstm_forward else "this model's forward"
    if not isinstance(tape, Tape):
        raise TypeError(f"tape: got {type(tape).__name__}, must be the tape that {wanted} returned")
    if tape.owner is not owner:
        raise TypeError(f"tape: got the tape of another model, must be the tape that {wanted} returned")
    return tape


def _weights(
    cell: Cell | None, weight_ih: Any, weight_hh: Any, bias: Any, more: dict[str, Any], dtype: DType, copy: bool = False
) -> Weights:
    cell = Cell() if cell is None else cell
    if not isinstance(cell, Cell):
        raise TypeError(f"cell: got {cell!r}, must be an lstmx.Cell, such as lstmx.Cell(clip=3.0)")
    for name in ("weight_dropout", "learn_state"):
        if getattr(cell, name):
            raise ValueError(f"cell: {name} is a matter of layers, not of one pass; leave it out, or use lstmx.LSTM")
    given = {"weight_ih": weight_ih, "weight_hh": weight_hh, "bias": bias} | more
    given = {
        name: validate.real_array(name, a, dtype)
        for name, a in given.items()
        if a is not None or name in ("weight_ih", "weight_hh")
    }
    for name in ("weight_ih", "weight_hh", "weight_hr"):
        if name in given and given[name].ndim != 2:
            raise ValueError(f"{name}: got shape {given[name].shape}, must have two dimensions")
    inputs, proj = given["weight_ih"].shape[1], len(given.get("weight_hr", ()))
    hidden = given["weight_hr"].shape[1] if proj else given["weight_hh"].shape[1] * cell.heads
    if hidden == 0 or inputs == 0:
        shapes = given["weight_ih"].shape, given["weight_hh"].shape
        raise ValueError(f"weight_ih, weight_hh: got shapes {shapes[0]}, {shapes[1]}; I and H must be positive")
    cell.check_sizes(hidden, proj)
    has_bias = any(name == "bias" or name.endswith("_bias") for name in given)
    table = {p.name: p.shape for p in cell.computing(inputs, hidden, has_bias, proj)}
    for name in sorted(given, key="weight_hh".__ne__):  # it says how many units there are
        if name not in table:
            raise ValueError(f"{name}: this cell has no such parameter; there are {', '.join(table)}")
        meaning = {"weight_ih": f"({cell.gates}H, I)", "weight_hh": f"({cell.gates}H, H)"}.get(name, "the shape")
        meaning = f"({cell.gates}H,)" if name == "bias" else meaning
        if name == "weight_hh" and (proj or cell.heads > 1):
            meaning = f"({cell.gates}H, {'P' if proj else 'H / heads'})"
        validate.shaped(name, given[name], table[name], dtype, meaning)
    for name in table:
        if name not in given:
            raise ValueError(f"{name}: this cell needs it, an array {table[name]}; give it by name")
    take = np.array if copy else np.asarray
    return Weights(cell, {n: take(given[n], order="C") for n in table})


def _dtype_of(*arrays: object) -> DType:
    dtypes = {a.dtype.newbyteorder("=") if isinstance(a, np.ndarray) else float for a in arrays if a is not None}
    return np.dtype(np.float32 if dtypes == {np.dtype(np.float32)} else np.float64)


@overload
def lstm_forward(
    x: Array,
    weight_ih: ArrayLike,
    weight_hh: ArrayLike,
    bias: ArrayLike | None = None,
    state: PairLike | None = None,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    reverse: bool = False,
    cell: Cell | None = None,
    rng: RandomState = None,
    **more: ArrayLike,
) -> tuple[Array, Pair, Tape]: ...


@overload
def lstm_forward(
    x: list[Array],
    weight_ih: ArrayLike,
    weight_hh: ArrayLike,
    bias: ArrayLike | None = None,
    state: PairLike | None = None,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    reverse: bool = False,
    cell: Cell | None = None,
    rng: RandomState = None,
    **more: ArrayLike,
) -> tuple[list[Array], Pair, Tape]: ...


@overload
def lstm_forward(
    x: ArrayLike,
    weight_ih: ArrayLike,
    weight_hh: ArrayLike,
    bias: ArrayLike | None = None,
    state: PairLike | None = None,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    reverse: bool = False,
    cell: Cell | None = None,
    rng: RandomState = None,
    **more: ArrayLike,
) -> tuple[Any, Pair, Tape]: ...


def lstm_forward(
    x: ArrayLike,
    weight_ih: ArrayLike,
    weight_hh: ArrayLike,
    bias: ArrayLike | None = None,
    state: PairLike | None = None,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    reverse: bool = False,
    cell: Cell | None = None,
    rng: RandomState = None,
    **more: ArrayLike,
) -> tuple[Any, Pair, Tape]:
    """One LSTM layer in one direction, keeping what the backward pass needs.

    Parameters
    ----------
    x : array (N, T, I), array (T, I), or list of arrays (T_n, I)
    weight_ih, weight_hh, bias : array (4H, I), (4H, H), (4H,) or None
        Blocks of H rows in the order i, f, g, o.
    state : (h0, c0), each (N, H), optional
        Zero by default. (H,) for one sequence. With a projection h0 is (N, P); of an sLSTM c0 is (N, 3H).
    lengths : array of int (N,), optional
    mask, reset : array of bool (N, T), (T,) or list of (T_n,), as x, optional
        As of a call of `lstmx.LSTM`.
    reverse : bool
        Read each sequence from its own end.
    cell : lstmx.Cell, optional
        The options of the cell.
    rng : None, int, SeedSequence or Generator
        Draws what the cell drops; None: nothing is dropped.
    **more : arrays
        What else the cell has, by name: weight_hr (P, H) of a projection, peephole, norm_gain and the like.

    Returns
    -------
    y : array (N, T, H), 0 past a sequence's end; in the form of x
    (h_n, c_n) : each (N, H)
    tape : for `lstm_backward`

    Raises
    ------
    ValueError, TypeError
        For shapes that do not fit, naming the argument.

    Notes
    -----
    The equations are in `lstmx.reference`. The arithmetic is float32 if all arrays are, else float64.

    Examples
    --------
    >>> import numpy as np
    >>> from lstmx.functional import lstm_backward, lstm_forward
    >>> rng = np.random.default_rng(0)
    >>> x, w_ih, w_hh = rng.normal(size=(2, 5, 3)), rng.normal(size=(16, 3)), rng.normal(size=(16, 4))
    >>> y, (h_n, c_n), tape = lstm_forward(x, w_ih, w_hh)
    >>> y.shape, bool((y[:, -1] == h_n).all())
    ((2, 5, 4), True)
    >>> lstm_backward(tape, np.ones_like(y)).params["weight_hh"].shape
    (16, 4)
    """
    dtype = _dtype_of(weight_ih, weight_hh, bias, *more.values())
    weights = _weights(cell, weight_ih, weight_hh, bias, more, dtype, copy=True)
    reverse = validate.flag("reverse", reverse)
    found = sequences(x, weights.inputs, dtype, lengths=lengths, mask=mask, reset=reset, single=True)
    rows, context = found.all(own=True)
    h, c = read_state("state", state, _zeros(weights, context), context, "(N, H)", (reverse,))
    y = allocate.empty((len(rows), weights.widths[0]), dtype)
    drawn = None
    if rng is not None and weights.cell.drops:
        key = int(validate.random_generator("rng", rng).integers(2**64, dtype=np.uint64))
        drawn = masks.draw(weights.cell, key, context, weights.inputs, weights.widths[0], weights.hidden, dtype)
    slabs = get_engine().forward(rows, weights, context, reverse, h, c, y, True, drawn)
    tape = Tape(lstm_forward, context, x=rows, weights=weights, reverse=reverse, slabs=slabs)
    return context.unpack(y), give_state((h, c), context, (reverse,)), tape


def lstm_backward(
    tape: Tape, dy: ArrayLike | None, dstate: PairLike | None = None, *, retain: bool = False
) -> Gradients:
    """The derivative of `lstm_forward`: back-propagation through time.

    Parameters
    ----------
    tape : from `lstm_forward`
    dy : in the form and shape of y, or None for zero
        Its values on padding are ignored.
    dstate : (dh_n, dc_n), each (N, H), optional
    retain : bool
        Keep the tape for a second pass, at the cost of a copy of its gates.

    Returns
    -------
    Gradients
        x in the form of x; state (dh0, dc0); params weight_ih, weight_hh and bias.
    """
    context = read_tape(tape, lstm_forward).context
    rows, weights = tape.parts["x"], tape.parts["weights"]
    dtype, directions = rows.dtype, (tape.parts["reverse"],)
    dy = read_gradient(dy, context, weights.widths[0], dtype)
    dh, dc = read_state("dstate", dstate, _zeros(weights, context), context, "(N, H)", directions, final=True)
    parts = tape.use(validate.flag("retain", retain))
    out = {name: allocate.empty(w.shape, dtype) for name, w in weights.arrays.items()}
    dx = allocate.empty(rows.shape, dtype)
    slabs = kept(parts["slabs"]) if retain else parts["slabs"]
    get_engine().backward(rows, weights, context, parts["reverse"], slabs, dy, dh, dc, dx, False, out)
    return Gradients(context.unpack(dx), give_state((dh, dc), context, directions, final=False), out)


def _zeros(weights: Weights, context: SequenceContext) -> Pair:
    """A state (h, c) to begin with, or its gradient."""
    dtype = weights.arrays["weight_ih"].dtype
    return tuple(allocate.zeros((context.batch, width), dtype) for width in weights.widths)  # type: ignore[return-value]


def kept(slabs: Arrays) -> Arrays:
    """Slabs of which a backward pass may overwrite what it does."""
    copies = {}
    for name in ("gates", "extra"):
        if name in slabs:
            rows, columns = slabs[name].shape
            copies[name] = allocate.padded(rows, columns, slabs[name].dtype)
            copies[name][:] = slabs[name]
    return slabs | copies


def lstm_step(
    x_t: ArrayLike,
    state: PairLike | None,
    weight_ih: ArrayLike,
    weight_hh: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    cell: Cell | None = None,
    **more: ArrayLike,
) -> tuple[Array, Pair]:
    """One step of one layer on a batch.

    Parameters
    ----------
    x_t : array (N, I)
    state : (h, c), each (N, H), or None for zero
    weight_ih, weight_hh, bias, cell, more : as in `lstm_forward`

    Returns
    -------
    h_t : array (N, H)
    state : (h_t, c_t)
    """
    dtype = _dtype_of(weight_ih, weight_hh, bias, *more.values())
    weights = _weights(cell, weight_ih, weight_hh, bias, more, dtype)
    x_t = validate.real_array("x_t", x_t, dtype)
    inputs = weights.inputs
    if x_t.ndim != 2 or x_t.shape[1] != inputs:
        raise ValueError(f"x_t: got shape {x_t.shape}, must be (N, I) = (N, {inputs})")
    rows, context = sequences(x_t[:, None], inputs, dtype).all()
    h, c = read_state("state", state, _zeros(weights, context), context, "(N, H)", (False,))
    get_engine().forward(rows, weights, context, False, h, c, allocate.empty(h.shape, dtype), False)
    return h.copy(), (h, c)
