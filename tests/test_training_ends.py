"""Training that ends before it is done, by numbers that are not finite or by Ctrl-C; and goes on from its state."""

import pickle
import signal
import subprocess
import sys
import textwrap
import time
import warnings

import numpy as np
import pytest
from training_data import CHILD, bits, generator, regression, same, scripted, small, token_model, trainer

import lstmx
from lstmx import (
    SGD,
    Adam,
    Callback,
    EarlyStopping,
)
from lstmx.training import Progress

# Non-finite numbers.


@pytest.mark.parametrize("where", ["X", "y"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_in_the_data_is_named_and_the_weights_are_those_before_the_batch(where, value):
    model, (x, y) = small(), regression(20)
    dirty = {"X": x.copy(), "y": y.copy()}
    dirty[where][17] = value  # batch 4 of 5
    snapshots = []

    class Keep(Callback):
        def on_batch_end(self, trainer, batch, loss):
            snapshots.append(bits(trainer.model))

    options = {"batch_size": 4, "shuffle": False, "epochs": 3, "callbacks": [Keep()], "verbose": 0}
    message = rf"epoch 1, batch 5: {where} holds NaN or infinite"
    if where == "X" and value == np.inf:
        message = r"epoch 1, batch 5|must be finite"  # gates may swallow an infinite input
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if where == "X" and value == np.inf:
            try:
                model.fit(dirty["X"], dirty["y"], **options)
            except FloatingPointError as error:
                assert "X holds NaN or infinite" in str(error)
            assert all(np.isfinite(p).all() for p in model.parameters().values())
            return
        with pytest.raises(FloatingPointError, match=message):
            model.fit(dirty["X"], dirty["y"], **options)
    assert len(snapshots) == 4 and same(bits(model), snapshots[-1])
    assert model.history_.stopped == "failed"
    model.fit(x, y, epochs=1, verbose=0)


@pytest.mark.parametrize("optimizer", [SGD(1e30), SGD(1e300)], ids=["large", "beyond float32"])
@pytest.mark.parametrize("batch_size", [4, 20])
def test_divergence_is_named_and_leaves_finite_weights(optimizer, batch_size):
    model, (x, y) = small(), regression(20)
    with pytest.raises(FloatingPointError, match=r"epoch \d, batch \d: training diverged; lower the learning rate"):
        model.fit(x, y, optimizer=optimizer, epochs=4, batch_size=batch_size, verbose=0)
    assert all(np.isfinite(p).all() for p in model.parameters().values())
    assert np.isfinite(model.predict(x)).all()


DIVERGES = r"^the training loss is .* in epoch \d, but was .* at first.*Lower the learning rate \(1e\+06\), or set"


@pytest.mark.parametrize("loss", ["mse", "mae", "huber", "binary_crossentropy", "categorical_crossentropy"])
@pytest.mark.parametrize("verbose", [0, 2])
def test_a_loss_that_grows_by_orders_of_magnitude_warns_once(loss, verbose):
    x, y = regression(20)
    classes = loss.endswith("crossentropy")
    model = small(outputs=2 if loss.startswith("cat") else 1, dtype="float64")
    with pytest.warns(UserWarning, match=DIVERGES) as caught:
        line = sys._getframe().f_lineno + 1
        model.fit(x, (y > 0) * 1 if classes else y, loss=loss, optimizer=SGD(1e6), epochs=6, verbose=verbose)
    assert [(w.category, w.filename, w.lineno) for w in caught] == [(UserWarning, __file__, line)]
    assert model.history_["loss"][-1] > 1000 * model.history_["loss"][0]


@pytest.mark.parametrize("off", [0.0, 1e-9])
def test_growth_is_seen_where_the_first_loss_is_next_to_nothing(off):
    """Of a model that is right from the beginning, or nearly so."""
    x, model = regression(20)[0], small(dtype="float64")
    y = model.predict(x)[:, 0] + off
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # many times the first loss, but tiny beside what zeros would give
        model.copy().fit(x, y, optimizer=SGD(0.1), epochs=5, verbose=0)
        model.copy().fit(x, y, optimizer=Adam(0.1), epochs=5, verbose=0)
    if off:
        with pytest.warns(UserWarning, match=DIVERGES):
            model.fit(x, y, optimizer=SGD(1e6), epochs=6, verbose=0)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e6])
