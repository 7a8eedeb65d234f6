"""`LSTM.chunked`: two directions on a stream, with some steps of lookahead."""

import numpy as np
import pytest
from lstm_cases import assert_same, dtypes, inputs, make

from lstmx import Cell

KINDS = {
    "two directions": {"bidirectional": True},
    "two layers": {"bidirectional": True, "num_layers": 2},
    "merged": {"bidirectional": True, "num_layers": 2, "merge": "mul"},
    "projection": {"bidirectional": True, "num_layers": 2, "proj_size": 3},
    "learned state": {"bidirectional": True, "cell": Cell(learn_state=True)},
    "reverse": {"reverse": True},
    "one direction": {"num_layers": 2},
}
kinds = pytest.mark.parametrize("kind", KINDS)


def joined(parts):
    return np.concatenate(list(parts), axis=-2)


@kinds
@dtypes
def test_a_lookahead_to_the_end_gives_the_bits_of_the_whole_call(dtype, kind):
    lstm = make(3, 8, dtype=dtype, **KINDS[kind])
    x = inputs(lstm, 4, 23)[0]
    y = lstm(x)[0]
    for chunk, lookahead in [(1, 22), (5, 18), (5, 100), (23, 0), (50, 0)]:
        assert_same(joined(lstm.chunked(x, chunk, lookahead)), y)
        assert_same(joined(lstm.chunked(x[1], chunk, lookahead)), y[1])


@pytest.mark.parametrize(("chunk", "lookahead"), [(1, 0), (1, 4), (5, 3), (3, 5), (7, 0)])
@dtypes
def test_each_chunk_is_what_the_docstring_says(dtype, chunk, lookahead):
    """The forward direction is exact; the other one is that of a call on the chunk and its lookahead."""
    lstm = make(3, 8, dtype=dtype, bidirectional=True)
    x = inputs(lstm, 4, 23)[0]
    y, parts = lstm(x)[0], list(lstm.chunked(x, chunk, lookahead))
    assert [part.shape[1] for part in parts] == [min(chunk, 23 - at) for at in range(0, 23, chunk)]
    assert_same(joined(parts)[..., :8], y[..., :8])
    for at, part in zip(range(0, 23, chunk), parts, strict=True):
        window = lstm(x[:, at : at + chunk + lookahead])[0]
        assert_same(part[..., 8:], window[:, :chunk, 8:])


def test_a_second_layer_reads_what_the_first_gave_and_carries_its_state():
    lstm, one, two = make(3, 8, 2, bidirectional=True), make(3, 8, bidirectional=True), make(16, 8, bidirectional=True)
    names = lstm.parameters()
    one.set_parameters({name: p for name, p in names.items() if "_l0" in name})
    two.set_parameters({name.replace("_l1", "_l0"): p for name, p in names.items() if "_l1" in name})
    x, (chunk, lookahead), state = inputs(lstm, 2, 20)[0], (4, 3), None
    between, start = [], None
    forward = make(16, 8)
    forward.set_parameters({n: p for n, p in two.parameters().items() if "reverse" not in n})
    first = make(3, 8)
    first.set_parameters({n: p for n, p in one.parameters().items() if "reverse" not in n})
    for at in range(0, 20, chunk):
        window = x[:, at : at + chunk + lookahead]
        ahead = np.concatenate([first(window, start)[0], one(window)[0][..., 8:]], axis=2)
        start = first(window[:, :chunk], start)[1]
        top = np.concatenate([forward(ahead, state)[0], two(ahead)[0][..., 8:]], axis=2)
        state = forward(ahead[:, :chunk], state)[1]
        between.append(top[:, :chunk])
    assert_same(joined(lstm.chunked(x, chunk, lookahead)), joined(between))


@kinds
def test_blocks_of_a_stream_give_what_the_array_gives(kind):
    lstm = make(3, 8, dtype="float32", **KINDS[kind])
    x = inputs(lstm, 4, 23)[0]
    wanted = joined(lstm.chunked(x, 5, 3))
    assert_same(joined(lstm.chunked(iter(np.split(x, [0, 1, 9, 9, 20], axis=1)), 5, 3)), wanted)
    assert_same(joined(lstm.chunked(iter(x[2][:, None].astype("f8")), 5, 3)), wanted[2])


def test_a_source_may_write_its_blocks_to_one_buffer():
    lstm = make(3, 8, bidirectional=True)
    x, buffer = inputs(lstm, 2, 12)[0], np.empty((2, 2, 3))

    def source():
        for at in range(0, 12, 2):
            buffer[:] = x[:, at : at + 2]
            yield buffer

    assert_same(joined(lstm.chunked(source(), 3, 4)), joined(lstm.chunked(x, 3, 4)))


def test_outputs_come_as_soon_as_their_lookahead_is_there():
    lstm, read = make(3, 8, bidirectional=True), []

    def source():
        for t in range(10):
            read.append(t)
            yield np.ones((1, 3))

    seen = [len(read) for _ in lstm.chunked(source(), 4, 2)]
    assert seen == [6, 10, 10]


def test_nothing_gives_nothing():
    lstm = make(3, 8, bidirectional=True)
    assert list(lstm.chunked(np.ones((2, 0, 3)), 4, 2)) == list(lstm.chunked(iter([]), 4, 2)) == []
    assert [y.shape for y in lstm.chunked(np.ones((0, 5, 3)), 4, 2)] == [(0, 4, 16), (0, 1, 16)]


@pytest.mark.parametrize(
    ("x", "chunk", "lookahead", "error", "message"),
    [(np.ones((2, 5, 4)), 2, 1, ValueError, r"^x: got shape \(2, 5, 4\), must be \(N, T, 3\) or \(T, 3\)"),
     (iter([np.ones((2, 5, 3)), np.ones((3, 5, 3))]), 2, 1, ValueError, r"^x: got a block of shape \(3, 5, 3\)"),
     (iter([np.ones((5, 3)), np.ones((1, 5, 3))]), 2, 1, ValueError, r"^x: got a block of shape \(1, 5, 3\)"),
     ([np.ones((5, 3))], 2, 1, TypeError, r"^x: got list, must be one array"),
     (5, 2, 1, TypeError, r"^x: got int, must be one array"),
     (np.ones((2, 5, 3)), 0, 1, ValueError, "^chunk: got 0"),
     (np.ones((2, 5, 3)), 2, -1, ValueError, "^lookahead: got -1"),
     (np.ones((2, 5, 3)), 2, 1.5, TypeError, "^lookahead: got 1.5")],
)  # fmt: skip
def test_wrong_arguments_are_named(x, chunk, lookahead, error, message):
    with pytest.raises(error, match=message):
        list(make(3, 8, bidirectional=True).chunked(x, chunk, lookahead))


def test_arguments_are_checked_at_the_call():
    with pytest.raises(ValueError, match=r"^chunk"):
        make(3, 8).chunked(np.ones((2, 5, 3)), 0, 1)


def test_parameters_that_are_set_meanwhile_change_nothing():
    lstm = make(3, 8, bidirectional=True)
    x = inputs(lstm, 2, 9)[0]
    wanted, parts = joined(lstm.chunked(x, 2, 3)), lstm.chunked(x, 2, 3)
    first = next(parts)
    lstm.set_parameters({name: p * 2 for name, p in lstm.parameters().items()})
    assert_same(joined([first, *parts]), wanted)
