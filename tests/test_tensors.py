"""lstmx.tensors beside the package safetensors, which it takes the place of."""

import json
import struct

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load, save

from lstmx import tensors


def drawn(seed):
    """Arrays of all types and of any shape, empty ones too."""
    rng = np.random.default_rng(seed)
    shapes = [rng.integers(0, 4, size=rng.integers(0, 4)) for _ in range(6)]
    kinds = list(tensors.DTYPES.values())
    return {f"{rng.integers(999)} é": rng.integers(0, 2, size=shape).astype(kinds[rng.integers(len(kinds))])
            for shape in shapes}  # fmt: skip


def split(content):
    size = 8 + struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8:size]), content[size:]


def written(arrays, metadata):
    return b"".join(bytes(part) for part in tensors.parts(arrays, metadata))


def read(content, path):
    path.write_bytes(content)
    with open(path, "rb") as file:
        metadata, entries = tensors.read_header(file)
        return metadata, {name: tensors.read_array(file, entry) for name, entry in entries.items()}


@pytest.mark.parametrize("seed", range(30))
def test_both_write_and_read_the_same(seed, path):
    arrays, metadata = drawn(seed), {"a": "é"}
    ours, theirs = written(arrays, metadata), save(arrays, metadata)
    assert split(ours) == split(theirs)
    for found in (load(ours), read(ours, path)[1], read(theirs, path)[1]):
        assert found.keys() == arrays.keys()
        for name, a in arrays.items():
            assert found[name].dtype == a.dtype and found[name].dtype.isnative
            np.testing.assert_array_equal(found[name], a)
    assert read(theirs, path)[0] == metadata


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_in_another_form_are_written_as_what_they_are(order, path):
    a = np.asarray(np.arange(6, dtype=">f4").reshape(2, 3), order=order)
    np.testing.assert_array_equal(read(written({"a": a[:, ::-1]}, {}), path)[1]["a"], a[:, ::-1])


def test_nothing_is_copied():
    a = np.zeros((3, 4), np.float32)
    *_, part = tensors.parts({"a": a}, {})
    a[0, 0] = 1
    assert bytes(part) == a.tobytes()


def entry(first=0, last=4, dtype="F32", shape=(1,)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [first, last]}


BAD = {
    "a gap": {"a": entry(4, 8)},
    "an overlap": {"a": entry(), "b": entry(2, 6)},
    "one place twice": {"a": entry(), "b": entry()},
    "too few numbers": {"a": entry(0, 12, shape=(3,))},
    "numbers of nobody": {},
    "another length": {"a": entry(shape=(2,)), "b": entry(4, 8)},
    "backwards": {"a": entry(8, 0), "b": entry(0, 8)},
    "a shape below 0": {"a": entry(0, 8, shape=(-1, -2))},
    "a shape of text": {"a": entry(0, 8, shape=("2",))},
    "a shape that is true": {"a": entry(shape=(True,)), "b": entry(4, 8)},
    "a huge shape": {"a": entry(0, 8, shape=(2**40, 2**40))},
    "an unknown type": {"a": entry(0, 8, "F3", (2,))},
    "a type that is none": {"a": entry(0, 8, ["F32"], (2,))},
    "no shape": {"a": {"dtype": "F32", "data_offsets": [0, 8]}},
    "more than it has": {"a": entry(0, 8, shape=(2,)) | {"more": 1}},
    "metadata of numbers": {"__metadata__": {"a": 3}, "a": entry(0, 8, shape=(2,))},
    "a list": [1],
    "text that is none": {"\ud800": entry(0, 8, shape=(2,))},
}


@pytest.mark.parametrize("name", BAD)
def test_bad_headers_are_refused(name, path):
    """There are 8 bytes of numbers; safetensors refuses them too."""
    line = json.dumps(BAD[name]).encode()
    content = len(line).to_bytes(8, "little") + line + bytes(8)
    with pytest.raises(tensors.FormatError):
        read(content, path)
    if name != "more than it has":  # of which it takes no notice
        with pytest.raises(SafetensorError):
            load(content)


def test_a_type_that_numpy_lacks_is_known_but_not_read(path):
    line = json.dumps({"a": entry(0, 4, "BF16", (2,))}).encode()
    path.write_bytes(len(line).to_bytes(8, "little") + line + bytes(4))
    with open(path, "rb") as file:
        _, entries = tensors.read_header(file)
        assert entries["a"].dtype == "BF16" and entries["a"].shape == (2,)
        with pytest.raises(tensors.FormatError, match="BF16"):
            tensors.read_array(file, entries["a"])


def test_a_file_that_shrinks_meanwhile_is_cut_short(path):
    path.write_bytes(written({"a": np.ones(10**5)}, {}))
    with open(path, "rb") as file:
        _, entries = tensors.read_header(file)
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(tensors.FormatError, match="cut short"):
            tensors.read_array(file, entries["a"])
