"""Callbacks of training, and what it shows."""

import copy
import os
import pickle
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
from training_data import CHILD, bits, regression, same, small, trainer

import lstmx
from lstmx import (
    SGD,
    Callback,
)
from lstmx.training import Progress, get_callbacks


class Recorder(Callback):
    """What is called, in order."""

    def __init__(self):
        self.events = []

    def on_train_begin(self, trainer):
        self.events.append("begin")

    def on_epoch_begin(self, trainer, epoch):
        self.events.append(("epoch", epoch))

    def on_batch_end(self, trainer, batch, loss):
        assert np.isfinite(loss)
        self.events.append(("batch", batch))

    def on_epoch_end(self, trainer, epoch, logs):
        self.events.append(("end", epoch, sorted(logs)))

    def on_train_end(self, trainer):
        self.events.append("over")


# Callbacks.


def test_callbacks_are_called_in_order():
    recorder, (x, y) = Recorder(), regression(5)
    small().fit(x, y, epochs=2, batch_size=2, callbacks=recorder, verbose=0)
    epoch = [("batch", 0), ("batch", 1), ("batch", 2)]
    ends = [("end", e, ["learning_rate", "loss"]) for e in range(2)]
    assert recorder.events == ["begin", ("epoch", 0), *epoch, ends[0], ("epoch", 1), *epoch, ends[1], "over"]


def test_a_function_that_returns_true_stops():
    x, y = regression()
    history = small().fit(x, y, epochs=9, callbacks=[lambda epoch, logs: epoch == 2], verbose=0)
    assert len(history) == 3 and history.stopped == "callback"


@pytest.mark.parametrize("event", ["on_train_begin", "on_epoch_begin", "on_batch_end", "on_epoch_end"])
def test_stop_ends_after_the_epoch(event):
    class Stops(Callback):
        pass

    setattr(Stops, event, lambda self, trainer, *args: trainer.stop())
    x, y = regression()
    history = small().fit(x, y, epochs=9, callbacks=[Stops()], verbose=0)
    assert len(history) == (0 if event == "on_train_begin" else 1) and history.stopped == "callback"