@pytest.mark.parametrize("optimizer", [SGD(0.1), SGD(0.1, momentum=0.9), Adam(0.3), lstmx.RMSprop(0.3)], ids=repr)
def test_noise_and_large_rates_that_train_do_not_warn(optimizer, scale):
    """Targets of heavy tails, far smaller and far larger than what the model gives at first."""
    x, y = regression(40)[0], scale * generator(1).standard_t(1.5, size=40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small(dtype="float64").fit(x, y, optimizer=optimizer, loss="huber", epochs=20, batch_size=1, verbose=0)


def test_batches_of_no_weight_are_no_first_loss():
    x, y = regression(8)
    weight = np.repeat([0.0, 1.0], 4)
    with pytest.warns(UserWarning, match=DIVERGES):
        more = {"optimizer": SGD(1e6), "epochs": 4, "batch_size": 4, "shuffle": False, "verbose": 0}
        small(dtype="float64").fit(x, y, sample_weight=weight, **more)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("optimizer", [SGD, lstmx.RMSprop, Adam, lstmx.AdamW])
def test_an_update_to_infinity_is_taken_back_to_the_bit(optimizer, decay, dtype):
    """With weight decay the flat buffer is updated in several spans; all of them go back."""
    model, (x, y) = small(dtype=dtype), regression(16)
    kept = []

    class Keep(Callback):
        def on_batch_end(self, trainer, batch, loss):
            kept.append(bits(trainer.model))

    rate = 1e300 if dtype == "float32" else 1.7e308  # with the decay or the step above 1, beyond the type
    schedule = optimizer(lambda step: 0.01 if step < 2 else rate, weight_decay=decay)
    with pytest.raises(FloatingPointError, match=r"epoch 1, batch [34]"):
        model.fit(x, 1e3 * y, optimizer=schedule, batch_size=4, epochs=1, callbacks=[Keep()], verbose=0)
    assert len(kept) in (2, 3) and same(bits(model), kept[-1]) and not same(kept[0], kept[1])


@pytest.mark.parametrize("stretch", [0, 1, 2, 3])
def test_one_stretch_that_is_not_finite_takes_all_back(stretch, monkeypatch):
    calls, step, kept = [], Adam.step, []

    def spoils(self, p, *rest):
        finite = step(self, p, *rest)
        calls.append(len(p))
        if len(calls) == 5 + stretch:  # in the second update
            p[-1] = np.inf
            return False
        return finite

    class Keep(Callback):
        def on_batch_end(self, trainer, batch, loss):
            kept.append(bits(trainer.model))

    monkeypatch.setattr(Adam, "step", spoils)
    model, (x, y) = small(), regression(16)
    with pytest.raises(FloatingPointError, match="a weight is infinite or NaN in epoch 1, batch 2"):
        model.fit(x, y, optimizer=Adam(0.01, weight_decay=0.1), batch_size=4, epochs=1, callbacks=[Keep()], verbose=0)
    assert len(calls) == 8 and len(kept) == 1 and same(bits(model), kept[0])


def test_divergence_in_the_very_last_update_is_noticed():
    """Nothing computes a loss after it."""
    model, (x, y) = small(), regression(4)
    with pytest.raises(FloatingPointError, match="epoch 1, batch 1"):
        model.fit(x, y, optimizer=SGD(1e300), epochs=1, verbose=0)
    assert all(np.isfinite(p).all() for p in model.parameters().values())


def test_targets_too_large_for_the_loss_raise_one_error_and_no_warning():
    model, (x, y) = small(), regression(4)
    with pytest.raises(FloatingPointError, match="epoch 1, batch 1"):
        model.fit(x, y * 1e30, epochs=1, verbose=0)


def test_nan_in_an_unused_padding_is_no_nan():
    x, y = regression(4)
    x = np.concatenate([x, np.full((4, 3, 2), np.nan)], axis=1)
    small().fit(x, y, lengths=[6] * 4, epochs=1, verbose=0)


@pytest.mark.parametrize("every", [0.0, 1e9])
def test_a_bar_counts_every_sequence_however_rarely_it_is_drawn(every):
    drawn = []

    class Bar:
        def __init__(self, total, **options):
            self.n, self.total = 0, total

        def update(self, n):
            self.n += n

        def set_postfix(self, *args, **options):
            drawn.append(self.n)

        def close(self):
            assert self.n == self.total

    progress = Progress(bar=False)
    progress._tqdm, progress.SHOW_EVERY = Bar, every
    for epoch in range(2):
        progress.begin(epoch, 2, 50)
        for _ in range(5):
            progress.advance(10, 1.0)
        progress.end({"loss": 1.0})
    assert len(drawn) == (2 * 6 if every == 0 else 2 * 1)


# Ctrl-C.


@pytest.mark.parametrize("event", ["on_train_begin", "on_epoch_begin", "on_batch_end", "on_epoch_end"])
def test_keyboard_interrupt_keeps_the_model_and_the_history(event):
    class Interrupts(Callback):
        calls = 0

    def interrupt(self, trainer, *args):
        Interrupts.calls += 1
        if Interrupts.calls == 2 or event == "on_train_begin":
            raise KeyboardInterrupt

    setattr(Interrupts, event, interrupt)
    model, (x, y) = small(), regression()
    start = bits(model)
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, epochs=5, callbacks=[Interrupts()], batch_size=12, verbose=0)
    assert model.history_.stopped == "interrupted"
    epochs = {"on_train_begin": 0, "on_epoch_begin": 1, "on_batch_end": 0, "on_epoch_end": 2}[event]
    assert len(model.history_) == epochs
    assert same(start, bits(model)) == (event == "on_train_begin")
    assert np.isfinite(model.predict(x)).all()
    model.fit(x, y, epochs=1, verbose=0)


