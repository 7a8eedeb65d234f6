"""Set up before NumPy and SciPy load their BLAS."""

import os

import pytest

collect_ignore = ["data"]  # scripts that make data, some with PyTorch

# Tests multiply small matrices, where more BLAS threads only wait for each other; tests of threads say what they need.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@pytest.fixture
def path(tmp_path):
    """Of a file that is not there yet."""
    return tmp_path / "file"


@pytest.fixture
def no_waiting_for_the_disk(monkeypatch):
    """For tests that write hundreds of files; those that kill do so in processes of their own."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def no_training(monkeypatch):
    """Whatever raises here raises before the first epoch."""
    from lstmx import training

    monkeypatch.setattr(training.Trainer, "run", lambda *_: pytest.fail("trained before it raised"))
