"""Checkpoint files: what is none, places that take none, and saves that are killed."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")

from estimators_data import CASES, CHILD, NUMBERS, RAGGED, assert_same, fit, make

import lstmx
from lstmx import storage, training
from lstmx.storage import ModelFileError

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")


@pytest.mark.parametrize("name", ["model", "layer", "predictor"])
def test_a_saved_model_is_no_checkpoint(name, path, no_training, request):
    if name == "predictor":
        request.getfixturevalue("monkeypatch").undo()
        fit(make(max_iter=1), RAGGED, NUMBERS).save(path)
    elif name == "layer":
        lstmx.LSTM(2, 3).save(path)
    else:
        lstmx.Sequential([lstmx.LSTM(2, 3)]).save(path)
    before = path.read_bytes()
    kind = {"predictor": "Regressor", "layer": "LSTM", "model": "Sequential"}[name]
    with pytest.raises(ModelFileError, match=f"checkpoint: .* is a saved {kind}, not a checkpoint; give another"):
        make(checkpoint=path, resume=True).fit(RAGGED, NUMBERS)
    assert path.read_bytes() == before


def test_a_checkpoint_is_no_saved_model(path):
    fit(make(max_iter=1, checkpoint=path), RAGGED, NUMBERS)
    with pytest.raises(ModelFileError, match=r"a checkpoint of a training; fit an estimator with .*resume=True"):
        lstmx.load(path)


@pytest.mark.parametrize("content", [b"", b"junk", b"\0" * 100, b"PK\x03\x04" + b"\0" * 50, b"\x80\x04."])
def test_junk_is_no_checkpoint(content, path, no_training):
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="not a safetensors file"):
        make(checkpoint=path, resume=True).fit(RAGGED, NUMBERS)
    assert path.read_bytes() == content


def test_a_cut_checkpoint_is_an_error(path):
    fit(make(max_iter=1, checkpoint=path), RAGGED, NUMBERS)
    whole = path.read_bytes()
    for size in (1, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelFileError, match="not a safetensors file"):
            make(checkpoint=path, resume=True).fit(RAGGED, NUMBERS)


def test_a_parameter_that_is_no_longer_known_is_an_error(path, monkeypatch):
    fit(make(max_iter=1, checkpoint=path), RAGGED, NUMBERS)
    damage(path, lambda config, arrays: config["identity"].update(extra="3"))
    monkeypatch.setattr(training.Trainer, "run", lambda *_: pytest.fail("trained before it raised"))
    with pytest.raises(ValueError, match="the checkpoint was written with extra=3, now it is None; give what it was"):
        make(max_iter=4, checkpoint=path, resume=True).fit(RAGGED, NUMBERS)


def test_a_checkpoint_from_before_there_was_a_parameter_is_gone_on_from(path):
    """Its training was that of the default."""
    fit(make("classifier", max_iter=1, checkpoint=path), *CASES["classifier"][1])
    damage(path, lambda config, arrays: config["identity"].pop("target"))
    resumed = fit(make("classifier", max_iter=3, checkpoint=path, resume=True), *CASES["classifier"][1])
    assert_same("classifier", resumed, fit(make("classifier", max_iter=3), *CASES["classifier"][1]))
    damage(path, lambda config, arrays: config["identity"].pop("hidden_size"))  # which here was not the default
    with pytest.raises(ValueError, match="written with hidden_size=64, now it is 4"):
        make("classifier", max_iter=4, checkpoint=path, resume=True).fit(*CASES["classifier"][1])


def test_a_damaged_checkpoint_is_an_error(path, monkeypatch):
    fit(make(max_iter=1, checkpoint=path), RAGGED, NUMBERS)
    monkeypatch.setattr(training.Trainer, "run", lambda *_: pytest.fail("trained before it raised"))
    data = bytearray(path.read_bytes())
    data[-200:-100] = b"?" * 100
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match="damaged: the file does not hold what was written to it; take"):
        make(max_iter=4, checkpoint=path, resume=True).fit(RAGGED, NUMBERS)


def damage(path, change):
    config, arrays = storage.read(path)
    change(config, arrays)
    storage.write(path, config, arrays)


@pytest.mark.parametrize(
    "change",
    [
        *(lambda config, arrays, name=name: config.pop(name)
          for name in ("identity", "epoch", "updates", "rng", "memory", "reason")),
        *(lambda config, arrays, name=name: config.update({name: "junk"})
          for name in ("identity", "epoch", "updates", "rng", "memory")),
        lambda config, arrays: config.update(extra=1),
        lambda config, arrays: config["memory"].update(extra=1),
        lambda config, arrays: config["rng"].update(extra=1),
        lambda config, arrays: arrays.update(extra=arrays["values"]),
        lambda config, arrays: config["identity"].pop("seed"),
        lambda config, arrays: config["memory"].pop("rate"),
        lambda config, arrays: config["rng"].update(state={"state": -1, "inc": "x"}),
        lambda config, arrays: arrays.pop("values"),
        lambda config, arrays: arrays.update(values=np.zeros(3)),
        lambda config, arrays: arrays.pop("moments.m"),
        lambda config, arrays: arrays.update({"moments.m": np.zeros(3)}),
        lambda config, arrays: arrays.update({"moments.m": arrays["moments.m"].astype(np.float32)}),
        lambda config, arrays: arrays.update({"moments.other": arrays["moments.m"]}),
        lambda config, arrays: arrays.update({n: a[:-1] for n, a in arrays.items() if "history" not in n}),
        lambda config, arrays: arrays.update(best=np.zeros(3)),
        lambda config, arrays: arrays.pop("history.loss"),
    ],
)  # fmt: skip
def test_a_checkpoint_that_lacks_something_is_an_error(change, path, monkeypatch):
    fit(make(max_iter=2, checkpoint=path), RAGGED, NUMBERS)
    damage(path, change)
    monkeypatch.setattr(training.Trainer, "run", lambda *_: pytest.fail("trained before it raised"))
    with pytest.raises(ValueError, match=r"checkpoint: .*; remove it, or give another path"):
        make(max_iter=4, checkpoint=path, resume=True).fit(RAGGED, NUMBERS)


@pytest.mark.parametrize("resume", [False, True])
def test_a_place_that_takes_no_file_is_an_error_at_once(resume, tmp_path, no_training):
    """Not when the first checkpoint is due and the training until then is lost."""
    estimator = make(resume=resume)
    with pytest.raises(FileNotFoundError, match=r"checkpoint: there is no folder .*none.*; make it first"):
        estimator.set_params(checkpoint=tmp_path / "none" / "x").fit(RAGGED, NUMBERS)
    with pytest.raises(OSError, match=r"checkpoint: .* is a folder; give the path of a file in it"):
        estimator.set_params(checkpoint=tmp_path).fit(RAGGED, NUMBERS)
    with pytest.raises(OSError, match=r"checkpoint: .* names a folder; give the path of a file in it"):
        estimator.set_params(checkpoint=f"{tmp_path}/new/").fit(RAGGED, NUMBERS)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match=r"checkpoint: .* is not a file but a pipe"):
        estimator.set_params(checkpoint=tmp_path / "pipe").fit(RAGGED, NUMBERS)
    with pytest.raises(ValueError, match=r"checkpoint: is empty; give the path of a file"):
        estimator.set_params(checkpoint="").fit(RAGGED, NUMBERS)
    for wrong in (3, 1.5, True, object()):
        with pytest.raises(TypeError, match=r"checkpoint: got .*, must be a path"):
            estimator.set_params(checkpoint=wrong).fit(RAGGED, NUMBERS)


def test_a_folder_that_cannot_be_written_is_an_error_at_once(tmp_path, no_training, monkeypatch):
    """Root may write everywhere, so it is the question that is tested."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PermissionError, match=r"checkpoint: the folder .* cannot be written to"):
        make(checkpoint=tmp_path / "x").fit(RAGGED, NUMBERS)


