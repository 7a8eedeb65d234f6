"""fit from data that do not fit in memory: memory maps, and sources of batches."""

import contextlib
import gc
import signal
import subprocess
import sys
import textwrap
import time
import tracemalloc
import weakref

import numpy as np
import pytest
from training_data import CHILD, bits, generator, regression, same, small, token_model

import lstmx
from lstmx import LSTM, Adam, Callback, Dense, EarlyStopping, Embedding, Last, Masking, Sequential

X, Y = regression(24)


def cut(*arrays, size=4):
    """A list of batches of arrays or lists."""
    return [tuple(a[n : n + size] for a in arrays) for n in range(0, len(arrays[0]), size)]


def fitted(make, *data, **options):
    model = make()
    model.fit(*data, **({"epochs": 3, "verbose": 0, "random_state": 1, "optimizer": Adam(0.01)} | options))
    return bits(model), dict(model.history_.history)


def alike(one, two):
    return same(one[0], two[0]) and one[1] == two[1]


class Dataset:
    """Batches that can be iterated again and again."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


class Numbered:
    """As a PyDataset of Keras: no iterator, and no end that iterating would find."""

    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, k):
        return self.batches[k % len(self.batches)]


FORMS = {
    "list": lambda batches: batches,
    "lists in a list-like": lambda batches: Dataset([list(item) for item in batches]),
    "numbered": Numbered,
    "iterators of a callable": lambda batches: lambda: iter(batches),
    "a list of a callable": lambda batches: lambda: batches,
    "generator function": lambda batches: lambda: (item for item in batches),
}


# The same bits as arrays.


@pytest.mark.parametrize("form", FORMS)
def test_a_source_gives_the_bits_of_arrays(form):
    wanted = fitted(small, X, Y, shuffle=False, batch_size=4)
    assert alike(fitted(small, FORMS[form](cut(X, Y))), wanted)


def test_a_generator_that_goes_on_gives_the_bits_of_arrays():
    many = (item for _ in range(3) for item in cut(X, Y))
    assert alike(fitted(small, many, steps_per_epoch=6), fitted(small, X, Y, shuffle=False, batch_size=4))


def test_a_generator_of_one_epoch():
    wanted = fitted(small, X, Y, shuffle=False, batch_size=4, epochs=1)
    assert alike(fitted(small, iter(cut(X, Y)), epochs=1), wanted)


@pytest.mark.parametrize("steps", [1, 4, 6, 9])
def test_epochs_of_any_number_of_batches_go_through_pass_after_pass(steps):
    """Updates are those of as many passes, wherever epochs end."""
    several = fitted(small, Dataset(cut(X, Y)), steps_per_epoch=steps, epochs=36 // steps)
    assert same(several[0], fitted(small, X, Y, shuffle=False, batch_size=4, epochs=6)[0])


def ragged(n=20, features=2, seed=3):
    rng = generator(seed)
    x = [rng.normal(size=(k, features)) for k in rng.integers(1, 9, size=n)]
    return x, [a[:, 0].cumsum() for a in x], rng.uniform(0.5, 2, size=n)


def test_ragged_sequences_with_outputs_and_weights_per_step():
    x, y, _ = ragged()
    w = [generator(4).uniform(0.1, 1, size=len(a)) for a in x]

    def make():
        return small(pool=None, dropout=0.2)

    wanted = fitted(make, x, y, sample_weight=w, shuffle=False, batch_size=4)
    assert alike(fitted(make, cut(x, y, w)), wanted)


def test_batches_may_differ_in_steps_size_and_form():
    x, y, w = ragged()
    y = np.array([a.sum() for a in y])
    arrays = [np.ones((3, 9, 2)), np.ones((1, 4, 2))]
    items = [*cut(x, y, w), *((a, np.ones(len(a)), None) for a in arrays)]
    model = small()
    history = model.fit(items, epochs=2, verbose=0)
    assert len(history) == 2 and np.isfinite(history["loss"]).all()


@pytest.mark.parametrize("kind", ["i8", "u1", "list"])
def test_integers_for_an_embedding(kind):
    rng = generator(0)
    tokens, y = rng.integers(8, size=(20, 6)), rng.normal(size=20)
    x = [a[: 1 + n % 6] for n, a in enumerate(tokens)] if kind == "list" else tokens.astype(kind)
    wanted = fitted(token_model, x, y, shuffle=False, batch_size=4)
    assert alike(fitted(token_model, cut(x, y)), wanted)


def classifier(outputs=3):
    return small(outputs=outputs, activation="softmax")


LABELS = generator(5).integers(3, size=24)


@pytest.mark.parametrize("metrics", [[], ["accuracy", lambda t, p: p.max()]])
def test_class_weights_metrics_and_clipping(metrics):
    options = {
        "loss": "categorical_crossentropy", "class_weight": {0: 3.0}, "metrics": metrics, "clip_norm": 0.5,
        "clip_value": 0.1,
    }  # fmt: skip
    wanted = fitted(classifier, X, LABELS, shuffle=False, batch_size=4, **options)
    assert alike(fitted(classifier, cut(X, LABELS), **options), wanted)


def test_the_gradient_monitor_sees_the_batches():
    wanted = fitted(small, X, Y, shuffle=False, batch_size=4, monitor="gradients")
    found = fitted(small, cut(X, Y), monitor="gradients")
    assert alike(found, wanted) and "0.gradient_first_l0" in found[1]


@pytest.mark.parametrize("form", ["arrays", *FORMS])
def test_validation_data_from_arrays_or_a_source(form):
    x, y = regression(100, seed=9)
    held = (x, y) if form == "arrays" else FORMS[form](cut(x, y, size=64))
    options = {"metrics": "mae", "early_stopping": EarlyStopping(1, min_delta=1.0), "epochs": 9}
    wanted = fitted(small, X, Y, shuffle=False, batch_size=4, validation_data=(x, y), **options)
    found = fitted(small, cut(X, Y), validation_data=held, **options)
    assert alike(found, wanted) and len(found[1]["val_mae"]) == 2


def test_arrays_with_a_source_of_validation_data():
    x, y = regression(100, seed=9)
    wanted = fitted(small, X, Y, validation_data=(x, y))
    assert alike(fitted(small, X, Y, validation_data=cut(x, y, size=64)), wanted)


def test_validation_data_that_come_once_do_for_one_epoch():
    history = small().fit(X, Y, validation_data=iter(cut(X, Y)), epochs=1, verbose=0)
    assert len(history["val_loss"]) == 1
    with pytest.raises(ValueError, match=r"^validation_data: a list_iterator gives its batches once, but there are 2"):
        small().fit(X, Y, validation_data=iter(cut(X, Y)), epochs=2, verbose=0)


def test_dropout_follows_the_random_state():
    def make():
        return small(dropout=0.5)

    assert alike(fitted(make, cut(X, Y)), fitted(make, X, Y, shuffle=False, batch_size=4))
    assert not alike(fitted(make, cut(X, Y)), fitted(make, cut(X, Y), random_state=2))


# How a fit ends.


class Watched:
    """A generator function that tells what became of its generators."""

    def __init__(self, batches=None, fail_at=None, error=None):
        self.batches = cut(X, Y) if batches is None else batches
        self.fail_at, self.error = fail_at, error
        self.given = self.begun = self.closed = 0

    def __call__(self):
        self.begun += 1
        try:
            for item in self.batches:
                if self.given == self.fail_at:
                    raise self.error
                self.given += 1
                yield item
        except GeneratorExit:
            self.closed += 1
            raise


def test_each_epoch_begins_a_pass_and_nothing_is_read_ahead():
    source, seen = Watched(), []

    class Count(Callback):
        def on_batch_end(self, trainer, batch, loss):
            seen.append(source.given)

    small().fit(source, epochs=2, callbacks=Count(), verbose=0)
    assert seen == list(range(1, 13)) and (source.begun, source.closed) == (2, 0)


def test_a_generator_that_goes_on_is_not_closed_and_serves_the_next_fit():
    source = Watched(cut(X, Y) * 4)
    running, model = source(), small()
    for n in (1, 2):
        model.fit(running, steps_per_epoch=2, epochs=3, verbose=0)
        assert (source.given, source.closed) == (6 * n, 0)
    running.close()


@pytest.mark.parametrize("end", ["callback", "early", "error", "interrupt"])
@pytest.mark.parametrize("itself", [False, True])
def test_a_generator_is_closed_where_training_ends_early(end, itself):
    source = Watched(cut(X, Y) * 9)

    class Ends(Callback):
        def on_batch_end(self, trainer, batch, loss):
            if end == "interrupt":
                raise KeyboardInterrupt
            if end == "error":
                raise ZeroDivisionError

        def on_epoch_end(self, trainer, epoch, logs):
            return end == "callback"

    model, running = small(), source() if itself else source
    options = {"callbacks": Ends(), "early_stopping": EarlyStopping(1, min_delta=1e9) if end == "early" else None}
    with contextlib.suppress(KeyboardInterrupt, ZeroDivisionError):
        model.fit(running, steps_per_epoch=2, epochs=9, verbose=0, **options)
    assert source.closed == 1
    assert model.history_.stopped == {"error": "failed", "interrupt": "interrupted"}.get(end, end)


def test_early_stopping_restores_the_best_weights():
    class Grows(Callback):
        def on_epoch_end(self, trainer, epoch, logs):
            seen.append(bits(model))

    model, seen = small(), []
    history = model.fit(
        cut(X, Y), epochs=50, optimizer=Adam(1.0), early_stopping=EarlyStopping(3), callbacks=Grows(), verbose=0
    )
    assert history.stopped == "early"
    assert same(bits(model), seen[history.best_epoch])


def test_an_error_of_the_source_comes_out_as_it_is_and_weights_stay():
    error = OSError("the disk is gone")
    model, source = small(), Watched(fail_at=8, error=error)
    with pytest.raises(OSError, match="the disk is gone") as caught:
        model.fit(source, epochs=5, verbose=0)
    assert caught.value is error and model.history_.stopped == "failed" and len(model.history_) == 1
    assert same(bits(model), updated(8))
    model.fit(source.batches, epochs=1, verbose=0)


def updated(count):
    """The weights after so many updates."""
    model = small()
    model.fit(Dataset(cut(X, Y)), steps_per_epoch=count, epochs=1, verbose=0)
    return bits(model)


@pytest.mark.parametrize("where", ["source", "callback"])
def test_ctrl_c_keeps_what_is_learnt(where):
    class Interrupts(Callback):
        def on_batch_end(self, trainer, batch, loss):
            if where == "callback" and trainer.state.updates == 8:
                raise KeyboardInterrupt

    model = small()
    source = Watched(fail_at=8 if where == "source" else None, error=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        model.fit(source, epochs=5, callbacks=Interrupts(), verbose=0)
    assert model.history_.stopped == "interrupted" and same(bits(model), updated(8))


@pytest.mark.parametrize("batches", [7, 6, 1])
def test_a_generator_that_runs_out_ends_training_with_a_warning(batches):
    running, model = iter(cut(X, Y, size=3)[:batches]), small()
    epoch = batches // 3 + 1
    text = f"^X: gave {batches % 3} batches in epoch {epoch}, {batches} in all, but steps_per_epoch is 3; training ends"
    with pytest.warns(UserWarning, match=text):
        history = model.fit(running, steps_per_epoch=3, epochs=9, verbose=0)
    assert history.stopped == "exhausted" and len(history) == -(-batches // 3)
    wanted = small()
    wanted.fit(cut(X, Y, size=3)[:batches], epochs=1, verbose=0)
    assert same(bits(model), bits(wanted))


def test_a_generator_of_just_enough_is_no_reason_to_warn():
    history = small().fit(iter(cut(X, Y)), steps_per_epoch=2, epochs=3, verbose=0)
    assert history.stopped is None and len(history) == 3


def test_a_source_that_comes_again_in_vain_is_an_error_and_weights_stay():
    running, model = iter(cut(X, Y)), small()
    with pytest.raises(ValueError, match=r"^X: gave no batch in epoch 2; .* must be new in each epoch"):
        model.fit(lambda: running, epochs=3, verbose=0)
    assert len(model.history_) == 1 and same(bits(model), updated(6))


@pytest.mark.parametrize("steps", [None, 3])
@pytest.mark.parametrize("empty", [[].__iter__, Dataset([]), lambda: iter([])])
def test_a_source_without_batches(empty, steps):
    model = small()
    start = bits(model)
    with pytest.raises(ValueError, match=r"^X: gave no batch in epoch 1$"):
        model.fit(empty, steps_per_epoch=steps, epochs=1, verbose=0)
    assert same(start, bits(model))


def test_an_iterator_that_is_used_up_already():
    running = iter(cut(X, Y))
    small().fit(running, epochs=1, verbose=0)
    with pytest.raises(ValueError, match=r"^X: gave no batch in epoch 1; the iterator is used up"):
        small().fit(running, epochs=1, verbose=0)


# Mistakes.


BATCHES = cut(X, Y)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_size": 32}, ValueError, "^batch_size: got 32, which a source .*each of its items is a batch"),
        ({"shuffle": True}, ValueError, "^shuffle: got True, .*shuffle there"),
        ({"shuffle": "exact"}, ValueError, "^shuffle: got 'exact'"),
        ({"lengths": np.ones(4, int)}, ValueError, "^lengths: got ndarray, .*list of arrays"),
        ({"sample_weight": np.ones(4)}, ValueError, r"^sample_weight: got ndarray.*\(X, y, sample_weight\)"),
        ({"validation_split": 0.1}, ValueError, "^validation_split: got 0.1, .*give validation_data"),
        ({"class_weight": "balanced"}, ValueError, "^class_weight: got 'balanced', .*give a dict of label to N /"),
        ({"steps_per_epoch": 0}, ValueError, "^steps_per_epoch: got 0, must be at least 1"),
        ({"steps_per_epoch": 2.0}, TypeError, "^steps_per_epoch: got 2.0"),
        ({"validation_lengths": [1]}, ValueError, "^validation_lengths: given without"),
        ({"validation_data": BATCHES, "validation_lengths": [1]}, ValueError, "^validation_lengths: got list, which"),
        ({"validation_data": 3}, ValueError, "^validation_data: must be .* or a source of such batches"),
        ({"metrics": "accuracy"}, ValueError, "^metrics: accuracy needs class labels"),
        ({"class_weight": {7: 1.0}}, ValueError, "^class_weight: needs integer class labels"),
    ],
)
def test_options_that_do_not_go_with_a_source_are_explained(options, error, message):
    model = small()
    start = bits(model)
    with pytest.raises(error, match=message):
        model.fit(BATCHES, **({"epochs": 1, "verbose": 0} | options))
    assert same(start, bits(model))


def test_keeping_the_order_is_what_a_source_does():
    small().fit(BATCHES, shuffle=False, epochs=1, verbose=0)


def test_a_generator_for_several_epochs_is_refused_before_it_is_read():
    source, model = Watched(), small()
    running = source()
    with pytest.raises(ValueError, match=r"^X: a generator gives its batches once, but there are 10 epochs\. Give a"):
        model.fit(running, verbose=0)
    assert source.given == 0 and model.history_ is None
    model.fit(running, epochs=1, verbose=0)


@pytest.mark.parametrize(
    ("item", "error", "message"),
    [
        (X[:4], TypeError, r"^epoch 1, batch 3: got ndarray, must be \(X, y\) or"),
        ((X[:4],), TypeError, r"^epoch 1, batch 3: got tuple of 1, must be \(X, y\)"),
        ({"x": X[:4]}, TypeError, "^epoch 1, batch 3: got dict"),
        (None, TypeError, "^epoch 1, batch 3: got NoneType"),
        ((X[0], Y[:1]), ValueError, r"^epoch 1, batch 3, X: got shape \(6, 2\), must be \(N, T, 2\)"),
        ((X[:4, :, :1], Y[:4]), ValueError, r"^epoch 1, batch 3, X: got shape \(4, 6, 1\)"),
        (([X[0], X[1, :, :1]], Y[:2]), ValueError, r"^epoch 1, batch 3, X\[1\]: got shape \(6, 1\)"),
        ((X[:4], Y[:3]), ValueError, r"^epoch 1, batch 3, y: got shape \(3,\), must be \(4,\)"),
        ((X[:4], list("abcd")), TypeError, "^epoch 1, batch 3, y: got dtype"),
        ((X[:4], None), TypeError, "^epoch 1, batch 3, y: got None, must be the targets"),
        ((X[:4], Y[:4], np.ones(3)), ValueError, "^epoch 1, batch 3, sample_weight: got shape"),
        ((X[:4], Y[:4], -np.ones(4)), ValueError, "^epoch 1, batch 3, sample_weight: weights must be finite"),
        ((X[:0], Y[:0]), ValueError, "^epoch 1, batch 3, X: holds no sequence"),
        ((X[:4] * np.nan, Y[:4]), FloatingPointError, r"^loss is nan in epoch 1, batch 3: X holds NaN .* sequence 0"),
    ],
)
def test_a_batch_of_a_wrong_form_is_named_and_weights_stay(item, error, message):
    model = small()
    with pytest.raises(error, match=message):
        model.fit(Dataset([*BATCHES[:2], item]), epochs=2, verbose=0)
    assert model.history_.stopped == "failed" and same(bits(model), updated(2))


def test_a_wrong_batch_of_validation_data_is_named():
    held = Dataset([*BATCHES[:2], (X[:4], Y[:3])])
    with pytest.raises(ValueError, match=r"^validation_data, epoch 1, batch 3, y: got"):
        small().fit(BATCHES, validation_data=held, epochs=2, verbose=0)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ((X,), TypeError, "^y: got None, must be the targets$"),
        (([*X],), TypeError, r"^y: got None, must be the targets; of a list of batches each is a tuple \(X, y\)"),
        (((X, Y),), TypeError, r"^y: got None, must be the targets; write fit\(X, y\)"),
        (("data.csv",), TypeError, "^y: got None"),
        (({"x": X},), TypeError, "^y: got None"),
        ((3,), TypeError, "^y: got None"),
        ((lambda: 3,), TypeError, "^X: calling it gave int, must be an iterable of batches"),
        ((iter(BATCHES), Y), TypeError, r"^X: got a list_iterator and a y; batches \(X, y\) bring their own y"),
        ((lambda: BATCHES, Y), TypeError, "^X: got a function and a y"),
    ],
)
def test_what_is_neither_arrays_nor_a_source_is_explained(given, error, message):
    model = small()
    start = bits(model)
    with pytest.raises(error, match=message):
        model.fit(*given, epochs=1, verbose=0)
    assert same(start, bits(model))


# What users see.


def test_a_line_an_epoch_counts_the_sequences(capsys):
    small().fit(BATCHES, epochs=2, verbose=2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all("epoch" in line and "seq/s" in line for line in lines)


def test_the_bar_has_no_total_until_a_pass_has_ended(monkeypatch):
    tqdm, totals = pytest.importorskip("tqdm"), []

    class Bar(tqdm.tqdm):
        def __init__(self, *args, total=None, **kwargs):
            totals.append(total)
            super().__init__(*args, total=total, **kwargs)

    monkeypatch.setattr("tqdm.std.tqdm", Bar)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    small().fit(BATCHES, epochs=2, verbose=1)
    assert totals == [None, 24]


# Datasets of others.


def test_a_data_loader_of_torch():
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
    loader = torch.utils.data.DataLoader(data, batch_size=4)
    assert alike(fitted(small, loader), fitted(small, X, Y, shuffle=False, batch_size=4))


def test_a_dataset_of_arrow(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    dataset = pytest.importorskip("pyarrow.dataset")
    file = tmp_path / "series.parquet"
    table = pyarrow.table({"x": list(X.reshape(24, 12)), "y": Y})
    parquet.write_table(table, file, row_group_size=12)

    def batches():
        for rows in dataset.dataset(file).to_batches(batch_size=4):
            x = rows["x"].flatten().to_numpy(zero_copy_only=False)
            yield x.reshape(-1, 6, 2), rows["y"].to_numpy(zero_copy_only=False)

    assert alike(fitted(small, batches), fitted(small, X, Y, shuffle=False, batch_size=4))


def test_partitions_of_dask():
    dask = pytest.importorskip("dask.array")
    x, y = dask.from_array(X, chunks=(4, 6, 2)), dask.from_array(Y, chunks=4)

    def partitions():
        for a, b in zip(x.partitions, y.partitions, strict=True):
            yield a.compute(), b.compute()

    assert alike(fitted(small, partitions), fitted(small, X, Y, shuffle=False, batch_size=4))


# Memory.


def test_no_batch_is_kept():
    """When a batch is asked for, the one before the last is gone."""
    alive, most = [], []

    class Array(np.ndarray):
        pass

    def batches():
        rng = generator(0)
        for _ in range(20):
            x, y = rng.normal(size=(4, 6, 2)).view(Array), rng.normal(size=4).view(Array)
            alive.extend((weakref.ref(x), weakref.ref(y)))
            yield x, y
            del x, y
            most.append(sum(ref() is not None for ref in alive))

    small().fit(batches, epochs=2, validation_data=cut(X, Y), verbose=0)
    assert max(most) <= 2
    gc.collect()
    assert not any(ref() is not None for ref in alive)


@pytest.mark.parametrize(
    ("count", "steps"),
    [
        (200, None),
        (200, 20),
        pytest.param(5000, None, marks=pytest.mark.long),
        pytest.param(5000, 500, marks=pytest.mark.long),
    ],
)
def test_memory_stays_constant_over_thousands_of_batches(count, steps):
    x, y = generator(0).normal(size=(8, 50, 2)), np.zeros(8)
    seen = []

    def batches():
        for n in range(count):
            if n % (count // 10) == count // 20:
                gc.collect()
                seen.append(tracemalloc.get_traced_memory()[0])
            yield x.copy(), y.copy()

    tracemalloc.start()
    try:
        small().fit(batches(), epochs=1 if steps is None else 10, steps_per_epoch=steps, verbose=0)
    finally:
        tracemalloc.stop()
    assert len(seen) == 10
    assert max(seen[2:]) - min(seen[2:]) < 20_000  # a batch is 6,800 bytes


def maps(folder, **arrays):
    """Read-only memory maps of arrays."""
    found = {}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
        found[name] = np.load(folder / f"{name}.npy", mmap_mode="r")
        assert isinstance(found[name], np.memmap)
    return found


STEPS = generator(6).normal(size=(24, 6))
TASKS = {
    "sequences": (small, X, Y, {}),
    "single": (small, X.astype("f4"), Y.astype("f4"), {}),
    "integers": (small, (X * 100).astype("i2"), (Y * 100).astype("i4"), {}),
    "swapped bytes": (small, X.astype(">f4"), Y.astype(">f8"), {}),
    "steps": (lambda: small(pool=None), X, STEPS, {}),
    "padded steps": (lambda: small(pool=None), X, STEPS[..., None], {"lengths": np.arange(24) % 7}),
    "weights": (lambda: small(pool=None), X, STEPS, {"sample_weight": STEPS**2, "lengths": np.arange(24) % 7}),
    "labels": (classifier, X, LABELS.astype("u1"), {"loss": "categorical_crossentropy", "class_weight": "balanced"}),
    "labels of steps": (lambda: small(pool=None, outputs=3, activation="softmax"), X, (STEPS > 0).astype("f4"),
                        {"loss": "categorical_crossentropy", "class_weight": {1: 2.0}, "metrics": "accuracy"}),
    "yes or no": (lambda: small(activation="sigmoid"), X, LABELS > 0,
                  {"loss": "binary_crossentropy", "metrics": "accuracy", "class_weight": "balanced"}),
    "tokens": (token_model, generator(0).integers(8, size=(24, 6)).astype("i2"), Y, {}),
    "masked tokens": (lambda: Sequential([Embedding(8, 3, 0, mask_padding=True), LSTM(3, 5), Last(), Dense(5, 1)],
                                         random_state=0), generator(0).integers(8, size=(24, 6)), Y, {}),
    "masked": (lambda: Sequential([Masking(), LSTM(2, 5), Last(), Dense(5, 1)], random_state=0),
               np.where(STEPS[..., None] > 0, X, 0), Y, {"lengths": np.arange(24) % 7}),
}  # fmt: skip


@pytest.mark.parametrize("task", TASKS)
def test_memory_maps_give_the_bits_of_arrays(task, tmp_path):
    make, x, y, options = TASKS[task]
    mapped = maps(tmp_path, x=x, y=y, **{k: v for k, v in options.items() if isinstance(v, np.ndarray)})
    mx, my = mapped.pop("x"), mapped.pop("y")
    for more in ({}, {"validation_split": 0.25}):
        wanted = fitted(make, x, y, batch_size=4, **options, **more)
        assert alike(fitted(make, mx, my, batch_size=4, **(options | mapped), **more), wanted)
    if "lengths" not in options and options.get("class_weight") != "balanced":
        wanted = fitted(make, x, y, batch_size=4, shuffle=False, **options)
        assert alike(fitted(make, cut(mx, my), **options), wanted)


@pytest.mark.parametrize("kind", ["LSTMClassifier", "LSTMRegressor"])
def test_partial_fit_of_estimators_reads_memory_maps(kind, tmp_path):
    pytest.importorskip("sklearn")
    y = LABELS if kind == "LSTMClassifier" else Y
    mapped = maps(tmp_path, x=X.astype("f4"), y=y)
    one, two = (getattr(lstmx, kind)(hidden_size=4, random_state=0) for _ in range(2))
    classes = {"classes": [0, 1, 2]} if kind == "LSTMClassifier" else {}
    for _ in range(2):
        one.partial_fit(X.astype("f4"), y, **classes)
        two.partial_fit(mapped["x"], mapped["y"], **classes)
    assert same(bits(one.model_), bits(two.model_))


TRACED = {
    "X": ("f8", (40_000, 10, 5), "zeros", {}),
    "tokens": ("u1", (40_000, 250), "zeros", {}),
    "steps": ("f8", (40_000, 60, 1), "steps", {}),
    "other steps": ("i4", (40_000, 50, 1), "steps", {}),
    "labels": ("i4", (40_000, 50), "labels", {"class_weight": "balanced"}),
    "weights": ("f8", (40_000, 25), "weights", {"lengths": np.full(40_000, 20)}),
    "masked": ("f8", (40_000, 60, 1), "masked", {}),
}


@pytest.mark.parametrize("case", TRACED)
def test_memory_maps_are_never_in_memory_as_a_whole(case, tmp_path):
    """NumPy's memory, traced: what is asked for at once is far less than the map, and most of it an order of rows."""
    dtype, shape, role, options = TRACED[case]
    whole = np.memmap(tmp_path / "map", dtype, "w+", shape=shape)
    count, x, y = shape[0], np.broadcast_to(np.float32(0), (*shape[:2], 1)), np.zeros(shape[0], "f4")
    outputs, first, options = 1, [], dict(options)
    if role == "zeros":
        x = whole
        first = [Embedding(2, 1)] if whole.ndim == 2 else []
    elif role == "masked":
        x, first = whole, [Masking(1.0)]
    elif role == "weights":
        y, options["sample_weight"] = np.broadcast_to(np.float32(0), (*shape[:2], 1)), whole
    else:
        y = whole
    if role == "labels":
        options["loss"], outputs = "categorical_crossentropy", 3
    pool = [Last()] if y.ndim == 1 else []
    features = x.shape[2] if x.ndim == 3 else 1
    activation = "softmax" if outputs > 1 else None
    model = Sequential([*first, LSTM(features, 2), *pool, Dense(2, outputs, activation)], random_state=0)

    class Ends(Callback):
        def on_batch_end(self, trainer, batch, loss):
            if batch == 3:
                raise ZeroDivisionError

    tracemalloc.start()
    try:
        with pytest.raises(ZeroDivisionError):
            model.fit(x, y, callbacks=Ends(), verbose=0, **options)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5 * 2**20 + 64 * count < whole.nbytes  # blocks that are checked, and an order of the sequences


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_fit_of_large_maps_takes_little_memory(tmp_path):
    """Of 2 x 200 MB, as the system counts: anonymous memory grows by less than a tenth."""
    program = f"""
        import threading, time
        import numpy as np, lstmx

        def anonymous():
            lines = open("/proc/self/status").read().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024

        def watch():
            while not done:
                seen.append(anonymous())
                time.sleep(0.005)

        x = np.memmap({str(tmp_path / "x")!r}, "f4", "w+", shape=(50_000, 100, 10))
        y = np.memmap({str(tmp_path / "y")!r}, "i4", "w+", shape=(50_000, 1000))
        y = y.reshape(50_000, 100, 10)
        x[::7], y[::5] = 1, 1
        x.flush(), y.flush()
        layers = [lstmx.LSTM(10, 4), lstmx.Dense(4, 10)]
        model = lstmx.Sequential(layers, random_state=0)
        model.fit(x[:2048], y[:2048], epochs=1, batch_size=1024, verbose=0)
        before, seen, done = anonymous(), [], False
        watcher = threading.Thread(target=watch)
        watcher.start()
        model.fit(x, y, epochs=1, batch_size=1024, verbose=0)
        done = True
        watcher.join()
        print(max(seen) - before)
    """
    done = subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(program)], env=CHILD, capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 40, done.stdout


@pytest.mark.long
def test_ctrl_c_in_an_endless_source():
    program = """
        import numpy as np, lstmx

        def batches():
            rng, count = np.random.default_rng(0), 0
            try:
                while True:
                    x = rng.normal(size=(8, 10, 2))
                    yield x, x[:, 0, 0]
                    count += 1
                    if count == 5:
                        print("ready", flush=True)
            finally:
                print("closed", flush=True)

        model = lstmx.Sequential([lstmx.LSTM(2, 8), lstmx.Last(), lstmx.Dense(8, 1)], random_state=0)
        before = model.parameters()["0.weight_hh_l0"]
        try:
            model.fit(batches, epochs=3, verbose=0)
        except KeyboardInterrupt:
            assert model.history_.stopped == "interrupted"
            assert (model.parameters()["0.weight_hh_l0"] != before).any()
            model.fit(batches, steps_per_epoch=3, epochs=2, verbose=0)
            print("usable")
    """
    process = subprocess.Popen([sys.executable, "-P", "-c", textwrap.dedent(program)], stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, env=CHILD)  # fmt: skip
    try:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, out) == (0, "closed\nready\nclosed\nusable\n"), out
