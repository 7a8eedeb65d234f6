"""What all estimators share: parameters, the fit from start to end, saving."""

from __future__ import annotations

import functools
import inspect
import os
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from lstmx import losses, optim, storage, training
from lstmx.data import panel
from lstmx.estimators import _training
from lstmx.estimators._input import read_X
from lstmx.estimators._lbfgs import Minimizer
from lstmx.estimators._notes import FileMixin
from lstmx.estimators._saving import to_step
from lstmx.functional import validate
from lstmx.functional.cell import Cell
from lstmx.functional.messages import explained, warn
from lstmx.init import SCHEMES
from lstmx.layers import LSTM, Dense, Dropout, FinalState, Last, MeanPool
from lstmx.model import Sequential

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike

    from lstmx._types import Arrays, Config, DType
    from lstmx.layers.trace import Trace
    from lstmx.training import Trainer, TrainerState


POOLINGS = {"last": Last, "mean": MeanPool, "final": FinalState}
SCHEDULES = ("constant", "invscaling", "adaptive")
_FREE = {"max_iter", "verbose", "checkpoint", "checkpoint_every", "resume", "random_state",
         "transform"}  # a resumed fit may differ in these; another transform shows in the data  # fmt: skip


def delegated(method: Callable[..., Any], reads_X: bool = True) -> Callable[..., Any]:
    """An estimator's method that hands sequences X, or with ``reads_X=False`` whatever it is given, to the same method
    of its predictor.
    """
    name = method.__name__
    if reads_X:

        def call(self: Any, X: ArrayLike) -> Any:
            predictor = self._fitted()
            return getattr(predictor, name)(self._read(X))

    else:

        def call(self: Any, *args: Any, **kwargs: Any) -> Any:  # type: ignore[misc]
            return getattr(self._fitted(), name)(*args, **kwargs)

    return functools.wraps(method)(call)


def _as_it_is(predictor: Any) -> dict[str, Any]:
    return {"_predictor": predictor}


@dataclass
class Problem:
    """What one fit is about, as a leaf class prepares it.

    Parameters
    ----------
    kind : type
        The predictor that results.
    config, arrays : dict
        Of the predictor.
    data : batches.Data
    loss : str
    activation : str
        Of the final Dense layer.
    per_step : bool
    dtype : numpy.dtype
    validation : batches.Data, optional
    score : callable ``(targets, outputs, weights) -> float``, the greater the better, optional
    total_weight : float
        The sum of the sample weights of the training data.
    identity : tuple
        Whatever distinguishes these data from others.
    finish : callable ``predictor -> dict``
        What is found after training, as attributes of the estimator by name; among them ``_predictor``.
    """

    kind: type[Any]
    config: Config
    arrays: Arrays
    data: Any
    loss: str
    activation: Any
    per_step: bool
    dtype: DType
    validation: Any = None
    score: Callable[..., float] | None = None
    total_weight: float | None = None
    identity: tuple[Any, ...] = field(default=())
    finish: Callable[[Any], dict[str, Any]] = _as_it_is