def test_any_kind_of_path(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    for kind in (str(path), Path(path), path.name):
        path.unlink(missing_ok=True)
        fit(make(max_iter=1, checkpoint=kind), RAGGED, NUMBERS)
        assert path.exists()


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_full_disk_keeps_the_last_checkpoint(where, path, monkeypatch):
    whole = fit(make(max_iter=4), RAGGED, NUMBERS)
    fit(make(max_iter=2, checkpoint=path), RAGGED, NUMBERS)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, where, full)
        with pytest.raises(OSError, match="No space left"):
            fit(make(max_iter=4, checkpoint=path, resume=True), RAGGED, NUMBERS)
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]
    assert_same("regressor", whole, fit(make(max_iter=4, checkpoint=path, resume=True), RAGGED, NUMBERS))


KILLED = """
    import os, random, signal, sys, time, warnings
    import numpy as np
    from lstmx import LSTMClassifier
    warnings.simplefilter("ignore")
    path, kills, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    X = np.random.default_rng(0).normal(size=(24, 5, 2))
    y = (X[:, :, 0].sum(1) > 0).astype(int)
    def make(**more):
        return LSTMClassifier(6, dropout=0.2, early_stopping=True, batch_size=8, max_iter=60, random_state=1,
                              n_iter_no_change=100, validation_fraction=0.25, **more)
    def bits(fitted):
        return [a.tobytes() for a in fitted.parameters_.values()], fitted.loss_curve_, fitted.validation_scores_
    class Slow:                    # where a save can be cut: after the file is made, written, flushed, renamed
        def __init__(self, name):
            self.call = getattr(os, name)
        def __call__(self, *args, **options):
            time.sleep(rng.random() * 0.002)
            return self.call(*args, **options)
    from lstmx.storage import read
    rng = random.Random(seed)
    done = epochs = 0
    while done < kills:
        child = os.fork()
        if child == 0:
            for name in ("fsync", "chmod", "replace"):
                setattr(os, name, Slow(name))
            make(checkpoint=path, checkpoint_every=1, resume=True).fit(X, y)
            os._exit(0)
        time.sleep(0.01 + rng.random() * 0.05)
        os.kill(child, signal.SIGKILL)
        done += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        if os.path.exists(path):
            epoch = read(path)[0]["epoch"]                 # readable, and never from before the last one
            assert epoch >= epochs, (epoch, epochs)
            epochs = epoch
            if epoch == 60:
                os.unlink(path)
                epochs = 0
    resumed = make(checkpoint=path, checkpoint_every=1, resume=True).fit(X, y)
    assert bits(resumed) == bits(make().fit(X, y))
    print("equal")
    """


def kill(path, times, seed):
    code = textwrap.dedent(KILLED)
    command = [sys.executable, "-P", "-c", code, str(path), str(times), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=CHILD)
    assert done.stdout.strip() == "equal", done.stderr


def test_kill_9_leaves_a_checkpoint_that_is_gone_on_from(path):
    kill(path, 10, 0)


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_kill_9_many_times(seed, path):
    kill(path, 60, seed)
