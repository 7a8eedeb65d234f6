"""What users are told: warnings that name their own line, and arguments that do not exist with the word that does."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import inspect
import re
import sys
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, TypeVar

    F = TypeVar("F", bound=Callable[..., Any])


# Words of other libraries, or of fewer letters -> what it is here: the first of these that there is. "a b" means both.
WORDS = {
    "C": ("alpha",),
    "batch": ("batch_size",),
    "beta1": ("beta_1",),
    "beta2": ("beta_2",),
    "betas": ("beta_1 beta_2",),
    "clipnorm": ("clip_norm",),
    "dropout_rate": ("dropout",),
    "epochs": ("max_iter", "epochs"),
    "eta0": ("learning_rate_init", "optimizer"),
    "eval_set": ("X_val y_val", "validation_data"),
    "fh": ("horizon",),
    "gradient_clip_val": ("clip_norm",),
    "hidden": ("hidden_size",),
    "hidden_dim": ("hidden_size",),
    "hidden_layer_sizes": ("hidden_size num_layers",),
    "hidden_units": ("hidden_size",),
    "l2": ("alpha",),
    "learning_rate": ("learning_rate_init", "optimizer"),
    "learning_rate_init": ("optimizer",),
    "lookback": ("window",),
    "lr": ("learning_rate_init", "optimizer"),
    "mask": ("lengths",),
    "max_epochs": ("max_iter", "epochs"),
    "max_grad_norm": ("clip_norm",),
    "max_iter": ("epochs",),
    "n_epochs": ("max_iter", "epochs"),
    "n_hidden": ("hidden_size",),
    "n_iter": ("max_iter", "epochs"),
    "n_layers": ("num_layers",),
    "n_lags": ("window",),
    "nonlinearity": ("activation",),
    "normalize": ("standardize",),
    "num_epochs": ("max_iter", "epochs"),
    "num_units": ("hidden_size",),
    "optimizer": ("solver",),
    "patience": ("n_iter_no_change", "early_stopping"),
    "return_sequences": ("target",),
    "scale": ("standardize",),
    "seed": ("random_state",),
    "seq_len": ("window",),
    "sequence_length": ("window",),
    "solver": ("optimizer",),
    "step_size": ("learning_rate_init", "optimizer"),
    "units": ("hidden_size",),
    "validation_data": ("X_val y_val",),
    "validation_split": ("early_stopping validation_fraction",),
    "weight_decay": ("alpha", "optimizer"),
    "weights": ("sample_weight",),
}
_RAGGED = "sequences of different lengths are a list of (T_i, F) arrays, or an array with NaN behind their ends"
HINTS = {"lengths": _RAGGED, "mask": _RAGGED}


def of_others(name: str) -> str:
    """A remedy for a parameter's name that is of another library, as the end of a sentence; "" for all others."""
    if re.search(r"(bias_[ih]h|weight_[ih]h|weight_hr)(_l\d+)?(_reverse)?$", name):
        return (
            "; lstmx.from_torch reads a state dict of PyTorch, whose bias_ih and bias_hh are one bias here: their sum"
        )
    if "kernel" in name:
        return "; lstmx.from_keras reads weights of Keras, whose kernels are transposed here"
    return ""


_collected: contextvars.ContextVar[list[str] | None] = contextvars.ContextVar("lstmx_warnings", default=None)


@contextlib.contextmanager
def collected() -> Iterator[list[str]]:
    """Within the block, warnings of this thread go onto the list that this gives, and nowhere else.

    `warnings.catch_warnings` is for all threads of a process, and several at once leave its filters in disorder.
    """
    found: list[str] = []
    token = _collected.set(found)
    try:
        yield found
    finally:
        _collected.reset(token)


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """A warning that names the caller's line, outside of lstmx and scikit-learn."""
    found = _collected.get()
    if found is not None:
        found.append(message)
        return
    frame, level = sys._getframe(1), 2
    while frame and frame.f_globals.get("__name__", "").partition(".")[0] in ("lstmx", "sklearn"):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def near(word: str, names: Iterable[str]) -> list[str]:
    """Those of `names` that somebody may mean who writes `word`; the surest first."""
    for wanted in WORDS.get(word, ()):
        found = [name for name in wanted.split() if name in names]
        if found:
            return found
    import difflib  # for errors alone

    return difflib.get_close_matches(word, names, n=1, cutoff=0.75)


def explained(method: F) -> F:
    """Makes a method, or a constructor, say for an argument that it does not have what is meant instead.

    What a method lacks may be an argument of the constructor: then the error says so.
    """
    names = [name for name in inspect.signature(method).parameters if name != "self"]
    known = frozenset(names)

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not known.issuperset(kwargs):
            word = next(name for name in kwargs if name not in known)
            owner, building = type(self).__name__, method.__name__ == "__init__"
            where = owner if building else f"{owner}.{method.__name__}"
            remedy = _remedy(word, type(self), names, building)
            raise TypeError(f"{where}: got an unexpected argument {word!r}; {remedy}")
        return method(self, *args, **kwargs)

    return call  # type: ignore[return-value]


def _remedy(word: str, cls: type, names: list[str], building: bool) -> str:
    found = near(word, names)
    if not found and not building:
        others = [name for name in inspect.signature(cls).parameters if name not in names]
        found = [word] if word in others else near(word, others)
        if found:
            return f"the constructor takes {' and '.join(found)}: {cls.__name__}({found[0]}=...)"
    if found:
        return f"did you mean {' and '.join(found)}?"
    return HINTS.get(word) or f"there are {', '.join(names)}"
