"""The LSTM layer: stacked, bidirectional, ragged, with masks and resets."""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

import numpy as np

from lstmx.functional import (
    Gradients,
    Tape,
    allocate,
    give_state,
    read_gradient,
    read_state,
    read_tape,
    sequences,
    validate,
)
from lstmx.functional.cell import Cell, suffix
from lstmx.functional.engine import get_engine
from lstmx.functional.read import check_gradient
from lstmx.functional.segments import read_memory
from lstmx.init import Scheme
from lstmx.layers.base import MERGES, Layer, Run
from lstmx.layers.chunked import Chunked
from lstmx.layers.recompute import Recompute
from lstmx.layers.stack import Stack, pair
from lstmx.layers.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Literal, Self

    from numpy.typing import ArrayLike

    from lstmx._types import (
        Array,
        Config,
        Context,
        Initial,
        Memory,
        Merge,
        Pair,
        PairLike,
        Precision,
        RandomState,
        State,
    )
    from lstmx.functional.cell import Parameter
    from lstmx.functional.context import SequenceContext
    from lstmx.functional.segments import Plan


BACKWARD_STREAM = (
    "step, stream: a bidirectional layer, as an LSTM with reverse=True, reads from the end, which a stream does not "
    "have; call it instead, or an LSTM on chunks with some steps of lookahead: lstm.chunked(x, chunk, lookahead)"
)