class LSTMEstimator(_training.CallbackSupportMixin, FileMixin, BaseEstimator):
    """Base class: leaves say what their targets and scores are (`_problem`), and what a prediction is."""

    _uses_pooling = True
    _solvers = tuple(optim.OPTIMIZERS)
    monitor = "score"  # a parameter of some
    _kind: type[Any]  # the predictor that results
    _predictor: Any
    _moments: dict[str, Any]
    loss_curve_: list[float]
    validation_scores_: Any  # list of float, or None
    validation_loss_curve_: Any

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in {"__init__", "fit"} & vars(cls).keys():
            setattr(cls, name, explained(vars(cls)[name]))

    def _store(self, arguments: dict[str, Any]) -> None:
        """What __init__ was given, as attributes."""
        vars(self).update({name: value for name, value in arguments.items() if name not in ("self", "__class__")})  # type: ignore[attr-defined]

    # The fitted state is the predictor: plain arrays and JSON values. What is pickled is just that.

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        predictor = state.pop("_predictor", None)
        if predictor is not None:
            config, arrays = predictor.state()
            state["_state"] = {"class": type(predictor).__name__, "config": config,
                               "arrays": {name: np.array(a) for name, a in arrays.items()},
                               "functions": predictor.functions}  # fmt: skip
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        fitted = state.pop("_state", None)
        super().__setstate__(state)
        if fitted is not None:
            self._predictor = storage.registered(fitted["class"]).from_state(fitted["config"], fitted["arrays"])
            self._predictor.with_functions(fitted.get("functions"))  # old pickles have none

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_predictor")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = tags.input_tags.three_d_array = True
        return tags

    @property
    def model_(self) -> Sequential:
        """The trained `lstmx.Sequential`; it reads standardised sequences if ``standardize``."""
        return self._fitted().model

    @property
    def parameters_(self) -> Arrays:
        """The trained parameters by name, read-only arrays."""
        return self.model_.parameters()

    def _stored(self) -> Any:
        return self._fitted()

    def _restore(self, stored: Any, private: Config) -> None:
        if not isinstance(stored, self._kind):
            raise TypeError(f"a {type(stored).__name__}")
        self._predictor = stored

    def trace(self, X: ArrayLike) -> dict[int, Trace]:
        """What the gates did on sequences X, by the layer's index in ``model_.layers``.

        Returns
        -------
        dict of int to lstmx.Trace
        """
        return self._fitted().trace(self._read(X))

    def _fitted(self) -> Any:
        """The predictor, or scikit-learn's error."""
        predictor = vars(self).get("_predictor")
        if predictor is None:
            check_is_fitted(self)
        return predictor

    def _read(self, X: Any) -> panel.Panel:
        config = self._predictor.config
        return read_X(self, X, self.layout, fitted=config, gaps=config.get("missing") == "impute")

    def _seed(self) -> int:
        try:
            random = check_random_state(self.random_state)
        except (TypeError, ValueError) as error:
            raise type(error)(f"random_state: {error}") from None
        return int(random.randint(np.iinfo(np.int32).max))

    def _is_first(self, incremental: bool = False) -> bool:
        return not self.__sklearn_is_fitted__() or not (self.warm_start or incremental)

    # Validation of parameters.

    def _check_parameters(self) -> None:
        for name in ("hidden_size", "num_layers", "max_iter", "checkpoint_every"):
            validate.count(name, getattr(self, name))
        validate.count("proj_size", self.proj_size, 0)
        if self.cell is not None:
            if not isinstance(self.cell, Cell):
                raise TypeError(f"cell: got {self.cell!r}, must be None or an lstmx.Cell, such as lstmx.Cell(clip=3.0)")
            self.cell.check_sizes(self.hidden_size, self.proj_size)
        validate.choice("init", self.init, SCHEMES)
        for name in ("bidirectional", "standardize", "shuffle", "warm_start", "early_stopping", "resume",
                     "nesterovs_momentum"):  # fmt: skip
            if hasattr(self, name):
                validate.flag(name, getattr(self, name))
        if not isinstance(self.verbose, bool | np.bool_):
            validate.count("verbose", self.verbose, 0)
        for name in ("beta_1", "beta_2", "momentum"):
            validate.number(name, getattr(self, name), 0, 1, open_high=True)
        validate.number("epsilon", self.epsilon, 0)
        if not (isinstance(self.n_iter_no_change, float) and self.n_iter_no_change == np.inf):
            validate.count("n_iter_no_change", self.n_iter_no_change)
        validate.number("dropout", self.dropout, 0, 1, open_high=True)
        validate.number("alpha", self.alpha, 0)
        validate.number("tol", self.tol, 0)
        validate.number("learning_rate_init", self.learning_rate_init, 0, open_low=True)
        validate.number("power_t", self.power_t, 0)
        validate.number("validation_fraction", self.validation_fraction, 0, 1, open_low=True, open_high=True)
        if isinstance(self.learning_rate, Real):
            schedules = ", ".join(map(repr, SCHEDULES))
            raise ValueError(f"learning_rate: got {self.learning_rate!r}, must be one of {schedules}; for the rate "
                             f"itself set learning_rate_init={self.learning_rate!r}")  # fmt: skip
        validate.choice("learning_rate", self.learning_rate, SCHEDULES)
        validate.choice("solver", self.solver, self._solvers)
        validate.choice("layout", self.layout, panel.LAYOUTS)
        if self._uses_pooling:
            validate.choice("pooling", self.pooling, POOLINGS)
        if self.clip_norm is not None:
            validate.number("clip_norm", self.clip_norm, 0, open_low=True)
        if not (isinstance(self.batch_size, str) and self.batch_size == "auto"):
            validate.count("batch_size", self.batch_size)
        if self.resume and self.checkpoint is None:
            raise ValueError("resume: needs a checkpoint to go on from; set checkpoint to its path")

    def _optimizer(self, batch_size: int, problem: Problem) -> optim.SGD | optim.RMSprop | optim.Adam:
        samples = len(problem.data.inputs.lengths)
        weight = samples if problem.total_weight is None else problem.total_weight
        decay = self.alpha if self.solver == "adamw" else self.alpha * samples / (batch_size * weight)
        betas = {"beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}
        if self.solver == "lbfgs":
            return optim.SGD(weight_decay=decay)  # of which the weight_decay alone is read
        if self.solver == "sgd":
            nesterov = bool(self.nesterovs_momentum and self.momentum)
            more = {"momentum": self.momentum, "nesterov": nesterov}
        elif self.solver == "rmsprop":
            more = {"rho": self.beta_2, "epsilon": self.epsilon}
        else:
            more = betas
        return optim.OPTIMIZERS[self.solver](self.learning_rate_init, weight_decay=decay, **more)

    def _layers(self, problem: Problem) -> list[Any]:
        dtype: Any
        features, dtype = problem.kind.inputs(problem.config), problem.dtype.name
        lstm = LSTM(features, self.hidden_size, self.num_layers, bidirectional=getattr(self, "bidirectional", False),
                    dropout=self.dropout if self.num_layers > 1 else 0.0, proj_size=self.proj_size, cell=self.cell,
                    init=self.init, dtype=dtype)  # fmt: skip
        layers = [lstm] if problem.per_step else [lstm, POOLINGS[self.pooling]()]
        layers += [Dropout(self.dropout)] if self.dropout else []
        outputs = problem.kind.outputs(problem.config)
        return [*layers, Dense(lstm.output_size(), outputs, problem.activation, dtype=dtype)]

    def _check_network(self, lstm: Any) -> None:
        """An error where a fit would go on with a network that the parameters no longer describe."""
        now = {name: getattr(self, name) for name in ("hidden_size", "num_layers", "proj_size")}
        now |= {"bidirectional": getattr(self, "bidirectional", False), "cell": self.cell or Cell()}
        for name, value in now.items():
            was = getattr(lstm, name)
            if was != value:
                raise ValueError(
                    f"{name}: got {value!r}, but the network that this fit goes on with has {was!r}; set it back, "
                    "or fit another one with warm_start=False"
                )

    # Training.

    def _run(
        self, problem: Problem, seed: int, given: dict[str, Any], ranks: training.Alone, *, incremental: bool = False
    ) -> Self:
        """Train for `problem`; `given` is what scikit-learn's callbacks are told: X, y, metadata."""
        problem.kind.check(problem.config)  # what could not be saved is an error now, not after training
        first = self._is_first(incremental)
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
        if first:
            model = Sequential(self._layers(problem), random_state=np.random.SeedSequence(seed, spawn_key=(1,)))
        else:
            model = self._predictor.model.copy()
            self._check_network(model.layers[0])
        samples = len(problem.data.inputs.lengths)
        batch_size = min(32 if self.batch_size == "auto" else self.batch_size, samples)
        kind, more = training.Trainer, {}
        if self.solver == "lbfgs":
            if ranks.shards is not None:
                name = "shards" if ranks.size == 1 else "comm"
                raise ValueError(f"{name}: solver='lbfgs' takes all of the data at once, on one process; leave it out, "
                                 "or take solver='adam'")  # fmt: skip
            kind, batch_size, more = Minimizer, samples, {"tol": self.tol, "max_fun": self.max_fun}
            model = model.astype("float64")
        watcher, optimizer = self._watcher(), self._optimizer(batch_size, problem)
        state = self._state(problem, model, seed, incremental, optimizer, ranks)
        callbacks, context = self._callbacks(problem, seed, given, incremental, ranks)
        epochs, shown = 1 if incremental else self.max_iter, self.verbose and ranks.rank == 0
        trainer: Any = kind(
            model, problem.data, losses.get_loss(problem.loss, problem.activation), optimizer, batch_size=batch_size,
            shuffle=self.shuffle, validation=problem.validation, score=problem.score, clip_norm=self.clip_norm, rng=rng,
            early_stopping=watcher, callbacks=callbacks, state=state, ranks=ranks, **more,
            progress=training.Progress(bar=int(self.verbose) < 2, whole=True) if shown else None,
        )  # fmt: skip
        if not first and (state is None or incremental):  # what goes on from a checkpoint brings its own memory
            self._remember(watcher, trainer.state, incremental)
        trainer.after_failure = "What was fitted before, if anything, is as it was"
        trainer.warning = ConvergenceWarning
        if incremental and not first:
            trainer.losses = self.loss_curve_
        done = len(trainer.state.history)
        try:
            if trainer.state.reason is None:
                with model.only_fit():
                    trainer.run(epochs)
            else:
                trainer.settle()
        except KeyboardInterrupt:
            warn("Training interrupted by user.")
        self._keep(problem, trainer, first)
        if context is not None:
            context.call_on_fit_task_end(estimator=self, **given, reconstruction_attributes=dict)
        if self.solver == "lbfgs":
            trainer.warn_unless_converged(self.max_iter)
            return self
        exhausted = trainer.state.history.stopped is None and trainer.state.reason is None
        if exhausted and not incremental and done < epochs and not trainer.diverged and not ranks.rank:
            warn(
                f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and the optimization hasn't "
                "converged yet. Raise max_iter, or tol",
                ConvergenceWarning,
            )
        return self

    def _watcher(self) -> training.Watcher:
        """The rules of MLPClassifier: without early stopping the training loss is watched, with it what is held out."""
        monitor = "loss" if not self.early_stopping else "val_loss" if self.monitor == "loss" else "val_score"
        return training.Watcher(
            monitor, -1 if monitor == "val_score" else 1, self.n_iter_no_change, self.tol, keep=self.early_stopping,
            sklearn=True, schedule=self.learning_rate, rate=self.learning_rate_init, power_t=self.power_t,
        )  # fmt: skip

    def _remember(self, watcher: training.Watcher, state: TrainerState, incremental: bool) -> None:
        """What the last fit has left for this one."""
        memory = state.memory = watcher.start(self.t_)
        if not self.early_stopping:
            memory["mark"] = np.inf if self.best_loss_ is None else self.best_loss_
        elif self.best_loss_ is None and self.best_validation_score_ is not None:
            # What the last fit kept is the best of all until it is beaten, as in MLPClassifier.
            score = self.monitor == "score"
            memory["mark"] = -self.best_validation_score_ if score else min(self.validation_loss_curve_)
            state.keep()
        if incremental and self.learning_rate == "adaptive":
            memory |= getattr(self, "_moments", {}).get("schedule", {})

    def _state(
        self, problem: Problem, model: Sequential, seed: int, incremental: bool, optimizer: Any, ranks: training.Alone
    ) -> TrainerState | None:
        """Where training goes on, or None to begin."""
        if incremental and hasattr(self, "_moments"):
            values, _ = training.Parameters(model).read()
            rng = np.random.Generator(np.random.PCG64())
            rng.bit_generator.state = self._moments["rng"]
            moments, updates = self._moments["moments"], self._moments["updates"]
            if moments.keys() != set(optimizer.moments):  # another solver than before begins anew
                moments, updates = {name: np.zeros_like(values) for name in optimizer.moments}, 0
            moments = {name: m.copy() for name, m in moments.items()}
            return training.TrainerState(values, {}, moments, {}, rng, 0, updates)
        checkpoint = ranks.of_first(self._read_checkpoint) if self.resume and not incremental else None
        if checkpoint is None:
            return None
        identity, written = self._identity(problem, seed, ranks), checkpoint[0]["identity"]
        for name, parameter in inspect.signature(type(self)).parameters.items():
            if name in identity:  # and is not in a checkpoint from before there was such a parameter
                written.setdefault(name, repr(parameter.default))
        state = _training.restore(checkpoint, identity, self.early_stopping)
        if state.values.size != training.Parameters(model).size or state.moments.keys() != set(optimizer.moments):
            raise ValueError(f"checkpoint: {os.fspath(self.checkpoint)!r} does not hold the parameters and moments of "
                             "this network; remove it, or give another path")  # fmt: skip
        return state

    def _identity(self, problem: Problem, seed: int, ranks: training.Alone) -> dict[str, Any]:
        parameters = {
            name: repr(value.item() if isinstance(value, np.generic) else value)
            for name, value in self.get_params(deep=False).items()
            if name not in _FREE
        }
        return {
            "estimator": type(self).__name__,
            "seed": seed,
            **({} if ranks.shards is None else {"shards": ranks.shards}),
            **parameters,
            # With warm_start the statistics are those of an earlier fit.
            "data": _training.digest(problem.dtype.name, *problem.identity, *problem.arrays.values()),
        }

    def _read_checkpoint(self) -> Any:
        return _training.read_checkpoint(self.checkpoint) if self.resume else None

    def _resumed_seed(self, ranks: training.Alone) -> int:
        """The seed of this fit, on all ranks."""
        return ranks.of_first(self._first_seed)

    def _first_seed(self) -> int:
        """That of the checkpoint which it goes on from, else from random_state."""
        if self.checkpoint is not None:
            _training.check_path(self.checkpoint)
        checkpoint = self._read_checkpoint()
        if checkpoint is None:
            return self._seed()
        seed = checkpoint[0]["identity"]["seed"]
        if isinstance(self.random_state, Integral) and self._seed() != seed:
            raise ValueError(f"resume: the checkpoint was written with another random_state than {self.random_state}; "
                             "give what it was written with, or fit with resume=False")  # fmt: skip
        return seed

    def _callbacks(
        self, problem: Problem, seed: int, given: dict[str, Any], incremental: bool, ranks: training.Alone
    ) -> tuple[list[training.Callback], Any]:
        callbacks: list[training.Callback]
        context: Any
        callbacks, context = [], None
        if incremental:  # no fit: neither tasks of scikit-learn's callbacks nor a checkpoint
            return callbacks, None
        if getattr(self, "_skl_callbacks", None) or hasattr(self, "_parent_callback_ctx"):
            context = self._init_callback_context(max_subtasks=self.max_iter)
            context.call_on_fit_task_begin(estimator=self, **given)
            callbacks.append(_training.FitTasks(context, self, given, lambda t: self._fitted_now(problem, t)))
        if self.checkpoint is not None and ranks.rank == 0:
            identity = self._identity(problem, seed, ranks)
            callbacks.append(_training.Checkpoint(self.checkpoint, self.checkpoint_every, self.max_iter, identity))
        return callbacks, context

    def _fitted_now(self, problem: Problem, trainer: Trainer) -> dict[str, Any]:
        """The attributes of an estimator as if training ended here."""
        model = trainer.model.copy()
        if trainer.state.best is not None:
            training.Parameters(model).freeze(trainer.state.best["values"].copy(), {})
        return problem.finish(problem.kind(problem.config, problem.arrays, model.astype(problem.dtype))) | self._curves(
            trainer.state
        )

    @staticmethod
    def _curves(state: TrainerState) -> dict[str, Any]:
        curves = state.history.history
        return {
            "n_iter_": state.epoch,
            "loss_curve_": list(curves.get("loss", ())),
            "loss_": curves["loss"][-1] if "loss" in curves else np.nan,
        }

    def _keep(self, problem: Problem, trainer: Trainer, first: bool) -> None:
        """Set the fitted attributes."""
        state, model = trainer.state, trainer.model
        if model.dtype != problem.dtype:
            model = model.astype(problem.dtype)
        found = problem.finish(problem.kind(problem.config, problem.arrays, model))
        history = state.history.history
        before = [] if first else self.loss_curve_
        for name, value in self._curves(state).items():
            setattr(self, name, value)
        self.loss_curve_ = before + self.loss_curve_
        watched = problem.validation is not None
        scores = [] if first or self.validation_scores_ is None else self.validation_scores_
        losses_before = [] if first or self.validation_loss_curve_ is None else self.validation_loss_curve_
        self.validation_scores_ = scores + history.get("val_score", []) if watched else None
        self.validation_loss_curve_ = losses_before + history.get("val_loss", []) if watched else None
        self.best_validation_score_ = None
        if self.validation_scores_:
            best = (
                np.argmin(self.validation_loss_curve_) if self.monitor == "loss" else np.argmax(self.validation_scores_)
            )
            self.best_validation_score_ = self.validation_scores_[best]
        self.best_loss_ = None if self.early_stopping else state.memory["mark"]
        self.t_ = state.memory["seen"]
        self._moments = {
            "moments": dict(state.moments), "rng": state.rng.bit_generator.state, "updates": state.updates,
            "schedule": {name: state.memory[name] for name in ("rate", "count")},
        }  # fmt: skip
        vars(self).update(found)  # type: ignore[attr-defined]


@to_step.register
def _(estimator: LSTMEstimator) -> Any:
    return estimator._fitted()
