"""What an LSTM cell is made of: its options, and the one table of its parameters that layers, training, files and
importers read.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property, partial
from typing import TYPE_CHECKING, NamedTuple

from lstmx import init
from lstmx.functional import validate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any, Literal

    import numpy as np

    from lstmx._types import Array, Config, Shape


ACTIVATIONS: dict[str, tuple[Any, ...]] = {  # name -> default (alpha, beta); None: there is no default
    "sigmoid": (),
    "tanh": (),
    "relu": (),
    "affine": (None, None),
    "leaky_relu": (0.01,),
    "thresholded_relu": (1.0,),
    "scaled_tanh": (None, None),
    "hard_sigmoid": (0.2, 0.5),
    "elu": (1.0,),
    "softsign": (),
    "softplus": (),
}
STANDARD = ("sigmoid", "tanh", "tanh")
INITIAL = "initial_h", "initial_c"  # the parameters of a layer that no engine knows of
_BESIDE = {"input_dropout", "recurrent_dropout", "dropout_per_gate", "weight_dropout", "learn_state"}
LAYER_NORMS: dict[str | None, float] = {
    "haste": 1e-5,
    "fastrnn": 1e-5,
    "tflite": 1e-8,
}  # name -> epsilon, as each was published


class Parameter(NamedTuple):
    """One row of a layer's parameter table.

    Attributes
    ----------
    name : str
    shape : tuple of int
    start : callable ``(rng, shape) -> ndarray``
        Draws the initial values.
    decays : bool
        Whether weight decay shrinks it.
    by_row : bool
        Whether a batch has a gradient for some of its rows only, as that of an Embedding.
    """

    name: str
    shape: Shape
    start: Callable[[np.random.Generator, Shape], Array]
    decays: bool = True
    by_row: bool = False


@dataclass(frozen=True)
class Cell:
    """The options of an LSTM cell; without any it is the plain one.

    Parameters
    ----------
    peephole : bool
        The gates see the memory: ``p_i * c_{t-1}``, ``p_f * c_{t-1}`` and ``p_o * c_t`` are added to what enters them
        (Gers and Schmidhuber 2000).
    cifg : bool
        Coupled gates: ``f = 1 - i``. There is no forget gate of its own, and weights have three blocks i, g, o.
    clip : float, optional
        What enters the activations of the gates and of the candidate is cut to [-clip, clip], as ONNX does.
    cell_clip : float, optional
        The memory c_t is cut to [-cell_clip, cell_clip] before it is shown and carried on.
    activations : tuple of 3
        Of the gates, the candidate and the output: a name, or ``(name, alpha)`` or ``(name, alpha, beta)``, as ONNX
        defines them: sigmoid, tanh, relu, affine, leaky_relu, thresholded_relu, scaled_tanh, hard_sigmoid, elu,
        softsign, softplus. Hard sigmoids are ``("hard_sigmoid", 0.2, 0.5)`` in ONNX and Keras 2,
        ``("hard_sigmoid", 1 / 6, 0.5)`` in Keras 3.
    layer_norm : {None, "haste", "fastrnn", "tflite"}
        Which of the three published definitions; `lstmx.reference_cells` has their formulas.
    zoneout : float or (float, float)
        Rates at which units of h, and of c, keep their value of the step before (Krueger et al. 2017); in inference the
        expected value is taken. One number is for both.
    input_dropout, recurrent_dropout : float
        Rates at which features of x_t, and units of h_{t-1}, are dropped in training: one mask for a whole sequence.
    dropout_per_gate : bool
        Whether each gate has a mask of its own, as in Keras.
    weight_dropout : float
        Rate at which elements of weight_hh are dropped in training, once for a call (Merity et al. 2018).
    learn_state : bool
        Whether the initial state is learned: parameters ``initial_h`` and ``initial_c``.
    slstm : bool
        The sLSTM of Beck et al. (2024): exponential input and forget gates with a stabiliser m and a normaliser n. The
        second part of its state has three blocks of H: c, n and m.
    heads : int
        Of an sLSTM: units are mixed within their head alone, and weight_hh is (4H, H / heads).

    Notes
    -----
    Options combine, but an sLSTM takes dropout and `heads` alone, and "haste" and "fastrnn" no peepholes. A value that
    is cut, or lies at the bound, passes no gradient on. `dataclasses.replace` gives a cell with other options.

    What options add to the parameters of each layer and direction (``_l0``, ...): ``peephole`` (3H,), blocks i, f, o,
    or with `cifg` (2H,), i, o; ``norm_gain`` (4H,) of "tflite"; ``norm_ih_gain``, ``norm_hh_gain`` (4H,) and
    ``norm_c_gain``, ``norm_c_bias`` (H,) of the other two norms, of "fastrnn" also ``norm_ih_bias``, ``norm_hh_bias``
    (4H,) in place of ``bias``; ``initial_h``, ``initial_c`` (H,) of `learn_state`. With `cifg` 4H is 3H. Without a bias
    those of norms are left out too.

    Examples
    --------
    >>> import numpy as np, lstmx
    >>> lstm = lstmx.LSTM(1, 4, cell=lstmx.Cell(cell_clip=0.5), random_state=0)
    >>> _, (h, c) = lstm(np.full((50, 1), 9.0))
    >>> float(np.abs(c).max())
    0.5
    """

    peephole: bool = False
    cifg: bool = False
    clip: float | None = None
    cell_clip: float | None = None
    activations: tuple[str | tuple[Any, ...], ...] = STANDARD
    layer_norm: Literal["haste", "fastrnn", "tflite"] | None = None
    zoneout: Any = (0.0, 0.0)  # given as float or (float, float), kept as the latter
    input_dropout: float = 0.0
    recurrent_dropout: float = 0.0
    dropout_per_gate: bool = False
    weight_dropout: float = 0.0
    learn_state: bool = False
    slstm: bool = False
    heads: int = 1

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        for name in ("peephole", "cifg", "dropout_per_gate", "learn_state", "slstm"):
            put(name, validate.flag(name, getattr(self, name)))
        for name in ("clip", "cell_clip"):
            value = getattr(self, name)
            if value is not None:
                put(name, _number(name, value, 0, open_low=True))
        put("activations", _activations(self.activations))
        if self.layer_norm is not None:
            validate.choice("layer_norm", self.layer_norm, LAYER_NORMS)  # type: ignore[arg-type]
        rates = self.zoneout if isinstance(self.zoneout, tuple | list) else (self.zoneout,) * 2
        if len(rates) != 2:
            raise ValueError(f"zoneout: got {self.zoneout!r}, must be a rate, or two: (of h, of c)")
        put("zoneout", tuple(_number("zoneout", rate, 0, 1, open_high=True) for rate in rates))
        for name in ("input_dropout", "recurrent_dropout", "weight_dropout"):
            put(name, _number(name, getattr(self, name), 0, 1, open_high=True))
        put("heads", validate.count("heads", self.heads))
        self._refuse_nonsense()

    def _refuse_nonsense(self) -> None:
        if self.dropout_per_gate and not self.input_dropout and not self.recurrent_dropout:
            raise ValueError(
                "dropout_per_gate: nothing is dropped; give input_dropout or recurrent_dropout a rate above 0"
            )
        if self.peephole and self.layer_norm in ("haste", "fastrnn"):
            raise ValueError(
                f'layer_norm: "{self.layer_norm}" defines no peepholes; use layer_norm="tflite", which norms them with '
                "the gates, or peephole=False"
            )
        if not self.slstm:
            if self.heads != 1:
                raise ValueError(f"heads: got {self.heads}, but only an sLSTM has heads: Cell(slstm=True, heads=..)")
            return
        reasons = {
            "peephole": "its gates do not see the memory, which grows without bound beside its normaliser",
            "cifg": "its forget gate is an exponential beside the input gate's, and 1 - i could be negative",
            "clip": "its exponential gates are kept in range by the stabiliser",
            "cell_clip": "its memory means something only beside its normaliser",
            "activations": "its gates are exponential",
            "layer_norm": "its normaliser already divides the memory",
            "zoneout": "its memory is scaled by a stabiliser that changes at every step",
            "learn_state": "its memory begins empty, with a stabiliser that the first step sets",
        }
        options = self.config()
        for name, reason in reasons.items():
            if name in options:
                raise ValueError(f"{name}: an sLSTM has none, for {reason}; leave it out, or slstm")

    @cached_property
    def special(self) -> bool:
        """Whether a kernel has to compute anything but the plain cell; what is dropped, and learned states, are no
        kernel's matter.
        """
        return bool(self.config().keys() - _BESIDE)

    @cached_property
    def general(self) -> bool:
        """Whether it needs more than peepholes, coupled gates and clips, which are cheap."""
        return bool(self.slstm or self.layer_norm or self.activations != STANDARD or any(self.zoneout))

    @property
    def epsilon(self) -> float:
        """What a layer norm adds to the variance."""
        return LAYER_NORMS.get(self.layer_norm, 0.0)

    @property
    def curves(self) -> Iterator[tuple[Any, ...]]:
        """The activations of gates, candidate and output, as (index in ACTIVATIONS, alpha, beta)."""
        for item in self.activations:
            name, *numbers = (item,) if isinstance(item, str) else item
            numbers = tuple(numbers) or ACTIVATIONS[name]
            yield list(ACTIVATIONS).index(name), *numbers, *(0.0,) * (2 - len(numbers))

    @property
    def gates(self) -> int:
        """The blocks of a weight: 4, or 3 where the forget gate is the input gate's rest."""
        return 3 if self.cifg else 4

    @property
    def masks(self) -> tuple[int, ...]:
        """How many dropout masks training has on x and on h: 0, 1, or one for each gate."""
        each = self.gates if self.dropout_per_gate else 1
        return tuple(each if rate else 0 for rate in (self.input_dropout, self.recurrent_dropout))

    @property
    def drops(self) -> bool:
        """Whether training draws anything."""
        return bool(self.input_dropout or self.recurrent_dropout or self.weight_dropout or any(self.zoneout))

    def config(self) -> Config:
        """The options that are not as they are by default, as plain JSON values."""
        found = {f.name: value for f in fields(self) if (value := getattr(self, f.name)) != f.default}
        return {name: _listed(value) for name, value in found.items()}

    def __repr__(self) -> str:
        set_ = (f"{f.name}={value!r}" for f in fields(self) if (value := getattr(self, f.name)) != f.default)
        return f"Cell({', '.join(set_)})"

    @classmethod
    def from_config(cls, config: Config) -> Cell:
        """The cell that gave this `config`."""
        if not isinstance(config, dict):
            raise TypeError(f"cell: got {config!r}, must be a dict of the options of a cell")
        for name in config:
            if name not in {field.name for field in fields(cls)}:
                raise ValueError(f"cell: a cell has no option {name!r:.60}; a newer version of lstmx may know it")
        return cls(**config)

    def widths(self, hidden: int, proj: int = 0) -> tuple[int, int]:
        """The widths of the state (h, c) of H units, projected to P if `proj`."""
        return proj or hidden, hidden * (3 if self.slstm else 1)

    def check_sizes(self, hidden: int, proj: int = 0) -> None:
        """An error where the cell cannot have so many units."""
        if hidden % self.heads:
            raise ValueError(f"heads: got {self.heads}, must divide hidden_size = {hidden}")
        if proj and self.slstm:
            raise ValueError(
                "proj_size: an sLSTM mixes its own units head by head, which a projection would undo; leave it out"
            )

    def scheme(self, bias: bool, start: str, forget_bias: float | None, chrono: float | None) -> init.Scheme:
        """The `init.Scheme` of these values, of a layer with a bias or without; an error where it cannot be."""
        validate.choice("init", start, init.SCHEMES)
        given = {"forget_bias": forget_bias, "chrono": chrono}
        given = {name: value for name, value in given.items() if value is not None}
        if len(given) == 2:
            raise ValueError(
                f"chrono: got {chrono!r} beside forget_bias={forget_bias!r}, but both say how the forget gate's bias "
                "begins; leave one out"
            )
        for name, value in given.items():
            given[name] = _number(name, value, 2 if name == "chrono" else None, open_low=True)
            if "bias" not in self.vectors(1, bias):
                why = "bias=False" if not bias else f'layer_norm="{self.layer_norm}" shifts in its norms instead'
                raise ValueError(f"{name}: got {value!r}, but there is no bias to begin so: {why}; leave {name} out")
        return init.Scheme(start, **given)

    def parameters(
        self, inputs: int, hidden: int, bias: bool, proj: int = 0, scheme: init.Scheme = init.DEFAULT
    ) -> Iterator[Parameter]:
        """The parameter table of one layer in one direction: I inputs, H units, projected to P if `proj`; as `scheme`
        says how they begin.

        Weights have blocks of H rows i, f, g, o, or i, g, o where gates are coupled. Those of `INITIAL` come last; all
        others are what an engine computes with.
        """
        gates, outputs = self.gates, self.widths(hidden, proj)[0]
        glorot, orthogonal = (partial(init.per_gate, start, gates) for start in (init.glorot, init.orthogonal))
        yield Parameter("weight_ih", (gates * hidden, inputs), scheme.weight(glorot, hidden))
        yield Parameter("weight_hh", (gates * hidden, outputs // self.heads), scheme.weight(orthogonal, hidden))
        for name, (width, starts_at) in self.vectors(hidden, bias).items():
            start = partial(scheme.bias, gates=gates) if name == "bias" else partial(init.constant, value=starts_at)
            yield Parameter(name, (width,), start, decays=name == "peephole")
        if proj:
            yield Parameter("weight_hr", (proj, hidden), scheme.weight(init.glorot, hidden))
        if self.learn_state:
            for name, width in zip(INITIAL, self.widths(hidden, proj), strict=True):
                yield Parameter(name, (width,), partial(init.constant, value=0.0), decays=False)

    def computing(self, *sizes: Any) -> Iterator[Parameter]:
        """The part of `parameters` that an engine computes with: all but a learned initial state."""
        return (p for p in self.parameters(*sizes) if p.name not in INITIAL)

    def vectors(self, hidden: int, bias: bool) -> dict[str, tuple[int, float | None]]:
        """The parameters that are vectors: name -> (width, what its elements begin at), in the order of kernels."""
        H, gates = hidden, self.gates
        found: dict[str, tuple[int, float | None]] = {}
        if bias and self.layer_norm != "fastrnn":
            found["bias"] = gates * H, None
        if self.peephole:
            found["peephole"] = (gates - 1) * H, 0.0
        if self.layer_norm == "tflite":
            found["norm_gain"] = gates * H, 1.0
        elif self.layer_norm:
            for side in ("ih", "hh"):
                found[f"norm_{side}_gain"] = gates * H, 1.0
                if bias and self.layer_norm == "fastrnn":
                    found[f"norm_{side}_bias"] = gates * H, 0.0
            found["norm_c_gain"] = H, 1.0
            if bias:
                found["norm_c_bias"] = H, 0.0
        return found


def _number(name: str, value: Any, *limits: float | None, **kinds: bool) -> float:
    if isinstance(value, bool):
        raise TypeError(f"{name}: got {value!r}, must be a number")
    return validate.number(name, value, *limits, **kinds)


def _activations(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, tuple | list) or len(value) != 3:
        raise ValueError(
            f"activations: got {value!r}, must be three: of gates, candidate and output, such as {STANDARD}"
        )
    return tuple(read_activation("activations", item, ACTIVATIONS) for item in value)


def read_activation(argument: str, value: Any, table: Mapping[str, tuple[Any, ...]]) -> str | tuple[Any, ...]:
    """A name of the table, or a tuple of it with its alpha and beta where these are not the default ones."""
    if not isinstance(value, str | tuple | list) or not value:
        raise TypeError(f'{argument}: got {value!r}, must be a name or as ("hard_sigmoid", 0.2, 0.5)')
    name, *given = (value,) if isinstance(value, str) else value
    validate.choice(argument, name, table)
    defaults = table[name]
    if len(given) > len(defaults):
        raise ValueError(
            f"{argument}: got {value!r}, but {name} takes {('no alpha', 'alpha', 'alpha and beta')[len(defaults)]}"
        )
    found = tuple(_number(argument, number) for number in given) + defaults[len(given) :]
    if None in found:
        raise ValueError(f'{argument}: {name} has no default alpha and beta; give both, as in ("{name}", 1.0, 0.5)')
    if found and found[0] < 0 and name in ("leaky_relu", "thresholded_relu", "elu"):
        raise ValueError(f"{argument}: got alpha {found[0]} of {name}, must be at least 0: it must not turn back")
    return (name, *found) if found and found != defaults else name


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, tuple) else value


def suffix(layer: int, direction: int) -> str:
    """What the names of a layer's parameters end with: "_l0", "_l0_reverse", "_l1"."""
    return f"_l{layer}" + "_reverse" * direction
