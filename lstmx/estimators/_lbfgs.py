"""solver="lbfgs": all of the data at once, by `scipy.optimize`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from lstmx import training
from lstmx.functional import kernels
from lstmx.functional.messages import warn
from lstmx.layers import Run

if TYPE_CHECKING:
    from lstmx._types import Array
    from lstmx.training import History


PART = 256  # sequences whose tape is kept at once


class Minimizer(training.Trainer):
    """A `training.Trainer` whose epochs are the iterations of L-BFGS (Liu and Nocedal 1989), on a float64 model.

    The loss and its gradient are sums over parts of the data, in their order; the penalty is that of the optimiser's
    weight_decay.

    Parameters
    ----------
    *args, **kwargs : as of `training.Trainer`
    tol : float
        It has converged where no element of the gradient is larger.
    max_fun : int
        Evaluations of the loss at most, but for the last iteration.
    """

    def __init__(self, *args: Any, tol: float, max_fun: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tol, self.max_fun = tol, max_fun
        self.result: Any = None  # of scipy.optimize
        self._place: Any = None  # (parameters, loss without penalty) of the last evaluation

    def run(self, epochs: int) -> History:
        """At most `epochs` iterations from where the state is. Returns the history."""
        from scipy.optimize import minimize

        state, history = self.state, self.state.history
        history.stopped = state.reason = None
        self.parameters.bind(state.values, state.tables)
        reached = start = state.values.copy()

        def follow(x: Array) -> None:
            nonlocal reached
            reached = x.copy()
            self._iteration(reached, epochs)

        options = {"maxiter": epochs, "maxfun": self.max_fun, "gtol": self.tol}
        try:
            self._call("on_train_begin")
            self._call("on_epoch_begin", state.epoch)
            # BLAS splits long sums among its threads, whose number then decides over the last bits.
            with threadpool_limits(1, user_api="blas"):
                self.result = minimize(
                    self._objective, start, jac=True, method="L-BFGS-B", callback=follow, options=options
                )
        except KeyboardInterrupt:
            history.stopped = "interrupted"
            raise
        except BaseException:
            history.stopped = "failed"
            raise
        finally:
            np.copyto(state.values, reached)
            self.parameters.changed()
            self._conclude()
            self._finish()
        return history

    def _objective(self, values: Array) -> tuple[float, Array]:
        """(mean loss with penalty, its gradient) in float64."""
        np.copyto(self.state.values, values)
        self.parameters.changed()
        total, weights, gradient = 0.0, 0.0, np.zeros_like(values)
        for part, chosen in self.data.batches(PART, False, None):
            rows, context, target, weight = part.batch(chosen)
            prediction, _, _, tape = self.model.forward_rows(
                rows, context, None, Run(True, activation=self.activation, own_steps=True)
            )
            loss, upstream = self.loss.total(prediction, target, weight)
            if not np.isfinite(loss):
                self.fail("the loss", loss, (self.state.epoch, 0), (part, chosen, context, rows, target))
            self.model.backward_rows(tape, upstream, self.fresh_outputs())
            total, weights = total + loss, weights + kernels.total(weight)
            gradient += self.parameters.gradient
        loss, gradient = total / weights, gradient / weights
        self._place = values.copy(), loss
        for place, decays in self.parameters.spans(self.optimizer):
            if decays:
                loss += self.optimizer.weight_decay / 2 * kernels.sum_of_squares(values[place])
                gradient[place] += self.optimizer.weight_decay * values[place]
        return loss, gradient

    def _iteration(self, values: Array, epochs: int) -> None:
        """What follows an iteration that has come to these parameters."""
        state, epoch = self.state, self.state.epoch
        if not np.array_equal(self._place[0], values):
            self._objective(values)
        logs, samples = {"loss": self._place[1]}, self.data.count
        if self.progress is not None:
            self.progress.begin(epoch, epochs, samples)
        if self.validation is not None:
            logs |= {f"val_{name}": value for name, value in self.evaluate(self.validation).items()}
        state.history.append(logs)
        if logs["loss"] < state.memory["mark"]:
            state.memory["mark"], state.history.best_epoch = logs["loss"], epoch
        state.memory["seen"] += samples
        if self.progress is not None:
            self.progress.advance(samples, logs["loss"])
            self.progress.end(logs)
        state.epoch += 1
        stops = [bool(callback.on_epoch_end(self, epoch, logs)) for callback in self.callbacks]
        if any(stops) or self._stop:
            state.history.stopped = "callback"
            raise StopIteration
        if state.epoch < epochs:
            self._call("on_epoch_begin", state.epoch)

    def _conclude(self) -> None:
        """The reason why it has ended, if it has converged."""
        if self.result is not None and self.result.status == 0:
            self.state.reason, self.state.history.stopped = f"lbfgs: {self.result.message}", "early"

    def warn_unless_converged(self, max_iter: int) -> None:
        """As scikit-learn's MLPClassifier."""
        result = self.result
        if result is None or result.status == 0 or self.state.history.stopped == "callback":
            return
        remedy = "scale the data, or raise tol"
        if result.status == 1:
            remedy = f"raise max_iter ({max_iter})" if result.nit >= max_iter else f"raise max_fun ({self.max_fun})"
            remedy += ", or tol"
        warn(f"lbfgs failed to converge after {result.nit} iteration(s) (status={result.status}): {result.message}. To "
             f"go further, {remedy}", ConvergenceWarning)  # fmt: skip
