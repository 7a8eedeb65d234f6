"""What every predictor is: a configuration of plain JSON values, plain arrays, and a model; and what a step of a
pipeline is, which may have no model.
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from lstmx import storage
from lstmx.data import panel
from lstmx.data.series import columns_of
from lstmx.functional import validate
from lstmx.model import Sequential

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import MappingProxyType

    from numpy.typing import ArrayLike

    from lstmx._types import Array, Arrays, ArrayShape, Config, Context, DType
    from lstmx.functional.read import Sequences
    from lstmx.layers.trace import Trace


# What the numbers of an array must be, in a model of a type: from here `own_shapes` takes its words.
FINITE, POSITIVE = "finite", "finite and above 0"
UNIT = "finite and from 0 to 1"
SHIFT, DIVISOR = "finite in the model's type", "above 0, and finite in the model's type as is their inverse"
_NEEDS: dict[str, Callable[[Any, Any], Any]] = {
    FINITE: lambda a, dtype: np.isfinite(a),
    POSITIVE: lambda a, dtype: np.isfinite(a) & (a > 0),
    UNIT: lambda a, dtype: (a >= 0) & (a <= 1),
    SHIFT: lambda a, dtype: np.isfinite(a.astype(dtype)),
    DIVISOR: lambda a, dtype: (a > 0) & np.isfinite(a.astype(dtype)) & np.isfinite((1 / a).astype(dtype)),
}


class Step(storage.Stored):
    """What was learnt by a step of a pipeline, or by the whole of one.

    A subclass gives `fields`, `check` and `own_shapes`, and has ``transform(X)`` if steps may follow it.

    Parameters
    ----------
    config : dict
        Plain JSON values: exactly the keys in `fields`.
    arrays : dict of str to ndarray
        Those that `own_shapes` names.

    Raises
    ------
    ValueError, TypeError
        If one of them is not as it must be, or they do not belong together.
    """

    fields: ClassVar[tuple[str, ...]] = ()
    dtype: DType = np.dtype(np.float64)  # what it computes in
    in_pipelines = True  # whether it may be a step of a `Pipeline`
    takes: tuple[int | None, ...] = (None, None)  # features of sequences, columns of tables that it takes; None: any
    gives: tuple[int | None, ...] = (None, None)  # those of what its `transform` gives; None: as many as it was given

    def __init_subclass__(cls, abstract: bool = False) -> None:
        super().__init_subclass__()
        if not abstract:
            storage.register(cls)

    def __init__(self, config: Config, arrays: Arrays) -> None:
        self.check(config)
        self.config, self._arrays = config, arrays
        self._check_arrays()

    @property
    def arrays(self) -> Arrays:
        """Those that `own_shapes` names."""
        return self._arrays

    def _check_arrays(self) -> None:
        shapes: dict[str, Any] = {name: rest for name, *rest in self.own_shapes(self.config)}
        validate.keys("arrays", self.arrays, shapes)
        for name, (shape, dtype, need) in shapes.items():
            a = self.arrays[name]
            if not isinstance(a, np.ndarray) or a.shape != shape or a.dtype != dtype:
                got = f"{a.dtype} {a.shape}" if isinstance(a, np.ndarray) else type(a).__name__
                raise ValueError(f"{name}: got {got}, must be an array of {dtype} {shape}")
            with np.errstate(all="ignore"):
                good = _NEEDS[need](a, self.dtype)
            if not good.all():
                bad = a[~good]
                raise ValueError(f"{name}: {bad.size} of {a.size} values, the first {bad[0]}, are not {need}; fit "
                                 "again, or take another copy of the file")  # fmt: skip

    @classmethod
    def check(cls, config: Config) -> None:
        """Raise ValueError or TypeError for a configuration that is not right."""
        validate.keys("config", config, cls.fields)

    @classmethod
    def own_shapes(cls, config: Config) -> Iterable[ArrayShape]:
        """(name, shape, dtype, what its numbers must be) of every array, but the parameters of a model."""
        return ()

    @classmethod
    def array_shapes(cls, config: Config) -> Iterator[ArrayShape]:
        """(name, shape, dtype, what its numbers must be) of every array; an error for a wrong configuration."""
        validate.keys(f"the configuration of {cls.__name__}", config, cls.fields)
        cls.check(config)
        yield from cls.own_shapes(config)

    @classmethod
    def from_state(cls, config: Config, arrays: Arrays) -> Self:
        """A step from what `state` gave."""
        return cls(config, arrays)

    def state(self) -> tuple[Config, Arrays]:
        """(configuration, arrays): all there is, as plain JSON values and plain arrays."""
        return self.config, self.arrays

    @functools.cached_property
    def names(self) -> list[str] | None:
        """The names of the columns that the estimator was fitted to, if its note says them."""
        try:
            found = json.loads(self.note or "{}")["attributes"]["feature_names_in_"]["array"]
        except (KeyError, TypeError, ValueError, RecursionError):
            return None
        return found if isinstance(found, list) else None

    def _check_columns(self, X: Any) -> None:
        """An error for frames with other columns than those of fit; what has no names is not checked."""
        many = isinstance(X, list | tuple)
        if many and self.config["layout"] != "NTC":
            return
        for n, frame in enumerate(X if many else [X]):
            columns = columns_of(frame) if hasattr(frame, "columns") else None
            if columns is None or self.names is None or (not many and len(columns) != len(self.names)):
                continue
            if columns != self.names:
                raise ValueError(f"{f'X[{n}]' if many else 'X'}: has the columns {columns}, must have those of fit, in "
                                 f"order: {self.names}")  # fmt: skip

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class Predictor(Step, abstract=True):
    """A fitted model with what comes before and after it.

    Parameters
    ----------
    config : dict
        Plain JSON values: ``features`` (F), ``steps`` (T where sequences came as (n, T), else None), ``layout``,
        ``standardize``, and what a subclass adds: exactly the keys in `fields`. Files leave out those of `defaults`
        that are as they are there, so that files of older versions, which do not know them, are the same.
    arrays : dict of str to ndarray
        Those that `own_shapes` names.
    model : Sequential

    Raises
    ------
    ValueError, TypeError
        If one of them is not as it must be, or they do not belong together.
    """

    fields: ClassVar[tuple[str, ...]] = ("features", "steps", "layout", "standardize")
    defaults: ClassVar[dict[str, Any] | MappingProxyType[str, Any]] = {}
    _functions: Any = None

    def __init__(self, config: Config, arrays: Arrays, model: Sequential) -> None:
        config = self.defaults | config
        self.model = model
        super().__init__(config, arrays)
        if model.input_size != self.inputs(config):
            raise ValueError(f"model: takes {model.input_size} features, must take {self.inputs(config)}")
        if model.output_size != self.outputs(config):
            raise ValueError(f"model: gives {model.output_size} outputs, must give {self.outputs(config)}")
        if model.per_step != self.per_step(config) or model.embedding is not None:
            what = "step" if self.per_step(config) else "sequence"
            raise ValueError(f"model: must give an output for every {what} of numbers, got {model!r}")

    @property
    def dtype(self) -> DType:  # type: ignore[override]
        """What the model computes in."""
        return self.model.dtype

    @property
    def functions(self) -> Any:
        """What the user gave that is pickled, but in no file; None if nothing."""
        return self._functions

    def with_functions(self, functions: Any) -> Self:
        """This predictor, with the functions that it needs."""
        self._functions = functions
        return self

    @property
    def takes(self) -> tuple[int | None, ...]:  # type: ignore[override]
        """(features, None): of sequences, in tables of any number of columns if it is one feature."""
        return self.config["features"], None

    @classmethod
    def check(cls, config: Config) -> None:
        super().check(config)
        validate.count("features", config["features"])
        if config["steps"] is not None:
            validate.count("steps", config["steps"])
        validate.choice("layout", config["layout"], panel.LAYOUTS)
        validate.flag("standardize", config["standardize"])

    @classmethod
    def inputs(cls, config: Config) -> int:
        """Features that the model must take."""
        return config["features"]

    if TYPE_CHECKING:  # every subclass has it

        @classmethod
        def outputs(cls, config: Config) -> int: ...

    @classmethod
    def per_step(cls, config: Config) -> bool:
        """Whether the model must give an output for every step."""
        return False

    @classmethod
    def own_shapes(cls, config: Config) -> Iterable[ArrayShape]:
        if config["standardize"]:
            yield "x_mean", (config["features"],), "float64", SHIFT
            yield "x_scale", (config["features"],), "float64", DIVISOR

    @classmethod
    def array_shapes(cls, config: Config) -> Iterator[ArrayShape]:
        own = cls.defaults | config
        validate.keys(f"the configuration of {cls.__name__}", own, (*cls.fields, "model"))
        model = own.pop("model")
        cls.check(own)
        yield from cls.own_shapes(own)
        for name, *rest in Sequential.array_shapes(model):
            yield f"model.{name}", *rest  # type: ignore[misc]

    @classmethod
    def from_state(cls, config: Config, arrays: Arrays) -> Self:
        config = dict(config)
        model = config.pop("model")
        own = {name: a for name, a in arrays.items() if not name.startswith("model.")}
        parameters = {name[len("model.") :]: a for name, a in arrays.items() if name.startswith("model.")}
        return cls(config, own, Sequential.from_state(model, parameters))

    def state(self) -> tuple[Config, Arrays]:
        parameters = {f"model.{name}": p for name, p in self.model.parameters().items()}
        own = {key: v for key, v in self.config.items() if key not in self.defaults or v != self.defaults[key]}
        return own | {"model": self.model.config()}, self.arrays | parameters

    def read(self: Step, X: ArrayLike | panel.Panel, gaps: bool = False) -> panel.Panel:
        """A `panel.Panel` of X, checked against what the model was fitted with; X itself if it is one."""
        if isinstance(X, panel.Panel):
            return X
        self._check_columns(X)
        config = self.config
        return panel.read(X, config["layout"], features=config["features"], gaps=gaps, imputes="missing" in config)

    def sequences(self, data: panel.Panel) -> Sequences:
        """Standardised sequences of a panel."""
        return data.sequences(self.model.dtype, self._affine)

    @functools.cached_property
    def _affine(self) -> tuple[Array, Array] | None:
        return panel.affine(self.arrays, self.model.dtype)

    def trace(self, X: ArrayLike) -> dict[int, Trace]:
        """What the gates did.

        Returns
        -------
        dict of int to Trace
            By the layer's index in ``model.layers``; (n, T, H) arrays that are 0 behind a sequence's end, or lists.
        """
        rows, context = self.sequences(self.read(X)).all()
        return self.model.trace_rows(self.fed(rows, context), context)

    def fed(self, rows: Array, context: Context) -> Array:
        """What the model is fed, of standardised packed rows."""
        return rows

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.model!r}>"