def test_interrupt_restores_the_best_weights():
    model, (x, y), seen = small(), regression(), []

    def interrupt(epoch, logs):
        seen.append(bits(model))
        if epoch == 2:
            raise KeyboardInterrupt

    stopping = EarlyStopping(5, monitor="score")
    with pytest.raises(KeyboardInterrupt):
        model.fit(
            x, y, metrics=[scripted([2, 1, 3])], early_stopping=stopping, callbacks=[interrupt], epochs=9, verbose=0
        )
    assert same(bits(model), seen[1]) and model.history_.best_epoch == 1


def run_python(code, *, send=None, timeout=60):
    """Run code in a new interpreter; `send` a signal once it prints "ready". Returns (return code, output, seconds)."""
    process = subprocess.Popen([sys.executable, "-P", "-c", textwrap.dedent(code)], stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, env=CHILD)  # fmt: skip
    try:
        start = time.monotonic()
        if send is not None:
            line = process.stdout.readline()
            assert line == "ready\n", line + process.stdout.read()
            time.sleep(0.5)
            process.send_signal(send)
            start = time.monotonic()
        out, _ = process.communicate(timeout=timeout)
        return process.returncode, out, time.monotonic() - start
    finally:
        process.kill()
        process.wait()


@pytest.mark.long
@pytest.mark.parametrize("shape", ["many batches", "one long batch"])
def test_ctrl_c_stops_a_fit(shape):
    """The longer a batch, the longer the wait: 20 s is the limit for one of about a second."""
    size = "64, 30, 2" if shape == "many batches" else "64, 1500, 2"
    code, out, seconds = run_python(
        f"""
        import numpy as np, lstmx
        x = np.random.default_rng(0).normal(size=({size}))
        model = lstmx.Sequential([lstmx.LSTM(2, 32), lstmx.Last(), lstmx.Dense(32, 1)], random_state=0)

        class Ready(lstmx.Callback):
            def on_batch_end(self, trainer, batch, loss):
                if trainer.state.epoch == batch == 0:
                    print("ready", flush=True)

        try:
            model.fit(x, x[:, 0, 0], epochs=10**6, batch_size=64, callbacks=[Ready()], verbose=0)
        except KeyboardInterrupt:
            assert model.history_.stopped == "interrupted"
            assert np.isfinite(model.predict(x)).all()
            model.fit(x, x[:, 0, 0], epochs=1, verbose=0)
            print("usable")
        """,
        send=signal.SIGINT,
    )
    assert (code, out) == (0, "usable\n") and seconds < 20


# TrainerState.


