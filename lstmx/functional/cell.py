"""What an LSTM cell is made of: its options, and the one table of its parameters that layers, training, files and
importers read.
"""

from dataclasses import asdict, dataclass, fields
from functools import cached_property, partial
from typing import NamedTuple

from lstmx import init
from lstmx.functional import validate


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
    shape: tuple
    start: object
    decays: bool = True
    by_row: bool = False


@dataclass(frozen=True)
class Cell:
    """The options of an LSTM cell; without any it is the plain one.

    Parameters
    ----------
    clip : float, optional
        What enters the activations of the gates and of the candidate is cut to [-clip, clip], as ONNX does.
    cell_clip : float, optional
        The memory c_t is cut to [-cell_clip, cell_clip] before it is shown and carried on.

    Notes
    -----
    A value that is cut, or lies at the bound, passes no gradient on.

    Examples
    --------
    >>> import numpy as np, lstmx
    >>> lstm = lstmx.LSTM(1, 4, cell=lstmx.Cell(cell_clip=0.5), random_state=0)
    >>> _, (h, c) = lstm(np.full((50, 1), 9.0))
    >>> float(np.abs(c).max())
    0.5
    """

    clip: float | None = None
    cell_clip: float | None = None

    def __post_init__(self):
        for name in ("clip", "cell_clip"):
            value = getattr(self, name)
            if isinstance(value, bool):
                raise TypeError(f"{name}: got {value!r}, must be a number")
            if value is not None:
                object.__setattr__(self, name, validate.number(name, value, 0, open_low=True))

    @cached_property
    def plain(self):
        """Whether no option is set."""
        return not self.config()

    def config(self):
        """The options that are not as they are by default, as plain JSON values."""
        return {field.name: value for field in fields(self) if (value := asdict(self)[field.name]) != field.default}

    @classmethod
    def from_config(cls, config):
        """The cell that gave this `config`."""
        if not isinstance(config, dict):
            raise TypeError(f"cell: got {config!r}, must be a dict of the options of a cell")
        for name in config:
            if name not in {field.name for field in fields(cls)}:
                raise ValueError(f"cell: a cell has no option {name!r}; a newer version of lstmx may know it")
        return cls(**config)

    def widths(self, hidden):
        """The widths of the state (h, c) of H units."""
        return hidden, hidden

    def parameters(self, inputs, hidden, bias):
        """The parameter table of one layer in one direction: I inputs, H units; blocks of H rows i, f, g, o."""
        glorot, orthogonal = (partial(init.per_gate, start) for start in (init.glorot, init.orthogonal))
        yield Parameter("weight_ih", (4 * hidden, inputs), glorot)
        yield Parameter("weight_hh", (4 * hidden, self.widths(hidden)[0]), orthogonal)
        if bias:
            yield Parameter("bias", (4 * hidden,), lambda rng, shape: init.forget_bias(hidden), decays=False)


def suffix(layer, direction):
    """What the names of a layer's parameters end with: "_l0", "_l0_reverse", "_l1"."""
    return f"_l{layer}" + "_reverse" * direction
