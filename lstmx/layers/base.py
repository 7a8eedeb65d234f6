"""What every layer has: parameters, configuration, and two methods on packed rows."""

from __future__ import annotations

import copy
import math
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lstmx import storage
from lstmx.functional import messages, validate
from lstmx.functional.states import leaves
from lstmx.functional.threads import Section

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Self

    from numpy.typing import ArrayLike, DTypeLike

    from lstmx._types import Array, Arrays, ArrayShape, Config, Context, DType, Precision, State
    from lstmx.functional.cell import Parameter


LARGEST, MOST_ARRAYS = 2**40, 100_000  # of parameters, in a layer
MERGES = ("concat", "sum", "mul", "average")  # what the outputs of two directions become
UNFILLED = object()  # as random_state: leave the parameters to `ParameterStore.fill`
_setting = Section()  # held for microseconds: while the parameters of several layers are replaced or picked up


class Snapshot(dict[Any, Any]):
    """The parameters of a layer at one moment, `arrays`, and by key what was derived from them.

    A call takes one and keeps it: parameters set meanwhile change nothing of it.
    """

    __slots__ = ("arrays",)
    arrays: Arrays

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays


class Run(NamedTuple):
    """How to run a layer on packed rows.

    Attributes
    ----------
    keep : bool
        Whether to keep a tape, for a backward pass or a trace.
    key : None or int
        The seed of the dropout masks; None: nothing is dropped. For a model one for every layer.
    parameters : None or Snapshot
        To compute with; None: those of this moment. For a model one for every layer, as `snapshots` gives them.
    activation : None or str
        Of a final Dense in place of its own: a loss fuses it.
    own_steps : bool
        Whether outputs are wanted of the steps that there are alone, as a loss does: then `Unmask` does nothing.
    """

    keep: bool = False
    key: Any = None
    parameters: Any = None
    activation: str | None = None
    own_steps: bool = False


class ParameterStore:
    """The parameters of one layer: read-only arrays that are replaced, never changed, but by a fit that bound its own.

    Attributes
    ----------
    snapshot : Snapshot
        Replaced by one assignment.
    version : int
        Counts how often parameters were set: a tape is good for one version.
    owner : Sequential or None
        The model that the layer is part of.
    seeded : bool
        Whether the initial parameters are those that somebody chose, by a seed or one by one.
    shared : dict
        By key, what all snapshots have in common.
    """

    def __init__(self, dtype: DType) -> None:
        self.dtype = dtype
        self.snapshot = Snapshot({})
        self.version = 0
        self.owner: Any = None
        self.seeded = True
        self.shared: dict[Any, Any] = {}

    @property
    def arrays(self) -> Arrays:
        """The parameters by name; while a fit runs, views of memory that it changes."""
        return self.snapshot.arrays

    def draw(self, table: Iterable[Parameter], rng: np.random.Generator) -> None:
        """Initial parameters, from a table of `Parameter`."""
        self.bind({p.name: frozen(p.start(rng, p.shape), self.dtype) for p in table})

    def fill(self, arrays: Arrays) -> None:
        """Copy parameters that are known to fit."""
        self.bind({name: frozen(p, self.dtype) for name, p in arrays.items()})

    def bind(self, arrays: Arrays) -> None:
        """Take these arrays themselves, of some or all names."""
        self.snapshot = Snapshot(self.arrays | arrays)

    def changed(self) -> None:
        """The numbers in the arrays are others: drop what was derived from them. Running calls keep what they hold."""
        self.snapshot = Snapshot(self.arrays)

    def replace(self, arrays: Arrays) -> None:
        """Set some or all parameters to frozen arrays; the tapes of before become invalid."""
        self.bind(arrays)
        self.version += 1

    def check(self, parameters: Any, allow_nonfinite: bool, prefix: str = "") -> Arrays:
        """Frozen copies of what `set_parameters` is given, or an error."""
        if self.owner is not None and self.owner.fitting:
            raise RuntimeError("parameters: a fit is changing them; set them before or after it")
        if not isinstance(parameters, dict):
            raise TypeError(f"parameters: got {type(parameters).__name__}, must be a dict of name to array")
        validate.flag("allow_nonfinite", allow_nonfinite)
        checked = {}
        for name, value in parameters.items():
            if name not in self.arrays:
                there = [prefix + n for n in self.arrays]
                hint = messages.of_others(str(name))
                raise KeyError(f"parameters: no {prefix + str(name)!r} here; there are {there}{hint}")
            array = validate.parameter(prefix + name, value, self.arrays[name].shape, self.dtype, allow_nonfinite)
            checked[name] = frozen(array, self.dtype)
        return checked


def replace_together(pairs: Iterable[tuple[ParameterStore, Arrays]]) -> None:
    """Set the parameters of several layers, (ParameterStore, arrays) each: `snapshots` sees all of it or nothing."""
    with _setting.turn:
        for store, arrays in pairs:
            store.replace(arrays)