def embedding_task(seed=0):
    tokens = generator(seed).integers(8, size=(14, 5))
    return tokens, np.sin(tokens).sum(axis=1)


def vector_model():
    return small(dropout=0.4)


class PickleAt(Callback):
    def __init__(self, event, epoch):
        self.at, self.event, self.saved = epoch, event, None
        setattr(self, event, self.keep)

    def keep(self, trainer, epoch, logs=None):
        if epoch == self.at:
            self.saved = pickle.dumps(trainer.state)


OPTIMISERS = {
    "momentum": SGD(0.05, momentum=0.9),
    "rmsprop": lstmx.RMSprop(0.01, momentum=0.5),
    "adam": Adam(lstmx.StepDecay(0.05, 0.5, 5)),
    "adamw": lstmx.AdamW(0.05, weight_decay=0.1),
}


@pytest.mark.parametrize("optimizer", OPTIMISERS.values(), ids=OPTIMISERS)
@pytest.mark.parametrize(("make", "task"), [(vector_model, regression), (token_model, embedding_task)])
def test_resuming_gives_the_bits_of_an_uninterrupted_run(make, task, optimizer):
    data = tuple(a[:14] for a in task())
    whole = make()
    wanted = trainer(whole, data, optimizer=optimizer).run(5).history

    first = trainer(make(), data, optimizer=optimizer)
    first.run(2)
    saved = pickle.dumps(first.state)
    resumed = make()
    again = trainer(resumed, data, optimizer=optimizer, state=pickle.loads(saved), seed=99)
    history = again.run(5)
    assert same(bits(whole), bits(resumed)) and history.history == wanted


@pytest.mark.parametrize(("event", "epoch"), [("on_epoch_begin", 2), ("on_epoch_end", 1)])
def test_a_checkpoint_from_a_callback_resumes_to_the_same_bits(event, epoch):
    """A callback at the end of an epoch is where users save: it must not be done again on resuming."""
    data = regression(14)
    whole, keeper = vector_model(), PickleAt(event, epoch)
    wanted = trainer(whole, data, optimizer=OPTIMISERS["adam"], callbacks=[keeper]).run(5).history
    resumed = vector_model()
    history = trainer(resumed, data, optimizer=OPTIMISERS["adam"], state=pickle.loads(keeper.saved)).run(5)
    assert history.history == wanted and same(bits(whole), bits(resumed))


@pytest.mark.parametrize("how", ["callback", "run"])
def test_resuming_with_early_stopping(how):
    """The best score so far and its weights are part of the state; stopping is as if nothing had happened."""
    data, held = regression(14), regression(10, seed=5)
    options = {"optimizer": Adam(0.03), "early_stopping": EarlyStopping(4), "validation": held}
    wanted = trainer(vector_model(), data, **options).run(90)
    assert wanted.stopped == "early" and 0 < wanted.best_epoch < len(wanted) - 2
    cut = len(wanted) - 2
    whole, keeper = vector_model(), PickleAt("on_epoch_begin", cut)
    assert trainer(whole, data, callbacks=[keeper], **options).run(90).history == wanted.history
    saved = keeper.saved
    if how == "run":
        first = trainer(vector_model(), data, **options)
        first.run(cut)
        saved = pickle.dumps(first.state)
    resumed = vector_model()
    history = trainer(resumed, data, state=pickle.loads(saved), **options).run(90)
    assert history.history == wanted.history and history.best_epoch == wanted.best_epoch
    assert same(bits(whole), bits(resumed))


def test_running_on_goes_on():
    data = regression(14)
    whole, parts = vector_model(), vector_model()
    trainer(whole, data, optimizer=Adam(0.05)).run(4)
    runner = trainer(parts, data, optimizer=Adam(0.05))
    runner.run(1)
    runner.run(4)
    assert same(bits(whole), bits(parts)) and len(runner.state.history) == 4


def test_fitting_twice_continues_from_the_weights():
    model, (x, y) = small(), regression()
    first = model.fit(x, y, epochs=5, optimizer=Adam(0.02), verbose=0)
    second = model.fit(x, y, epochs=5, optimizer=Adam(0.02), verbose=0)
    assert len(first) == len(second) == 5 and model.history_ is second
    assert second["loss"][0] < 0.8 * first["loss"][0]
