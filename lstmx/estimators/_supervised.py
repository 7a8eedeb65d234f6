"""What LSTMClassifier and LSTMRegressor share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.model_selection import train_test_split

from lstmx import training
from lstmx.data import batches, panel
from lstmx.data.targets import RowWeights, Targets
from lstmx.estimators._base import LSTMEstimator, Problem
from lstmx.estimators._input import as_array, is_table, read_weight, read_X, step_rows, weighed
from lstmx.estimators._training import fitting
from lstmx.functional import validate
from lstmx.functional.messages import warn

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from lstmx._types import Array, Arrays, Config, DType, Ints, Shape


def takes_parts(estimator: Any) -> bool:
    """What scikit-learn asks before it gives `partial_fit`."""
    if estimator.solver == "lbfgs":
        raise AttributeError("solver: 'lbfgs' needs all of the data at once, so there is no partial_fit; set it to "
                             "'adam', or call fit")  # fmt: skip
    return True


class SupervisedEstimator(LSTMEstimator):
    """Data with targets, a part of them held out, and incremental fits; leaves read, encode and score the targets.

    Inside, targets are rows: one per sequence, or of ``target="step"`` one per step, of one sequence after the other.
    """

    _solvers = (*LSTMEstimator._solvers, "lbfgs")

    @property
    def n_layers_(self) -> int:
        """Layers of the network, those of its inputs and outputs among them, as MLPClassifier counts."""
        return self.model_.layers[0].num_layers + 2  # type: ignore[attr-defined]

    @property
    def n_outputs_(self) -> int:
        """Outputs of the network: one for two classes."""
        return self.model_.output_size

    @property
    def out_activation_(self) -> str:
        """In the words of MLPClassifier: "softmax", "logistic" or "identity"."""
        return {"sigmoid": "logistic", "linear": "identity"}.get(*[self.model_.layers[-1].activation] * 2)  # type: ignore[attr-defined, return-value]

    @fitting
    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        X_val: ArrayLike | None = None,
        y_val: ArrayLike | None = None,
        sample_weight_val: ArrayLike | None = None,
        comm: Any = None,
        shards: int | None = None,
        exact: bool = True,
    ) -> Self:
        """Fit to sequences.

        Parameters
        ----------
        X : array (n, T, F), list of n arrays (T_i, F), or array or frame (n, T) of one feature
            NaN at the end of a sequence is padding.
        y : array (n,), or (n, K) of 0 and 1 for several labels; for a regressor numbers (n,) or (n, O)
            With ``target="step"`` (n, T), (n, T, K or O), or a list of (T_i,) or (T_i, K or O); what stands where X
            is padding is not read.
        sample_weight : array (n,), optional
            Sequences of weight 0 are left out; a classifier knows their classes all the same.
        X_val, y_val, sample_weight_val : as X, y and sample_weight, optional
            Scored after every epoch; with ``early_stopping`` they take the place of a part of X.
        comm, shards, exact : as of `lstmx.Sequential.fit`, optional
            The ranks of an MPI communicator train together, each given the same data; the first one reads and writes
            the checkpoint.

        Returns
        -------
        self
        """
        with training.open_ranks(comm, shards, exact) as ranks:
            self._check_parameters()
            seed = self._resumed_seed(ranks)
            held = X_val, y_val, sample_weight_val
            problem = self._problem(X, y, sample_weight, held, seed, self._is_first())
            metadata = None if sample_weight is None else {"sample_weight": sample_weight}
            return self._run(problem, seed, {"X": X, "y": y, "metadata": metadata}, ranks)

    @fitting
    def _partial_fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None, classes: ArrayLike | None = None
    ) -> Self:
        self._check_parameters()
        if self.early_stopping:
            raise ValueError("early_stopping: partial_fit sees one part of the data and does not stop; set it to False")
        seed, first = self._seed(), self._is_first(incremental=True)
        problem = self._problem(X, y, sample_weight, (None, None, None), seed, first, incremental=True, classes=classes)
        return self._run(problem, seed, {"X": X, "y": y, "metadata": None}, training.Alone(), incremental=True)

    def _problem(
        self,
        X: Any,
        y: Any,
        sample_weight: ArrayLike | None,
        held: tuple[Any, Any, Any],
        seed: int,
        first: bool,
        *,
        incremental: bool = False,
        classes: Any = None,
    ) -> Problem:
        data = read_X(self, X, self.layout, fitted=None if first else self._predictor.config)
        if y is None:
            raise ValueError(f"y: {type(self).__name__} requires y to be passed, but the target y is None")
        y, per_step = as_array(y), self.target == "step"
        if not first and self.target != self._predictor.config["target"]:
            raise ValueError(f"target: the last fit had {self._predictor.config['target']!r}, now it is "
                             f"{self.target!r}; set warm_start=False, or begin with another estimator")  # fmt: skip
        rows = self._target_rows(y, data, None if first else self._predictor.config)
        steps = None if data.ragged else data.x.shape[1]
        if not per_step and steps is not None and steps > 1 and np.shape(y) == (len(data), steps):
            warn(f"y: has as many columns as X has steps, {steps}; they are read as {steps} targets of each whole "
                 'sequence, not as one for each step, for which set target="step"')  # fmt: skip
        config = self._read_targets(rows, data, first, incremental, classes)
        target, label = self._encode(rows, data, config)
        weight, lengths = read_weight(sample_weight, len(data)), data.lengths
        each = self._class_weights(rows, target, _spread(weight, lengths, per_step), incremental)
        if each is not None:
            each = each if weight is None else each * _spread(weight, lengths, per_step)
            # A sequence weighs what its steps do on average.
            weight = np.add.reduceat(each, np.cumsum(lengths) - lengths) / lengths if per_step else each
        identity = (*data.each(), *_pieces(y), weight)
        chosen, data, weight = weighed(data, weight)
        if not len(chosen):
            raise ValueError("class_weight: is 0 for every sequence whose sample_weight is not, so there is nothing to "
                             "learn; give a class that y holds a weight")  # fmt: skip
        if len(chosen) < len(lengths):
            kept = _spread(np.isin(np.arange(len(lengths)), chosen), lengths, per_step)
            target, label = target[kept], None if label is None else label[kept]
            each = None if each is None else each[kept]
        train, rest = self._split(len(data), label, held[0] is not None, seed)
        part = np.ones(len(data)) if weight is None else weight
        if rest is not None:
            part = part.copy()
            part[rest] = 0
        arrays = self._standardise(data, target, part, config) if first else self._predictor.arrays
        dtype = data.dtype if first else self._predictor.model.dtype
        working = np.dtype(np.float64) if self.solver == "lbfgs" else dtype  # in which the loss is computed
        whole = self._data(data, target, weight if each is None else each, config, arrays, working)
        validation, given = None if rest is None else batches.Subset(whole, rest), ()
        if held[0] is None and (held[1] is not None or held[2] is not None):
            raise ValueError("X_val: y_val or sample_weight_val is given without it; give all or none")
        if held[0] is not None:
            validation, given = self._held_out(*held, config, arrays, working)
        return Problem(  # type: ignore[call-arg, misc]
            self._kind, config, arrays, whole if rest is None else batches.Subset(whole, train), *self._head(config),
            per_step, dtype, validation, self._scorer(config), float(part.sum()),
            identity=(*identity, *given),
        )  # fmt: skip

    def _target_rows(self, y: Any, data: panel.Panel, config: Config | None = None, name: str = "y") -> Any:
        """Targets as rows, such as those of a fitted configuration if there is one."""
        if self._is_per_step(config):
            return step_rows(y, data, name, None if config is None else self._row_shape(config))
        try:
            shape = np.shape(y)
        except ValueError:
            shape = None
        if shape is None or len(shape) > 2:
            got = "arrays of different lengths" if shape is None else f"shape {shape}"
            raise ValueError(f"{name}: got {got}, must be (n,) or {self._several}: one value or row per sequence; for "
                             'one per step set target="step"')  # fmt: skip
        return y

    def _is_per_step(self, config: Config | None) -> bool:
        return (self.target if config is None else config["target"]) == "step"

    def _row_shape(self, config: Config) -> Shape | None:
        """What shape a row of fitted targets per step must have; None is any."""
        return None

    def _class_weights(self, rows: Any, target: Array, weight: Any, incremental: bool) -> Array | None:
        """What each row weighs by its class, or None."""
        return None

    def _config(self, data: panel.Panel) -> Config:
        return {
            "target": self.target,
            "features": data.features,
            "steps": data.x.shape[1] if is_table(data) else None,
            "layout": self.layout,
            "standardize": bool(self.standardize),
        }

    def _standardise(self, data: panel.Panel, target: Array, weight: Any, config: Config) -> Arrays:
        if not self.standardize:
            return {}
        mean, scale = panel.statistics(data, weight)
        return {"x_mean": mean, "x_scale": scale}

    def _data(
        self, data: panel.Panel, target: Array, weight: Array | None, config: Config, arrays: Arrays, dtype: DType
    ) -> batches.Data:
        inputs = data.sequences(dtype, panel.affine(arrays, dtype))
        targets = Targets(self._rows(target, config, arrays, dtype), config["target"] == "step", data.lengths)
        # Weights are of sequences or of steps, which are the same where there is a step for each sequence.
        sample = None if weight is None else Targets(weight.astype(dtype), len(weight) > len(data), data.lengths)
        return batches.Data(inputs, targets, RowWeights(sample, None, dtype))

    def _held_out(
        self, X: Any, y: Any, weight: Any, config: Config, arrays: Arrays, dtype: DType
    ) -> tuple[batches.Data, tuple[Any, ...]]:
        if y is None:
            raise ValueError("y_val: X_val is given without it; give both or neither")
        y = as_array(y)
        data = read_X(self, X, self.layout, fitted=config, name="X_val")
        target, _ = self._encode(self._target_rows(y, data, config, "y_val"), data, config, "y_val")
        weight = read_weight(weight, len(data), "sample_weight_val")
        held = self._data(data, target, weight, config, arrays, dtype)
        rows = held.targets.steps.x if held.targets.per_step else held.targets.values
        if rows.dtype.kind == "f" and not np.isfinite(rows).all():
            raise ValueError(f"y_val: has values too large for {dtype}; scale them, or give X in float64")
        return held, (*data.each(), *_pieces(y), weight)

    def _split(self, count: int, label: Array | None, given: bool, seed: int) -> tuple[Any, Any]:
        """(training, validation) indices, or (None, None)."""
        if given or not self.early_stopping:
            return None, None
        every = np.arange(count)
        if self.validation_from == "tail":
            train, rest = train_test_split(every, test_size=self.validation_fraction, shuffle=False)
        else:
            try:
                train, rest = train_test_split(
                    every, test_size=self.validation_fraction, stratify=label, random_state=seed
                )
            except ValueError as error:
                raise ValueError(
                    f"early_stopping: no part can be held out with its share of each class ({error}); change "
                    'validation_fraction, or set validation_from="tail" or early_stopping=False'
                ) from None
        if len(rest) < 2:
            raise ValueError(
                f"validation_fraction: {self.validation_fraction} of {count} sequences leaves {len(rest)} for "
                "validation; raise it, or set early_stopping=False"
            )
        return train, rest

    def _scored(self, data: panel.Panel, y: Any, sample_weight: ArrayLike | None) -> tuple[Array, Array, Array | None]:
        """(rows of the targets per step, those predicted, their weights or None), for a score over all steps."""
        config, lengths = self._predictor.config, data.lengths
        rows = self._target_rows(as_array(y), data, config)
        found = [f[:n] for f, n in zip(self._predictor.predict(data), lengths.tolist(), strict=True)]
        return rows, np.concatenate(found), _spread(read_weight(sample_weight, len(data)), lengths, True)

    def _check_parameters(self) -> None:
        super()._check_parameters()
        validate.choice("target", self.target, ("sequence", "step"))
        validate.choice("validation_from", self.validation_from, ("random", "tail"))
        validate.choice("monitor", self.monitor, ("score", "loss"))
        validate.count("max_fun", self.max_fun)
        if self.solver == "lbfgs":
            self._check_lbfgs()

    def _check_lbfgs(self) -> None:
        """Errors for what would make the loss another at every step, and for what needs epochs."""
        if self.dropout or (self.cell is not None and self.cell.drops):
            name = "dropout" if self.dropout else "cell"
            raise ValueError(f"{name}: drops at random, but solver='lbfgs' needs a loss that stays the same; set it to "
                             f"{0.0 if name == 'dropout' else 'one that does not'}, or take solver='adam'")  # fmt: skip
        for name, off in (("early_stopping", False), ("checkpoint", None)):
            if getattr(self, name):
                raise ValueError(f"{name}: solver='lbfgs' has none, as its steps build on each other; set it to {off}, "
                                 "or take solver='adam'")  # fmt: skip


def _spread(values: Array | None, lengths: Ints, per_step: bool) -> Array | None:
    """Values of sequences, or None, for every row of the targets."""
    return np.repeat(values, lengths) if per_step and values is not None else values


def _pieces(y: Any) -> tuple[Array, ...]:
    """The arrays of targets, for a fingerprint."""
    return tuple(map(np.asarray, y)) if isinstance(y, list | tuple) and np.ndim(y[0]) else (np.asarray(y),)