def snapshots(layers: Iterable[Layer]) -> list[Snapshot]:
    """The `Snapshot` of every layer, all of the same moment."""
    with _setting.turn:
        return [layer.store.snapshot for layer in layers]


class Layer(storage.Stored):
    """The protocol of a layer.

    A subclass gives `parameter_table`, `config`, calls `_setup`, which makes its `store`, and has

    * ``forward_rows(rows, context, state, run) -> rows, context, state, tape``
    * ``backward_rows(tape, dy, out, need_dx, dstate=None, *, add=False, more=False) -> dx, dstate``, writing gradients
      into the arrays ``out[name]``; a recurrent layer also takes ``flow``

    where rows are packed (see lstmx.functional.context), `run` is a `Run`, and `tape` is whatever backward needs, if
    ``run.keep``. The state is what a layer remembers of the steps before, in the order of the packed rows: an array or
    a tuple of arrays, N the second axis from the end; None is the start, and what a layer without state gives. It is
    not changed. A layer that has one gives by `start_state` what None stands for. A sequence in chunks of any lengths,
    each with the state that the last one gave, gives what it gives whole; a step is a chunk of one.

    Backward, chunks follow each other from last to first: `dstate` is the gradient of the state after the chunk, with
    what else a layer hands on, used up, and what is returned that of the state before; None is 0. dy may be None,
    for 0, where there is a `dstate`; dx is None where nobody needs it. With `add`, gradients are added to those of
    later chunks; with `more`, earlier ones follow. Chunks that begin at multiples of `segments.block` steps give the
    bits of the whole.
    """

    dtype: np.dtype
    store: ParameterStore
    input_size: int | None = None  # features it takes; None: any
    per_sequence = False  # whether it pools time away
    reads_windows = False  # whether in inference its rows may be `Windows`, where they gain by it
    masks = False  # whether, as the first layer, it says by ``are_steps(x, dtype)`` which steps there are
    causal = True  # whether no step's output depends on a later step, so that chunks can follow each other

    if TYPE_CHECKING:  # every layer has these

        def forward_rows(
            self, rows: Any, context: Context, state: State, run: Run
        ) -> tuple[Any, Context, State, Any]: ...
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
        ) -> tuple[Any, State]: ...
        def are_steps(self, x: Array, dtype: Any) -> Array: ...

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name in ("compiled", "program_part"):
            if "forward_rows" in vars(cls) and name not in vars(cls):
                setattr(cls, name, getattr(Layer, name))  # an inherited one would not do what this forward_rows does
        storage.register(cls)

    def _setup(self, dtype: Precision, random_state: Any) -> None:
        self.dtype = validate.dtype(dtype)
        self.store = ParameterStore(self.dtype)
        if random_state is not UNFILLED:
            self._check_size()
            rng = validate.random_generator("random_state", random_state)
            self.store.draw(self.parameter_table(self.config()), rng)
            self.store.seeded = random_state is not None

    def _check_size(self) -> None:
        total = 0
        for arrays, parameter in enumerate(self.parameter_table(self.config())):
            total += math.prod(parameter.shape)
            if total > LARGEST or arrays > MOST_ARRAYS:
                raise MemoryError(
                    f"{self!r} would have more than {LARGEST} parameters, or {MOST_ARRAYS} arrays of them"
                )

    def compiled(self, parameters: Any, directions: int) -> Callable[[Array], Array | None] | None:
        """What `forward_rows` is on whole plain arrays in inference: a ``call(x) -> y``, or None.

        Parameters
        ----------
        parameters : Snapshot
        directions : int
            Of the LSTM whose outputs x holds.

        Returns
        -------
        callable or None
            x is (N, T, F), or (N, F) after a pooling, of the layer's type and not empty. The call gives the bits of
            `forward_rows`, or None where it does not take its arguments.
        """
        return None

    def program_part(self, parameters: Any, features: Any) -> tuple[Any, ...] | None:
        """What `forward_rows` is in a compiled `Program`, which has state: a tuple as that takes it, () where it does
        nothing in inference; None where it cannot be part of one.

        Parameters
        ----------
        parameters : Snapshot
        features : int
            F of the rows that it is given.
        """
        return None

    def start_state(self, batch: int, features: Any, parameters: Any = None, dtype: DType | None = None) -> State:
        """The state before the first step: with it `forward_rows` gives the bits that it gives with None.

        Parameters
        ----------
        batch : int
            N.
        features : int
            Of the rows that the layer is given.
        parameters : Snapshot, optional
            By default those of this moment.
        dtype : numpy.dtype, optional
            Of the rows, in which a layer without parameters computes.

        Returns
        -------
        None, array or tuple of arrays
            None where there is nothing to remember.
        """
        return None

    def _parameters(self, run: Run) -> Snapshot:
        """The `Snapshot` that a call works with."""
        return self.store.snapshot if run.parameters is None else run.parameters

    def state_width(self, features: int) -> int:
        """Numbers of the layer's type that the state of one sequence takes, for `features` inputs."""
        return sum(a.nbytes for a in leaves(self.start_state(1, features))) // self.dtype.itemsize

    def room(self, batch: int, rows: int, steps: int, features: int, itemsize: int) -> int:
        """What training allocates beside the outputs and the gradients of inputs and outputs.

        Parameters
        ----------
        batch, rows, steps : int
            N, S packed rows, T.
        features, itemsize : int
            Of a row of the input; bytes of a number.

        Returns
        -------
        int
            Bytes, kept for the backward pass or not: working memory is kept for the next call.
        """
        return 0

    @staticmethod
    def parameter_table(config: Config) -> Iterator[Parameter]:
        """A `Parameter` for every array of a layer with this configuration, one at a time."""
        return iter(())

    def config(self) -> Config:
        """The constructor arguments that `load` needs, as plain JSON values."""
        return {}

    def output_size(self, input_size: Any) -> Any:
        """Features that it gives for `input_size` features."""
        return input_size

    @property
    def size(self) -> int:
        """The number of parameters."""
        return sum(p.size for p in self.store.arrays.values())

    def parameters(self) -> Arrays:
        """The parameters by name, read-only.

        Returns
        -------
        dict of str to ndarray
        """
        arrays = self.store.arrays.items()  # during a fit what they look into is writable
        return {name: frozen(p, self.dtype) if p.base.flags.writeable else p for name, p in arrays}  # type: ignore[union-attr]

    def set_parameters(self, parameters: Mapping[str, ArrayLike], *, allow_nonfinite: bool = False) -> None:
        """Replace some or all parameters.

        Parameters
        ----------
        parameters : dict of str to array
            Any subset. Values are copied; all are checked before the first is set.
        allow_nonfinite : bool
            Whether values may be NaN or infinite, or become so in the layer's type.

        Raises
        ------
        KeyError, ValueError, TypeError
            For a name that does not exist, another shape, or values that are not real numbers or not finite.
        RuntimeError
            While a fit is changing them.
        """
        self.store.replace(self.store.check(parameters, allow_nonfinite))

    def copy(self) -> Self:
        """An independent layer with the same configuration and parameters."""
        return self.astype(self.dtype)

    def astype(self, dtype: Precision) -> Self:
        """A copy that computes in `dtype`, "float32" or "float64"."""
        dtype = validate.dtype(dtype)
        layer = type(self).from_state(self.config() | {"dtype": dtype.name}, self.store.arrays)
        layer.__dict__.update(copy.deepcopy(self._more()))
        return layer

    @classmethod
    def without_parameters(cls, config: Config) -> Self:
        """A validated layer of a configuration; `store.fill` must follow."""
        return cls(**config, random_state=UNFILLED)  # type: ignore[call-arg]

    @classmethod
    def array_shapes(cls, config: Config) -> Iterator[ArrayShape]:
        """(name, shape, dtype, what its numbers must be) of every parameter; an error for a wrong configuration."""
        try:
            layer = cls.without_parameters(config)
            validate.keys("its keys", config, layer.config())
        except (TypeError, ValueError) as error:
            raise ValueError(f"the configuration of {cls.__name__} is not valid ({error})") from error
        for p in cls.parameter_table(layer.config()):
            yield p.name, p.shape, layer.dtype.name, storage.PARAMETER

    def state(self) -> tuple[Config, Arrays]:
        """(configuration, parameters): what `from_state` takes."""
        return self.config(), self.parameters()

    @classmethod
    def from_state(cls, config: Config, arrays: Arrays) -> Self:
        """A layer from what `state` gave."""
        layer = cls.without_parameters(config)
        layer.store.fill(arrays)
        return layer

    def _remedy(self, name: str) -> str:
        there = list(self.store.arrays)
        if name in there:
            return f'parameters are set by set_parameters({{"{name}": ...}})'
        if there and not hasattr(self, name) and re.match("weight|bias|kernel|recurrent", name):
            names = ", ".join(there[:4]) + ", .." * (len(there) > 4)
            return f'no such parameter; there are {names}, which set_parameters({{"{there[0]}": ...}}) sets'
        return super()._remedy(name)

    def _shown(self) -> Config:
        return self.config()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self._shown().items())})"


def frozen(value: ArrayLike, dtype: DTypeLike) -> Array:
    """A C-contiguous copy that nobody can write to, not even through its base."""
    owner = np.array(value, dtype, order="C", copy=True)
    owner.flags.writeable = False
    return owner.view()
