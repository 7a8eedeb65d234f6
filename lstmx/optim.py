"""Optimisers and learning-rate schedules: configuration only, the state is the trainer's.

An optimiser says which moments it keeps (`moments`) and makes one step on a contiguous array of parameters
(`step`), as one fused pass of a compiled kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lstmx.functional import kernels, validate

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from lstmx._types import Array, Arrays

    Rate = float | Callable[[int], float]


@dataclass(frozen=True)
class _Optimizer:
    if TYPE_CHECKING:

        @property
        def learning_rate(self) -> Rate: ...
        @property
        def weight_decay(self) -> float: ...

    def rate(self, step: int) -> float:
        """The learning rate of update number `step`, from 0."""
        rate = self.learning_rate(step) if callable(self.learning_rate) else self.learning_rate
        return validate.number("learning_rate", rate, 0)

    def _check(self, **ranges: tuple[float, float | None]) -> None:
        if not callable(self.learning_rate):
            validate.number("learning_rate", self.learning_rate, 0)
        for name, (low, high) in ranges.items():
            validate.number(name, getattr(self, name), low, high, open_high=high is not None)
        validate.number("weight_decay", self.weight_decay, 0)


@dataclass(frozen=True)
class SGD(_Optimizer):
    """Stochastic gradient descent.

    Parameters
    ----------
    learning_rate : float or callable step -> float
    momentum : float
        The step is along m = momentum * m + gradient.
    nesterov : bool
        The step is along gradient + momentum * m.
    weight_decay : float
        L2: weight_decay * weight is added to the gradient; biases are exempt.
    """

    learning_rate: Rate = 0.01
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        self._check(momentum=(0, 1))
        if validate.flag("nesterov", self.nesterov) and not self.momentum:
            raise ValueError("nesterov: needs a momentum above 0")

    @property
    def moments(self) -> tuple[str, ...]:
        """Names of the moment buffers."""
        return ("m",) if self.momentum else ()

    def step(self, p: Array, g: Array, moments: Arrays, count: int, rate: float, scale: float, decay: bool) -> bool:
        """Update p in place with the gradient g * scale; `count` is the number of this update, from 1.

        g is overwritten with the old p, so that a step can be undone. Returns whether all of p is finite.
        """
        weight_decay = self.weight_decay if decay else 0.0
        return kernels.sgd(p, g, moments.get("m"), scale, rate, self.momentum, self.nesterov, weight_decay)


@dataclass(frozen=True)
class RMSprop(_Optimizer):
    """Gradient divided by its running root mean square (Tieleman and Hinton 2012).

    Parameters
    ----------
    learning_rate : float or callable step -> float
    rho : float
        How much of the mean square is kept at each step.
    momentum : float
    epsilon : float
        Added to the root.
    weight_decay : float
        L2; biases are exempt.
    """

    learning_rate: Rate = 1e-3
    rho: float = 0.9
    momentum: float = 0.0
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        self._check(rho=(0, 1), momentum=(0, 1), epsilon=(0, None))

    @property
    def moments(self) -> tuple[str, ...]:
        """Names of the moment buffers."""
        return ("v", "m") if self.momentum else ("v",)

    def step(self, p: Array, g: Array, moments: Arrays, count: int, rate: float, scale: float, decay: bool) -> bool:
        """Update p in place with the gradient g * scale; `count` is the number of this update, from 1.

        g is overwritten with the old p, so that a step can be undone. Returns whether all of p is finite.
        """
        weight_decay = self.weight_decay if decay else 0.0
        return kernels.rmsprop(
            p, g, moments["v"], moments.get("m"), scale, rate, self.rho, self.epsilon, self.momentum, weight_decay
        )


@dataclass(frozen=True)
class Adam(_Optimizer):
    """Adaptive moments (Kingma and Ba 2015).

    Parameters
    ----------
    learning_rate : float or callable step -> float
    beta_1, beta_2 : float
        How much of the mean and of the mean square is kept at each step.
    epsilon : float
        Added to the root.
    weight_decay : float
        L2; biases are exempt.
    """

    learning_rate: Rate = 1e-3
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    moments = ("m", "v")
    _decoupled = False

    def __post_init__(self) -> None:
        self._check(beta_1=(0, 1), beta_2=(0, 1), epsilon=(0, None))

    def step(self, p: Array, g: Array, moments: Arrays, count: int, rate: float, scale: float, decay: bool) -> bool:
        """Update p in place with the gradient g * scale; `count` is the number of this update, from 1.

        g is overwritten with the old p, so that a step can be undone. Returns whether all of p is finite.
        """
        weight_decay = self.weight_decay if decay else 0.0
        correction = 1 - self.beta_1**count, 1 - self.beta_2**count
        decays = (0.0, weight_decay) if self._decoupled else (weight_decay, 0.0)
        return kernels.adam(
            p, g, moments["m"], moments["v"], scale, rate, self.beta_1, self.beta_2, self.epsilon, *correction, *decays
        )


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay: weights shrink by learning_rate * weight_decay at each step, whatever the
    gradient (Loshchilov and Hutter 2019). Biases are exempt.

    Parameters
    ----------
    learning_rate, beta_1, beta_2, epsilon
        As in `Adam`.
    weight_decay : float
    """

    weight_decay: float = 0.01
    _decoupled = True


