"""Model files of every release load for ever, and predict the same."""

from pathlib import Path

import numpy as np
import pytest

import lstmx

FILES = sorted((Path(__file__).parent / "data").glob("golden_*.safetensors"))


def test_there_is_a_file_of_every_schema():
    from lstmx.interop.files import SCHEMA

    assert [path.stem for path in FILES] == [f"golden_{k + 1}" for k in range(SCHEMA)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_golden_file(path):
    with np.load(path.with_suffix(".npz"), allow_pickle=False) as data:
        y = lstmx.load(path).predict(data["x"], lengths=data["lengths"])
        # float32 sums of a dozen terms: other instruction sets and BLAS kernels add in other orders
        np.testing.assert_allclose(y, data["y"], rtol=1e-5, atol=1e-6)
        assert np.ptp(data["y"], axis=0).min() > 1e-3
