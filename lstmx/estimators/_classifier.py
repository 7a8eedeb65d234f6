"""LSTMClassifier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets, type_of_target, unique_labels
from sklearn.utils.validation import check_array, check_consistent_length, column_or_1d

from lstmx import predictors
from lstmx.estimators._base import delegated
from lstmx.estimators._supervised import SupervisedEstimator, takes_parts
from lstmx.functional import validate
from lstmx.functional.messages import explained

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike

    from lstmx._types import Array, Arrays, Config, DType, Initial, PathLike
    from lstmx.data import panel
    from lstmx.functional.cell import Cell


class LSTMClassifier(ClassifierMixin, SupervisedEstimator):
    """Classify sequences with a Long Short-Term Memory network.

    The network reads each sequence, and from its last output (or their mean) a dense layer with softmax, or sigmoid for
    two classes and for multi-label targets, gives the probability of each class. Parameters are those of scikit-learn's
    MLPClassifier wherever they exist there, with the same meaning.

    Parameters
    ----------
    target : {"sequence", "step"}
        Whether y holds one label (or row of labels) for each sequence, or one for each step: then it is (n, T),
        (n, T, K), whatever the layout of X, or a list of (T_i,) or (T_i, K). It is never guessed. Per step, `pooling`
        has no meaning, accuracy and `class_weight` count steps, and no step sees later ones unless `bidirectional`.
    hidden_size : int
        Units of each LSTM layer.
    num_layers : int
    bidirectional : bool
        Read each sequence in both directions.
    cell : lstmx.Cell or None
        The options of the LSTM cells, such as ``lstmx.Cell(peephole=True)``; None is the plain cell.
    proj_size : int
        What the outputs of LSTM layers are projected to, if not 0: fewer features than `hidden_size`.
    init : {"glorot", "uniform"}
        How the weights of LSTM layers begin: as `lstmx.LSTM` says, "uniform" as PyTorch's.
    pooling : {"last", "mean", "final"}
        What the dense layer sees: the output of the last step, the mean over all steps, or the final state of each
        direction.
    dropout : float in [0, 1)
        Rate at which outputs of LSTM layers are dropped in training.
    standardize : bool
        Scale each feature to mean 0 and deviation 1, as found in the training data, before the network.
    layout : {"NTC", "NCT"}
        Whether features come last or, as in aeon and sktime, before time.
    solver : {"adam", "adamw", "rmsprop", "sgd", "lbfgs"}
        "lbfgs" (needs SciPy) follows the loss of all the data at once, in float64, and is good for small data: fewer
        steps, of which each costs an epoch or more. Then `max_iter` counts its iterations, `tol` is the largest element
        of the gradient at which it has converged, and batch_size, shuffle, clip_norm, n_iter_no_change and all that is
        said of learning rates and moments has no meaning; there is no dropout, early stopping, checkpoint or
        `partial_fit`.
    alpha : float
        Strength of the L2 penalty on weights; as in MLPClassifier it is divided by the sequences of a batch. With
        "adamw" it is the decoupled decay itself.
    batch_size : int or "auto"
        "auto" is 32, or all sequences if they are fewer.
    learning_rate : {"constant", "invscaling", "adaptive"}
        For any solver: ``learning_rate_init``; the same over ``(1 + sequences seen) ** power_t``; or divided by 5
        whenever training would stop otherwise.
    learning_rate_init : float
    power_t : float
    max_iter : int
        Epochs at most.
    shuffle : bool
        Each epoch in another order; sequences of similar length share a batch.
    random_state : None, int or RandomState
        Seeds the initial weights, the order, the validation part and dropout. The number of threads changes nothing.
    tol : float
        What counts as an improvement.
    verbose : bool or int
        1 shows a bar over the epochs where there is a terminal and tqdm, else a line per epoch; 2 always lines.
    warm_start : bool
        Begin with the weights of the last fit.
    momentum, nesterovs_momentum : float, bool
        Of "sgd".
    early_stopping : bool
        Hold out a part of the data, stop when the score on it no longer improves, and keep the best weights. Without
        it, training stops when the training loss no longer improves.
    validation_fraction : float in (0, 1)
    validation_from : {"random", "tail"}
        Whether the part is drawn at random, for a classifier from each class its share, or is the end of the data.
    monitor : {"score", "loss"}
        What early stopping watches on the part held out: the score (accuracy, for a regressor R²), or the loss, which
        tells more where classes are rare.
    beta_1, beta_2, epsilon : float
        Of "adam" and "adamw"; "rmsprop" uses beta_2.
    n_iter_no_change : int
        Epochs in a row without improvement after which training stops: more than in MLPClassifier, as LSTMs can stay on
        a plateau for long. Where training stops at a poor score, raise it.
    clip_norm : float or None
        Gradients longer than this are shortened to it.
    max_fun : int
        Of "lbfgs": evaluations of the loss at most.
    class_weight : None, "balanced", or dict of label to weight
        Times the sample weights. "balanced" makes the classes' sums of sample weights the same.
    checkpoint : str, path or None
        A file to which all that training needs is written every `checkpoint_every` epochs and at the end. Not for the
        fits of a search or a cross-validation, which would share it.
    checkpoint_every : int
    resume : bool
        Go on from `checkpoint` where that file exists. The result has the same bits as a fit without interruption.

    Attributes
    ----------
    classes_ : ndarray (K,)
    n_iter_ : int
        Epochs that were run.
    loss_, best_loss_ : float
    loss_curve_ : list of float
        The mean training loss of each epoch, without the penalty.
    validation_scores_, validation_loss_curve_ : list of float or None
    best_validation_score_ : float or None
    t_ : int
        Sequences that training has seen.
    n_features_in_ : int
        F; for (n, T) data T.
    n_layers_, n_outputs_, out_activation_ : int, int, str
        Of the network, as in MLPClassifier.
    model_ : lstmx.Sequential
    parameters_ : dict of str to ndarray

    Examples
    --------
    >>> import numpy as np
    >>> from lstmx import LSTMClassifier
    >>> rng = np.random.default_rng(0)
    >>> y = rng.permutation(["slow", "fast"] * 100)
    >>> t = np.arange(30) + rng.uniform(0, 60, size=(200, 1))
    >>> X = np.sin(t * np.where(y == "slow", 0.3, 0.6)[:, None])[:, :, None]     # (n, T, F)
    >>> clf = LSTMClassifier(hidden_size=16, max_iter=20, tol=0.01, n_iter_no_change=2, random_state=0).fit(X, y)
    >>> clf.score(X, y) > 0.95
    True
    >>> clf.predict([X[0], X[1, :20]]).shape         # a list: sequences of any length
    (2,)

    One label per step: has the sum so far been above 0?

    >>> X = rng.normal(size=(200, 12, 1))
    >>> y = np.where(X[:, :, 0].cumsum(axis=1) > 0, "above", "below")
    >>> clf = LSTMClassifier(hidden_size=16, target="step", max_iter=20, tol=0.01, n_iter_no_change=2, random_state=0)
    >>> clf.fit(X, y).predict(X[:3]).shape, clf.predict_proba(X[:3]).shape, clf.score(X, y) > 0.9
    ((3, 12), (3, 12, 2), True)
    """

    _kind = predictors.Classifier
    _several = "(n, K)"
    classes_: Array

    def __init__(self, hidden_size: int = 64, num_layers: int = 1, *, target: str = "sequence",
                 bidirectional: bool = False, cell: Cell | None = None, proj_size: int = 0, init: Initial = "glorot",
                 pooling: str = "last", dropout: float = 0.0, standardize: bool = True, layout: str = "NTC",
                 solver: str = "adam", alpha: float = 0.0001, batch_size: int | str = "auto",
                 learning_rate: str = "constant", learning_rate_init: float = 0.005, power_t: float = 0.5,
                 max_iter: int = 200, shuffle: bool = True, random_state: int | np.random.RandomState | None = None,
                 tol: float = 1e-4, verbose: bool | int = False, warm_start: bool = False, momentum: float = 0.9,
                 nesterovs_momentum: bool = True, early_stopping: bool = False, validation_fraction: float = 0.1,
                 validation_from: str = "random", monitor: str = "score", beta_1: float = 0.9, beta_2: float = 0.999,
                 epsilon: float = 1e-8, n_iter_no_change: float = 30, clip_norm: float | None = 1.0,
                 max_fun: int = 15000, class_weight: dict[Any, float] | str | None = None,
                 checkpoint: PathLike | None = None, checkpoint_every: int = 10,
                 resume: bool = False) -> None:  # fmt: skip
        self._store(locals())

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    @available_if(takes_parts)
    @explained
    def partial_fit(
        self, X: ArrayLike, y: ArrayLike, classes: ArrayLike | None = None, sample_weight: ArrayLike | None = None
    ) -> Self:
        """One epoch over one part of the data; the optimiser goes on where it was.

        Parameters
        ----------
        X, y, sample_weight : as in `fit`
            Features are standardised by the statistics of the first part.
        classes : array (K,), optional
            All classes that will come; needed by the first call.

        Returns
        -------
        self
        """
        return self._partial_fit(X, y, sample_weight, classes)

    def _target_rows(self, y: Any, data: panel.Panel, config: Config | None = None, name: str = "y") -> Any:
        rows = super()._target_rows(y, data, config, name)
        if self._is_per_step(config):
            rows = rows[:, 0] if rows.shape[1:] == (1,) else rows
            return validate.present(name, rows, data.lengths)
        check_consistent_length(data.lengths, rows)
        return validate.present(name, rows)

    def _read_targets(self, y: Any, data: panel.Panel, first: bool, incremental: bool, classes: Any) -> Config:
        if incremental and first and classes is None:
            raise ValueError("classes: must be passed on the first call to partial_fit: all labels that will come")
        if not first:
            config = self._predictor.config
            if classes is not None and not np.array_equal(np.unique(classes), self.classes_):
                raise ValueError(f"classes: got {classes}, not the same as on the first call: {self.classes_}")
            here = self._labels(y, config["multilabel"])
            if not config["multilabel"] and self.warm_start and not incremental and set(here) != set(self.classes_):
                raise ValueError(
                    f"y: has the classes {here}, but warm_start needs those of the last fit: {self.classes_}"
                )
            return config
        check_array(y, ensure_2d=False, dtype=None, input_name="y")
        if np.ndim(y) == 2 and np.shape(y)[1] > 1 and not type_of_target(y).startswith("multilabel"):
            hint = "" if self.target == "step" else '; for one class per step set target="step"'
            raise ValueError(f"y: got shape {np.shape(y)}, must be ({len(y)},), one class per {self.target}, or 0 and "
                             f"1 in one column per label{hint}")  # fmt: skip
        check_classification_targets(y)
        _check_kind(y if classes is None else np.asarray(classes))
        multilabel = type_of_target(y) == "multilabel-indicator"
        self.classes_ = np.unique(classes) if classes is not None and not multilabel else self._labels(y, multilabel)
        if len(self.classes_) < 2 and not multilabel:
            raise ValueError(
                f"y: holds 1 class, {self.classes_.tolist()[0]!r}; at least 2 classes are needed to tell them apart"
            )
        return self._config(data) | {
            "multilabel": multilabel,
            "classes": self.classes_.tolist(),
            "classes_dtype": self.classes_.dtype.str,
        }

    @staticmethod
    def _labels(y: Any, multilabel: bool) -> Array:
        return np.arange(np.shape(y)[1]) if multilabel else unique_labels(column_or_1d(y))

    def _encode(self, y: Any, data: panel.Panel, config: Config, name: str = "y") -> tuple[Array, Array | None]:
        """(targets, labels by which to hold out the same share of each class)."""
        if config["multilabel"]:
            y = check_array(y, input_name=name)
            if y.shape[1:] != (len(config["classes"]),) or not np.isin(y, (0, 1)).all():
                raise ValueError(f"{name}: got shape {y.shape}, must be ({len(y)}, {len(config['classes'])}) of 0 and "
                                 f"1, a row for each {config['target']}")  # fmt: skip
            return y, None
        y = column_or_1d(y, warn=True)
        classes = np.array(config["classes"], config["classes_dtype"])
        place = np.searchsorted(classes, y) if classes.dtype.kind != "O" else _places(classes, y)
        place = np.minimum(place, len(classes) - 1)
        if (classes[place] != y).any():
            unknown = np.unique(np.asarray(y)[classes[place] != y])[:5].tolist()
            raise ValueError(f"{name}: has the labels {unknown}, which are not among the classes {classes.tolist()}")
        return place, place if config["target"] == "sequence" else None

    def _rows(self, target: Array, config: Config, arrays: Arrays, dtype: DType) -> Array:
        if config["multilabel"]:
            return target.astype(dtype)
        return target.astype(dtype)[:, None] if len(config["classes"]) == 2 else target.astype(np.int64)

    def _class_weights(self, rows: Any, target: Array, weight: Any, incremental: bool) -> Array | None:
        if self.class_weight is None:
            return None
        if incremental and self.class_weight == "balanced":
            raise ValueError(
                'class_weight: "balanced" needs all of y, which partial_fit does not see; give a dict of weights'
            )
        if isinstance(self.class_weight, str) and self.class_weight == "balanced":
            return _balanced(target, weight)
        if isinstance(self.class_weight, dict):
            for label, value in self.class_weight.items():
                validate.number(f"class_weight[{label!r}]", value, 0)
        return compute_sample_weight(self.class_weight, rows)

    def _head(self, config: Config) -> tuple[str, str]:
        if config["multilabel"] or len(config["classes"]) == 2:
            return "binary_crossentropy", "sigmoid"
        return "categorical_crossentropy", "softmax"

    def _scorer(self, config: Config) -> Callable[..., float]:
        def accuracy(target: Array, output: Array, weight: Array | None) -> float:
            if target.ndim == 1:
                return float(accuracy_score(target, output.argmax(axis=1), sample_weight=weight))
            return float(accuracy_score(target > 0.5, output > 0.5, sample_weight=weight))

        return accuracy

    predict_proba = delegated(predictors.Classifier.predict_proba)
    predict_log_proba = delegated(predictors.Classifier.predict_log_proba)
    predict = delegated(predictors.Classifier.predict)

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Accuracy of the predictions, for labels per step over all steps."""
        predictor, data = self._fitted(), self._read(X)
        if predictor.config["target"] == "sequence":
            validate.present("y", y)
            return super().score(data, y, sample_weight)
        rows, found, weight = self._scored(data, y, sample_weight)
        return float(accuracy_score(rows, found, sample_weight=weight))


def _balanced(target: Array, weight: Array | None) -> Array:
    """(n,) weights under which all classes count the same, as scikit-learn's "balanced", which counts sequences where
    this adds up their weights: repeats and weights are the same.
    """
    found = np.ones(len(target))
    for column in target.reshape(len(target), -1).T.astype(np.int64):
        counts = np.bincount(column, weight)
        there = counts > 0
        share = np.divide(counts.sum(), there.sum() * counts, out=np.zeros(len(counts)), where=there)
        found *= share[column]
    return found


def _check_kind(y: Any) -> None:
    """Labels of other kinds could neither be saved nor loaded."""
    dtype = np.asarray(y).dtype
    if dtype.kind not in "biufUO" or (dtype.kind == "f" and dtype.itemsize > 8):
        raise ValueError(f"y: got labels of dtype {dtype}; convert them to strings or integers: y.astype(str)")


def _places(classes: Array, y: Any) -> Array:
    place = {label: k for k, label in enumerate(classes.tolist())}
    return np.array([place.get(label, 0) for label in np.asarray(y).tolist()], np.int64)
