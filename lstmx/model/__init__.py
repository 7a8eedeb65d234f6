"""Sequential, layers in a row: what it is and predicts. `fitting` trains it, `streaming` runs it step by step."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable
from typing import TYPE_CHECKING, overload

import numpy as np

from lstmx import storage
from lstmx.data import batches
from lstmx.functional import Gradients, Tape, allocate, kernels, read_gradient, read_tape, sequences, validate
from lstmx.functional.messages import of_others
from lstmx.functional.segments import read_memory
from lstmx.functional.threads import Lock
from lstmx.layers import LSTM, Dense, Embedding, Layer, Run, Trace, layout
from lstmx.layers.base import replace_together, snapshots
from lstmx.layers.chain import check_chain
from lstmx.layers.compiled import CompiledLayers
from lstmx.model.fitting import Fitting
from lstmx.model.streaming import Streaming

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any, Self

    from numpy.typing import ArrayLike

    from lstmx._types import Array, Arrays, ArrayShape, Config, Context, DType, Memory, Precision, RandomState, State
    from lstmx.functional.read import Sequences
    from lstmx.training import History

MOST_LAYERS = 1000  # a file of so many is still read at once
BATCH = 256  # sequences that predict runs at once


@storage.register
class Sequential(Fitting, Streaming, storage.Stored):
    """A model of layers in a row.

    Parameters
    ----------
    layers : list of lstmx layers
        LSTM, RNN, Embedding, Dense, Activation, Dropout, Last, FinalState, MeanPool, Masking, Unmask, Reversed; at most
        1,000. A layer belongs to one model. Without a pooling layer the model gives one output per step.
    random_state : None, int, SeedSequence or Generator
        Seeds the initial parameters of the layers that have no random_state of their own.

    Attributes
    ----------
    layers : tuple
    history_ : History
        Of the last fit; None before the first.

    Examples
    --------
    Which of two sine waves is it?

    >>> import numpy as np, lstmx
    >>> rng = np.random.default_rng(0)
    >>> label = rng.integers(2, size=200)
    >>> t = np.arange(30) + rng.uniform(0, 60, size=(200, 1))
    >>> x = np.sin(t * np.where(label, 0.3, 0.6)[:, None])[:, :, None]
    >>> model = lstmx.Sequential(
    ...     [lstmx.LSTM(1, 16), lstmx.Last(), lstmx.Dense(16, 1, "sigmoid")], random_state=0
    ... )
    >>> history = model.fit(x, label, loss="binary_crossentropy", optimizer=lstmx.Adam(0.02), epochs=12, verbose=0)
    >>> bool(((model.predict(x)[:, 0] > 0.5) == label).mean() > 0.95)
    True
    """

    def __init__(self, layers: Iterable[Layer], *more: Layer, random_state: RandomState = None) -> None:
        if more or isinstance(layers, Layer):
            given = ", ".join(type(layer).__name__ for layer in (layers, *more))
            remedy = f"put them in brackets: Sequential([{given}])" if isinstance(layers, Layer) else "join them"
            raise TypeError(f"layers: got {given}, must be one list; {remedy}")
        layers = tuple(layers) if isinstance(layers, Iterable) else ()
        if not layers or not all(isinstance(layer, Layer) for layer in layers):
            raise TypeError(
                "layers: must be a list of at least one lstmx layer, such as [lstmx.LSTM(4, 32), lstmx.Last()]"
            )
        if len(layers) > MOST_LAYERS:
            raise ValueError(f"layers: got {len(layers)} layers, must be at most {MOST_LAYERS}; an LSTM has num_layers")
        check_chain(layers)
        seeds = validate.random_children(random_state, len(layers) + 1)
        for k, layer in enumerate(layers):
            if layer.store.owner is not None or any(layer is other for other in layers[:k]):
                raise ValueError(
                    f"layers[{k}]: this {type(layer).__name__} is already part of a model; give each its own (.copy())"
                )
        self.layers = layers
        self._first_trained = next(k for k, layer in enumerate(layers) if layer.store.arrays)
        self._causal = all(layer.causal for layer in layers)
        self._fitting = Lock()
        self._history: History | None = None
        self._rng = None if seeds is None else np.random.default_rng(seeds.pop())
        for k, layer in enumerate(layers):
            store = layer.store
            store.owner = self
            if seeds and not store.seeded and store.version == 0:
                store.draw(layer.parameter_table(layer.config()), np.random.default_rng(seeds[k]))
        self._compiled: CompiledLayers | None = None

    # What the model is.

    @functools.cached_property
    def embedding(self) -> Embedding | None:
        """The first layer, if it is an Embedding; then inputs are integers."""
        return self.layers[0] if isinstance(self.layers[0], Embedding) else None

    @functools.cached_property
    def input_size(self) -> int | None:
        """Features of the input: what the first layer that cares takes."""
        return next((layer.input_size for layer in self.layers if layer.input_size is not None), None)

    @functools.cached_property
    def output_size(self) -> int:
        """Features of the output."""
        size: Any = self.input_size
        for layer in self.layers:
            size = layer.output_size(size)
        return size

    @functools.cached_property
    def per_step(self) -> bool:
        """Whether the model gives one output per step (no pooling layer)."""
        return not any(layer.per_sequence for layer in self.layers)

    @property
    def causal(self) -> bool:
        """Whether no output depends on a later step, so that sequences can be read in segments."""
        return self._causal

    @functools.cached_property
    def dtype(self) -> DType:
        """The type the model computes in."""
        return next((layer.dtype for layer in self.layers if layer.store.arrays), np.dtype(np.float32))

    @property
    def history_(self) -> History | None:
        """What the last fit measured; None before the first."""
        return self._history

    @property
    def size(self) -> int:
        """The number of parameters."""
        return sum(layer.size for layer in self.layers)

    @property
    def _final_activation(self) -> Any:
        return self.layers[-1].activation if isinstance(self.layers[-1], Dense) else None

    # On packed rows: what training needs.

    def start_state(
        self, batch: int, features: int | None = None, parameters: Any = None, dtype: DType | None = None
    ) -> tuple[State, ...]:
        """The protocol of a layer, with a tuple of states; what is None is the model's own."""
        parameters = snapshots(self.layers) if parameters is None else parameters
        features, states = self.input_size if features is None else features, []
        for layer, own in zip(self.layers, parameters, strict=True):
            states.append(layer.start_state(batch, features, own, self.dtype if dtype is None else dtype))
            features = layer.output_size(features)
        return tuple(states)

    def forward_rows(
        self, rows: Any, context: Context, state: State, run: Run
    ) -> tuple[Array, Context, tuple[State, ...], Any]:
        """All layers on packed rows: the protocol of a layer, with a tuple of states and a list of tapes."""
        parameters = snapshots(self.layers) if run.parameters is None else run.parameters
        nothing, last = (None,) * len(self.layers), self.layers[-1]
        keys, states = nothing if run.key is None else run.key, nothing if state is None else state
        after, tape = [], []
        for layer, key, own, state in zip(self.layers, keys, parameters, states, strict=True):
            one = Run(run.keep, key, own, run.activation if layer is last else None, run.own_steps)
            rows, context, state, entry = layer.forward_rows(rows, context, state, one)
            after.append(state)
            tape.append(entry)
        return rows, context, tuple(after), tape

    def backward_rows(
        self,
        tape: Any,
        dy: Any,
        out: Any,
        need_dx: bool = False,
        dstate: State = None,
        *,
        add: bool = False,
        more: bool = False,
        flow: Any = None,
    ) -> tuple[Array | None, tuple[State, ...]]:
        """Back-propagation: the protocol of a layer, with a tuple of `dstate`. Gradients go to ``out[layer][name]``, of
        recurrent layers by step to ``flow[layer]``, if given, as `layers.flow.room` makes it.
        """
        first = 0 if need_dx else self._first_trained
        before = [None] * len(self.layers)
        after = before if dstate is None else dstate
        for k in reversed(range(first, len(self.layers))):
            if dy is None and after[k] is None:  # the loss does not see what this layer gives
                for gradient in () if add else out[k].values():
                    gradient.fill(0)
                continue
            own = {"flow": flow[k]} if flow and k in flow else {}
            dy, before[k] = self.layers[k].backward_rows(
                tape[k], dy, out[k], k > first or need_dx, after[k], add=add, more=more, **own
            )
        return dy, tuple(before)

    def _outputs(self) -> list[Arrays]:
        """Where gradients go, for every layer."""
        return [{n: allocate.empty(p.shape, p.dtype) for n, p in layer.store.arrays.items()} for layer in self.layers]

    def finish(self, rows: Array, activation: str | None) -> Array:
        """Outputs from rows that `forward_rows` gave with `activation` in place of the model's own."""
        if activation != self._final_activation:
            rows = rows.copy()
            kernels.activate(rows, self._final_activation)
        return rows

    # What users call.

    def read(
        self, X: Any, *, lengths: ArrayLike | None = None, mask: ArrayLike | None = None, reset: ArrayLike | None = None
    ) -> Sequences:
        """`Sequences` of X as `predict` takes it: ``.all()`` gives what `forward_rows` takes."""
        return self._read(X, lengths, mask=mask, reset=reset)

    def _read(
        self,
        X: Any,
        lengths: Any,
        single: bool = True,
        prefix: str = "",
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
    ) -> Sequences:
        """`Sequences` of X; `single`: X may be one sequence without a batch axis."""
        embedding = self.embedding
        if reset is not None and not self.per_step:
            raise ValueError("reset: this model gives one output for a sequence, however many episodes it has; give "
                             "each episode as a sequence of its own")  # fmt: skip
        found = sequences(X, self.input_size, self.dtype, lengths=lengths, mask=mask, reset=reset, single=single,
                          name=prefix + "X",
                          tokens=None if embedding is None else embedding.check_tokens,
                          lengths_name="validation_lengths" if prefix else "lengths")  # fmt: skip
        return found.masked(self.layers[0].are_steps) if self.layers[0].masks else found

    @overload
    def predict(
        self,
        X: Array,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        batch_size: int | None = None,
    ) -> Array: ...

    @overload
    def predict(
        self,
        X: ArrayLike,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        batch_size: int | None = None,
    ) -> Any: ...

    def predict(
        self,
        X: ArrayLike,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        batch_size: int | None = None,
    ) -> Any:
        """Outputs in inference.

        Parameters
        ----------
        X : as in `fit`, or one sequence (T, I)
        lengths : array of int (N,), optional
        mask, reset : array of bool (N, T), (T,) or list of (T_n,), as X; optional
            As in a call of `LSTM`: which steps there are; where a sequence begins anew, in a model without pooling.
        batch_size : int, optional
            Sequences run at once; 256 by default.

        Returns
        -------
        ndarray (N, O); without a pooling layer (N, T, O), 0 past each end and on masked steps, or a list as X
        """
        plain = lengths is mask is reset is batch_size is None and self.embedding is None
        if plain and type(X) is np.ndarray and X.ndim == 3 and len(X) <= BATCH and self._reads(X):
            found = self._compiled_layers().run(X)
            if found is not None:
                return found
        batch_size = BATCH if batch_size is None else validate.count("batch_size", batch_size)
        return self.predict_sequences(self._read(X, lengths, mask=mask, reset=reset), batch_size)

    def predict_sequences(self, inputs: Sequences, batch_size: int = BATCH) -> Any:
        """`predict` for validated `Sequences`."""
        compiled = self._compiled_layers()
        how = Run(parameters=compiled.parameters)

        def run(part: Sequences) -> Any:
            array = part.array() if self._reads(part.x) else None
            found = None if array is None else compiled.run(array)
            if found is not None:
                return found
            rows, context = part.all(windows=self.layers[0].reads_windows)
            rows, context, *_ = self.forward_rows(rows, context, None, how)
            return context.unpack(rows)

        if len(inputs) <= batch_size:
            return run(inputs)
        return batches.collect(map(run, inputs.parts(batch_size)), len(inputs))

    def _reads(self, x: Array) -> bool:
        """Whether compiled calls read x as well as packed rows do: of windows, these may share what is summed."""
        return x.flags.c_contiguous or not self.layers[0].reads_windows

    def _compiled_layers(self) -> CompiledLayers:
        found = self._compiled
        if found is None or not found.are_current():
            found = self._compiled = CompiledLayers(self.layers)
        return found

    @overload
    def forward(
        self,
        X: Array,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        rng: RandomState = None,
    ) -> tuple[Array, Tape]: ...

    @overload
    def forward(
        self,
        X: ArrayLike,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        rng: RandomState = None,
    ) -> tuple[Any, Tape]: ...

    def forward(
        self,
        X: ArrayLike,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        rng: RandomState = None,
    ) -> tuple[Any, Tape]:
        """Training: outputs with dropout, and a tape for `backward`.

        Parameters
        ----------
        X, lengths, mask, reset : as in `predict`
        rng : None, int, SeedSequence or Generator
            Draws the dropout masks.

        Returns
        -------
        y, tape
        """
        rows, context = self._read(X, lengths, mask=mask, reset=reset).all(own=True)
        rng = validate.random_generator("rng", rng)
        keys = rng.integers(2**64, size=len(self.layers), dtype=np.uint64)
        y, after, _, tape = self.forward_rows(rows, context, None, Run(keep=True, key=keys))
        return after.unpack(y), Tape(self, context, self._versions(), model=tape, after=after, shape=y.shape)

    def backward(self, tape: Tape, dy: ArrayLike) -> Gradients:
        """Back-propagation.

        Parameters
        ----------
        tape : from `forward`; used up
        dy : in the form and shape of y

        Returns
        -------
        Gradients
            ``.x`` in the form of X (None for integers), ``.params`` by name, ``.state`` None.
        """
        context, after = read_tape(tape, self).context, tape.parts["after"]
        if dy is None:
            raise TypeError("dy: got None, must have the form and shape of y")
        dy = read_gradient(dy, after, tape.parts["shape"][-1], self.dtype)
        parts = tape.use(None, self._versions())
        out = self._outputs()
        dx, _ = self.backward_rows(parts["model"], dy, out, need_dx=not self.embedding)
        params = {f"{k}.{name}": g for k, grads in enumerate(out) for name, g in grads.items()}
        return Gradients(None if self.embedding else context.unpack(dx), None, params)

    def _versions(self) -> tuple[int, ...]:
        return tuple(layer.store.version for layer in self.layers)

    def memory(self, N: int, T: int, *, training: bool = False, memory: Memory | None = None) -> int:
        """Bytes of working memory that a batch of N sequences of T steps takes at most, parameters and X aside.

        Parameters
        ----------
        N, T : int
        training : bool
            Of an update in `fit` rather than of a prediction; gradients and moments of the parameters aside. Up to
            64 MiB of it are kept for the next update.
        memory : int or str, optional
            What `fit` is given as its memory: then what it takes of that.

        Raises
        ------
        ValueError
            If the budget cannot be kept, naming the least possible.

        Examples
        --------
        >>> import lstmx
        >>> model = lstmx.Sequential([lstmx.LSTM(8, 64), lstmx.Dense(64, 1)])
        >>> whole = model.memory(16, 10_000, training=True)
        >>> model.memory(16, 10_000, training=True, memory=whole // 8) <= whole // 8
        True
        """
        N, T = validate.extent("N", N), validate.extent("T", T)
        if not validate.flag("training", training):
            if memory is not None:
                raise ValueError("memory: a budget is that of training; give training=True, or leave it out")
            return layout.inference(self, N, T)
        if memory is None:
            return layout.training(self, N, T)
        budget = read_memory("memory", memory)
        if not self.causal:
            raise ValueError(
                "memory: a model that reads sequences from their end is trained on whole ones; leave it out"
            )
        found, least = layout.plan(self, N, T, budget)
        if found is None:
            raise ValueError(layout.message(N, T, budget, least))
        return found.size

    def trace(
        self,
        X: ArrayLike,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
    ) -> dict[int, Trace]:
        """Run the model and keep what its LSTM layers did.

        Parameters
        ----------
        X, lengths, mask, reset : as in `predict`

        Returns
        -------
        dict of int to Trace
            By the layer's index in ``layers``.

        Raises
        ------
        ValueError
            Without an LSTM.
        """
        return self.trace_rows(*self._read(X, lengths, mask=mask, reset=reset).all())

    def trace_rows(self, rows: Array, context: Context) -> dict[int, Trace]:
        """`trace` on packed rows."""
        if not any(isinstance(layer, LSTM) for layer in self.layers):
            raise ValueError(
                "trace: the model has no LSTM, and of other layers nothing is traced; gradient_flow takes an RNN too"
            )
        _, _, state, tape = self.forward_rows(rows, context, None, Run(keep=True))
        return {
            k: Trace(layer, *tape[k][:2], state[k])  # type: ignore[call-arg]
            for k, layer in enumerate(self.layers)
            if isinstance(layer, LSTM)
        }

    def parameters(self) -> Arrays:
        """The parameters by name ("0.weight_ih_l0": layer index, then the layer's name), read-only."""
        return {f"{k}.{name}": p for k, layer in enumerate(self.layers) for name, p in layer.parameters().items()}

    def set_parameters(self, parameters: Mapping[str, ArrayLike], *, allow_nonfinite: bool = False) -> None:
        """Replace some or all parameters; all are checked before the first is set.

        Parameters
        ----------
        parameters : dict of str to array
            Names as in `parameters`.
        allow_nonfinite : bool
            Whether values may be NaN or infinite, or become so in the model's type.

        Raises
        ------
        KeyError, ValueError, TypeError, RuntimeError
            As that of a layer.
        """
        if not isinstance(parameters, dict):
            raise TypeError(f"parameters: got {type(parameters).__name__}, must be a dict of name to array")
        groups: dict[int, dict[str, Any]] = {}
        for name, value in parameters.items():
            index, _, rest = str(name).partition(".")
            if not index.isdecimal() or int(index) >= len(self.layers):
                hint = of_others(str(name))
                raise KeyError(f"parameters: no {name!r} here; there are {list(self.parameters())}{hint}")
            groups.setdefault(int(index), {})[rest] = value
        checked = {k: self.layers[k].store.check(group, allow_nonfinite, f"{k}.") for k, group in groups.items()}
        replace_together((self.layers[k].store, group) for k, group in checked.items())

    def config(self) -> Config:
        """What `load` needs to build the model again, as plain JSON values."""
        return {"layers": [{"class": type(layer).__name__} | layer.config() for layer in self.layers]}

    @classmethod
    def array_shapes(cls, config: Config) -> Iterator[ArrayShape]:
        """(name, shape, dtype, what its numbers must be) of every parameter; an error for a wrong configuration."""
        layers = validate.keys("the configuration of Sequential", config, ("layers",))["layers"]
        if not isinstance(layers, list) or not all(isinstance(layer, dict) for layer in layers):
            raise ValueError("layers is not a list of JSON objects")
        if len(layers) > MOST_LAYERS:
            raise ValueError(f"a model of {len(layers)} layers; the most allowed are {MOST_LAYERS}")
        for k, layer in enumerate(layers):
            kind, own = _split(layer)
            for name, *rest in kind.array_shapes(own):
                yield f"{k}.{name}", *rest  # type: ignore[misc]

    def state(self) -> tuple[Config, Arrays]:
        """(configuration, parameters): what `from_state` takes."""
        return self.config(), self.parameters()

    @classmethod
    def from_state(cls, config: Config, arrays: Arrays) -> Self:
        """A model from what `state` gave."""
        groups: list[Arrays] = [{} for _ in config["layers"]]
        for name, value in arrays.items():
            index, _, rest = name.partition(".")
            groups[int(index)][rest] = value
        layers = (_split(layer) for layer in config["layers"])
        return cls([kind.from_state(own, group) for (kind, own), group in zip(layers, groups, strict=True)])

    def copy(self) -> Sequential:
        """An independent model with the same layers and parameters."""
        return _rebuild([layer.copy() for layer in self.layers], self.history_, self._rng)

    def astype(self, dtype: Precision) -> Sequential:
        """A copy that computes in `dtype`, "float32" or "float64"."""
        return _rebuild([layer.astype(dtype) for layer in self.layers], self.history_, self._rng)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, ([layer.copy() for layer in self.layers], self.history_, self._rng)

    def _remedy(self, name: str) -> str:
        if name == "layers":
            return "fixed since this Sequential was made; make another: Sequential([..., layer.copy(), ...])"
        if name in self.parameters():
            return f'parameters are set by set_parameters({{"{name}": ...}})'
        return super()._remedy(name)

    def summary(self) -> str:
        """One line per layer: its configuration, what it gives, its parameters."""
        size, lines, per_step = self.input_size, [], True
        for k, layer in enumerate(self.layers):
            size = layer.output_size(size)
            per_step = per_step and not layer.per_sequence
            shape = f"(N, T, {size})" if per_step else f"(N, {size})"
            shown = repr(layer).replace(f", dtype={self.dtype.name!r}", "")
            lines.append(f"{k:2d}  {shown:90s}{shape:>16s}{layer.size:>12,}")
        return "\n".join([*lines, f"{self.size:,} parameters, {self.dtype}"])

    def __repr__(self) -> str:
        return f"Sequential({list(self.layers)!r})"


def _split(config: Config) -> tuple[type[Layer], Config]:
    """(class, its configuration) of a layer in the configuration of a model."""
    own = {name: value for name, value in config.items() if name != "class"}
    return storage.registered(config.get("class"), Layer), own


def _rebuild(layers: list[Layer], history: History | None, rng: Any) -> Sequential:
    model = Sequential(layers)
    model._history, model._rng = copy.deepcopy(history), copy.deepcopy(rng)
    return model