def test_a_callback_may_predict_copy_save_and_trace(tmp_path):
    model, (x, y) = small(), regression()
    predictions = []

    class Uses(Callback):
        def on_epoch_end(self, trainer, epoch, logs):
            assert trainer.model is model
            predictions.append(model.predict(x))
            for twin in (model.copy(), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
                np.testing.assert_array_equal(twin.predict(x), predictions[-1])
            model.save(tmp_path / f"{epoch}.safetensors")
            model.trace(x)

    model.fit(x, y, epochs=3, callbacks=[Uses()], verbose=0)
    assert (predictions[0] != predictions[1]).any()
    np.testing.assert_array_equal(model.predict(x), predictions[2])
    for epoch in range(3):
        np.testing.assert_array_equal(lstmx.load(tmp_path / f"{epoch}.safetensors").predict(x), predictions[epoch])


@pytest.mark.parametrize("event", ["on_train_begin", "on_epoch_begin", "on_batch_end", "on_epoch_end", "on_train_end"])
def test_an_exception_in_a_callback_leaves_the_model_usable(event):
    class Fails(Callback):
        pass

    def fail(self, trainer, *args):
        raise ZeroDivisionError("mine")

    setattr(Fails, event, fail)
    model, (x, y) = small(), regression()
    recorder = Recorder()
    with pytest.raises(ZeroDivisionError, match="mine"):
        model.fit(x, y, epochs=2, callbacks=[recorder, Fails()], verbose=0)
    out = model.predict(x)
    assert np.isfinite(out).all() and not any(p.flags.writeable for p in model.parameters().values())
    assert model.parameters()["2.bias"] is not None and recorder.events[-1] == "over"
    model.fit(x, y, epochs=1, verbose=0)
    assert (model.predict(x) != out).any()


def test_parameters_of_before_do_not_change_and_those_of_within_are_snapshots():
    model, (x, y) = small(), regression()
    before = model.parameters()
    values = bits(model)
    held, copies = [], []

    class Holds(Callback):
        def on_batch_end(self, trainer, batch, loss):
            held.append(trainer.model.parameters())
            copies.append(bits(trainer.model))

    model.fit(x, y, epochs=2, batch_size=8, callbacks=[Holds()], verbose=0)
    assert same(before, values) and len(held) == 6
    for snapshot, wanted in zip(held, copies, strict=True):
        assert same(snapshot, wanted)
    assert not same(held[0], held[1]) and same(held[-1], model.parameters())
    for p in (*model.parameters().values(), *held[-1].values()):
        with pytest.raises(ValueError, match="read-only"):
            p[...] = 0


def test_set_parameters_in_a_callback_is_not_lost_silently():
    """The optimiser works on a buffer of its own: setting parameters meanwhile must take effect or be an error."""
    model, (x, y) = small(), regression()
    errors = []

    class Sets(Callback):
        def on_epoch_end(self, trainer, epoch, logs):
            try:
                trainer.model.set_parameters({"2.bias": [50.0]})
            except RuntimeError as error:
                errors.append(error)

    model.fit(x, y, epochs=2, callbacks=[Sets()], verbose=0)
    assert errors or abs(model.parameters()["2.bias"][0] - 50) < 1


def test_a_second_fit_while_one_runs_is_an_error():
    model, (x, y) = small(), regression()
    errors = []

    class Again(Callback):
        def on_batch_end(self, trainer, batch, loss):
            with pytest.raises(RuntimeError, match=r"already being trained.*\.copy\(\)") as error:
                trainer.model.fit(x, y, epochs=1, verbose=0)
            errors.append(error)

    history = model.fit(x, y, epochs=1, batch_size=12, callbacks=[Again()], verbose=0)
    assert len(errors) == 2 and model.history_ is history
    model.fit(x, y, epochs=1, verbose=0)


def test_a_second_fit_from_another_thread_is_an_error():
    model, (x, y) = small(), regression()
    inside, over = threading.Event(), threading.Event()

    class Waits(Callback):
        def on_epoch_begin(self, trainer, epoch):
            inside.set()
            assert over.wait(20)

    thread = threading.Thread(target=lambda: model.fit(x, y, epochs=1, callbacks=[Waits()], verbose=0))
    thread.start()
    assert inside.wait(20)
    try:
        with pytest.raises(RuntimeError, match="already being trained"):
            model.fit(x, y, epochs=1, verbose=0)
        model.predict(x)
    finally:
        over.set()
        thread.join(20)
    assert len(model.history_) == 1


@pytest.mark.parametrize("callbacks", [[3], "plot", [Recorder]])
def test_wrong_callbacks_are_explained(callbacks):
    x, y = regression()
    if callbacks == [Recorder]:  # a class is callable; it was meant to be an instance
        with pytest.raises(TypeError):
            small().fit(x, y, callbacks=callbacks, epochs=1, verbose=0)
        return
    with pytest.raises(TypeError, match=r"callbacks: got .*, must be a lstmx\.Callback or a function"):
        get_callbacks(callbacks)


# What is shown.


def test_a_line_an_epoch_on_stderr_where_there_is_no_terminal(capfd):
    x, y = regression()
    small().fit(x, y, epochs=2, validation_split=0.25, metrics=["mae"])
    out, err = capfd.readouterr()
    lines = err.splitlines()
    assert out == "" and len(lines) == 2
    for n, line in enumerate(lines):
        assert line.startswith(f"epoch {n + 1}/2: loss ")
        assert "mae " in line and "val_loss " in line and line.endswith(" seq/s") and "learning_rate" not in line


def test_verbose_0_says_nothing(capfd):
    x, y = regression()
    small().fit(x, y, epochs=2, verbose=0)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("verbose", [1, 2])
@pytest.mark.parametrize("tqdm", ["installed", "missing"])
def test_a_bar_on_a_terminal_with_tqdm(verbose, tqdm):
    import fcntl
    import pty
    import struct
    import termios

    code = textwrap.dedent(
        f"""
        import sys
        if {tqdm == "missing"}:
            sys.modules["tqdm"] = None
        import numpy as np, lstmx
        model = lstmx.Sequential([lstmx.LSTM(2, 3), lstmx.Last(), lstmx.Dense(3, 1)], random_state=0)
        model.fit(np.ones((40, 5, 2)), np.ones(40), epochs=2, batch_size=8, verbose={verbose})
        """
    )
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-P", "-W", "error", "-c", code], stderr=slave, stdin=subprocess.DEVNULL, env=CHILD
    )
    os.close(slave)
    shown = b""
    try:
        while True:
            try:
                part = os.read(master, 65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            shown += part
    finally:
        process.wait(20)
        os.close(master)
    text = shown.decode()
    assert process.returncode == 0, text
    assert "epoch 2/2" in text and "loss" in text
    bar = verbose == 1 and tqdm == "installed"
    assert ("40/40" in text) == bar and ("%" in text) == bar
    assert ("seq/s" in text) and text.count("\n") == 2


def test_the_terminal_is_left_in_order_after_an_error():
    progress = Progress(bar=False)
    closed = []
    progress.close = lambda reason: closed.append(True)
    model, data = small(), regression(8)
    run = trainer(model, data, optimizer=SGD(0.1), callbacks=get_callbacks([lambda epoch, logs: 1 / 0]))
    run.progress = progress
    with pytest.raises(ZeroDivisionError):
        run.run(2)
    assert closed
