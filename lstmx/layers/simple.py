"""The layers without a recurrence: Embedding, Dense, Dropout, and the poolings Last, FinalState and MeanPool."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lstmx import init
from lstmx.functional import allocate, kernels, validate
from lstmx.functional.cell import Parameter
from lstmx.functional.context import PooledContext
from lstmx.functional.panels import Derived
from lstmx.functional.threads import get_num_threads
from lstmx.layers.base import MERGES, UNFILLED, Layer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Literal, Self

    from lstmx._types import Array, Config, Context, DType, Ints, Merge, Precision, RandomState, Shape, State
    from lstmx.layers.base import Run


class Dense(Layer):
    """activation(x W^T + b), at every step or once a sequence.

    Parameters
    ----------
    input_size, output_size : int
    activation : {None, "linear", "relu", "tanh", "sigmoid", "softmax"}
    dtype : {"float32", "float64"}
    random_state : None, int, SeedSequence or Generator
        Seeds ``weight`` (output_size, input_size), glorot; ``bias`` starts at 0.
    """

    units: int  # what `output_size` gives

    def __init__(
        self,
        input_size: int,
        output_size: int,
        activation: Literal["linear", "sigmoid", "tanh", "relu", "softmax"] | None = None,
        *,
        dtype: Precision = "float32",
        random_state: RandomState = None,
    ) -> None:
        self.input_size = validate.count("input_size", input_size)
        self.units = validate.count("output_size", output_size)
        self.activation = validate.choice(
            "activation", "linear" if activation is None else activation, kernels.ACTIVATIONS
        )
        self._setup(dtype, random_state)

    def config(self) -> Config:
        """The constructor arguments, as plain JSON values."""
        sizes = {"input_size": self.input_size, "output_size": self.units}
        return sizes | {"activation": self.activation, "dtype": self.dtype.name}

    @staticmethod
    def parameter_table(config: Config) -> Iterator[Parameter]:
        """A `Parameter` for every array of a layer with this configuration."""
        yield Parameter("weight", (config["output_size"], config["input_size"]), init.glorot)
        yield Parameter("bias", (config["output_size"],), lambda rng, shape: np.zeros(shape), decays=False)

    def output_size(self, input_size: int | None = None) -> int:
        """Features of the output."""
        return self.units

    def room(self, batch: int, rows: int, steps: int, features: int, itemsize: int) -> int:
        """The layer protocol: strips of the outer product."""
        strips = min(rows, 2 * 256) * 4 * 64 * min(get_num_threads(), self.units)
        return strips + 2 * self.size * itemsize  # and packed weights

    def forward_rows(self, rows: Any, context: Context, state: State, run: Run) -> tuple[Array, Context, State, Any]:
        """The layer protocol."""
        activation = self.activation if run.activation is None else run.activation
        parameters = self._parameters(run)
        weight, made = parameters.arrays["weight"], parameters.setdefault("weight", Derived())
        y = kernels.linear(rows, weight, parameters.arrays["bias"], activation, made)
        return y, context, None, (rows, y, activation, weight, made, context) if run.keep else None

    def compiled(self, parameters: Any, directions: int) -> Callable[[Array], Array | None] | None:
        """The layer protocol."""
        weight, made = parameters.arrays["weight"], parameters.setdefault("weight", Derived())
        return kernels.linear_call(weight, parameters.arrays["bias"], self.activation, made)

    def program_part(self, parameters: Any, features: int) -> tuple[Any, ...] | None:
        """The layer protocol."""
        weight, made = parameters.arrays["weight"], parameters.setdefault("weight", Derived())
        return kernels.linear_part(weight, parameters.arrays["bias"], self.activation, made)

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
    ) -> tuple[Array | None, State]:
        """The layer protocol; dy is overwritten."""
        rows, y, activation, weight, made, context = tape
        gradients = out["weight"], out["bias"]
        dx = kernels.linear_backward(rows, weight, y, dy, activation, gradients, need_dx, context.blocks, made, add)
        return dx, None


class RowGradient(NamedTuple):
    """The gradient of an embedding: some rows of it, all others being 0.

    Attributes
    ----------
    rows : ndarray of int64 (K,), increasing
    values : ndarray (K, size)
    """

    rows: Ints
    values: Array


class Embedding(Layer):
    """A vector for every integer.

    Parameters
    ----------
    num_embeddings, size : int
        Integers from 0 to num_embeddings - 1 become vectors of `size` features.
    padding_idx : int, optional
        This one starts at 0 and is not trained.
    mask_padding : bool
        Whether steps with this one are masked steps, as by `Masking`.
    dtype : {"float32", "float64"}
    random_state : None, int, SeedSequence or Generator
        Seeds ``weight`` (num_embeddings, size), standard normal.

    Notes
    -----
    In `fit`, only the vectors of integers that a batch contains are updated, with the moments of exactly those.
    """

    features: int  # what `output_size` gives

    def __init__(
        self,
        num_embeddings: int,
        size: int,
        padding_idx: int | None = None,
        *,
        mask_padding: bool = False,
        dtype: Precision = "float32",
        random_state: RandomState = None,
    ) -> None:
        self.num_embeddings = validate.count("num_embeddings", num_embeddings)
        self.features = validate.count("size", size)
        self.padding_idx = None if padding_idx is None else validate.count("padding_idx", padding_idx, 0)
        if padding_idx is not None and self.padding_idx >= self.num_embeddings:  # type: ignore[operator]
            raise ValueError(f"padding_idx: got {padding_idx}, must be below num_embeddings = {self.num_embeddings}")
        self.mask_padding = self.masks = validate.flag("mask_padding", mask_padding)
        if self.mask_padding and padding_idx is None:
            raise ValueError("mask_padding: needs padding_idx, the integer that masked steps have")
        self._setup(dtype, random_state)

    def config(self) -> Config:
        """The constructor arguments, as plain JSON values."""
        sizes = {"num_embeddings": self.num_embeddings, "size": self.features}
        masking = {"mask_padding": True} if self.mask_padding else {}
        return sizes | {"padding_idx": self.padding_idx} | masking | {"dtype": self.dtype.name}

    @staticmethod
    def parameter_table(config: Config) -> Iterator[Parameter]:
        """A `Parameter` for every array of a layer with this configuration."""

        def start(rng: np.random.Generator, shape: Shape) -> Array:
            weight = rng.normal(size=shape)
            if config["padding_idx"] is not None:
                weight[config["padding_idx"]] = 0
            return weight

        yield Parameter("weight", (config["num_embeddings"], config["size"]), start, by_row=True)

    def output_size(self, input_size: int | None = None) -> int:
        """Features of the output."""
        return self.features

    def room(self, batch: int, rows: int, steps: int, features: int, itemsize: int) -> int:
        """The layer protocol: integers and their order, and the gradients in that order."""
        return rows * (6 * 8 + self.features * itemsize)

    def check_tokens(self, name: str, tokens: Any) -> Array:
        """Integers within range, of any integer type, or an error."""
        tokens = validate.integers(name, tokens, convert=False)
        if tokens.size and (tokens.min() < 0 or tokens.max() >= self.num_embeddings):
            bad = tokens.min() if tokens.min() < 0 else tokens.max()
            raise ValueError(f"{name}: got the integer {bad}, must be between 0 and num_embeddings - 1 = "
                             f"{self.num_embeddings - 1}")  # fmt: skip
        return tokens

    def are_steps(self, x: Array, dtype: Any) -> Array:
        """The layer protocol."""
        return x != self.padding_idx

    def forward_rows(self, rows: Any, context: Context, state: State, run: Run) -> tuple[Array, Context, State, Any]:
        """The layer protocol, for rows of integers (S,)."""
        if self.mask_padding and (rows == self.padding_idx).any():
            raise ValueError(
                f"x_t: a masked step, the integer {self.padding_idx}; give a stream only steps that there are"
            )
        return self._parameters(run).arrays["weight"][rows], context, None, rows

    def compiled(self, parameters: Any, directions: int) -> Callable[[Array], Array | None] | None:
        """The layer protocol, for integers within range."""
        if self.mask_padding:
            return None
        weight = parameters.arrays["weight"]
        return lambda x: weight[x]

    def program_part(self, parameters: Any, features: int) -> tuple[Any, ...] | None:
        """The layer protocol."""
        return None if self.mask_padding else ("lookup", parameters.arrays["weight"])

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
    ) -> tuple[Array | None, State]:
        """The layer protocol: out["weight"] is an array to fill, or None to be replaced by a RowGradient.

        What its rows get is added up at once: of later chunks `dstate` holds (rows, dy), and the first one adds.
        """
        parts = list(dstate or ())
        if dy is not None:  # a copy is no larger than it must be
            parts.insert(0, (tape, dy.copy() if more else dy))
        if more:
            return None, parts
        rows = np.concatenate([rows for rows, _ in parts])
        keep = np.arange(len(rows)) if self.padding_idx is None else np.flatnonzero(rows != self.padding_idx)
        rows = rows[keep]
        order = np.argsort(rows, kind="stable")  # rows of one integer keep the order of (t, n): one order of adding
        touched, starts = np.unique(rows[order], return_index=True)
        values = dy[:0]
        if len(touched):
            values = np.add.reduceat(_taken(parts, keep[order]), starts, axis=0)
        if out["weight"] is None:
            out["weight"] = RowGradient(touched, values)
        else:
            out["weight"][:] = 0
            out["weight"][touched] = values
        return None, None


def _taken(parts: Any, order: Any) -> Any:
    """Rows of the dy of all parts (rows, dy), joined, in this order; each part is let go of when it is read."""
    if len(parts) == 1:
        return parts[0][1][order]
    place = np.empty(sum(len(rows) for rows, _ in parts), np.intp)
    place.fill(-1)
    place[order] = np.arange(len(order))
    found, first = allocate.empty((len(order), parts[0][1].shape[1]), parts[0][1].dtype), 0
    for k, (_, dy) in enumerate(parts):
        parts[k] = None
        to = place[first : first + len(dy)]
        found[to[to >= 0]] = dy[to >= 0]
        first += len(dy)
    return found


class _Plain(Layer):
    """A layer without parameters: it computes in whatever type it is given."""

    def __init__(self) -> None:
        self._setup("float32", UNFILLED)

    @classmethod
    def without_parameters(cls, config: Config) -> Self:
        """A layer of a configuration."""
        return cls(**config)

    def astype(self, dtype: Precision) -> Self:
        """A copy; there is nothing to convert."""
        validate.dtype(dtype)
        return type(self)(**self.config())


class Dropout(_Plain):
    """Drops features at rate `p` in training and scales the others by 1 / (1 - p); does nothing in inference.

    Parameters
    ----------
    p : float in [0, 1)
    """

    def __init__(self, p: float) -> None:
        self.p = validate.number("p", p, 0, 1, open_high=True)
        super().__init__()

    def config(self) -> Config:
        """The constructor arguments, as plain JSON values."""
        return {"p": self.p}

    def room(self, batch: int, rows: int, steps: int, features: int, itemsize: int) -> int:
        """The layer protocol: sequence and time of every row."""
        return rows * 5 * 8 if self.p else 0

    def forward_rows(self, rows: Any, context: Context, state: State, run: Run) -> tuple[Array, Context, State, Any]:
        """The layer protocol."""
        if run.key is None or not self.p:
            return rows, context, None, None
        return kernels.dropout(rows, self.p, run.key, context), context, None, (run.key, context)

    def compiled(self, parameters: Any, directions: int) -> Callable[[Array], Array | None] | None:
        """The layer protocol."""
        return lambda x: x

    def program_part(self, parameters: Any, features: int) -> tuple[Any, ...] | None:
        """The layer protocol."""
        return ()

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
    ) -> tuple[Array | None, State]:
        """The layer protocol: the same mask, drawn again."""
        if tape is None or dy is None:
            return dy, None
        key, context = tape
        return kernels.dropout(dy, self.p, key, context), None


class Last(_Plain):
    """The output at each sequence's last step, 0 for an empty one: (N, T, F) to (N, F). Masked steps do not count.

    It is what ``y[:, -1]`` is in PyTorch, of two directions too: the backward one has then read one step. `FinalState`
    is what ``h_n`` is: what each direction gives when it has read all.
    """

    per_sequence = True

    _both_ends = False  # whether a second direction is read where it ends, at the first step

    def _places(self, context: Context, width: int) -> Any:
        """(packed rows of the last steps, of the first steps, their sequences, features of the forward direction)."""
        half = width
        if self._both_ends:
            half = width * context.reversed.count(False) // len(context.reversed)
        if context.uniform and len(context.offsets) > 1:
            return slice(-context.batch, None), slice(context.batch), slice(None), half
        last, sequences = context.last_rows
        return last, sequences, sequences, half  # packed rows begin with step 0, longest sequence first

    def start_state(self, batch: int, features: Any, parameters: Any = None, dtype: DType | None = None) -> State:
        """The layer protocol: zeros (N, F)."""
        return allocate.zeros((batch, features), self.dtype if dtype is None else dtype)

    def forward_rows(self, rows: Any, context: Context, state: State, run: Run) -> tuple[Array, Context, State, Any]:
        """The layer protocol; the state is the output so far (N, F)."""
        last, first, sequences, half = self._places(context, rows.shape[1])
        if state is None and isinstance(sequences, slice):
            y = rows[last].copy()
        else:
            y = _so_far(state, rows, context)
            y[sequences] = rows[last]
        if half < rows.shape[1]:
            y[sequences, half:] = rows[first, half:]
        return y, PooledContext(context), y, (context, rows.shape)

    def compiled(self, parameters: Any, directions: int) -> Callable[[Array], Array | None] | None:
        """The layer protocol."""

        def call(x: Array) -> Array | None:
            y = x[:, -1].copy()
            if self._both_ends and directions == 2:
                half = y.shape[1] // 2
                y[:, half:] = x[:, 0, half:]
            return y

        return call

    def program_part(self, parameters: Any, features: int) -> tuple[Any, ...] | None:
        """The layer protocol."""
        return "last", features

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
    ) -> tuple[Array | None, State]:
        """The layer protocol; the state before has the gradient of sequences without a step here."""
        context, shape = tape
        if dy is None:
            dy = dstate
        elif dstate is not None:
            dy = dy + dstate
        last, first, sequences, half = self._places(context, shape[1])
        dx = allocate.zeros(shape, dy.dtype)
        dx[last, :half] = dy[sequences, :half]
        if half < shape[1]:
            dx[first, half:] = dy[sequences, half:]
        before = allocate.zeros(dy.shape, dy.dtype)
        if not isinstance(sequences, slice):
            before[len(sequences) :] = dy[len(sequences) :]  # in sorted order they are the last ones
        return dx, before


class FinalState(Last):
    """What each direction has read when it is through: [forward at the last step | backward at the first], 0 for an
    empty sequence: (N, T, D*H) to (N, D*H). With a forward direction alone it is `Last`. A Bidirectional layer of Keras
    gives this, and PyTorch in ``h_n``; ``y[:, -1]`` is `Last`.

    Parameters
    ----------
    merge : {"concat", "sum", "mul", "average"}
        What the two directions become: side by side; or H features, element by element.
    """

    _both_ends = True

    def __init__(self, merge: Merge = "concat") -> None:
        self.merge = validate.choice("merge", merge, MERGES)
        super().__init__()

    def config(self) -> Config:
        """The constructor arguments, as plain JSON values."""
        return {} if self.merge == "concat" else {"merge": self.merge}

    def output_size(self, input_size: Any) -> Any:
        """Features that it gives for `input_size` features."""
        return input_size if self.merge == "concat" else input_size // 2

    def forward_rows(self, rows: Any, context: Context, state: State, run: Run) -> tuple[Array, Context, State, Any]:
        """The layer protocol."""
        y, after, state, tape = super().forward_rows(rows, context, state, run)
        if self.merge == "concat":
            return y, after, state, tape
        return self._merged(y), after, state, (y, tape)

    def _merged(self, y: Array) -> Array:
        parts = y[:, : y.shape[1] // 2], y[:, y.shape[1] // 2 :]
        if self.merge == "mul":
            return np.multiply(*parts)
        return np.add(*parts) if self.merge == "sum" else np.add(*parts) / 2

    def compiled(self, parameters: Any, directions: int) -> Callable[[Array], Array | None] | None:
        """The layer protocol."""
        pool: Any = super().compiled(parameters, directions)
        return pool if self.merge == "concat" else lambda x: self._merged(pool(x))

    def program_part(self, parameters: Any, features: int) -> tuple[Any, ...] | None:
        """The layer protocol."""
        return super().program_part(parameters, features) if self.merge == "concat" else None

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
    ) -> tuple[Array | None, State]:
        """The layer protocol."""
        if self.merge == "concat":
            return super().backward_rows(tape, dy, out, need_dx, dstate)
        y, tape = tape
        half = dy.shape[1]
        if self.merge == "mul":
            dy = np.concatenate([dy * y[:, half:], dy * y[:, :half]], axis=1)
        else:
            dy = np.concatenate([dy, dy], axis=1) * dy.dtype.type(1 if self.merge == "sum" else 0.5)
        return super().backward_rows(tape, dy, out, need_dx)  # of two directions: there are no chunks


_KERNEL_TYPES = np.dtype(np.float32), np.dtype(np.float64)  # of native byte order


class MeanPool(_Plain):
    """The mean over each sequence's own steps, 0 for an empty one: (N, T, F) to (N, F). Masked steps do not count."""

    per_sequence = True

    def start_state(self, batch: int, features: Any, parameters: Any = None, dtype: DType | None = None) -> State:
        """The layer protocol: zeros (N, F), and of int64 (N, 1)."""
        total = allocate.zeros((batch, features), self.dtype if dtype is None else dtype)
        return total, allocate.zeros((batch, 1), np.int64)

    def forward_rows(self, rows: Any, context: Context, state: State, run: Run) -> tuple[Array, Context, State, Any]:
        """The layer protocol; the state is the sum so far (N, F) and its steps, int64 (N, 1)."""
        steps = context.sort(context.lengths)[:, None]
        if state is None:
            total = kernels.sum_steps(rows, context)
        else:
            if not isinstance(state, tuple | list) or len(state) != 2:
                raise TypeError(f"state: got {type(state).__name__}, must be a pair (sum, steps)")
            before = validate.shaped("state steps", state[1], steps.shape, np.dtype(np.int64), "(N, 1)")
            steps = steps + before
            total = kernels.sum_steps(rows, context, _so_far(state[0], rows, context))
        count = np.maximum(steps, 1).astype(rows.dtype)
        return total / count, PooledContext(context), (total, steps), (context, count)

    def compiled(self, parameters: Any, directions: int) -> Callable[[Array], Array | None] | None:
        """The layer protocol."""

        def call(x: Array) -> Array | None:
            if x.dtype not in _KERNEL_TYPES or not x.flags.aligned:
                return None
            return kernels.sum_whole(x) / x.dtype.type(x.shape[1])

        return call

    def program_part(self, parameters: Any, features: int) -> tuple[Any, ...] | None:
        """The layer protocol."""
        return "mean", features

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
    ) -> tuple[Array | None, State]:
        """The layer protocol; dstate is the gradient of the sum so far."""
        context, count = tape
        total = dstate if dy is None else dy / count
        if dy is not None and dstate is not None:
            total += dstate
        return kernels.spread_steps(total, context), total


def _so_far(state: State, rows: Any, context: Context) -> Any:
    """What a pooling begins with, one row a sequence: 0, or a copy of a state."""
    shape = context.batch, rows.shape[1]
    if state is None:
        return allocate.zeros(shape, rows.dtype)
    return validate.shaped("state", state, shape, rows.dtype, "(N, F)").copy()
