"""The LSTM layer: stacked, bidirectional, ragged."""

import numpy as np

from lstmx.functional import (
    Gradients,
    Tape,
    allocate,
    give_state,
    kept,
    kernels,
    read_gradient,
    read_state,
    read_tape,
    sequences,
    validate,
)
from lstmx.functional.cell import Cell, suffix
from lstmx.functional.engine import get_engine
from lstmx.functional.panels import Weights
from lstmx.layers.base import Layer, Run
from lstmx.layers.trace import Trace

BACKWARD_STREAM = "step, stream: a bidirectional LSTM reads from the end, which a stream does not have; call it instead"


class LSTM(Layer):
    """Long Short-Term Memory: one or more layers, one or two directions.

    Parameters
    ----------
    input_size, hidden_size : int
        I and H.
    num_layers : int
        L; each layer reads the outputs of the one below.
    bias : bool
    bidirectional : bool
        A second direction (D = 2) reads each sequence from its own end; outputs are concatenated, forward first.
    dropout : float
        Rate at which the outputs of every layer but the last are dropped in training.
    cell : lstmx.Cell, optional
        The options of the cell; by default it is the plain one.
    dtype : {"float32", "float64"}
    random_state : None, int, SeedSequence or Generator
        Seeds the initial parameters: weight_ih glorot and weight_hh orthogonal, each gate by itself, bias 0 and 1 for
        the forget gate. Also seeds dropout where a call gives no generator.

    See Also
    --------
    lstmx.reference : the equations, in NumPy.

    Notes
    -----
    Parameters are ``weight_ih_l0`` (4H, I), ``weight_hh_l0`` (4H, H) and ``bias_l0`` (4H,), blocks of H rows in the
    order i, f, g, o; then ``.._l0_reverse``, ``.._l1`` (whose I is D*H), and so on. They are no attributes:
    `set_parameters` sets them. Attributes such as ``hidden_size`` cannot be set.

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

    def __init__(
        self, input_size, hidden_size, num_layers=1, *, bias=True, bidirectional=False, dropout=0.0, cell=None,
        dtype="float32", random_state=None,
    ):  # fmt: skip
        self.input_size = validate.count("input_size", input_size)
        self.hidden_size = validate.count("hidden_size", hidden_size)
        self.num_layers = validate.count("num_layers", num_layers)
        self.bias = validate.flag("bias", bias)
        self.bidirectional = validate.flag("bidirectional", bidirectional)
        self.dropout = validate.number("dropout", dropout, 0, 1, open_high=True)
        self.cell = Cell() if cell is None else cell
        if not isinstance(self.cell, Cell):
            raise TypeError(f"cell: got {cell!r}, must be an lstmx.Cell, such as lstmx.Cell(clip=3.0)")
        self._outputs, self._memory = self.cell.widths(self.hidden_size)
        self._names = [p.name for p in self.cell.parameters(1, 1, self.bias)]
        self._setup(dtype, random_state)
        self._rng = _dropout_rng(random_state)

    def config(self):
        """The constructor arguments, as plain JSON values."""
        names = ("input_size", "hidden_size", "num_layers", "bias", "bidirectional", "dropout")
        cell = {} if self.cell.plain else {"cell": self.cell.config()}
        return {name: getattr(self, name) for name in names} | cell | {"dtype": self.dtype.name}

    def _shown(self):
        return self.config() | ({} if self.cell.plain else {"cell": self.cell})

    @classmethod
    def without_parameters(cls, config):
        """A validated layer of a configuration; `store.fill` must follow."""
        return super().without_parameters(config | {"cell": Cell.from_config(config.get("cell", {}))})

    @staticmethod
    def parameter_table(config):
        """A `Parameter` for every array of a layer with this configuration."""
        hidden, inputs, cell = config["hidden_size"], config["input_size"], Cell.from_config(config.get("cell", {}))
        directions = 2 if config["bidirectional"] else 1
        for layer in range(config["num_layers"]):
            for direction in range(directions):
                for p in cell.parameters(inputs, hidden, config["bias"]):
                    yield p._replace(name=p.name + suffix(layer, direction))
            inputs = directions * hidden

    def _more(self):
        return {"_rng": self._rng}

    @property
    def directions(self):
        """D: 2 if bidirectional, else 1."""
        return 2 if self.bidirectional else 1

    def output_size(self, input_size=None):
        """Features of y: D*H."""
        return self.directions * self._outputs

    @property
    def causal(self):
        """Whether chunks of a sequence can follow each other: a second direction reads from the end."""
        return not self.bidirectional

    def _weights(self, layer, direction, derived=None):
        """The `Weights` of one layer and direction; `derived` is the `Snapshot` that a call began with."""
        derived = self.store.snapshot if derived is None else derived
        weights = derived.get((layer, direction))
        if weights is None:
            end = suffix(layer, direction)
            arrays = {name: derived.arrays[name + end] for name in self._names}
            weights = derived.setdefault((layer, direction), Weights(self.cell, arrays))
        return weights

    @property
    def reads_windows(self):
        """With few features, a sum that windows share would save nothing."""
        return self.input_size >= 16 and get_engine().compiled

    def _each(self):
        return ((layer, direction) for layer in range(self.num_layers) for direction in range(self.directions))

    # On packed rows: the layer protocol, and all the arithmetic.

    def _run(self, rows, context, h, c, run):
        """All layers and directions. h and c (L*D, N, H) go from the initial to the final state.

        Returns y (S, D*H) and, to keep, a tape with one entry per layer.
        """
        tape = []
        wide, derived = self.directions * self._outputs, self._parameters(run)
        for layer in range(self.num_layers):
            drop = None
            if layer and self.dropout and run.key is not None:
                drop = (int(run.key) + layer * 0x9E3779B97F4A7C15) % 2**64
                rows = kernels.dropout(rows, self.dropout, drop, context)
            y = allocate.aligned((len(rows), wide), self.dtype, reuse=True)
            weights = [self._weights(layer, direction, derived) for direction in range(self.directions)]
            slabs = []
            for direction in range(self.directions):
                k = layer * self.directions + direction
                columns = y[:, direction * self._outputs :][:, : self._outputs]
                slabs.append(
                    get_engine().forward(
                        rows, weights[direction], context, direction == 1, h[k], c[k], columns, run.keep
                    )
                )
            if run.keep:
                tape.append((rows, slabs, drop, weights))
            rows = y
        return rows, tape

    def _run_backward(self, tape, context, dy, dh, dc, out, *, need_dx=True, retain=False, flow=None):
        """Back-propagation through all layers. dh and dc go from the gradients of the final to those of the initial
        state.

        `out[name]` are written. `flow[layer, direction]`, if given, is a pair of (S, H) arrays for dL/dh_t and dL/dc_t.
        Returns dx (S, I) or None.
        """
        for layer in reversed(range(self.num_layers)):
            rows, all_slabs, drop, weights = tape[layer]
            dx = allocate.aligned(rows.shape, self.dtype, reuse=True) if layer or need_dx else None
            for direction in range(self.directions):
                k = layer * self.directions + direction
                columns = None if dy is None else dy[:, direction * self._outputs :][:, : self._outputs]
                end = suffix(layer, direction)
                slabs = kept(all_slabs[direction]) if retain else all_slabs[direction]
                get_engine().backward(
                    rows, weights[direction], context, direction == 1, slabs, columns, dh[k], dc[k], dx,
                    direction > 0, {name: out[name + end] for name in self._names},
                    (None, None) if flow is None else flow[layer, direction],
                )  # fmt: skip
            if drop is not None:
                kernels.dropout(dx, self.dropout, drop, context, out=dx)
            dy = dx
        return dy

    def _start(self, state, context):
        """(h, c) for `_run` to change, in the order of the packed rows: zeros, or copies."""
        shapes = self._state_shapes(context.batch)
        if state is None:
            return tuple(allocate.zeros(shape, self.dtype) for shape in shapes)
        return tuple(
            validate.shaped(f"state {name}", a, shape, self.dtype, "(L*D, N, H)").copy()
            for name, a, shape in zip("hc", _pair(state), shapes, strict=True)
        )

    def forward_rows(self, rows, context, state, run):
        """The layer protocol; the state is (h, c), each (L*D, N, H)."""
        h, c = self._start(state, context)
        y, tape = self._run(rows, context, h, c, run)
        return y, context.of(self.directions), (h, c), (tape, context) if run.keep else None

    def compiled(self, parameters, directions):
        """The layer protocol; the call also takes ``out``, arrays (y, (h, c)) to write to."""
        call = parameters.get("compiled")
        if call is None:
            weights = [self._weights(layer, direction, parameters) for layer, direction in self._each()]
            call = parameters["compiled"] = get_engine().stack(weights, self.num_layers, self.directions)
        return call

    def backward_rows(self, tape, dy, out, need_dx, flow=None):
        """The layer protocol; `flow` as `_run_backward` takes it."""
        tape, context = tape
        return self._run_backward(tape, context, dy, *self._start(None, context), out, need_dx=need_dx, flow=flow)

    # What users call.

    def _state_shapes(self, *batch):
        """The shapes of h and c, (L*D, N, H), or without N."""
        parts = self.num_layers * self.directions
        return (parts, *batch, self._outputs), (parts, *batch, self._memory)

    def _read(self, x, state, lengths, own=False):
        rows, context = sequences(x, self.input_size, self.dtype, lengths=lengths, single=True).all(own)
        h, c = read_state("state", state, self._state_shapes(context.batch), context, self.dtype, "(L*D, N, H)")
        return rows, context, h, c

    def __call__(self, x, state=None, *, lengths=None):
        """Inference.

        Parameters
        ----------
        x : array (N, T, I), array (T, I), or list of arrays (T_n, I)
        state : (h0, c0), each (L*D, N, H), optional
            Zero by default. For one sequence (L*D, H).
        lengths : array of int (N,), optional
            Steps of each sequence in a padded (N, T, I); what stands behind them does not matter.

        Returns
        -------
        y : (N, T, D*H), (T, D*H) or a list, as x
            0 past a sequence's end.
        (h_n, c_n) : each (L*D, N, H)
            After each sequence's last step; index layer * D + direction.
        """
        if lengths is None:
            snapshot = self.store.snapshot
            found = (snapshot.get("compiled") or LSTM.compiled(self, snapshot, 1))(x, state, False)
            if found is not None:
                return found
        rows, context, h, c = self._read(x, state, lengths)
        y, _ = self._run(rows, context, h, c, Run())
        return context.unpack(y), give_state((h, c), context)

    def forward(self, x, state=None, *, lengths=None, rng=None):
        """Training: as a call, with dropout, and with a tape for `backward`.

        Parameters
        ----------
        x, state, lengths : as in a call
        rng : None, int, SeedSequence or Generator
            Draws the dropout masks; by default the layer's own generator.

        Returns
        -------
        y, (h_n, c_n), tape
        """
        rows, context, h, c = self._read(x, state, lengths, own=True)
        rng = self._rng if rng is None else validate.random_generator("rng", rng)
        key = rng.integers(2**64, dtype=np.uint64) if self.dropout else None
        y, tape = self._run(rows, context, h, c, Run(keep=True, key=key))
        return context.unpack(y), give_state((h, c), context), Tape(self, context, self.store.version, layers=tape)

    def backward(self, tape, dy, dstate=None, *, retain=False):
        """Back-propagation through time.

        Parameters
        ----------
        tape : from `forward`
            Used up, unless `retain`.
        dy : in the form and shape of y, or None for zero
            dL/dy; its values on padding are ignored.
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
        context = read_tape(tape, self).context
        dy = read_gradient(dy, context, self.output_size(), self.dtype)
        dh, dc = read_state("dstate", dstate, self._state_shapes(context.batch), context, self.dtype, "(L*D, N, H)")
        layers = tape.use(validate.flag("retain", retain), self.store.version)["layers"]
        out = {name: allocate.empty(p.shape, self.dtype) for name, p in self.store.arrays.items()}
        dx = self._run_backward(layers, context, dy, dh, dc, out, retain=retain)
        return Gradients(context.unpack(dx), give_state((dh, dc), context), out)

    def step(self, x_t, state=None, *, out=None):
        """One time step, for streams.

        Parameters
        ----------
        x_t : array (N, I) or (I,)
        state : (h, c), each (L, N, H) or (L, H), or None for zero
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
        if self.bidirectional:
            raise ValueError(BACKWARD_STREAM)
        snapshot = self.store.snapshot
        found = (snapshot.get("compiled") or LSTM.compiled(self, snapshot, 1))(x_t, state, True, out)
        if found is None:
            found = self._step(x_t, state) if out is None else self._into(out, x_t, state, True)
        return found

    def stream(self, x, state=None, *, out=None):
        """A block of a stream: as a call, for blocks that follow each other; `out` saves the allocation.

        Parameters
        ----------
        x : array (N, T, I) or (T, I)
        state : (h, c), each (L, N, H) or (L, H), or None for zero
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
        if self.bidirectional:
            raise ValueError(BACKWARD_STREAM)
        if isinstance(x, list | tuple):
            raise TypeError("x: got a list, must be one array (N, T, I) or (T, I); run ragged batches by a call")
        found = LSTM.compiled(self, self.store.snapshot, 1)(x, state, False, out)
        if found is None:
            found = self(x, state) if out is None else self._into(out, x, state, False)
        return found

    def _step(self, x_t, state):
        """`step` for whatever is not a plain array."""
        x_t = validate.real_array("x_t", x_t, self.dtype)
        if x_t.ndim not in (1, 2) or x_t.shape[-1] != self.input_size:
            raise ValueError(f"x_t: got shape {x_t.shape}, must be (N, {self.input_size}) or ({self.input_size},)")
        y, state = self(x_t[..., None, :], state)
        return y[..., 0, :], state

    def _into(self, out, x, state, step):
        """`step` or `stream` into `out` where not all arguments are plain arrays, by way of fresh ones."""
        x = validate.real_array("x_t" if step else "x", x, self.dtype)
        lead = x.shape[:-1]
        batch = lead if step else lead[:-1]
        y, (h, c) = validate.output("out", out, (*lead, self._outputs), self._state_shapes(*batch), self.dtype,
                                    [x], () if state is None else _pair(state))  # fmt: skip
        results = self._step(x, state) if step else self(x, state)
        y[...], h[...], c[...] = results[0], *results[1]
        return y, (h, c)

    def trace(self, x, state=None, *, lengths=None):
        """Run the network and keep everything that it did.

        Parameters
        ----------
        x, state, lengths : as in a call

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
        rows, context, h, c = self._read(x, state, lengths)
        _, tape = self._run(rows, context, h, c, Run(keep=True))
        return Trace.of(tape, context, (h, c))

    def memory(self, N, T, training=False):
        """Bytes of working memory that a call on N sequences of T steps takes at its peak, parameters and x aside.

        The outputs count. Training includes what the backward pass adds. Up to 64 MiB of it,
        in all layers together, are kept for the next call.

        Examples
        --------
        >>> import lstmx
        >>> lstmx.LSTM(8, 64).memory(32, 100) < lstmx.LSTM(8, 64).memory(32, 100, training=True)
        True
        """
        N, T = validate.count("N", N, 0), validate.count("T", T, 0)
        for name, value in (("N", N), ("T", T)):
            if value > 2**40:
                raise ValueError(f"{name}: got {value}, must be at most 2**40, which no memory holds")
        training, engine = validate.flag("training", training), get_engine()
        rows, directions, layers, size = N * T, self.directions, self.num_layers, self.dtype.itemsize
        wide = directions * self._outputs
        scratch = tape = 0  # bytes: of the layer that needs most; of all layers
        for inputs in [self.input_size] + [wide] * (layers - 1):
            sizes = engine.memory(rows, N, T, inputs, self.hidden_size, self.cell, self.dtype, training=training)
            scratch, tape = max(scratch, sizes[0]), tape + directions * sizes[1]
        states = layers * directions * N * sum(self.cell.widths(self.hidden_size))
        if training:
            dropped = (layers - 1) * rows * wide if self.dropout else 0
            outputs = layers * rows * wide + rows * (self.input_size + wide)  # of every layer; x packed, y given
            gradients = self.size + rows * 2 * (self.input_size + wide) + 2 * states
            return (dropped + outputs + 2 * states + gradients) * size + tape + scratch
        if engine.compiled:
            return (rows * wide * (1 + min(layers - 1, 2)) + states) * size + directions * scratch
        below = wide if layers > 1 else 0
        return (rows * (self.input_size + below + 2 * wide) + 2 * states) * size + scratch

    def summary(self):
        """One line per parameter: name, shape, count."""
        lines = [f"{self!r}: {self.size:,} parameters"]
        lines += [f"  {name:24s}{p.shape!s:>16s}{p.size:>12,}" for name, p in self.store.arrays.items()]
        return "\n".join(lines)


def _dropout_rng(random_state):
    """The layer's own generator: a stream beside that of the initial parameters."""
    if isinstance(random_state, np.random.Generator):
        return random_state
    if not isinstance(random_state, np.random.SeedSequence | int | np.integer):
        return np.random.default_rng()
    if not isinstance(random_state, np.random.SeedSequence):
        random_state = np.random.SeedSequence(random_state)
    return np.random.default_rng(np.random.SeedSequence(random_state.entropy, spawn_key=(*random_state.spawn_key, 1)))


def _pair(state):
    if not isinstance(state, tuple | list) or len(state) != 2:
        raise TypeError(f"state: got {type(state).__name__}, must be a pair of arrays (h, c)")
    return state