OPTIMIZERS = {"sgd": SGD, "rmsprop": RMSprop, "adam": Adam, "adamw": AdamW}


def get_optimizer(optimizer: Any) -> _Optimizer:
    """An optimiser from its name or itself."""
    if isinstance(optimizer, _Optimizer):
        return optimizer
    if not isinstance(optimizer, str) or optimizer not in OPTIMIZERS:
        raise ValueError(
            f"optimizer: got {optimizer!r}, must be one of {', '.join(map(repr, OPTIMIZERS))}, or an instance such as "
            "lstmx.Adam(1e-3)"
        )
    return OPTIMIZERS[optimizer]()


@dataclass(frozen=True)
class StepDecay:
    """initial * factor**(step // every).

    Examples
    --------
    >>> schedule = StepDecay(0.1, factor=0.5, every=100)
    >>> schedule(0), schedule(99), schedule(250)
    (0.1, 0.1, 0.025)
    """

    initial: float
    factor: float = 0.1
    every: int = 1000

    def __post_init__(self) -> None:
        _check_schedule(self, "every")

    def __call__(self, step: int) -> float:
        return self.initial * self.factor ** (step // self.every)


@dataclass(frozen=True)
class ExponentialDecay:
    """initial * factor**(step / every), smoothly."""

    initial: float
    factor: float = 0.1
    every: int = 1000

    def __post_init__(self) -> None:
        _check_schedule(self, "every")

    def __call__(self, step: int) -> float:
        return self.initial * self.factor ** (step / self.every)


@dataclass(frozen=True)
class CosineDecay:
    """Half a cosine from `initial` to `final` over `steps` updates, then `final` (Loshchilov and Hutter 2017)."""

    initial: float
    steps: int
    final: float = 0.0

    def __post_init__(self) -> None:
        _check_schedule(self, "steps")
        validate.number("final", self.final, 0)

    def __call__(self, step: int) -> float:
        part = min(step / self.steps, 1.0)
        return self.final + (self.initial - self.final) * (1 + np.cos(np.pi * part)) / 2


@dataclass(frozen=True)
class Warmup:
    """A straight rise from 0 over `steps` updates to a rate or schedule, which then starts at its own step 0.

    Examples
    --------
    >>> schedule = Warmup(0.01, steps=10)
    >>> schedule(0), schedule(9), schedule(500)
    (0.001, 0.01, 0.01)
    """

    after: Rate
    steps: int

    def __post_init__(self) -> None:
        validate.count("steps", self.steps)
        if not callable(self.after):
            validate.number("after", self.after, 0)

    def __call__(self, step: int) -> float:
        if not callable(self.after):
            return self.after * min(1.0, (step + 1) / self.steps)
        return self.after(0) * (step + 1) / self.steps if step < self.steps else self.after(step - self.steps)


def _check_schedule(schedule: Any, steps: str) -> None:
    validate.number("initial", schedule.initial, 0)
    validate.count(steps, getattr(schedule, steps))
    if hasattr(schedule, "factor"):
        validate.number("factor", schedule.factor, 0)
