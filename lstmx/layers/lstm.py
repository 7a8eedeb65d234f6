"""The LSTM layer: stacked, bidirectional, ragged, with masks and resets."""

import numpy as np

from lstmx.functional import (
    Gradients,
    Tape,
    allocate,
    give_state,
    kept,
    kernels,
    masks,
    read_gradient,
    read_state,
    read_tape,
    sequences,
    validate,
)
from lstmx.functional.cell import INITIAL, Cell, suffix
from lstmx.functional.engine import get_engine
from lstmx.functional.panels import Weights
from lstmx.init import Scheme
from lstmx.layers.base import Layer, Run
from lstmx.layers.trace import Trace

BACKWARD_STREAM = (
    "step, stream: a bidirectional LSTM, as one with reverse=True, reads from the end, which a stream does not have; "
    "call it instead"
)
MERGES = ("concat", "sum", "mul", "average")


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

    def __init__(
        self, input_size, hidden_size, num_layers=1, *, bias=True, bidirectional=False, dropout=0.0, proj_size=0,
        cell=None, reverse=False, merge="concat", init="glorot", forget_bias=None, chrono=None, dtype="float32",
        random_state=None,
    ):  # fmt: skip
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
        self._setup(dtype, random_state)
        self._rng = _dropout_rng(random_state)

    def config(self):
        """The constructor arguments, as plain JSON values."""
        names = ("input_size", "hidden_size", "num_layers", "bias", "bidirectional", "dropout")
        more = {"proj_size": self.proj_size} if self.proj_size else {}
        more |= {"cell": options} if (options := self.cell.config()) else {}
        more |= {"reverse": True} if self.reverse else {}
        more |= {} if self.merge == "concat" else {"merge": self.merge}
        return {name: getattr(self, name) for name in names} | more | self._scheme.config() | {"dtype": self.dtype.name}

    def _shown(self):
        config = self.config()
        return config | ({"cell": self.cell} if "cell" in config else {})

    @classmethod
    def without_parameters(cls, config):
        """A validated layer of a configuration; `store.fill` must follow."""
        return super().without_parameters(config | {"cell": Cell.from_config(config.get("cell", {}))})

    @staticmethod
    def parameter_table(config):
        """A `Parameter` for every array of a layer with this configuration."""
        hidden, inputs, cell = config["hidden_size"], config["input_size"], Cell.from_config(config.get("cell", {}))
        proj, directions = config.get("proj_size", 0), 2 if config["bidirectional"] else 1
        scheme = Scheme(config.get("init", "glorot"), config.get("forget_bias"), config.get("chrono"))
        for layer in range(config["num_layers"]):
            for direction in range(directions):
                for p in cell.parameters(inputs, hidden, config["bias"], proj, scheme):
                    yield p._replace(name=p.name + suffix(layer, direction))
            inputs = (1 if config.get("merge", "concat") != "concat" else directions) * cell.widths(hidden, proj)[0]

    def _more(self):
        return {"_rng": self._rng}

    @property
    def directions(self):
        """D: 2 if bidirectional, else 1."""
        return self._directions

    @property
    def reversed(self):
        """For each direction, whether it reads from the end."""
        return self._reversed

    def output_size(self, input_size=None):
        """Features of y: D*H, or H where directions are merged."""
        return (self._directions if self.merge == "concat" else 1) * self._outputs

    @property
    def _stacks(self):
        """Whether the engines' compiled calls for plain arrays know what the directions do."""
        return not self.reverse and self.merge == "concat"

    @property
    def causal(self):
        """Whether chunks of a sequence can follow each other: no direction reads from the end."""
        return not any(self._reversed)

    def _weights(self, layer, direction, derived=None, key=None):
        """The `Weights` of one layer and direction; `derived` is the `Snapshot` that a call began with, `key` that of
        its masks.
        """
        derived = self.store.snapshot if derived is None else derived
        weights = derived.get((layer, direction))
        if weights is None:
            end = suffix(layer, direction)
            arrays = {name: derived.arrays[name + end] for name in self._names}
            weights = derived.setdefault((layer, direction), Weights(self.cell, arrays))
        if self.cell.weight_dropout and key is not None:
            dropped = self._drop_weight(weights.arrays["weight_hh"], key, layer, direction)
            weights = Weights(self.cell, weights.arrays | {"weight_hh": dropped})
        return weights

    def _drop_weight(self, array, key, layer, direction, out=None):
        """weight_hh, or its gradient, by the mask of a call."""
        number = _WEIGHTS + layer * self._directions + direction
        return kernels.dropout(array, self.cell.weight_dropout, _mask_key(key, number), out=out)

    @property
    def reads_windows(self):
        """With few features, a sum that windows share would save nothing."""
        return self.input_size >= 16 and get_engine().compiled

    def _each(self):
        return ((layer, direction) for layer in range(self.num_layers) for direction in range(self._directions))

    # On packed rows: the layer protocol, and all the arithmetic.

    def _run(self, rows, context, h, c, run, outputs=None):
        """All layers and directions. h and c (L*D, N, H) go from the initial to the final state.

        Returns y (S, D*H) and, to keep, a tape with one entry per layer. The outputs of every layer are appended to the
        list `outputs`.
        """
        tape = []
        derived = self._parameters(run)
        for layer in range(self.num_layers):
            drop = None
            if layer and self.dropout and run.key is not None:
                drop = _mask_key(run.key, layer)
                rows = kernels.dropout(rows, self.dropout, drop, context)
            y, columns = self._room(len(rows))
            weights = [self._weights(layer, direction, derived, run.key) for direction in range(self._directions)]
            slabs = []
            for direction, reverse in enumerate(self._reversed):
                k = layer * self._directions + direction
                drawn = None
                if run.key is not None and self.cell.drops:
                    w = weights[direction]
                    own = _mask_key(run.key, _CELLS + k)
                    drawn = masks.draw(self.cell, own, context, w.inputs, self._outputs, w.hidden, self.dtype)
                slabs.append(
                    get_engine().forward(
                        rows, weights[direction], context, reverse, h[k], c[k], columns[direction], run.keep, drawn
                    )
                )
            if y is None:
                y = self._merged(columns)
            if run.keep:
                tape.append((rows, slabs, drop, weights, run.key, columns if self.merge == "mul" else None))
            rows = y
            del columns  # before the next layer takes room
            if outputs is not None:
                outputs.append(rows)
        return rows, tape

    def _room(self, rows):
        """(y, where each direction writes its outputs): in y side by side, or if they are merged y is None."""
        if self.merge != "concat":
            return None, [allocate.aligned((rows, self._outputs), self.dtype, reuse=True) for _ in self._reversed]
        y = allocate.aligned((rows, self.output_size()), self.dtype, reuse=True)
        return y, [y] if self._directions == 1 else [
            y[:, k * self._outputs :][:, : self._outputs] for k in range(self._directions)
        ]

    def _merged(self, parts):
        """What the outputs of two directions become; they are kept only for the gradient of a product."""
        if self.merge == "mul":
            return np.multiply(*parts, out=allocate.aligned(parts[0].shape, self.dtype, reuse=True))
        y = np.add(*parts, out=parts[0])
        if self.merge == "average":
            y *= 0.5
        return y

    def _parted(self, dy, columns):
        """The gradients of the outputs of each direction."""
        if dy is None or self._directions == 1:
            return [dy] * self._directions
        if self.merge == "concat":
            return [dy[:, k * self._outputs :][:, : self._outputs] for k in range(self._directions)]
        if self.merge == "mul":
            return [dy * columns[1], dy * columns[0]]
        return [dy * 0.5 if self.merge == "average" else dy] * 2

    def _run_backward(
        self, tape, context, dy, dh, dc, out, *, need_dx=True, retain=False, flow=None, below=None
    ):  # fmt: skip
        """Back-propagation through all layers. dh and dc go from the gradients of the final to those of the initial
        state.

        `out[name]` are written. `flow[layer, direction]`, if given, is a pair of (S, H) arrays for dL/dh_t and dL/dc_t;
        `below[layer]` what the loss adds to the gradient of the outputs of a layer that is not the last, or None.
        Returns dx (S, I) or None.
        """
        for layer in reversed(range(self.num_layers)):
            rows, all_slabs, drop, weights, key, columns = tape[layer]
            dx = allocate.aligned(rows.shape, self.dtype, reuse=True) if layer or need_dx else None
            parts = self._parted(dy, columns)
            for direction, reverse in enumerate(self._reversed):
                k = layer * self._directions + direction
                end = suffix(layer, direction)
                slabs = kept(all_slabs[direction]) if retain else all_slabs[direction]
                get_engine().backward(
                    rows, weights[direction], context, reverse, slabs, parts[direction], dh[k], dc[k], dx,
                    direction > 0, {name: out[name + end] for name in self._names},
                    (None, None) if flow is None else flow[layer, direction],
                )  # fmt: skip
                if self.cell.weight_dropout and key is not None:
                    gradient = out["weight_hh" + end]
                    self._drop_weight(gradient, key, layer, direction, out=gradient)
            if drop is not None:
                kernels.dropout(dx, self.dropout, drop, context, out=dx)
            dy = dx
            if layer and below is not None and below[layer - 1] is not None:
                dy += below[layer - 1]
        return dy

    def _zeros(self, context):
        """Two arrays of the shapes of a state on packed rows."""
        return tuple(allocate.zeros(shape, self.dtype) for shape in self._state_shapes(context.batch))

    def _initial(self, context, parameters):
        """Fresh (h, c) of sequences for which no state is given: zeros, or what is learned."""
        pair = self._zeros(context)
        if self.cell.learn_state:
            for array, learned in zip(pair, self._learned(parameters), strict=True):
                array[:] = learned
        return pair

    def _learned(self, parameters):
        """The initial state (h, c) that is learned, each (L*D, 1, width)."""
        return tuple(
            np.stack([parameters.arrays[name + suffix(*place)] for place in self._each()])[:, None] for name in INITIAL
        )

    def _initial_backward(self, given, dh, dc, context, out):
        """Write the gradients of the learned initial state; no share of sequences for which a state was `given`."""
        if not self.cell.learn_state:
            return
        for name, gradient in zip(INITIAL, (dh, dc), strict=True):
            if given:
                gradient = gradient.copy()
                callers = np.zeros((len(gradient), len(context.given), gradient.shape[-1]), self.dtype)
                context.take_states(callers, gradient, self._reversed, False)
            for k, place in enumerate(self._each()):
                kernels.sum_rows(gradient[k], out[name + suffix(*place)])

    def _start(self, state, context, parameters):
        """(h, c) for `_run` to change, in the order of the packed rows: fresh, or copies."""
        if state is None:
            return self._initial(context, parameters)
        return tuple(
            validate.shaped(f"state {name}", a, shape, self.dtype, "(L*D, N, H)").copy()
            for name, a, shape in zip("hc", _pair(state), self._state_shapes(context.batch), strict=True)
        )

    def forward_rows(self, rows, context, state, run):
        """The layer protocol; the state is (h, c), each (L*D, N, H)."""
        run = run._replace(parameters=self._parameters(run))
        h, c = self._start(state, context, run.parameters)
        y, tape = self._run(rows, context, h, c, run)
        tape = (tape, context, state is not None) if run.keep else None
        return y, context.of(self._reversed), (h, c), tape

    def compiled(self, parameters, directions):
        """The layer protocol; the call also takes ``out``, arrays (y, (h, c)) to write to."""
        if not self._stacks:
            return None
        call = parameters.get("compiled")
        if call is None:
            weights = [self._weights(layer, direction, parameters) for layer, direction in self._each()]
            call = get_engine().stack(weights, self.num_layers, self._directions)
            if self.cell.learn_state:  # the closure holds no layer: that would be a cycle
                call = _from_learned(call, self._learned(parameters))
            parameters["compiled"] = call
        return call

    def backward_rows(self, tape, dy, out, need_dx, flow=None):
        """The layer protocol; `flow` as `_run_backward` takes it."""
        tape, context, given = tape
        dh, dc = self._zeros(context)
        dx = self._run_backward(tape, context, dy, dh, dc, out, need_dx=need_dx, flow=flow)
        self._initial_backward(given, dh, dc, context, out)
        return dx

    # What users call.

    def _meanings(self):
        """The shapes of h and c in words."""
        return f"(L*D, N, {'P' if self.proj_size else 'H'})", f"(L*D, N, {'3H' if self.cell.slstm else 'H'})"

    def _state_shapes(self, *batch):
        """The shapes of h and c, (L*D, N, H), or without N."""
        parts = self.num_layers * self._directions
        return (parts, *batch, self._outputs), (parts, *batch, self._memory)

    def _read(self, x, state, parameters, own=False, **given):
        """(rows, context, h, c) of x, a state, and what was `given` of lengths, mask and reset."""
        rows, context = sequences(x, self.input_size, self.dtype, single=True, **given).all(own)
        start = self._initial(context, parameters)
        h, c = read_state("state", state, start, context, self._meanings(), self._reversed)
        return rows, context, h, c

    def __call__(self, x, state=None, *, lengths=None, mask=None, reset=None, return_layers=False):
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
            call = snapshot.get("compiled") or LSTM.compiled(self, snapshot, 1)
            found = None if call is None else call(x, state, False)
            if found is not None:
                return found
        run = Run(parameters=self.store.snapshot)
        rows, context, h, c = self._read(x, state, run.parameters, lengths=lengths, mask=mask, reset=reset)
        outputs = [] if validate.flag("return_layers", return_layers) else None
        y, _ = self._run(rows, context, h, c, run, outputs)
        y = context.unpack(y) if outputs is None else [context.unpack(rows) for rows in outputs]
        return y, give_state((h, c), context, self._reversed)

    def forward(self, x, state=None, *, lengths=None, mask=None, reset=None, rng=None, return_layers=False):
        """Training: as a call, with what is dropped at random, and with a tape for `backward`.

        Parameters
        ----------
        x, state, lengths, mask, reset : as in a call
        rng : None, int, SeedSequence or Generator
            Draws what is dropped; by default the layer's own generator.
        return_layers : bool
            As in a call: outputs are those before dropout.

        Returns
        -------
        y, (h_n, c_n), tape
        """
        version, parameters = self.store.version, self.store.snapshot
        rows, context, h, c = self._read(x, state, parameters, own=True, lengths=lengths, mask=mask, reset=reset)
        rng = self._rng if rng is None else validate.random_generator("rng", rng)
        key = rng.integers(2**64, dtype=np.uint64) if self.dropout or self.cell.drops else None
        outputs = [] if validate.flag("return_layers", return_layers) else None
        y, layers = self._run(rows, context, h, c, Run(keep=True, key=key, parameters=parameters), outputs)
        y = context.unpack(y) if outputs is None else [context.unpack(rows) for rows in outputs]
        tape = Tape(self, context, version, layers=layers, given=state is not None, every=outputs is not None)
        return y, give_state((h, c), context, self._reversed), tape

    def backward(self, tape, dy, dstate=None, *, retain=False):
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
        context = read_tape(tape, self).context
        below = None
        if tape.parts["every"]:
            *below, dy = self._read_gradients(dy, context)
        else:
            dy = read_gradient(dy, context, self.output_size(), self.dtype)
        zeros = self._zeros(context)
        dh, dc = read_state("dstate", dstate, zeros, context, self._meanings(), self._reversed, final=True)
        parts = tape.use(validate.flag("retain", retain), self.store.version)
        out = {name: allocate.empty(p.shape, self.dtype) for name, p in self.store.arrays.items()}
        dx = self._run_backward(parts["layers"], context, dy, dh, dc, out, retain=retain, below=below)
        self._initial_backward(parts["given"], dh, dc, context, out)
        return Gradients(context.unpack(dx), give_state((dh, dc), context, self._reversed, final=False), out)

    def _read_gradients(self, dy, context):
        """Packed rows of dL/dy of every layer."""
        dy = [None] * self.num_layers if dy is None else dy
        if not isinstance(dy, list | tuple) or len(dy) != self.num_layers:
            raise ValueError(
                f"dy: must be a list of {self.num_layers}, one for each layer, as y was; None where it is 0"
            )
        return [read_gradient(a, context, self.output_size(), self.dtype, f"dy[{k}]") for k, a in enumerate(dy)]

    def step(self, x_t, state=None, *, out=None):
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
        found = (snapshot.get("compiled") or LSTM.compiled(self, snapshot, 1))(x_t, state, True, out)
        if found is None:
            found = self._step(x_t, state) if out is None else self._into(out, x_t, state, True)
        return found

    def stream(self, x, state=None, *, out=None):
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

    def trace(self, x, state=None, *, lengths=None, mask=None, reset=None):
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
        return Trace.of(self, tape, context, (h, c))

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
        rows, directions, layers, size = N * T, self._directions, self.num_layers, self.dtype.itemsize
        wide = self.output_size()
        # Outputs (rows, wide) beside the merged ones; of a product all are kept, and gradients of two layers overlap.
        parted = {"concat": 0, "mul": 2 * layers + 3 * (layers > 1)}.get(self.merge, 1)
        scratch = tape = 0  # bytes: of the layer that needs most; of all layers
        for inputs in [self.input_size] + [wide] * (layers - 1):
            sizes = engine.memory(
                rows, N, T, inputs, self.hidden_size, self.cell, self.dtype, proj=self.proj_size, bias=self.bias,
                training=training,
            )  # fmt: skip
            scratch, tape = max(scratch, sizes[0]), tape + directions * sizes[1]
        states = layers * directions * N * (self._outputs + self._memory)
        if training:
            dropped = (layers - 1) * rows * wide if self.dropout else 0
            outputs = (layers + parted) * rows * wide + rows * (self.input_size + wide)  # of layers; x packed, y given
            masked = 3 * self.size if self.cell.weight_dropout else 0  # a copy, packed for both passes
            gradients = self.size + rows * 2 * (self.input_size + wide) + 2 * states
            return (dropped + masked + outputs + 2 * states + gradients) * size + tape + scratch
        if engine.compiled and self._stacks:
            return (rows * wide * (1 + min(layers - 1, 2)) + states) * size + directions * scratch
        below = wide if layers > 1 else 0
        below += wide if self.merge == "mul" else 0
        return (rows * (self.input_size + below + 2 * wide) + 2 * states) * size + scratch

    def summary(self):
        """One line per parameter: name, shape, count."""
        lines = [f"{self!r}: {self.size:,} parameters"]
        lines += [f"  {name:24s}{p.shape!s:>16s}{p.size:>12,}" for name, p in self.store.arrays.items()]
        return "\n".join(lines)


def _from_learned(call, learned):
    """A compiled call that begins at `learned`, (h, c) each (L*D, 1, width), where it is given no state."""

    def begin(x, state, step, out=None):
        if state is None and type(x) is np.ndarray and x.ndim + step in (2, 3):
            state = tuple(a[:, 0] if x.ndim + step == 2 else np.repeat(a, len(x), axis=1) for a in learned)
        return call(x, state, step, out)

    return begin


_WEIGHTS, _CELLS = 2**32, 2**33  # numbers of the first mask of a weight, of a cell; between layers that of the layer


def _mask_key(key, number):
    """The key of the masks of that number, of those of a call."""
    return (int(key) + number * 0x9E3779B97F4A7C15) % 2**64


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
