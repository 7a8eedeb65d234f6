"""Sequential: layers in a row, with fit and predict."""

import contextlib
import copy
import functools
from collections.abc import Iterable

import numpy as np

from lstmx import rollout, storage
from lstmx.data import batches, source, targets
from lstmx.functional import Gradients, Tape, allocate, kernels, read_gradient, read_tape, sequences, validate
from lstmx.functional.context import SequenceContext
from lstmx.functional.messages import explained, of_others
from lstmx.functional.segments import read_memory
from lstmx.functional.threads import Lock
from lstmx.layers import LSTM, Dense, Embedding, Layer, Reversed, Run, Trace, layout
from lstmx.layers.base import replace_together, snapshots
from lstmx.layers.chain import check_chain
from lstmx.layers.compiled import CompiledLayers
from lstmx.layers.flow import GradientFlow, is_recurrent, room
from lstmx.layers.lstm import BACKWARD_STREAM

MOST_LAYERS = 1000  # a file of so many is still read at once
BATCH = 256  # sequences that predict runs at once


@storage.register
class Sequential(storage.Stored):
    """A model of layers in a row.

    Parameters
    ----------
    layers : list of lstmx layers
        LSTM, RNN, Embedding, Dense, Activation, Dropout, Last, FinalState, MeanPool, Masking, Unmask, Reversed; at most
        1,000. A layer belongs to one model. Without a pooling layer the model gives one output per step.
    random_state : None, int, SeedSequence or Generator
        Seeds the initial parameters of the layers that have no random_state of their own.

    Attributes
    ----------
    layers : tuple
    history_ : History
        Of the last fit; None before the first.

    Examples
    --------
    Which of two sine waves is it?

    >>> import numpy as np, lstmx
    >>> rng = np.random.default_rng(0)
    >>> label = rng.integers(2, size=200)
    >>> t = np.arange(30) + rng.uniform(0, 60, size=(200, 1))
    >>> x = np.sin(t * np.where(label, 0.3, 0.6)[:, None])[:, :, None]
    >>> model = lstmx.Sequential(
    ...     [lstmx.LSTM(1, 16), lstmx.Last(), lstmx.Dense(16, 1, "sigmoid")], random_state=0
    ... )
    >>> history = model.fit(x, label, loss="binary_crossentropy", optimizer=lstmx.Adam(0.02), epochs=12, verbose=0)
    >>> bool(((model.predict(x)[:, 0] > 0.5) == label).mean() > 0.95)
    True
    """

    def __init__(self, layers, *more, random_state=None):
        if more or isinstance(layers, Layer):
            given = ", ".join(type(layer).__name__ for layer in (layers, *more))
            remedy = f"put them in brackets: Sequential([{given}])" if isinstance(layers, Layer) else "join them"
            raise TypeError(f"layers: got {given}, must be one list; {remedy}")
        layers = tuple(layers) if isinstance(layers, Iterable) else ()
        if not layers or not all(isinstance(layer, Layer) for layer in layers):
            raise TypeError(
                "layers: must be a list of at least one lstmx layer, such as [lstmx.LSTM(4, 32), lstmx.Last()]"
            )
        if len(layers) > MOST_LAYERS:
            raise ValueError(f"layers: got {len(layers)} layers, must be at most {MOST_LAYERS}; an LSTM has num_layers")
        check_chain(layers)
        seeds = validate.random_children(random_state, len(layers) + 1)
        for k, layer in enumerate(layers):
            if layer.store.owner is not None or any(layer is other for other in layers[:k]):
                raise ValueError(
                    f"layers[{k}]: this {type(layer).__name__} is already part of a model; give each its own (.copy())"
                )
        self.layers = layers
        self._first_trained = next(k for k, layer in enumerate(layers) if layer.store.arrays)
        self._causal = all(layer.causal for layer in layers)
        self._fitting = Lock()
        self._history = None
        self._rng = None if seeds is None else np.random.default_rng(seeds.pop())
        for k, layer in enumerate(layers):
            store = layer.store
            store.owner = self
            if seeds and not store.seeded and store.version == 0:
                store.draw(layer.parameter_table(layer.config()), np.random.default_rng(seeds[k]))
        self._compiled = None

    # What the model is.

    @functools.cached_property
    def embedding(self):
        """The first layer, if it is an Embedding; then inputs are integers."""
        return self.layers[0] if isinstance(self.layers[0], Embedding) else None

    @functools.cached_property
    def input_size(self):
        """Features of the input: what the first layer that cares takes."""
        return next((layer.input_size for layer in self.layers if layer.input_size is not None), None)

    @functools.cached_property
    def output_size(self):
        """Features of the output."""
        size = self.input_size
        for layer in self.layers:
            size = layer.output_size(size)
        return size

    @functools.cached_property
    def per_step(self):
        """Whether the model gives one output per step (no pooling layer)."""
        return not any(layer.per_sequence for layer in self.layers)

    @property
    def causal(self):
        """Whether no output depends on a later step, so that sequences can be read in segments."""
        return self._causal

    @functools.cached_property
    def dtype(self):
        """The type the model computes in."""
        return next((layer.dtype for layer in self.layers if layer.store.arrays), np.dtype(np.float32))

    @property
    def history_(self):
        """What the last fit measured; None before the first."""
        return self._history

    @property
    def size(self):
        """The number of parameters."""
        return sum(layer.size for layer in self.layers)

    @property
    def _final_activation(self):
        return self.layers[-1].activation if isinstance(self.layers[-1], Dense) else None

    # On packed rows: what training needs.

    def start_state(self, batch, features=None, parameters=None, dtype=None):
        """The protocol of a layer, with a tuple of states; what is None is the model's own."""
        parameters = snapshots(self.layers) if parameters is None else parameters
        features, states = self.input_size if features is None else features, []
        for layer, own in zip(self.layers, parameters, strict=True):
            states.append(layer.start_state(batch, features, own, self.dtype if dtype is None else dtype))
            features = layer.output_size(features)
        return tuple(states)

    def forward_rows(self, rows, context, state, run):
        """All layers on packed rows: the protocol of a layer, with a tuple of states and a list of tapes."""
        parameters = snapshots(self.layers) if run.parameters is None else run.parameters
        nothing, last = (None,) * len(self.layers), self.layers[-1]
        keys, states = nothing if run.key is None else run.key, nothing if state is None else state
        after, tape = [], []
        for layer, key, own, state in zip(self.layers, keys, parameters, states, strict=True):
            one = Run(run.keep, key, own, run.activation if layer is last else None, run.own_steps)
            rows, context, state, entry = layer.forward_rows(rows, context, state, one)
            after.append(state)
            tape.append(entry)
        return rows, context, tuple(after), tape

    def backward_rows(self, tape, dy, out, need_dx=False, dstate=None, *, add=False, more=False, flow=None):
        """Back-propagation: the protocol of a layer, with a tuple of `dstate`. Gradients go to ``out[layer][name]``, of
        recurrent layers by step to ``flow[layer]``, if given, as `layers.flow.room` makes it.
        """
        first = 0 if need_dx else self._first_trained
        before = [None] * len(self.layers)
        after = before if dstate is None else dstate
        for k in reversed(range(first, len(self.layers))):
            if dy is None and after[k] is None:  # the loss does not see what this layer gives
                for gradient in () if add else out[k].values():
                    gradient.fill(0)
                continue
            own = {"flow": flow[k]} if flow and k in flow else {}
            dy, before[k] = self.layers[k].backward_rows(
                tape[k], dy, out[k], k > first or need_dx, after[k], add=add, more=more, **own
            )
        return dy, tuple(before)

    def _outputs(self):
        """Where gradients go, for every layer."""
        return [{n: allocate.empty(p.shape, p.dtype) for n, p in layer.store.arrays.items()} for layer in self.layers]

    def finish(self, rows, activation):
        """Outputs from rows that `forward_rows` gave with `activation` in place of the model's own."""
        if activation != self._final_activation:
            rows = rows.copy()
            kernels.activate(rows, self._final_activation)
        return rows

    # What users call.

    @explained
    def fit(self, X, y=None, *, loss="mse", optimizer="adam", epochs=10, steps_per_epoch=None, batch_size=None,
            lengths=None, sample_weight=None, class_weight=None, shuffle=None, validation_data=None,
            validation_lengths=None, validation_split=0.0, validation_from="random", metrics=(), clip_norm=None,
            clip_value=None, early_stopping=None, callbacks=(), monitor=None, tbptt=None,
            memory=None, verbose=1, random_state=None):  # fmt: skip
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
            gradients, to the last bit. X, y, parameters and their moments come on top.
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
            If another fit of this model is running.

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

        A long series, cut in time:

        >>> import numpy as np, lstmx
        >>> series = np.sin(np.arange(5001) / 5)[None, :, None]
        >>> model = lstmx.Sequential([lstmx.LSTM(1, 8), lstmx.Dense(8, 1)], random_state=0)
        >>> history = model.fit(series[:, :-1], series[:, 1:], tbptt=50, epochs=2, verbose=0)
        >>> bool(history["loss"][1] < history["loss"][0] / 5)
        True
        """
        with self.only_fit():
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
            from lstmx import losses, optim, training  # a program that only predicts does without them

            chosen_loss = losses.get_loss(loss, self._final_activation)
            logits = loss == "binary_crossentropy" and self._final_activation == "linear"
            chosen_metrics = losses.get_metrics(metrics, logits)
            fraction = validate.number("validation_split", validation_split, 0, 1, open_high=True)
            where = validate.choice("validation_from", validation_from, ("random", "tail"))
            read = self._reader(loss, class_weight, "accuracy" in chosen_metrics)
            if streamed:
                data = source.Source("X", X, read, epochs, steps_per_epoch)
            else:
                source.refuse_mistaken(X, y, steps_per_epoch)
                data = read("", X, y, sample_weight, lengths)
            validation = self._read_validation(validation_data, validation_lengths, loss, epochs)
            if validation is None and fraction:
                train, held = batches.split(data.count, fraction, where, rng)
                data, validation = batches.Subset(data, train), batches.Subset(data, held)
            segments = self._segments(training, tbptt, memory, monitor, None if streamed else data, batch_size)
            trainer = training.Trainer(
                self, data, chosen_loss, optim.get_optimizer(optimizer), batch_size=batch_size, shuffle=shuffle,
                validation=validation, clip_norm=clip_norm, clip_value=clip_value, rng=rng,
                metrics=chosen_metrics,
                early_stopping=training.get_early_stopping(early_stopping), callbacks=training.get_callbacks(callbacks),
                monitor=training.GradientMonitor(self) if monitor else None, segments=segments,
                progress=training.Progress(bar=verbose == 1) if verbose else None,
            )  # fmt: skip
            self._history = trainer.state.history
            return trainer.run(epochs)

    def _segments(self, training, tbptt, memory, monitor, data, batch_size):
        """How batches are cut in time, or None; `data` are None where they come batch by batch."""
        if tbptt is not None and memory is not None:
            raise ValueError(
                "memory: got tbptt as well, whose memory is that of its k2 steps; leave out one of the two"
            )
        if tbptt is not None:
            steps = training.read_truncation(tbptt)
            training.refuse(self, "tbptt", monitor)
            return training.Truncated(*steps)
        if memory is None:
            return None
        budget = read_memory("memory", memory)
        training.refuse(self, "memory", monitor)
        found = training.Recomputed(self, budget)
        if data is not None:
            found.check(data.inputs.lengths, batch_size)
        return found

    @property
    def fitting(self):
        """Whether a fit of this model is running."""
        return self._fitting.locked()

    @contextlib.contextmanager
    def only_fit(self):
        """One fit at a time: an error where another is running."""
        if not self._fitting.acquire(blocking=False):
            raise RuntimeError("fit: this model is already being trained by another call; train a copy (.copy())")
        try:
            yield
        finally:
            self._fitting.release()

    def _reader(self, loss, class_weight=None, accuracy=False):
        """What reads arrays as `Data`; errors begin with its first argument."""

        def read(prefix, X, y, sample_weight=None, lengths=None):
            data = self._data(X, y, loss, lengths, sample_weight, class_weight, prefix)
            if accuracy and not data.targets.are_classes():
                raise ValueError(
                    "metrics: accuracy needs class labels or targets 0 and 1; for others use 'mae' or 'mse'"
                )
            return data

        return read

    def _read_validation(self, given, lengths, loss, epochs):
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

    def _data(self, X, y, loss, lengths, sample_weight, class_weight, prefix="", mask=None):
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

    def read(self, X, *, lengths=None, mask=None, reset=None):
        """`Sequences` of X as `predict` takes it: ``.all()`` gives what `forward_rows` takes."""
        return self._read(X, lengths, mask=mask, reset=reset)

    def _read(self, X, lengths, single=True, prefix="", mask=None, reset=None):
        """`Sequences` of X; `single`: X may be one sequence without a batch axis."""
        embedding = self.embedding
        if reset is not None and not self.per_step:
            raise ValueError("reset: this model gives one output for a sequence, however many episodes it has; give "
                             "each episode as a sequence of its own")  # fmt: skip
        found = sequences(X, self.input_size, self.dtype, lengths=lengths, mask=mask, reset=reset, single=single,
                          name=prefix + "X",
                          tokens=None if embedding is None else embedding.check_tokens,
                          lengths_name="validation_lengths" if prefix else "lengths")  # fmt: skip
        return found.masked(self.layers[0].are_steps) if self.layers[0].masks else found

    def predict(self, X, *, lengths=None, mask=None, reset=None, batch_size=None):
        """Outputs in inference.

        Parameters
        ----------
        X : as in `fit`, or one sequence (T, I)
        lengths : array of int (N,), optional
        mask, reset : array of bool (N, T), (T,) or list of (T_n,), as X; optional
            As in a call of `LSTM`: which steps there are; where a sequence begins anew, in a model without pooling.
        batch_size : int, optional
            Sequences run at once; 256 by default.

        Returns
        -------
        ndarray (N, O); without a pooling layer (N, T, O), 0 past each end and on masked steps, or a list as X
        """
        plain = lengths is mask is reset is batch_size is None and self.embedding is None
        if plain and type(X) is np.ndarray and X.ndim == 3 and len(X) <= BATCH and self._reads(X):
            found = self._compiled_layers().run(X)
            if found is not None:
                return found
        batch_size = BATCH if batch_size is None else validate.count("batch_size", batch_size)
        return self.predict_sequences(self._read(X, lengths, mask=mask, reset=reset), batch_size)

    def predict_sequences(self, inputs, batch_size=BATCH):
        """`predict` for validated `Sequences`."""
        compiled = self._compiled_layers()
        how = Run(parameters=compiled.parameters)

        def run(part):
            array = part.array() if self._reads(part.x) else None
            found = None if array is None else compiled.run(array)
            if found is not None:
                return found
            rows, context = part.all(windows=self.layers[0].reads_windows)
            rows, context, *_ = self.forward_rows(rows, context, None, how)
            return context.unpack(rows)

        if len(inputs) <= batch_size:
            return run(inputs)
        return batches.collect(map(run, inputs.parts(batch_size)), len(inputs))

    def _reads(self, x):
        """Whether compiled calls read x as well as packed rows do: of windows, these may share what is summed."""
        return x.flags.c_contiguous or not self.layers[0].reads_windows

    def _compiled_layers(self):
        found = self._compiled
        if found is None or not found.are_current():
            found = self._compiled = CompiledLayers(self.layers)
        return found

    def forward(self, X, *, lengths=None, mask=None, reset=None, rng=None):
        """Training: outputs with dropout, and a tape for `backward`.

        Parameters
        ----------
        X, lengths, mask, reset : as in `predict`
        rng : None, int, SeedSequence or Generator
            Draws the dropout masks.

        Returns
        -------
        y, tape
        """
        rows, context = self._read(X, lengths, mask=mask, reset=reset).all(own=True)
        rng = validate.random_generator("rng", rng)
        keys = rng.integers(2**64, size=len(self.layers), dtype=np.uint64)
        y, after, _, tape = self.forward_rows(rows, context, None, Run(keep=True, key=keys))
        return after.unpack(y), Tape(self, context, self._versions(), model=tape, after=after, shape=y.shape)

    def backward(self, tape, dy):
        """Back-propagation.

        Parameters
        ----------
        tape : from `forward`; used up
        dy : in the form and shape of y

        Returns
        -------
        Gradients
            ``.x`` in the form of X (None for integers), ``.params`` by name, ``.state`` None.
        """
        context, after = read_tape(tape, self).context, tape.parts["after"]
        if dy is None:
            raise TypeError("dy: got None, must have the form and shape of y")
        dy = read_gradient(dy, after, tape.parts["shape"][-1], self.dtype)
        parts = tape.use(None, self._versions())
        out = self._outputs()
        dx, _ = self.backward_rows(parts["model"], dy, out, need_dx=not self.embedding)
        params = {f"{k}.{name}": g for k, grads in enumerate(out) for name, g in grads.items()}
        return Gradients(None if self.embedding else context.unpack(dx), None, params)

    def _versions(self):
        return tuple(layer.store.version for layer in self.layers)

    def memory(self, N, T, *, training=False, memory=None):
        """Bytes of working memory that a batch of N sequences of T steps takes at most, parameters and X aside.

        Parameters
        ----------
        N, T : int
        training : bool
            Of an update in `fit` rather than of a prediction; gradients and moments of the parameters aside. Up to
            64 MiB of it are kept for the next update.
        memory : int or str, optional
            What `fit` is given as its memory: then what it takes of that.

        Raises
        ------
        ValueError
            If the budget cannot be kept, naming the least possible.

        Examples
        --------
        >>> import lstmx
        >>> model = lstmx.Sequential([lstmx.LSTM(8, 64), lstmx.Dense(64, 1)])
        >>> whole = model.memory(16, 10_000, training=True)
        >>> model.memory(16, 10_000, training=True, memory=whole // 8) <= whole // 8
        True
        """
        N, T = validate.extent("N", N), validate.extent("T", T)
        if not validate.flag("training", training):
            if memory is not None:
                raise ValueError("memory: a budget is that of training; give training=True, or leave it out")
            return layout.inference(self, N, T)
        if memory is None:
            return layout.training(self, N, T)
        budget = read_memory("memory", memory)
        if not self.causal:
            raise ValueError(
                "memory: a model that reads sequences from their end is trained on whole ones; leave it out"
            )
        found, least = layout.plan(self, N, T, budget)
        if found is None:
            raise ValueError(layout.message(N, T, budget, least))
        return found.size

    def step(self, x_t, state=None, *, out=None):
        """One time step of a stream through the whole model.

        Parameters
        ----------
        x_t : array (N, I) or (I,); integers (N,) or a single one where an Embedding comes first
        state : what the last step returned, or None to begin
        out : (y_t, state), optional
            Arrays to write the results to, as a step returns them. The state in it may be `state` itself.

        Returns
        -------
        y_t : array (N, O) or (O,)
            Pooling layers give what they would for the stream so far.
        state : tuple, one entry per layer

        See Also
        --------
        lstmx.StreamPool : keeps the states of many streams, and takes any of them further in one call.
        """
        return self._stream("x_t", x_t, state, out, True)

    def stream(self, x, state=None, *, out=None):
        """A block of a stream through the whole model.

        Parameters
        ----------
        x : array (N, T, I) or (T, I); integers (N, T) or (T,) where an Embedding comes first
        state, out : as in `step`

        Returns
        -------
        y : array (N, T, O) or (T, O); of a model with pooling (N, O) or (O,), for the stream so far
        state : tuple, one entry per layer

        Examples
        --------
        >>> import numpy as np, lstmx
        >>> model = lstmx.Sequential([lstmx.LSTM(1, 4), lstmx.Dense(4, 1)], random_state=0)
        >>> x = np.ones((100, 1), "float32")
        >>> _, state = model.stream(x[:50])
        >>> y, state = model.stream(x[50:], state)
        >>> bool((y == model.predict(x)[50:]).all())
        True
        """
        return self._stream("x", x, state, out, False)

    def _stream(self, name, x, state, out, step):
        if not self._causal:
            raise ValueError(BACKWARD_STREAM)
        found = self._compiled_layers().stream(x, state, step, out)
        if found is not None:
            return found
        embedding = self.embedding
        if embedding:
            x = embedding.check_tokens(name, x).astype(np.int64, copy=False)
        else:
            x = validate.real_array(name, x, self.dtype)
        tail = () if embedding else (self.input_size,)
        lead = x.ndim - len(tail)
        if lead not in ((0, 1) if step else (1, 2)) or x.shape[lead:] != tail:
            features = self.input_size
            want = f"(N, {features}) or ({features},)" if step else f"(N, T, {features}) or (T, {features})"
            if embedding:
                want = "(N,) integers or one" if step else "(N, T) integers or (T,)"
            raise ValueError(f"{name}: got shape {x.shape}, must be {want}")
        if state is not None and (not isinstance(state, tuple | list) or len(state) != len(self.layers)):
            raise TypeError("state: must be what the last step of this model returned, or None")
        single = lead == (0 if step else 1)
        block = x[None] if single else x
        block = block[:, None] if step else block
        context = SequenceContext(np.full(len(block), block.shape[1], np.int64), block.shape[1])
        rows, after, states, _ = self.forward_rows(context.pack(block, own=True), context, state, Run())
        y = after.unpack(rows)
        y = y[:, 0] if step and self.per_step else y
        results = (y[0] if single else y), states
        return results if out is None else validate.fill("out", out, results, x, state)

    def rollout(
        self, x, steps, *, feedback=None, exog=None, noise=None, paths=None, state=None, window=None, temperature=1.0,
        random_state=None, return_state=False,
    ):  # fmt: skip
        """The closed loop: what the model gives after x is what it reads next, and so on.

        Parameters
        ----------
        x : array (N, T, I), (T, I), or list of arrays (T_n, I); integers (N, T), .. where an Embedding comes first
            What is known; with `state`, what comes next.
        steps : int
            How many results. The first is the output after the last step of x.
        feedback : list of O columns of the input, or None in it for an output that is not fed back; optional
            By default output j goes to column j. A model of integers takes {"argmax", "sample"}: the token that is
            likeliest (default), or one drawn with the probabilities that the model gives (of a final softmax; else the
            outputs are logits).
        exog : array (N, steps - 1, E), or (steps - 1, E) for all sequences; or longer
            What the columns read that no output goes to, in their order. ``exog[:, 0]`` stands beside the first result.
        noise : float, array (O,), (K, O), or of the shape of the results; optional
            What is added to the results, before they are fed back: standard deviations of a normal distribution; K
            errors, of which one is drawn for each step; or the very numbers. For one sequence errors need `paths`.
        paths : int, optional
            M independent continuations of every sequence.
        state : what `step`, `stream` or `rollout` returned; optional
        window : int, optional
            Carry no state: every step reads the last W inputs anew, as a model trained on windows of W steps did. The
            only way for one that reads from the end.
        temperature : float
            For "sample": logits are divided by it.
        random_state : None, int, SeedSequence or Generator
            Draws what is drawn, in the order of the results: ``noise=s`` is ``noise=s *
            numpy.random.default_rng(random_state).standard_normal(shape)``; the places of errors are
            ``.integers(K, size=shape)``, without O, and tokens are drawn by ``.random(shape)``.
        return_state : bool
            Whether to give the state too: that after x and all results but the last, which is what comes next.

        Returns
        -------
        results : array (N, steps, O), with `paths` (N, M, steps, O), without N for one sequence
            Tokens: of int64, without O.
        state : tuple, one entry per layer
            If `return_state`: of N * M sequences, the paths of the first, then those of the second and so on.

        Raises
        ------
        ValueError, TypeError, IndexError
            If an argument is not as it must be, or a sequence has no step.
        FloatingPointError
            If outputs are NaN or infinite, so that no token can be chosen.

        Notes
        -----
        Masked steps change nothing: the output remains that of the last step that there is.

        Examples
        --------
        A model that has learnt the next step of a sine, twenty steps on:

        >>> import numpy as np, lstmx
        >>> rng = np.random.default_rng(0)
        >>> x = np.sin(0.5 * np.arange(60) + rng.uniform(0, 6, (64, 1)))[:, :, None]
        >>> model = lstmx.Sequential([lstmx.LSTM(1, 16), lstmx.Dense(16, 1)], random_state=0)
        >>> history = model.fit(x[:, :39], x[:, 1:40], epochs=60, optimizer=lstmx.Adam(0.02), verbose=0)
        >>> future = model.rollout(x[:, :40], 20)
        >>> future.shape, bool(np.abs(future - x[:, 40:]).mean() < 0.1)
        ((64, 20, 1), True)

        A hundred ways on for the first of them:

        >>> paths = model.rollout(x[0, :40], 20, noise=0.1, paths=100, random_state=0)
        >>> paths.shape, bool(paths[:, -1].std() > paths[:, 0].std())
        ((100, 20, 1), True)
        """
        found, state = rollout.run(
            self, x, steps, feedback=feedback, exog=exog, noise=noise, paths=paths, state=state, window=window,
            temperature=temperature, random_state=random_state, return_state=return_state,
        )  # fmt: skip
        if self.embedding is None:
            with np.errstate(over="ignore"):
                found = found.astype(self.dtype)
        return (found, state) if return_state else found

    def trace(self, X, *, lengths=None, mask=None, reset=None):
        """Run the model and keep what its LSTM layers did.

        Parameters
        ----------
        X, lengths, mask, reset : as in `predict`

        Returns
        -------
        dict of int to Trace
            By the layer's index in ``layers``.

        Raises
        ------
        ValueError
            Without an LSTM.
        """
        return self.trace_rows(*self._read(X, lengths, mask=mask, reset=reset).all())

    def trace_rows(self, rows, context):
        """`trace` on packed rows."""
        if not any(isinstance(layer, LSTM) for layer in self.layers):
            raise ValueError(
                "trace: the model has no LSTM, and of other layers nothing is traced; gradient_flow takes an RNN too"
            )
        _, _, state, tape = self.forward_rows(rows, context, None, Run(keep=True))
        return {
            k: Trace(layer, *tape[k][:2], state[k]) for k, layer in enumerate(self.layers) if isinstance(layer, LSTM)
        }

    def gradient_flow(self, X, y, *, loss="mse", lengths=None, mask=None, sample_weight=None):
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

    def parameters(self):
        """The parameters by name ("0.weight_ih_l0": layer index, then the layer's name), read-only."""
        return {f"{k}.{name}": p for k, layer in enumerate(self.layers) for name, p in layer.parameters().items()}

    def set_parameters(self, parameters, *, allow_nonfinite=False):
        """Replace some or all parameters; all are checked before the first is set.

        Parameters
        ----------
        parameters : dict of str to array
            Names as in `parameters`.
        allow_nonfinite : bool
            Whether values may be NaN or infinite, or become so in the model's type.

        Raises
        ------
        KeyError, ValueError, TypeError, RuntimeError
            As that of a layer.
        """
        if not isinstance(parameters, dict):
            raise TypeError(f"parameters: got {type(parameters).__name__}, must be a dict of name to array")
        groups = {}
        for name, value in parameters.items():
            index, _, rest = str(name).partition(".")
            if not index.isdecimal() or int(index) >= len(self.layers):
                hint = of_others(str(name))
                raise KeyError(f"parameters: no {name!r} here; there are {list(self.parameters())}{hint}")
            groups.setdefault(int(index), {})[rest] = value
        checked = {k: self.layers[k].store.check(group, allow_nonfinite, f"{k}.") for k, group in groups.items()}
        replace_together((self.layers[k].store, group) for k, group in checked.items())

    def config(self):
        """What `load` needs to build the model again, as plain JSON values."""
        return {"layers": [{"class": type(layer).__name__} | layer.config() for layer in self.layers]}

    @classmethod
    def array_shapes(cls, config):
        """(name, shape, dtype, what its numbers must be) of every parameter; an error for a wrong configuration."""
        layers = validate.keys("the configuration of Sequential", config, ("layers",))["layers"]
        if not isinstance(layers, list) or not all(isinstance(layer, dict) for layer in layers):
            raise ValueError("layers is not a list of JSON objects")
        if len(layers) > MOST_LAYERS:
            raise ValueError(f"a model of {len(layers)} layers; the most allowed are {MOST_LAYERS}")
        for k, layer in enumerate(layers):
            kind, own = _split(layer)
            for name, *rest in kind.array_shapes(own):
                yield f"{k}.{name}", *rest

    def state(self):
        """(configuration, parameters): what `from_state` takes."""
        return self.config(), self.parameters()

    @classmethod
    def from_state(cls, config, arrays):
        """A model from what `state` gave."""
        groups = [{} for _ in config["layers"]]
        for name, value in arrays.items():
            index, _, rest = name.partition(".")
            groups[int(index)][rest] = value
        layers = (_split(layer) for layer in config["layers"])
        return cls([kind.from_state(own, group) for (kind, own), group in zip(layers, groups, strict=True)])

    def copy(self):
        """An independent model with the same layers and parameters."""
        return _rebuild([layer.copy() for layer in self.layers], self.history_, self._rng)

    def astype(self, dtype):
        """A copy that computes in `dtype`, "float32" or "float64"."""
        return _rebuild([layer.astype(dtype) for layer in self.layers], self.history_, self._rng)

    def __reduce__(self):
        return _rebuild, ([layer.copy() for layer in self.layers], self.history_, self._rng)

    def _remedy(self, name):
        if name == "layers":
            return "fixed since this Sequential was made; make another: Sequential([..., layer.copy(), ...])"
        if name in self.parameters():
            return f'parameters are set by set_parameters({{"{name}": ...}})'
        return super()._remedy(name)

    def summary(self):
        """One line per layer: its configuration, what it gives, its parameters."""
        size, lines, per_step = self.input_size, [], True
        for k, layer in enumerate(self.layers):
            size = layer.output_size(size)
            per_step = per_step and not layer.per_sequence
            shape = f"(N, T, {size})" if per_step else f"(N, {size})"
            shown = repr(layer).replace(f", dtype={self.dtype.name!r}", "")
            lines.append(f"{k:2d}  {shown:90s}{shape:>16s}{layer.size:>12,}")
        return "\n".join([*lines, f"{self.size:,} parameters, {self.dtype}"])

    def __repr__(self):
        return f"Sequential({list(self.layers)!r})"


def _split(config):
    """(class, its configuration) of a layer in the configuration of a model."""
    own = {name: value for name, value in config.items() if name != "class"}
    return storage.registered(config.get("class"), Layer), own


def _rebuild(layers, history, rng):
    model = Sequential(layers)
    model._history, model._rng = copy.deepcopy(history), copy.deepcopy(rng)
    return model
