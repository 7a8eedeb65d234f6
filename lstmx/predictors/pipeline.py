"""Steps one after the other."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, ClassVar, Self

from lstmx import storage
from lstmx.functional import validate
from lstmx.predictors.base import Step

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lstmx._types import Arrays, ArrayShape, Config


MOST_STEPS = 100
# What a pipeline does if its last step does: the steps before it transform X.
METHODS = ("predict", "predict_proba", "predict_log_proba", "decision_function", "score_samples", "score_steps",
           "predict_steps", "transform", "trace")  # fmt: skip


class Pipeline(Step):
    """What a scikit-learn Pipeline has learnt.

    It has the methods of its last step among predict, predict_proba, predict_log_proba, decision_function,
    score_samples, score_steps, predict_steps, transform and trace, each of X alone; ``inverse_transform`` if all steps
    have it; and ``classes_`` if the last step has.

    Parameters
    ----------
    steps : list of (str, Step)
        At most 100, of different names; each but the last has ``transform``.

    Attributes
    ----------
    steps : tuple of (str, Step)
    """

    in_pipelines = False
    fields: ClassVar[tuple[str, ...]] = ("steps",)

    def __init__(self, steps: Iterable[tuple[str, Step]]) -> None:
        self.steps = tuple(steps)
        self._kinds([_named(name, step) for name, step in self.steps])
        known: tuple[int | None, ...] = (None, None)
        for name, step in self.steps:
            for what, before, takes in zip(("features", "columns"), known, step.takes, strict=True):
                if None not in (before, takes) and before != takes:
                    raise ValueError(f"steps: {name!r} takes {takes} {what}, but what comes before it gives {before}")
            every = zip(step.gives, step.takes, known, strict=True)
            known = tuple(next((n for n in one if n is not None), None) for one in every)

    @staticmethod
    def _kinds(steps: list[dict[str, Any]]) -> list[tuple[type[Step], dict[str, Any]]]:
        """[(class, its configuration)] of steps as a file describes them."""
        if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
            raise ValueError("steps: must be a list of JSON objects")
        if not 0 < len(steps) <= MOST_STEPS:
            raise ValueError(f"steps: got {len(steps)}, must be at least 1 and at most {MOST_STEPS}")
        names, found = [], []
        for step in steps:
            own = dict(step)
            names.append(own.pop("name", None))
            found.append((storage.registered(own.pop("class", None), Step, "step"), own))
        if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
            raise ValueError("steps: must have different names")
        for name, (kind, _) in zip(names, found, strict=True):
            if not kind.in_pipelines:
                raise ValueError(f"steps: {name!r:.60} is a {kind.__name__}, which stands alone")
        for name, (kind, _) in zip(names[:-1], found[:-1], strict=True):
            if not hasattr(kind, "transform"):
                raise ValueError(f"steps: {name!r:.60} ({kind.__name__}) has no transform; it can only be the last")
        return found

    @classmethod
    def array_shapes(cls, config: Config) -> Iterator[ArrayShape]:
        steps = validate.keys("the configuration of Pipeline", config, cls.fields)["steps"]
        for k, (kind, own) in enumerate(cls._kinds(steps)):
            for name, *rest in kind.array_shapes(own):
                yield f"{k}.{name}", *rest  # type: ignore[misc]

    @classmethod
    def from_state(cls, config: Config, arrays: Arrays) -> Self:
        groups: list[Arrays] = [{} for _ in config["steps"]]
        for name, value in arrays.items():
            index, _, rest = name.partition(".")
            groups[int(index)][rest] = value
        made = [kind.from_state(own, group) for (kind, own), group in
                zip(cls._kinds(config["steps"]), groups, strict=True)]  # fmt: skip
        return cls([(step["name"], one) for step, one in zip(config["steps"], made, strict=True)])

    def state(self) -> tuple[Config, Arrays]:
        states = [(_named(name, step), *step.state()) for name, step in self.steps]
        arrays = {f"{k}.{name}": a for k, (_, _, group) in enumerate(states) for name, a in group.items()}
        return {"steps": [named | config for named, config, _ in states]}, arrays

    def _before(self, X: Any) -> Any:
        """What the last step is given."""
        for _, step in self.steps[:-1]:
            X = step.transform(X)  # type: ignore[attr-defined]
        return X

    def _invert(self, X: Any) -> Any:
        for _, step in reversed(self.steps):
            X = step.inverse_transform(X)  # type: ignore[attr-defined]
        return X

    def _has(self, name: str) -> bool:
        if name == "inverse_transform":
            return all(hasattr(step, name) for _, step in self.steps)
        return name in (*METHODS, "classes_") and hasattr(self.steps[-1][1], name)

    def __getattr__(self, name: str) -> Any:
        if name == "steps":  # of a pipeline that is not made yet
            raise AttributeError(name)
        if not self._has(name):
            raise AttributeError(f"{self!r} has no {name!r}")
        if name == "inverse_transform":
            return self._invert
        found = getattr(self.steps[-1][1], name)
        if name == "classes_":
            return found
        return functools.wraps(found)(lambda X: found(self._before(X)))

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *filter(self._has, (*METHODS, "inverse_transform", "classes_"))]

    def __repr__(self) -> str:
        return f"<Pipeline: {', '.join(f'{name} {step!r}' for name, step in self.steps)}>"


def _named(name: str, step: Step) -> dict[str, Any]:
    return {"name": name, "class": type(step).__name__}
