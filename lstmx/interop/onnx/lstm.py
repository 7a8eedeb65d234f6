"""The LSTM of ONNX, and DynamicQuantizeLSTM of ONNX Runtime, as layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lstmx.functional.cell import Cell
from lstmx.interop.gates import reorder
from lstmx.layers import LSTM

if TYPE_CHECKING:
    from lstmx._types import Array, Arrays


# The inputs by name, in their order; those after P are of DynamicQuantizeLSTM.
INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P",
          "W_scale", "W_zero_point", "R_scale", "R_zero_point")  # fmt: skip
DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
ATTRIBUTES = {"activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size", "input_forget",
              "layout"}  # fmt: skip
# name in lower case -> (ours, default alpha, default beta); None: it takes none
_ACTIVATIONS = {
    "sigmoid": ("sigmoid", None, None),
    "tanh": ("tanh", None, None),
    "relu": ("relu", None, None),
    "affine": ("affine", 1.0, 0.0),
    "leakyrelu": ("leaky_relu", 0.01, None),
    "thresholdedrelu": ("thresholded_relu", 1.0, None),
    "scaledtanh": ("scaled_tanh", 1.0, 1.0),
    "hardsigmoid": ("hard_sigmoid", 0.2, 0.5),
    "elu": ("elu", 1.0, None),
    "softsign": ("softsign", None, None),
    "softplus": ("softplus", None, None),
}


@dataclass(frozen=True)
class Options:
    """What the attributes of a node say.

    Attributes
    ----------
    direction : str
    cells : tuple of Cell
        One for each direction, without peepholes, which an input brings.
    hidden_size : int or None
        As the attribute says, if it is there.
    batch_first : bool
        ``layout=1``.
    """

    direction: str
    cells: tuple[Cell, ...]
    hidden_size: int | None
    batch_first: bool

    @property
    def reversed(self) -> tuple[bool, ...]:
        """For each direction, whether it reads from the end."""
        return DIRECTIONS[self.direction]

    @property
    def order(self) -> str:
        """The gates that the weights of a layer have."""
        return "igo" if self.cells[0].cifg else "ifgo"


def read_options(attributes: dict[str, Any]) -> Options:
    """`Options` of a dict of attributes; ValueError or TypeError for those that cannot be."""
    for name in attributes:
        if name not in ATTRIBUTES:
            raise ValueError(f"the attribute {name!r:.60} is unknown")
    direction = attributes.get("direction", "forward")
    if direction not in DIRECTIONS:
        raise ValueError(f"direction: got {direction!r:.60}, must be forward, reverse or bidirectional")
    count = len(DIRECTIONS[direction])
    clip = attributes.get("clip")
    if clip is not None and not clip > 0:
        raise ValueError(f"clip: got {clip}, must be above 0; leave it out where nothing is clipped")
    clip = None if clip is None or clip >= np.finfo(np.float32).max else short(clip)
    common: dict[str, Any] = {"clip": clip, "cifg": bool(attributes.get("input_forget", 0))}
    cells = tuple(Cell(activations=own, **common) for own in _read_activations(attributes, count))
    hidden = attributes.get("hidden_size")
    if hidden is not None and hidden < 1:
        raise ValueError(f"hidden_size: got {hidden}, must be at least 1")
    return Options(direction, cells, hidden, bool(attributes.get("layout", 0)))


def _read_activations(attributes: dict[str, Any], directions: int) -> list[tuple[Any, ...]]:
    """Three activations for each direction; alpha and beta are used up in their order by those that take one."""
    names = attributes.get("activations") or ["Sigmoid", "Tanh", "Tanh"] * directions
    if len(names) != 3 * directions:
        raise ValueError(f"activations: got {len(names)}, must be three for each direction")
    alphas, betas = (iter(attributes.get(f"activation_{which}", ())) for which in ("alpha", "beta"))
    found = []
    for name in names:
        if name.lower() not in _ACTIVATIONS:
            raise ValueError(f"activations: there is no {name!r:.60} in ONNX")
        ours, alpha, beta = _ACTIVATIONS[name.lower()]
        numbers = [next(given, value) for given, value in ((alphas, alpha), (betas, beta)) if value is not None]
        found.append((ours, *(short(number) for number in numbers)) if numbers else ours)
    return [tuple(found[k : k + 3]) for k in range(0, len(found), 3)]


def short(number: float) -> float:
    """The number that a float32 was written for: 0.2, not 0.20000000298."""
    return float(str(np.float32(number)))


def row_order(options: Options, hidden: int) -> tuple[Array, Array]:
    """Which rows of a W or R of ONNX are, one after the other, those of ours; of a P the same."""
    weights = reorder(np.arange(4 * hidden), "onnx", options.order)
    return weights, reorder(np.arange(3 * hidden), "onnx peepholes", "io" if options.order == "igo" else "peepholes")


def read_arrays(options: Options, given: Any) -> list[Arrays]:
    """Our parameters (weight_ih and so on) for each direction, from constants W, R, B and P by name, or None.

    The sums of biases are those of float64, rounded.
    """
    W, R, B, P = (given.get(name) for name in "WRBP")
    directions = len(options.reversed)
    for name, array, ndim in (("W", W, 3), ("R", R, 3), ("B", B, 2), ("P", P, 2)):
        if array is not None and (array.ndim != ndim or len(array) != directions or array.dtype.kind != "f"):
            raise ValueError(f"{name}: is {array.dtype} {array.shape}, must have {ndim} axes, the first of which has "
                             f"the {directions} directions")  # fmt: skip
    hidden = R.shape[2]
    wanted = {"W": (4 * hidden, W.shape[2]), "R": (4 * hidden, hidden), "B": (8 * hidden,), "P": (3 * hidden,)}
    for name, array in zip("WRBP", (W, R, B, P), strict=True):
        if array is not None and array.shape[1:] != wanted[name]:
            raise ValueError(f"{name}: has shape {array.shape}, must be {(directions, *wanted[name])} beside R "
                             f"{R.shape}")  # fmt: skip
    if options.hidden_size not in (None, hidden):
        raise ValueError(f"hidden_size: got {options.hidden_size}, but R has shape {R.shape}")
    if 0 in R.shape or 0 in W.shape:
        raise ValueError(f"W, R: have shapes {W.shape}, {R.shape}; I and H must be at least 1")
    rows, peepholes = row_order(options, hidden)
    found = []
    for d in range(directions):
        own = {"weight_ih": W[d][rows], "weight_hh": R[d][rows]}
        if B is not None:
            own["bias"] = (B[d][: 4 * hidden].astype(float) + B[d][4 * hidden :]).astype(W.dtype)[rows]
        if P is not None:
            own["peephole"] = P[d][peepholes]
        found.append(own)
    return found


def dequantised(given: Any) -> Arrays:
    """W and R of a DynamicQuantizeLSTM as those of an LSTM: (q - zero point) * scale, transposed."""
    found = {}
    for name in "WR":
        q, scale, zero = given[name], given[f"{name}_scale"], given[f"{name}_zero_point"]
        if q.ndim != 3 or q.dtype.kind not in "iu" or scale.ndim not in (1, 2) or zero.shape not in ((), scale.shape):
            raise ValueError(f"{name}: is {q.dtype} {q.shape}, with a scale of shape {scale.shape} and a zero point of "
                             f"shape {zero.shape}")  # fmt: skip
        columns = (len(q), 1, q.shape[2]) if scale.ndim == 2 else (len(q), 1, 1)
        scale, zero = (np.broadcast_to(a, scale.shape).reshape(columns).astype(np.float32) for a in (scale, zero))
        found[name] = ((q.astype(np.float32) - zero) * scale).transpose(0, 2, 1)
    return {name: a for name, a in given.items() if "_" not in name} | found


def make_layers(options: Options, arrays: list[Arrays]) -> list[LSTM]:
    """One LSTM, or two of one direction each where their cells differ."""
    peephole = {"peephole": True} if "peephole" in arrays[0] else {}
    W = arrays[0]["weight_ih"]
    sizes = {"input_size": W.shape[1], "hidden_size": arrays[0]["weight_hh"].shape[1]}
    sizes |= {"bias": "bias" in arrays[0], "dtype": W.dtype.name}
    if options.direction == "bidirectional" and options.cells[0] == options.cells[1]:
        config = sizes | {"bidirectional": True, "cell": options.cells[0].config() | peephole}
        named = {name + end: a for own, end in zip(arrays, ("_l0", "_l0_reverse"), strict=True)
                 for name, a in own.items()}  # fmt: skip
        return [LSTM.from_state(config, named)]
    return [
        LSTM.from_state(
            sizes | {"reverse": reverse, "cell": cell.config() | peephole}, {f"{n}_l0": a for n, a in own.items()}
        )
        for own, reverse, cell in zip(arrays, options.reversed, options.cells, strict=True)
    ]