class LSTM(Stack, Chunked, Recompute, Layer):  # type: ignore[override]
    """Long Short-Term Memory: one or more layers, one or two directions.

    Parameters
    ----------
    input_size, hidden_size : int
        I and H.
    num_layers : int
        L; each layer reads the outputs of the one below.
    bias : bool
    bidirectional : bool
        A second direction (D = 2) reads each sequence from its own end.
    dropout : float
        Rate at which the outputs of every layer but the last are dropped in training.
    proj_size : int
        P: the outputs h, but not the memory c, are projected to this many features (Sak, Senior and Beaufays 2014).
        0: they have H.
    cell : lstmx.Cell, optional
        The options of the cell; by default it is the plain one.
    reverse : bool
        The only direction reads each sequence from its own end. Outputs stay at the time of their input.
    merge : {"concat", "sum", "mul", "average"}
        What the outputs of two directions become, in every layer: side by side, forward first; or H features, element
        by element.
    init : {"glorot", "uniform"}
        How parameters begin. "glorot": weight_ih glorot and weight_hh orthogonal, each gate by itself, bias 0 and 1 for
        the forget gate. "uniform": as PyTorch's do, U(-b, b) with b = 1 / sqrt(H), the bias the sum of two such.
    forget_bias : float, optional
        How the forget gate's bias begins instead.
    chrono : float, optional
        The same for dependencies of up to this many steps T: b_f = log U(1, T - 1), and -b_f for the input gate
        (chrono initialisation, Tallec and Ollivier 2018).
    dtype : {"float32", "float64"}
    random_state : None, int, SeedSequence or Generator
        Seeds the initial parameters, and dropout where a call gives no generator.

    See Also
    --------
    lstmx.reference : the equations, in NumPy.

    Notes
    -----
    Parameters are ``weight_ih_l0`` (4H, I), ``weight_hh_l0`` (4H, H) and ``bias_l0`` (4H,), blocks of H rows in the
    order i, f, g, o; then ``.._l0_reverse``, ``.._l1`` (whose I is that layer's features: D*H if outputs are
    concatenated), and so on. A projection has ``weight_hr_l0`` (P, H), and ``weight_hh_l0`` is (4H, P); `Cell` says
    what its options add. They are no attributes: `set_parameters` sets them. Attributes such as ``hidden_size`` cannot
    be set.

    The state is (h, c), each (L*D, N, H); with a projection h is (L*D, N, P), and c of an sLSTM (L*D, N, 3H): c, n
    and m. Outputs have D*H features, or D*P; of merged directions H, or P.

    Examples
    --------
    >>> import numpy as np, lstmx
    >>> lstm = lstmx.LSTM(3, 8, random_state=0)
    >>> y, (h_n, c_n) = lstm(np.zeros((2, 5, 3)))       # two sequences of five steps
    >>> y.shape, h_n.shape
    ((2, 5, 8), (1, 2, 8))
    >>> y, state = lstm([np.zeros((4, 3)), np.zeros((9, 3))])   # ragged
    >>> [a.shape for a in y]
    [(4, 8), (9, 8)]
    """

    input_size: int
    _generator: np.random.Generator

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        bidirectional: bool = False,
        dropout: float = 0.0,
        proj_size: int = 0,
        cell: Cell | None = None,
        reverse: bool = False,
        merge: Merge = "concat",
        init: Initial = "glorot",
        forget_bias: float | None = None,
        chrono: float | None = None,
        dtype: Precision = "float32",
        random_state: RandomState = None,
    ) -> None:
        self.input_size = validate.count("input_size", input_size)
        self.hidden_size = validate.count("hidden_size", hidden_size)
        self.num_layers = validate.count("num_layers", num_layers)
        self.bias = validate.flag("bias", bias)
        self.bidirectional = validate.flag("bidirectional", bidirectional)
        self.dropout = validate.number("dropout", dropout, 0, 1, open_high=True)
        self.proj_size = validate.count("proj_size", proj_size, 0)
        self.cell = Cell() if cell is None else cell
        if not isinstance(self.cell, Cell):
            raise TypeError(f"cell: got {cell!r}, must be an lstmx.Cell, such as lstmx.Cell(clip=3.0)")
        self.cell.check_sizes(self.hidden_size, self.proj_size)
        self.reverse = validate.flag("reverse", reverse)
        if self.reverse and self.bidirectional:
            raise ValueError("reverse: a bidirectional LSTM has that direction already; leave out one of the two")
        self.merge = validate.choice("merge", merge, MERGES)
        if self.merge != "concat" and not self.bidirectional:
            raise ValueError(f'merge: got "{merge}", but there is one direction; it takes bidirectional=True')
        self._scheme = self.cell.scheme(self.bias, init, forget_bias, chrono)
        self.init, self.forget_bias, self.chrono = self._scheme
        self._directions = 2 if self.bidirectional else 1  # D
        self._reversed = (False, True) if self.bidirectional else (self.reverse,)  # whether each reads from the end
        self._outputs, self._memory = self.cell.widths(self.hidden_size, self.proj_size)
        self._names = [p.name for p in self.cell.computing(1, self.cell.heads, self.bias, self.proj_size)]
        # Whether x and a state are all that a forward pass in training depends on.
        self._plain = not (self._draws or self.cell.learn_state)
        self._setup(dtype, random_state)
        self._seed = random_state

    def config(self) -> Config:
        """The constructor arguments, as plain JSON values."""
        names = ("input_size", "hidden_size", "num_layers", "bias", "bidirectional", "dropout")
        more: Config = {"proj_size": self.proj_size} if self.proj_size else {}
        more |= {"cell": options} if (options := self.cell.config()) else {}
        more |= {"reverse": True} if self.reverse else {}
        more |= {} if self.merge == "concat" else {"merge": self.merge}
        return {name: getattr(self, name) for name in names} | more | self._scheme.config() | {"dtype": self.dtype.name}

    def _shown(self) -> Config:
        config = self.config()
        return config | ({"cell": self.cell} if "cell" in config else {})

    @classmethod
    def without_parameters(cls, config: Config) -> Self:
        """A validated layer of a configuration; `store.fill` must follow."""
        return super().without_parameters(config | {"cell": Cell.from_config(config.get("cell", {}))})

    @staticmethod
    def parameter_table(config: Config) -> Iterator[Parameter]:
        """A `Parameter` for every array of a layer with this configuration."""
        hidden, inputs, cell = config["hidden_size"], config["input_size"], Cell.from_config(config.get("cell", {}))
        proj, directions = config.get("proj_size", 0), 2 if config["bidirectional"] else 1
        scheme = Scheme(config.get("init", "glorot"), config.get("forget_bias"), config.get("chrono"))
        for layer in range(config["num_layers"]):
            for direction in range(directions):
                for p in cell.parameters(inputs, hidden, config["bias"], proj, scheme):
                    yield p._replace(name=p.name + suffix(layer, direction))
            inputs = (1 if config.get("merge", "concat") != "concat" else directions) * cell.widths(hidden, proj)[0]

    @property
    def _rng(self) -> np.random.Generator:
        """The layer's own generator, made when it is first asked for: a program that only predicts never imports
        numpy.random, which takes as long as lstmx.
        """
        if "_generator" not in self.__dict__:
            self.__dict__.setdefault("_generator", _dropout_rng(self._seed))
        return self._generator

    def _more(self) -> dict[str, Any]:
        return {"_generator": self._rng}

    @property
    def directions(self) -> int:
        """D: 2 if bidirectional, else 1."""
        return self._directions

    @property
    def reversed(self) -> tuple[bool, ...]:
        """For each direction, whether it reads from the end."""
        return self._reversed

    def output_size(self, input_size: int | None = None) -> int:
        """Features of y: D*H, or H where directions are merged."""
        return (self._directions if self.merge == "concat" else 1) * self._outputs

    @property
    def causal(self) -> bool:  # type: ignore[override]
        """Whether chunks of a sequence can follow each other: no direction reads from the end."""
        return not any(self._reversed)

    # What users call.

    def _meanings(self) -> tuple[str, str]:
        """The shapes of h and c in words."""
        return f"(L*D, N, {'P' if self.proj_size else 'H'})", f"(L*D, N, {'3H' if self.cell.slstm else 'H'})"

    def _read(
        self, x: Any, state: State, parameters: Any, own: bool = False, **given: Any
    ) -> tuple[Any, SequenceContext, Array, Array]:
        """(rows, context, h, c) of x, a state, and what was `given` of lengths, mask and reset."""
        rows, context = sequences(x, self.input_size, self.dtype, single=True, **given).all(own)
        start = self.start_state(context.batch, self.input_size, parameters)
        h, c = read_state("state", state, start, context, self._meanings(), self._reversed)
        return rows, context, h, c

    @overload
    def __call__(
        self,
        x: Array,
        state: PairLike | None = None,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        return_layers: Literal[False] = False,
    ) -> tuple[Array, Pair]: ...

    @overload
    def __call__(
        self,
        x: list[Array],
        state: PairLike | None = None,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        return_layers: Literal[False] = False,
    ) -> tuple[list[Array], Pair]: ...

    @overload
    def __call__(
        self,
        x: ArrayLike,
        state: PairLike | None = None,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        return_layers: bool = False,
    ) -> tuple[Any, Pair]: ...

    def __call__(
        self,
        x: ArrayLike,
        state: PairLike | None = None,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        return_layers: bool = False,
    ) -> tuple[Any, Pair]:
        """Inference.

        Parameters
        ----------
        x : array (N, T, I), array (T, I), or list of arrays (T_n, I)
        state : (h0, c0), each (L*D, N, H), optional
            By default zero, or what the cell has learned. For one sequence (L*D, H).
        lengths : array of int (N,), optional
            Steps of each sequence in a padded (N, T, I); what stands behind them does not matter.
        mask : array of bool (N, T), (T,) or list of (T_n,), as x; optional
            In place of `lengths`: which steps there are. The state is carried over the others, and what x has there
            does not matter.
        reset : array of bool (N, T), (T,) or list of (T_n,), as x; optional
            Where a sequence begins anew: before such a step the state is what it is by default. What is read from the
            end is read from the end of each episode. At a masked step it holds for the next step that there is.
        return_layers : bool
            Whether y is a list of the outputs of every layer, not those of the last.

        Returns
        -------
        y : (N, T, D*H), (T, D*H) or a list, as x
            0 past a sequence's end and on masked steps.
        (h_n, c_n) : each (L*D, N, H)
            After each sequence's last step; index layer * D + direction. A direction that reads from the end begins
            with the last episode, with the given state, and ends with the first.

        Examples
        --------
        Two episodes, one after the other:

        >>> import numpy as np, lstmx
        >>> lstm, x = lstmx.LSTM(3, 8, random_state=0), np.ones((6, 3), "float32")
        >>> y, _ = lstm(x, reset=np.arange(6) == 4)
        >>> bool((y[4:] == lstm(x[4:])[0]).all())
        True
        """
        if lengths is mask is reset is None and return_layers is False:
            snapshot = self.store.snapshot
            call = snapshot.get("compiled") or self._call(snapshot)
            found = None if call is None else call(x, state, False)
            if found is not None:
                return found
        run = Run(parameters=self.store.snapshot)
        rows, context, h, c = self._read(x, state, run.parameters, lengths=lengths, mask=mask, reset=reset)
        outputs: list[Any] | None = [] if validate.flag("return_layers", return_layers) else None
        y, _ = self._run(rows, context, h, c, run, outputs)
        y = context.unpack(y) if outputs is None else [context.unpack(rows) for rows in outputs]
        return y, give_state((h, c), context, self._reversed)

    @overload
    def forward(
        self,
        x: Array,
        state: PairLike | None = None,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        rng: RandomState = None,
        return_layers: Literal[False] = False,
        memory: Memory | None = None,
    ) -> tuple[Array, Pair, Tape]: ...

    @overload
    def forward(
        self,
        x: list[Array],
        state: PairLike | None = None,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        rng: RandomState = None,
        return_layers: Literal[False] = False,
        memory: Memory | None = None,
    ) -> tuple[list[Array], Pair, Tape]: ...

    @overload
    def forward(
        self,
        x: ArrayLike,
        state: PairLike | None = None,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        rng: RandomState = None,
        return_layers: bool = False,
        memory: Memory | None = None,
    ) -> tuple[Any, Pair, Tape]: ...

    def forward(
        self,
        x: ArrayLike,
        state: PairLike | None = None,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        rng: RandomState = None,
        return_layers: bool = False,
        memory: Memory | None = None,
    ) -> tuple[Any, Pair, Tape]:
        """Training: as a call, with what is dropped at random, and with a tape for `backward`.

        Parameters
        ----------
        x, state, lengths, mask, reset : as in a call
        rng : None, int, SeedSequence or Generator
            Draws what is dropped; by default the layer's own generator.
        return_layers : bool
            As in a call: outputs are those before dropout.
        memory : int or str, optional
            The most that forward and backward take, in bytes or as "200MB", "1.5 GB", "64MiB"; `memory` says what
            counts. Where a tape would be larger, it holds x and the states between segments of time, and `backward`
            runs each segment again: one more forward pass, for the same bits. Where a direction reads from the end,
            the tape also holds the inputs of every layer, and gradients of whole layers stand beside them: that is the
            least that two directions take.

        Returns
        -------
        y, (h_n, c_n), tape
        """
        version, parameters = self.store.version, self.store.snapshot
        if lengths is mask is reset is rng is memory is None and return_layers is False and self._plain:
            passes = self._passes(parameters)
            found = None if passes is None else passes.forward(x, state, parameters)
            if found is not None:
                shape: Any = x.shape  # type: ignore[union-attr]
                parts = {"passes": passes, "shape": shape, "layers": found[2], "given": state is not None}
                return *found[:2], Tape(self, shape, version, every=False, **parts)
        rows, context, h, c = self._read(x, state, parameters, own=True, lengths=lengths, mask=mask, reset=reset)
        rng = self._rng if rng is None else validate.random_generator("rng", rng)
        key = rng.integers(2**64, dtype=np.uint64) if self._draws else None
        outputs: list[Any] | None = [] if validate.flag("return_layers", return_layers) else None
        steps = None if memory is None else self._steps(context, memory)
        if steps is not None:
            run = Run(key=key, parameters=parameters)
            y, again = self._forward_in(rows, context, h, c, run, steps, return_layers)
            tape = Tape(self, context, version, again=again, given=state is not None, every=outputs is not None)
            return y, give_state((h, c), context, self._reversed), tape
        y, layers = self._run(rows, context, h, c, Run(keep=True, key=key, parameters=parameters), outputs)
        y = context.unpack(y) if outputs is None else [context.unpack(rows) for rows in outputs]
        tape = Tape(self, context, version, layers=layers, given=state is not None, every=outputs is not None)
        return y, give_state((h, c), context, self._reversed), tape

    def backward(self, tape: Tape, dy: Any, dstate: PairLike | None = None, *, retain: bool = False) -> Gradients:
        """Back-propagation through time.

        Parameters
        ----------
        tape : from `forward`
            Used up, unless `retain`.
        dy : in the form and shape of y, or None for zero
            dL/dy; its values on padding and masked steps are ignored. After ``return_layers`` a list, None for layers
            that the loss does not see.
        dstate : (dh_n, dc_n), each (L*D, N, H), optional
        retain : bool
            Keep the tape for another pass, at the cost of a copy of the gates.

        Returns
        -------
        Gradients
            ``.x`` in the form of x, ``.state`` (dh0, dc0), ``.params`` by name.

        Raises
        ------
        RuntimeError
            If the tape has been used or the parameters have been set since `forward`.
        """
        passes = read_tape(tape, self).parts.get("passes")
        if passes is not None and retain is False and passes.takes(tape.parts["shape"], dy, dstate):
            parts = tape.use(False, self.store.version)
            return Gradients(*passes.backward(parts["layers"], parts["shape"], dy, dstate, self.store.arrays))
        context = tape.context
        below, read = None, check_gradient if "again" in tape.parts else read_gradient
        if tape.parts["every"]:
            *below, dy = self._read_gradients(dy, context, read)
        else:
            dy = read(dy, context, self.output_size(), self.dtype)
        zeros = self._zeros(context)
        dh, dc = read_state("dstate", dstate, zeros, context, self._meanings(), self._reversed, final=True)
        parts = tape.use(validate.flag("retain", retain), self.store.version)
        out = {name: allocate.empty(p.shape, self.dtype) for name, p in self.store.arrays.items()}
        if "again" in parts:
            dx = self._backward_in(parts["again"], context, dy, dh, dc, out, below)
        else:
            dx = context.unpack(
                self._run_backward(parts["layers"], context, dy, dh, dc, out, retain=retain, below=below)
            )
        self._initial_backward(parts["given"], dh, dc, context, out)
        return Gradients(dx, give_state((dh, dc), context, self._reversed, final=False), out)

    def _steps(self, context: Context, memory: Memory) -> int | None:
        """The steps of a segment with which a batch keeps to a budget; None: all of it does."""
        longest = len(context.offsets) - 1
        steps = self._found(context.batch, longest, context.rows, read_memory("memory", memory)).steps
        return steps if steps < longest else None

    def _found(self, batch: int, longest: int, rows: int, budget: int) -> Plan:
        """The `Plan` of a budget, or an error."""
        found, least = self._plan(batch, longest, rows, budget)
        if found is None:
            raise ValueError(f"memory: got {budget:,} bytes, but {batch} sequences of {longest} steps take at least "
                             f"{least.size:,}; give as much, or fewer sequences")  # fmt: skip
        return found

    def _read_gradients(self, dy: Any, context: Context, read: Callable[..., Any]) -> list[Any]:
        """What `read` gives of dL/dy of every layer."""
        dy = [None] * self.num_layers if dy is None else dy
        if not isinstance(dy, list | tuple) or len(dy) != self.num_layers:
            raise ValueError(
                f"dy: must be a list of {self.num_layers}, one for each layer, as y was; None where it is 0"
            )
        return [read(a, context, self.output_size(), self.dtype, f"dy[{k}]") for k, a in enumerate(dy)]

    def step(
        self, x_t: ArrayLike, state: PairLike | None = None, *, out: tuple[Array, Pair] | None = None
    ) -> tuple[Array, Pair]:
        """One time step, for streams.

        Parameters
        ----------
        x_t : array (N, I) or (I,)
        state : (h, c), each (L, N, H) or (L, H), or None to begin
            What the last step returned; it is not changed, unless it is also in `out`.
        out : (y_t, (h, c)), optional
            Arrays to write the results to. The state in it may be `state` itself: then nothing is allocated or copied.

        Returns
        -------
        y_t : array (N, H) or (H,)
        state : (h, c)

        Examples
        --------
        >>> import numpy as np, lstmx
        >>> lstm, state = lstmx.LSTM(1, 4, random_state=0), None
        >>> for x_t in np.ones((3, 1), "float32"):
        ...     y_t, state = lstm.step(x_t, state)
        >>> bool((y_t == lstm(np.ones((3, 1)))[0][-1]).all())
        True
        """
        if not self.causal:
            raise ValueError(BACKWARD_STREAM)
        snapshot = self.store.snapshot
        found = (snapshot.get("compiled") or self._call(snapshot))(x_t, state, True, out)
        if found is None:
            found = self._step(x_t, state) if out is None else self._into(out, x_t, state, True)
        return found

    def stream(
        self, x: ArrayLike, state: PairLike | None = None, *, out: tuple[Array, Pair] | None = None
    ) -> tuple[Array, Pair]:
        """A block of a stream: as a call, for blocks that follow each other; `out` saves the allocation.

        Parameters
        ----------
        x : array (N, T, I) or (T, I)
        state : (h, c), each (L, N, H) or (L, H), or None to begin
        out : (y, (h, c)), optional
            Arrays to write the results to, of the shapes and type that a call would return. The state in it may be
            `state` itself.

        Returns
        -------
        y : array (N, T, H) or (T, H)
        state : (h, c)

        Examples
        --------
        >>> import numpy as np, lstmx
        >>> lstm, x = lstmx.LSTM(1, 4, random_state=0), np.ones((100, 1), "float32")
        >>> out = lstm.stream(x[:50])
        >>> _, state = out
        >>> y, state = lstm.stream(x[50:], state, out=out)      # the same arrays again
        >>> bool((y == lstm(x)[0][50:]).all())
        True
        """
        if not self.causal:
            raise ValueError(BACKWARD_STREAM)
        if isinstance(x, list | tuple):
            raise TypeError("x: got a list, must be one array (N, T, I) or (T, I); run ragged batches by a call")
        found = self._call(self.store.snapshot)(x, state, False, out)
        if found is None:
            found = self(x, state) if out is None else self._into(out, x, state, False)
        return found

    def _step(self, x_t: ArrayLike, state: State) -> tuple[Array, Pair]:
        """`step` for whatever is not a plain array."""
        x_t = validate.real_array("x_t", x_t, self.dtype)
        if x_t.ndim not in (1, 2) or x_t.shape[-1] != self.input_size:
            raise ValueError(f"x_t: got shape {x_t.shape}, must be (N, {self.input_size}) or ({self.input_size},)")
        y, state = self(x_t[..., None, :], state)
        return y[..., 0, :], state

    def _into(self, out: Any, x: Any, state: State, step: bool) -> tuple[Array, Pair]:
        """`step` or `stream` into `out` where not all arguments are plain arrays, by way of fresh ones."""
        x = validate.real_array("x_t" if step else "x", x, self.dtype)
        lead = x.shape[:-1]
        batch = lead if step else lead[:-1]
        y, (h, c) = validate.output("out", out, (*lead, self._outputs), self._state_shapes(*batch), self.dtype,
                                    [x], () if state is None else pair(state))  # fmt: skip
        results = self._step(x, state) if step else self(x, state)
        y[...], h[...], c[...] = results[0], *results[1]
        return y, (h, c)

    def trace(
        self,
        x: ArrayLike,
        state: PairLike | None = None,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
    ) -> Trace:
        """Run the network and keep everything that it did.

        Parameters
        ----------
        x, state, lengths, mask, reset : as in a call

        Returns
        -------
        Trace
            Gates i, f, g, o, memory c and output h at every step.

        Examples
        --------
        >>> import numpy as np, lstmx
        >>> trace = lstmx.LSTM(2, 4, random_state=0).trace(np.ones((6, 2)))
        >>> trace.f[0, 0].shape         # layer 0, forward direction: (T, H)
        (6, 4)
        """
        run = Run(keep=True, parameters=self.store.snapshot)
        rows, context, h, c = self._read(x, state, run.parameters, lengths=lengths, mask=mask, reset=reset)
        _, tape = self._run(rows, context, h, c, run)
        return Trace(self, tape, context, (h, c))

    def memory(self, N: int, T: int, training: bool = False, memory: Memory | None = None) -> int:
        """Bytes of working memory that a call on N sequences of T steps takes at its peak, parameters and x aside.

        The outputs count. Training includes what the backward pass adds. Up to 64 MiB of it,
        in all layers together, are kept for the next call.

        Parameters
        ----------
        N, T : int
        training : bool
        memory : int or str, optional
            What `forward` is given as its memory: then what it takes of that; an error names the least possible.

        Examples
        --------
        >>> import lstmx
        >>> lstmx.LSTM(8, 64).memory(32, 100) < lstmx.LSTM(8, 64).memory(32, 100, training=True)
        True
        """
        N, T = validate.extent("N", N), validate.extent("T", T)
        if not validate.flag("training", training):
            if memory is not None:
                raise ValueError("memory: a budget is that of training; give training=True, or leave it out")
            return self._inference_size(N, T)
        if memory is None:
            return self._whole_size(N, T, N * T)
        return self._found(N, T, N * T, read_memory("memory", memory)).size

    def _inference_size(self, N: int, T: int) -> int:
        rows, size, wide, layers = N * T, self.dtype.itemsize, self.output_size(), self.num_layers
        scratch, _ = self._sizes(N, rows, T, False)
        states = N * self.state_width(self.input_size)
        if get_engine().compiled and self._stacks:
            return (rows * wide * (1 + min(layers - 1, 2)) + states) * size + self._directions * scratch
        below = wide if layers > 1 else 0
        below += wide if self.merge == "mul" else 0
        return (rows * (self.input_size + below + 2 * wide) + 2 * states) * size + scratch

    def summary(self) -> str:
        """One line per parameter: name, shape, count."""
        lines = [f"{self!r}: {self.size:,} parameters"]
        lines += [f"  {name:24s}{p.shape!s:>16s}{p.size:>12,}" for name, p in self.store.arrays.items()]
        return "\n".join(lines)


def _dropout_rng(random_state: RandomState) -> np.random.Generator:
    """The layer's own generator: a stream beside that of the initial parameters."""
    if isinstance(random_state, np.random.Generator):
        return random_state
    if not isinstance(random_state, np.random.SeedSequence | int | np.integer):
        return np.random.default_rng()
    if not isinstance(random_state, np.random.SeedSequence):
        random_state = np.random.SeedSequence(random_state)
    return np.random.default_rng(np.random.SeedSequence(random_state.entropy, spawn_key=(*random_state.spawn_key, 1)))
