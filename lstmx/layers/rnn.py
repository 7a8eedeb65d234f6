"""The plain recurrent network, which an LSTM is measured against."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, overload

import numpy as np

from lstmx import init as start
from lstmx.functional import (
    Gradients,
    Tape,
    allocate,
    kernels,
    read_gradient,
    read_tape,
    sequences,
    validate,
)
from lstmx.functional.cell import Parameter, suffix
from lstmx.functional.engine import get_engine
from lstmx.functional.messages import explained
from lstmx.functional.panels import Derived
from lstmx.functional.read import give_state_array, read_state_array
from lstmx.layers.base import Layer, Run
from lstmx.layers.lstm import BACKWARD_STREAM

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Literal, NoReturn

    from numpy.typing import ArrayLike

    from lstmx._types import Array, Config, Context, DType, Initial, Precision, RandomState, State
    from lstmx.functional.context import SequenceContext


ACTIVATIONS = ("tanh", "relu")
_STATE = "(L*D, N, H)"


class RNN(Layer):
    """A plain recurrent network (Elman 1990): one or more layers, one or two directions.

    ``h_t = tanh(W_ih x_t + W_hh h_{t-1} + b)``. It has no memory but its output, so that the gradient is multiplied by
    ``W_hh^T diag(1 - h_t**2)`` at every step back. It is here to learn and to compare: its time loop is Python's.

    Parameters
    ----------
    input_size, hidden_size : int
        I and H.
    num_layers : int
        L; each layer reads the outputs of the one below.
    bias : bool
    bidirectional : bool
        A second direction (D = 2) reads each sequence from its own end.
    activation : {"tanh", "relu"}
    init : {"glorot", "uniform"}
        How parameters begin. "glorot": weight_ih glorot, weight_hh orthogonal, bias 0. "uniform": as PyTorch's do,
        U(-b, b) with b = 1 / sqrt(H), the bias the sum of two such.
    dtype : {"float32", "float64"}
    random_state : None, int, SeedSequence or Generator
        Seeds the initial parameters.

    See Also
    --------
    LSTM : what to use instead; its arguments mean the same.

    Notes
    -----
    Parameters are ``weight_ih_l0`` (H, I), ``weight_hh_l0`` (H, H) and ``bias_l0`` (H,), then ``.._l0_reverse``,
    ``.._l1`` (whose I is D*H), and so on. The state is one array h (L*D, N, H), as PyTorch's.

    Examples
    --------
    >>> import numpy as np, lstmx
    >>> rnn = lstmx.RNN(3, 8, random_state=0)
    >>> y, h_n = rnn(np.zeros((2, 5, 3)))       # two sequences of five steps
    >>> y.shape, h_n.shape
    ((2, 5, 8), (1, 2, 8))
    """

    input_size: int

    @explained
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        bidirectional: bool = False,
        activation: Literal["tanh", "relu"] = "tanh",
        init: Initial = "glorot",
        dtype: Precision = "float32",
        random_state: RandomState = None,
    ) -> None:
        self.input_size = validate.count("input_size", input_size)
        self.hidden_size = validate.count("hidden_size", hidden_size)
        self.num_layers = validate.count("num_layers", num_layers)
        self.bias = validate.flag("bias", bias)
        self.bidirectional = validate.flag("bidirectional", bidirectional)
        self.activation = validate.choice("activation", activation, ACTIVATIONS)
        self.init = validate.choice("init", init, start.SCHEMES)
        self._reversed = (False, True) if self.bidirectional else (False,)  # whether each direction reads from the end
        self._setup(dtype, random_state)

    def __getattr__(self, name: str) -> NoReturn:
        remedy = (
            "; only an LSTM has gates and a memory to trace, of an RNN y holds all states" if name == "trace" else ""
        )
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}{remedy}", name=name, obj=self)

    def config(self) -> Config:
        """The constructor arguments, as plain JSON values."""
        names = ("input_size", "hidden_size", "num_layers", "bias", "bidirectional", "activation", "init")
        return {name: getattr(self, name) for name in names} | {"dtype": self.dtype.name}

    @staticmethod
    def parameter_table(config: Config) -> Iterator[Parameter]:
        """A `Parameter` for every array of a layer with this configuration."""
        hidden, inputs, directions = config["hidden_size"], config["input_size"], 1 + config["bidirectional"]
        scheme = start.Scheme(config["init"])
        for layer in range(config["num_layers"]):
            for direction in range(directions):
                end = suffix(layer, direction)
                yield Parameter("weight_ih" + end, (hidden, inputs), scheme.weight(start.glorot, hidden))
                yield Parameter("weight_hh" + end, (hidden, hidden), scheme.weight(start.orthogonal, hidden))
                if config["bias"]:
                    yield Parameter("bias" + end, (hidden,), partial(scheme.bias, gates=1), decays=False)
            inputs = directions * hidden

    def room(self, batch: int, rows: int, steps: int, features: int, itemsize: int) -> int:
        """The layer protocol: states before each step, outputs and gradients of the layers within."""
        wide = self.directions * self.hidden_size
        parts = self.num_layers * (2 + self.bidirectional) + 4  # before, y, y of each direction; backward da and dx
        return (rows * wide * parts + 4 * batch * wide + 4 * self.size) * itemsize

    @property
    def directions(self) -> int:
        """D: 2 if bidirectional, else 1."""
        return len(self._reversed)

    @property
    def reversed(self) -> tuple[bool, ...]:
        """For each direction, whether it reads from the end."""
        return self._reversed

    @property
    def causal(self) -> bool:  # type: ignore[override]
        """Whether chunks of a sequence can follow each other: no direction reads from the end."""
        return not self.bidirectional

    def output_size(self, input_size: int | None = None) -> int:
        """Features of y, D*H."""
        return self.directions * self.hidden_size

    # What users call.

    def _read(self, x: Any, state: State, own: bool = False, **given: Any) -> tuple[Array, SequenceContext, Array]:
        rows, context = sequences(x, self.input_size, self.dtype, single=True, **given).all(own)
        return rows, context, self._read_state("state", state, context)

    def _read_state(self, name: str, value: Any, context: Context, final: bool = False) -> Array:
        """A caller's state, or its gradient, in the order of the packed rows; zeros for None."""
        zeros = self.start_state(context.batch, self.input_size)
        if value is None:
            return zeros
        return read_state_array(name, value, zeros, context, _STATE, self._reversed, final)

    @overload
    def __call__(
        self,
        x: Array,
        state: ArrayLike | None = None,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
    ) -> tuple[Array, Array]: ...

    @overload
    def __call__(
        self,
        x: list[Array],
        state: ArrayLike | None = None,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
    ) -> tuple[list[Array], Array]: ...

    @overload
    def __call__(
        self,
        x: ArrayLike,
        state: ArrayLike | None = None,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
    ) -> tuple[Any, Array]: ...

    def __call__(
        self,
        x: ArrayLike,
        state: ArrayLike | None = None,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
    ) -> tuple[Any, Array]:
        """Inference.

        Parameters
        ----------
        x : array (N, T, I), array (T, I), or list of arrays (T_n, I)
        state : array (L*D, N, H), optional
            Zero by default. For one sequence (L*D, H).
        lengths, mask, reset : as in a call of `LSTM`

        Returns
        -------
        y : (N, T, D*H), (T, D*H) or a list, as x
            0 past a sequence's end and on masked steps.
        h_n : (L*D, N, H)
            After each sequence's last step; index layer * D + direction.
        """
        run = Run(parameters=self.store.snapshot)
        rows, context, h = self._read(x, state, lengths=lengths, mask=mask, reset=reset)
        y, _ = self._run(rows, context, h, run)
        return context.unpack(y), give_state_array(h, context, self._reversed)

    @overload
    def forward(
        self,
        x: Array,
        state: ArrayLike | None = None,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
    ) -> tuple[Array, Array, Tape]: ...

    @overload
    def forward(
        self,
        x: list[Array],
        state: ArrayLike | None = None,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
    ) -> tuple[list[Array], Array, Tape]: ...

    @overload
    def forward(
        self,
        x: ArrayLike,
        state: ArrayLike | None = None,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
    ) -> tuple[Any, Array, Tape]: ...

    def forward(
        self,
        x: ArrayLike,
        state: ArrayLike | None = None,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
    ) -> tuple[Any, Array, Tape]:
        """Training: as a call, with a tape for `backward`.

        Returns
        -------
        y, h_n, tape
        """
        version, run = self.store.version, Run(keep=True, parameters=self.store.snapshot)
        rows, context, h = self._read(x, state, own=True, lengths=lengths, mask=mask, reset=reset)
        y, layers = self._run(rows, context, h, run)
        tape = Tape(self, context, version, layers=layers)
        return context.unpack(y), give_state_array(h, context, self._reversed), tape

    def backward(self, tape: Tape, dy: Any, dstate: ArrayLike | None = None, *, retain: bool = False) -> Gradients:
        """Back-propagation through time.

        Parameters
        ----------
        tape : from `forward`
            Used up, unless `retain`.
        dy : in the form and shape of y, or None for zero
            dL/dy; its values on padding and masked steps are ignored.
        dstate : array (L*D, N, H), optional
            dL/dh_n.
        retain : bool
            Keep the tape for another pass.

        Returns
        -------
        Gradients
            ``.x`` in the form of x, ``.state`` dL/dh_0, ``.params`` by name.
        """
        context = read_tape(tape, self).context
        dy = read_gradient(dy, context, self.output_size(), self.dtype)
        dh = self._read_state("dstate", dstate, context, final=True)
        layers = tape.use(validate.flag("retain", retain), self.store.version)["layers"]
        out = {name: allocate.empty(p.shape, self.dtype) for name, p in self.store.arrays.items()}
        dx = self._run_backward(layers, context, dy, dh, out)
        return Gradients(context.unpack(dx), give_state_array(dh, context, self._reversed, final=False), out)

    def step(self, x_t: ArrayLike, state: ArrayLike | None = None) -> tuple[Array, Array]:
        """One time step, for streams.

        Parameters
        ----------
        x_t : array (N, I) or (I,)
        state : array (L, N, H) or (L, H), or None to begin

        Returns
        -------
        y_t : array (N, H) or (H,)
        state : array (L, N, H) or (L, H)

        Examples
        --------
        >>> import numpy as np, lstmx
        >>> rnn, state = lstmx.RNN(1, 4, random_state=0), None
        >>> for x_t in np.ones((3, 1), "float32"):
        ...     y_t, state = rnn.step(x_t, state)
        >>> bool((y_t == rnn(np.ones((3, 1)))[0][-1]).all())
        True
        """
        if not self.causal:
            raise ValueError(BACKWARD_STREAM)
        x_t = validate.real_array("x_t", x_t, self.dtype)
        if x_t.ndim not in (1, 2) or x_t.shape[-1] != self.input_size:
            raise ValueError(f"x_t: got shape {x_t.shape}, must be (N, {self.input_size}) or ({self.input_size},)")
        y, state = self(x_t[..., None, :], state)
        return y[..., 0, :], state

    def stream(self, x: ArrayLike, state: ArrayLike | None = None) -> tuple[Array, Array]:
        """A block of a stream: as a call, for blocks that follow each other.

        Parameters
        ----------
        x : array (N, T, I) or (T, I)
        state : array (L, N, H) or (L, H), or None to begin

        Returns
        -------
        y : array (N, T, H) or (T, H)
        state : array (L, N, H) or (L, H)
        """
        if not self.causal:
            raise ValueError(BACKWARD_STREAM)
        if isinstance(x, list | tuple):
            raise TypeError("x: got a list, must be one array (N, T, I) or (T, I); run ragged batches by a call")
        return self(x, state)

    # On packed rows.

    def _weights(self, parameters: Any, layer: int, direction: int) -> tuple[Array, Array, Array | None]:
        """weight_ih, weight_hh, the bias or None; and what the engine makes of the two weights."""
        end = suffix(layer, direction)
        arrays = [parameters.arrays.get(name + end) for name in ("weight_ih", "weight_hh", "bias")]
        return *arrays, parameters.setdefault((layer, direction), (Derived(), Derived()))

    def _run(self, rows: Any, context: Context, h: Array, run: Run) -> tuple[Array, Any]:
        """All layers and directions; h (L*D, N, H) goes from the initial to the final state.

        Returns y (S, D*H) and, to keep, a tape: for each layer its inputs, and of each direction the weights, the
        states before each step (S, H) and the outputs (S, H).
        """
        tape, parameters = [], self._parameters(run)
        for layer in range(self.num_layers):
            parts = []
            for direction, reverse in enumerate(self._reversed):
                weights = self._weights(parameters, layer, direction)
                state = h[layer * self.directions + direction]
                parts.append((weights, *self._forward(rows, context, weights, state, reverse, run.keep)))
            if run.keep:
                tape.append((rows, parts))
            outputs = [y for *_, y in parts]
            rows = outputs[0] if len(outputs) == 1 else np.concatenate(outputs, axis=1)
        return rows, tape

    def _steps(self, context: Context, last_first: bool) -> Any:
        """The packed rows of every step."""
        steps = [slice(int(a), int(b)) for a, b in zip(context.offsets, context.offsets[1:], strict=False)]
        return steps[::-1] if last_first else steps

    def _forward(self, rows: Any, context: Context, weights: Any, h: Array, reverse: bool, keep: bool) -> Any:
        """One layer in one direction; h (N, H) becomes the final state. Returns the states before, or None, and y."""
        weight_ih, weight_hh, bias, (made_ih, made_hh) = weights
        product = get_engine().product
        y = kernels.linear(rows, weight_ih, bias, "linear", made_ih)
        before: Any = allocate.empty(y.shape, self.dtype) if keep else None
        room = allocate.empty((context.widest, self.hidden_size), self.dtype)
        for now in self._steps(context, reverse):
            running = now.stop - now.start
            if keep:
                before[now] = h[:running]
            product(h[:running], weight_hh, room[:running], transpose_b=True, derived=made_hh)
            y[now] += room[:running]
            kernels.activate(y[now], self.activation)
            h[:running] = y[now]
        return before, y

    def _run_backward(
        self,
        tape: Any,
        context: Context,
        dy: Any,
        dh: Array,
        out: Any,
        need_dx: bool = True,
        flow: Any = None,
        add: bool = False,
    ) -> Any:
        """Back-propagation through all layers; dh goes from the gradient of the final to that of the initial state.

        `out[name]` are written, or with `add` added to, and dL/dh_t (S, H) to ``flow[layer, direction][0]``, if given.
        Returns dx or None.
        """
        H = self.hidden_size
        for layer in reversed(range(self.num_layers)):
            rows, parts = tape[layer]
            dx = None
            for direction, part in enumerate(parts):
                own = None if dy is None else dy[:, direction * H : (direction + 1) * H]
                end = suffix(layer, direction)
                gradients = [out.get(name + end) for name in ("weight_ih", "weight_hh", "bias")]
                share = self._backward(
                    rows, context, part, own, dh[layer * self.directions + direction], self._reversed[direction],
                    gradients, layer > 0 or need_dx, None if flow is None else flow[layer, direction][0], add,
                )  # fmt: skip
                dx = share if dx is None else np.add(dx, share, out=dx)
            dy = dx
        return dy

    def _backward(
        self,
        rows: Any,
        context: Context,
        part: Any,
        dy: Any,
        dh: Array,
        reverse: bool,
        out: Any,
        need_dx: bool,
        flow: Any,
        add: bool,
    ) -> Any:
        """The derivative of `_forward`."""
        (weight_ih, weight_hh, _, (made_ih, made_hh)), before, y = part
        engine = get_engine()
        da = allocate.empty(y.shape, self.dtype)
        for now in self._steps(context, not reverse):
            running = now.stop - now.start
            if dy is not None:
                dh[:running] += dy[now]
            if flow is not None:
                flow[now] = dh[:running]
            da[now] = dh[:running]
            kernels.activate_backward(y[now], da[now], self.activation)
            engine.product(da[now], weight_hh, dh[:running], derived=made_hh)
        d_ih, d_hh, d_bias = out
        blocks = context.blocks
        engine.outer(da, before, d_hh, blocks, add=add)
        return kernels.linear_backward(
            rows, weight_ih, y, da, "linear", (d_ih, d_bias), need_dx, blocks, made_ih, add
        )  # fmt: skip

    def start_state(self, batch: int, features: Any, parameters: Any = None, dtype: DType | None = None) -> State:
        """The layer protocol: zeros (L*D, N, H)."""
        return allocate.zeros((self.num_layers * self.directions, batch, self.hidden_size), self.dtype)

    def forward_rows(self, rows: Any, context: Context, state: State, run: Run) -> tuple[Array, Context, State, Any]:
        """The layer protocol; the state is h (L*D, N, H)."""
        run = run._replace(parameters=self._parameters(run))
        h = self.start_state(context.batch, self.input_size)
        if state is not None:
            h[...] = validate.shaped("state", state, h.shape, self.dtype, _STATE)
        y, tape = self._run(rows, context, h, run)
        return y, context.of(self._reversed), h, (tape, context) if run.keep else None

    def backward_rows(
        self,
        tape: Any,
        dy: Any,
        out: Any,
        need_dx: bool,
        dstate: State = None,
        *,
        add: bool = False,
        more: bool = False,
        flow: Any = None,
    ) -> tuple[Array | None, State]:
        """The layer protocol; ``flow[layer, direction]``, if given, is a pair as of an LSTM, of which the array (S, H)
        for dL/dh_t is written.
        """
        tape, context = tape
        dh = self.start_state(context.batch, self.input_size) if dstate is None else dstate
        return self._run_backward(tape, context, dy, dh, out, need_dx, flow, add), dh
