"""Training a model: what `Sequential.fit` takes, reads and starts; and the gradient of a loss at every step."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np

from lstmx.data import batches, source, targets
from lstmx.functional import kernels, validate
from lstmx.functional.messages import explained
from lstmx.functional.segments import read_memory
from lstmx.layers import Reversed, Run
from lstmx.layers.flow import GradientFlow, is_recurrent, room

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Any, Literal, TypeAlias

    from numpy.typing import ArrayLike

    from lstmx._types import LossName, Memory, Metric, MetricName, RandomState
    from lstmx.optim import _Optimizer
    from lstmx.training import Callback, EarlyStopping, History

    OptimizerLike: TypeAlias = Literal["adam", "adamw", "rmsprop", "sgd"] | _Optimizer
    MetricsLike: TypeAlias = MetricName | Metric | Iterable[MetricName | Metric] | None
    Watching: TypeAlias = Callback | Callable[[int, dict[str, Any]], object]
    CallbacksLike: TypeAlias = Watching | Iterable[Watching] | None


def _check_options(shuffle: Any, monitor: Any, verbose: Any, clip_norm: Any, clip_value: Any) -> None:
    """An error for an option of `fit` that is none."""
    if shuffle not in (True, False, "exact"):
        raise ValueError(f'shuffle: got {shuffle!r}, must be True, "exact" or False')
    if monitor not in (None, "gradients"):
        raise ValueError(f'monitor: got {monitor!r}, must be None or "gradients"; what early stopping watches '
                         "is EarlyStopping(monitor=...)")  # fmt: skip
    if verbose not in (0, 1, 2):
        raise ValueError(f"verbose: got {verbose!r}, must be 0, 1 or 2")
    for name, value in (("clip_norm", clip_norm), ("clip_value", clip_value)):
        if value is not None:
            validate.number(name, value, 0, open_low=True)


class Fitting:
    """The part of `Sequential` that trains."""

    @explained
    def fit(
        self,
        X: Any,
        y: ArrayLike | None = None,
        *,
        loss: LossName = "mse",
        optimizer: OptimizerLike = "adam",
        epochs: int = 10,
        steps_per_epoch: int | None = None,
        batch_size: int | None = None,
        lengths: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        class_weight: Mapping[Any, float] | Literal["balanced"] | None = None,
        shuffle: bool | Literal["exact"] | None = None,
        validation_data: Any = None,
        validation_lengths: ArrayLike | None = None,
        validation_split: float = 0.0,
        validation_from: Literal["random", "tail"] = "random",
        metrics: MetricsLike = (),
        clip_norm: float | None = None,
        clip_value: float | None = None,
        early_stopping: EarlyStopping | int | None = None,
        callbacks: CallbacksLike = (),
        monitor: Literal["gradients"] | None = None,
        tbptt: int | tuple[int, int] | None = None,
        memory: Memory | None = None,
        comm: Any = None,
        shards: int | None = None,
        exact: bool = True,
        verbose: Literal[0, 1, 2] = 1,
        random_state: RandomState = None,
    ) -> History:
        """Train.

        Parameters
        ----------
        X : array (N, T, I), or list of arrays (T_n, I); integers (N, T) or (T_n,) where an Embedding comes first
            Or, without y, a source of batches: see Notes.
        y : targets
            A sequence (N,), (N, O); without a pooling layer a step (N, T), (N, T, O) or a list. Class labels are
            integers.
        loss : {"mse", "mae", "huber", "binary_crossentropy", "categorical_crossentropy"}
            A cross-entropy joins a final sigmoid or softmax; after a linear layer it takes logits.
        optimizer : {"adam", "adamw", "rmsprop", "sgd"} or an instance such as ``lstmx.Adam(1e-3)``
            Its learning rate may be a schedule such as ``lstmx.CosineDecay(0.01, steps)``, which counts updates:
            there are ``epochs * ceil(N / batch_size)``.
        epochs : int
        steps_per_epoch : int, optional
            Of a source: the batches of an epoch, if it is not to be one pass.
        batch_size : int, optional
            Sequences of an update; by default 32.
        lengths : array of int (N,), optional
            Steps of each sequence of a padded X; the padding is never read.
        sample_weight : array (N,), or per step as y, optional
            The loss is the weighted sum over the sum of the weights.
        class_weight : dict of label to weight, or "balanced", optional
            Labels left out weigh 1; "balanced" weighs a class N / (classes * its count).
        shuffle : {True, "exact", False}, optional
            True, the default, puts ragged sequences of similar length into a batch; "exact" does not.
        validation_data : (X, y) or (X, y, sample_weight), or a source of batches, optional
        validation_lengths : array of int, optional
        validation_split : float
            The share of the sequences held out, if there are no validation_data.
        validation_from : {"random", "tail"}
            Which sequences that are; "tail" takes the last ones, for data ordered in time.
        metrics : names ("accuracy", "mae", "mse") or functions ``f(y_true, y_pred) -> float``
            Functions get all rows of an epoch: y_pred (rows, O) and y_true the same, or (rows,) of labels; a row is a
            sequence, or a step without padding. They are kept for it, so that metrics take memory.
        clip_norm : float, optional
            The gradient is shortened to this norm.
        clip_value : float, optional
            Each element of the gradient is cut to [-clip_value, clip_value] first.
        early_stopping : None, True, int or EarlyStopping
            An integer is the patience in epochs; the best weights are restored. Watches the validation loss, or without
            validation data the training loss.
        callbacks : Callback or functions ``f(epoch, logs)``; returning True stops
        monitor : {None, "gradients"}
            "gradients" warns, once, of gradients that vanish or explode on their way back through a recurrent layer,
            and of what helps. They are measured every 50 updates, on the batch at hand: of the gradient that the last
            step of a sequence is given, the share that reaches the first (below 1e-6 it vanishes), and the largest on
            the way (above 1e3 it explodes). The history has both, such as ``0.gradient_first_l0`` and
            ``0.gradient_largest_l0``.
        tbptt : int or (k1, k2), optional
            Truncated back-propagation through time, for sequences of any length in the memory of k2 steps (Williams
            and Peng 1990, Sutskever 2013): an update after every k1 steps, with the loss of these, whose gradient goes
            back k2 steps, a multiple of k1; an integer is both. The sequences of a batch advance together, and the
            state is carried from one update to the next, so that a forward pass sees all of a sequence; the next batch
            begins with the initial state. See Notes.
        memory : int or str, optional
            The most working memory of an update, in bytes or as "200MB", "1.5 GB", "64MiB": `memory` says what it
            takes. Longer batches are run forward once more, segment by segment: a third more time for the same
            gradients, to the last bit. X, y, parameters and their moments come on
            top, and with `metrics` all outputs of an epoch.
        comm : mpi4py.MPI.Intracomm, optional
            Its ranks train the model together, such as those of ``mpi4py.MPI.COMM_WORLD``: all of them call fit with
            the same arguments, and all end with the same model. See Notes.
        shards : int, optional
            Into how many parts a batch is cut, which ranks share; by default 8 with a comm. With shards and without a
            comm one process gives the bits of any number of ranks.
        exact : bool
            Whether gradients are added in one order, so that bits do not depend on the number of ranks; else MPI adds
            as it likes. Without a comm it has no effect.
        verbose : {0, 1, 2}
            0 says nothing, 1 shows a bar where there is a terminal and tqdm, else one line per epoch, 2 always a line.
        random_state : None, int, SeedSequence or Generator
            Seeds shuffling, splitting and dropout; by default the model's own generator.

        Returns
        -------
        History
            Also in ``history_``.

        Raises
        ------
        FloatingPointError
            If the loss is not finite, naming epoch and batch. The last finite weights stay.
        KeyboardInterrupt
            Ctrl-C: the model keeps what it has learnt.
        RuntimeError
            If another fit of this model is running; or if another rank of comm has failed, or is lost.

        Notes
        -----
        Data that do not fit in memory are memory maps, or come batch by batch.

        *Memory maps.* X, y and sample_weight are read and converted batch by batch where they are, whatever their
        type; only a list is copied as a whole. A pass over y before training checks its values.

        *A source of batches* is any iterable of (X, y) or (X, y, sample_weight), each in a form that fit takes: a list
        of such tuples, a DataLoader of PyTorch, a PyDataset of Keras, or a function that makes a generator, which is
        called for every pass. Each item is a batch and makes one update; it is forgotten when the next one has come,
        and no thread reads ahead. Then batch_size, shuffle, lengths, sample_weight and validation_split are not given,
        and class_weight is not "balanced". A generator itself, ``batches()`` for ``batches``, can be read but once:
        that takes epochs=1, or steps_per_epoch, with which an epoch goes on where the one before has ended. If it runs
        out, training ends with a warning, and ``history_.stopped`` is "exhausted"; if training ends before its last
        epoch, it is closed. What the source raises comes out as it is, and the model keeps what it has learnt.

        *Long sequences.* With tbptt, X, y and weights are read segment by segment from the arrays, or memory maps, that
        they are in; memory does not grow with the steps, but for metrics, which are given all rows of an epoch, and for
        masked steps. Where k2 > k1, the k2 - k1 steps before an update's own are run again, from the state that was
        kept there. Of a model with a pooling layer the loss comes where a sequence ends, and its gradient goes back k2
        steps from the end of those k1 steps. Steps that weigh 0 make no update. The loss of an epoch is the weighted
        mean over all steps, each with the weights of its moment. With shuffle=False batches are those of the order
        given: the k-th sequences of the batches are not each other's continuation, so a long series is one sequence.

        *Many ranks.* With comm or shards, each batch is cut into shards, the first sequences being the first shard. The
        gradient of a shard depends on the shard alone, and shards are added in one fixed tree: 1, 2, 3 or 64 ranks,
        and one process with as many shards, give the same bits, dropout, metrics and early stopping included. Other
        shards round in other places, and drop others. A rank needs at least a shard to have work. X, y and weights are
        given whole on every rank, as arrays or memory maps, of which each reads its own sequences (y is checked by
        all), or X is a function of the shard, ``batches(shard)``: a rank calls it for each of its shards, and an update
        takes the next item of every shard; one that ends early adds nothing to the updates that are left. Parameters
        and random numbers begin as those of rank 0, which shows progress, and measures metrics. Validation batches are
        shared out. With memory the budget is that of a shard. Callbacks run on all ranks, where ``trainer.rank`` says
        which it is; whatever they change they change on all. A stop that one asks for stops all, and an error on one,
        or Ctrl-C, ends all with an error that names it. If a rank dies, the others end within 30 seconds, either by the
        launcher or, where MPI gives MPI_THREAD_MULTIPLE, because nothing is heard of it. ``trainer.ranks`` has the
        bytes that were ``sent`` and the ``seconds`` that this took, of which ``waited`` for the slowest rank.

        Examples
        --------
        The rows of a Parquet file of any size: each holds a series of 30 values and a target.

        >>> import lstmx, numpy as np
        >>> def batches():
        ...     import pyarrow.dataset
        ...     for rows in pyarrow.dataset.dataset("series.parquet").to_batches(batch_size=32):
        ...         x = rows["x"].flatten().to_numpy(zero_copy_only=False)
        ...         yield x.reshape(-1, 30, 1), rows["y"].to_numpy(zero_copy_only=False)
        >>> model = lstmx.Sequential([lstmx.LSTM(1, 8), lstmx.Last(), lstmx.Dense(8, 1)], random_state=0)
        >>> history = model.fit(batches, epochs=3)  # doctest: +SKIP

        The partitions of Dask arrays, of which one is in memory:

        >>> def partitions(X, y):
        ...     for x, target in zip(X.partitions, y.partitions, strict=True):
        ...         yield x.compute(), target.compute()
        >>> history = model.fit(lambda: partitions(X, y), epochs=3)  # doctest: +SKIP

        Series drawn anew for each update, without an end:

        >>> def draw(rng):
        ...     while True:
        ...         x = rng.normal(size=(32, 30, 1))
        ...         yield x, x.sum(axis=1)
        >>> history = model.fit(draw(np.random.default_rng(0)), steps_per_epoch=50, epochs=3, verbose=0)
        >>> len(history), history["loss"][-1] < history["loss"][0]
        (3, True)

        What many ranks would give, ``fit(x, y, comm=MPI.COMM_WORLD)``, on one process:

        >>> x, y = np.ones((64, 30, 1)), np.ones(64)
        >>> history = model.fit(x, y, shards=8, epochs=2, verbose=0)

        A long series, cut in time:

        >>> import numpy as np, lstmx
        >>> series = np.sin(np.arange(5001) / 5)[None, :, None]
        >>> model = lstmx.Sequential([lstmx.LSTM(1, 8), lstmx.Dense(8, 1)], random_state=0)
        >>> history = model.fit(series[:, :-1], series[:, 1:], tbptt=50, epochs=2, verbose=0)
        >>> bool(history["loss"][1] < history["loss"][0] / 5)
        True
        """
        from lstmx import losses, optim, training  # a program that only predicts does without them

        with training.open_ranks(comm, shards, exact) as ranks, self.only_fit():
            streamed = y is None and source.is_source(X)
            if streamed:
                source.refuse_options(
                    batch_size=batch_size, shuffle=shuffle, lengths=lengths, sample_weight=sample_weight,
                    validation_split=validation_split or None, class_weight=class_weight,
                )  # fmt: skip
            batch_size = 32 if batch_size is None else validate.count("batch_size", batch_size)
            shuffle = True if shuffle is None else shuffle
            epochs = validate.count("epochs", epochs, 0)
            if random_state is None and self._rng is not None:
                rng = self._rng
            else:
                rng = validate.random_generator("random_state", random_state)
            ranks.share_generator(rng)
            _check_options(shuffle, monitor, verbose, clip_norm, clip_value)
            chosen_loss = losses.get_loss(loss, self._final_activation)
            logits = loss == "binary_crossentropy" and self._final_activation == "linear"
            chosen_metrics = losses.get_metrics(metrics, logits)
            fraction = validate.number("validation_split", validation_split, 0, 1, open_high=True)
            where = validate.choice("validation_from", validation_from, ("random", "tail"))
            read = self._reader(loss, class_weight, "accuracy" in chosen_metrics)
            if streamed:
                data: Any = self._source(training, X, read, epochs, steps_per_epoch, ranks)
            else:
                source.refuse_mistaken(X, y, steps_per_epoch)
                data = read("", X, y, sample_weight, lengths)
            validation = self._read_validation(validation_data, validation_lengths, loss, epochs)
            if validation is None and fraction:
                train, held = batches.split(data.count, fraction, where, rng)
                data, validation = batches.Subset(data, train), batches.Subset(data, held)
            way = self._way(training, tbptt, memory, monitor, None if streamed else data, batch_size, ranks)
            trainer = training.Trainer(
                self, data, chosen_loss, optim.get_optimizer(optimizer), batch_size=batch_size, shuffle=shuffle,
                validation=validation, clip_norm=clip_norm, clip_value=clip_value, rng=rng,
                metrics=chosen_metrics,
                early_stopping=training.get_early_stopping(early_stopping), callbacks=training.get_callbacks(callbacks),
                monitor=training.GradientMonitor(self) if monitor else None, way=way, ranks=ranks,
                progress=training.Progress(bar=verbose == 1) if verbose and not ranks.rank else None,
            )  # fmt: skip
            self._history = trainer.state.history
            return trainer.run(epochs)

    @staticmethod
    def _source(training: Any, X: Any, read: Any, epochs: int, steps: Any, ranks: Any) -> Any:
        """The batches of X, which gives them itself."""
        if ranks.shards is None:
            return source.Source("X", X, read, epochs, steps)
        source.check_function_of_shard(X)
        return training.ShardSource("X", X, read, epochs, steps, ranks)

    def _way(
        self,
        training: Any,
        tbptt: Any,
        memory: Memory | None,
        monitor: str | None,
        data: Any,
        batch_size: int,
        ranks: Any,
    ) -> Any:
        """How updates are made of a batch; `data` are None where they come batch by batch."""
        if tbptt is not None and memory is not None:
            raise ValueError(
                "memory: got tbptt as well, whose memory is that of its k2 steps; leave out one of the two"
            )
        way: Any = training.Whole()
        if tbptt is not None:
            steps = training.read_truncation(tbptt)
            training.refuse(self, "tbptt", monitor)
            way = training.Truncated(*steps)
        elif memory is not None:
            budget = read_memory("memory", memory)
            training.refuse(self, "memory", monitor)
            way = training.Recomputed(self, budget)
            if data is not None:
                way.check(data.inputs.lengths, batch_size, ranks.shards or 1)
        if ranks.shards is not None and monitor is not None:
            raise ValueError('shards: monitor="gradients" measures on whole batches; leave out one of the two')
        return way

    @property
    def fitting(self) -> bool:
        """Whether a fit of this model is running."""
        return self._fitting.locked()

    @contextlib.contextmanager
    def only_fit(self) -> Iterator[None]:
        """One fit at a time: an error where another is running."""
        if not self._fitting.acquire(blocking=False):
            raise RuntimeError("fit: this model is already being trained by another call; train a copy (.copy())")
        try:
            yield
        finally:
            self._fitting.release()

    def _reader(self, loss: str, class_weight: Any = None, accuracy: bool = False) -> Callable[..., batches.Data]:
        """What reads arrays as `Data`; errors begin with its first argument."""

        def read(prefix: str, X: Any, y: Any, sample_weight: Any = None, lengths: Any = None) -> batches.Data:
            data = self._data(X, y, loss, lengths, sample_weight, class_weight, prefix)
            if accuracy and not data.targets.are_classes():
                raise ValueError(
                    "metrics: accuracy needs class labels or targets 0 and 1; for others use 'mae' or 'mse'"
                )
            return data

        return read

    def _read_validation(self, given: Any, lengths: Any, loss: str, epochs: int) -> Any:
        if given is None:
            if lengths is not None:
                raise ValueError("validation_lengths: given without validation_data")
            return None
        read = self._reader(loss)
        if not isinstance(given, tuple) and source.is_source(given):
            source.refuse_options(validation_lengths=lengths)
            return source.Source("validation_data", given, read, epochs)
        if not isinstance(given, tuple | list) or len(given) not in (2, 3):
            raise ValueError("validation_data: must be (X, y) or (X, y, sample_weight), or a source of such batches")
        X, y, *weight = given
        return read("validation_data ", X, y, *(weight or [None]), lengths)

    def _data(
        self,
        X: Any,
        y: Any,
        loss: str,
        lengths: Any,
        sample_weight: Any,
        class_weight: Any,
        prefix: str = "",
        mask: Any = None,
    ) -> batches.Data:
        inputs = self._read(X, lengths, False, prefix, mask)
        if len(inputs) == 0:
            raise ValueError(f"{prefix}X: holds no sequence")
        if self.per_step and inputs.is_masked and any(isinstance(layer, Reversed) for layer in self.layers):
            raise ValueError(
                "layers: a Reversed after a Masking moves steps away from those of y; pool them, or train without it"
            )
        wanted = targets.read_targets(y, inputs, self.output_size, loss, self.per_step, self.dtype, prefix + "y")
        weights = targets.read_weights(
            sample_weight, class_weight, wanted, inputs, self.output_size, self.dtype, prefix
        )
        return batches.Data(inputs, wanted, weights)

    def gradient_flow(
        self,
        X: ArrayLike,
        y: ArrayLike,
        *,
        loss: LossName = "mse",
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> GradientFlow:
        """The gradient of a loss at every step of the recurrent layers, without dropout, from one backward pass.

        Parameters
        ----------
        X, y, loss, lengths, sample_weight : as in `fit`
        mask : array of bool (N, T) or list of (T_n,), as X; optional
            As in `predict`.

        Returns
        -------
        GradientFlow
            By (index in ``layers``, layer, direction).

        Examples
        --------
        How much of the gradient reaches the first step?

        >>> import numpy as np, lstmx
        >>> model = lstmx.Sequential([lstmx.LSTM(1, 8), lstmx.Last(), lstmx.Dense(8, 1)], random_state=0)
        >>> flow = model.gradient_flow(np.zeros((4, 60, 1)), np.ones(4))
        >>> norms = flow.norms("c")[0, 0, 0]
        >>> bool(norms[0] < 0.2 * norms[-1])
        True
        """
        from lstmx import losses

        chosen, activation = losses.get_loss(loss, self._final_activation)
        data = self._data(X, y, loss, lengths, sample_weight, None, mask=mask)
        rows, context, target, weight = data.batch(np.arange(len(data.inputs)))
        run = Run(keep=True, activation=activation, own_steps=True)
        prediction, _, _, tape = self.forward_rows(rows, context, None, run)
        _, gradient = chosen.total(prediction, target, weight, kernels.total(weight))
        flow = {k: room(layer, tape[k][1]) for k, layer in enumerate(self.layers) if is_recurrent(layer)}
        self.backward_rows(tape, gradient, self._outputs(), flow=flow)
        return GradientFlow({
            (k, *key): (tape[k][1], self.layers[k].hidden_size, pair)
            for k, pairs in flow.items() for key, pair in pairs.items()
        })  # fmt: skip
