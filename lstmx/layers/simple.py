"""The layers of single steps: Embedding, Dense and Dropout."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lstmx import init
from lstmx.functional import allocate, kernels, validate
from lstmx.functional.cell import Parameter
from lstmx.functional.panels import Derived
from lstmx.functional.threads import get_num_threads
from lstmx.layers.base import UNFILLED, Layer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Literal, Self

    from lstmx._types import Array, Config, Context, Ints, Precision, RandomState, Shape, State
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
