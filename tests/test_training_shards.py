"""Batches cut into shards on one process: what a shard is, in which order shards are added, and that it is training."""

import functools
import re
import sys
import warnings

import numpy as np
import pytest
import tolerances
from training_data import bits, generator, regression, same, small, token_model

import lstmx
from lstmx import SGD, Callback, Sequential
from lstmx.layers.simple import RowGradient
from lstmx.training import shards
from lstmx.training.exchange import Exchange, RankExchange

# What a shard is.


@pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 9, 64])
@pytest.mark.parametrize("parts", [1, 2, 3, 8, 11])
def test_parts_cover_all_and_differ_by_one(count, parts):
    cut = shards.bounds(count, parts)
    sizes = np.diff(cut)
    assert cut[0] == 0 and cut[-1] == count and len(sizes) == parts
    assert sizes.max() - sizes.min() <= 1
    assert sizes[0] == sizes.max()  # so that the first rank always has something to do


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 13])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 9])
def test_the_subtrees_of_ranks_are_the_leaves_of_one_tree(count, ranks):
    """Whatever their number, what is added to what is the same."""
    order = shards.climb(0, count, lambda lo, hi: str(lo) if hi - lo == 1 else None, "({} {})".format)
    cut = shards.bounds(count, ranks)
    nodes = [node for r in range(ranks) for node in shards.subtrees(cut[r], cut[r + 1], count)]
    assert [k for lo, hi in nodes for k in range(lo, hi)] == list(range(count))

    def value(lo, hi):
        """What a rank has added up, if it is one of its subtrees."""
        if (lo, hi) not in nodes:
            return None
        return shards.climb(lo, hi, lambda lo, hi: str(lo) if hi - lo == 1 else None, "({} {})".format)

    assert shards.climb(0, count, value, "({} {})".format) == order


def test_rows_of_embeddings_are_merged():
    one = RowGradient(np.array([1, 4, 6]), np.array([[1.0], [2.0], [3.0]]))
    other = RowGradient(np.array([0, 4]), np.array([[10.0], [20.0]]))
    none = RowGradient(np.zeros(0, np.int64), np.zeros((0, 1)))
    found = shards.merged(one, other)
    assert found.rows.tolist() == [0, 1, 4, 6] and found.values[:, 0].tolist() == [10, 1, 22, 3]
    assert shards.merged(one, none) is one and shards.merged(none, other) is other


class Several:
    """Ranks of one process, in turn: what an exchange asks of them is kept until all have asked."""

    exact = True

    def __init__(self, size):
        self.size, self.rank, self.asked = size, 0, []

    def all_to_all(self, sent, counts, received, others):
        self.asked.append((sent, counts, received, others))

    def gather_all(self, own, whole, counts):
        whole[: len(own)] = own


@pytest.mark.parametrize("ranks", [2, 3, 4, 10])
@pytest.mark.parametrize("size", [1, 5, 1000])
def test_pieces_of_ranks_are_added_as_one_process_adds(ranks, size):
    gradients = generator().normal(size=(8, size)).astype(np.float32)
    add = functools.partial(np.add, dtype=np.float32)
    wanted = shards.climb(0, 8, lambda lo, hi: gradients[lo] if hi - lo == 1 else None, add) / 3.0
    team, exchanges = Several(ranks), []
    for team.rank in range(ranks):
        exchange = RankExchange(team, 8, gradients[0])
        for k, (lo, hi) in enumerate(exchange.trees[team.rank]):
            exchange.put(k, shards.climb(lo, hi, lambda lo, hi: gradients[lo] if hi - lo == 1 else None, add))
        exchanges.append(exchange)
    found = []
    for rank, exchange in enumerate(exchanges):
        parts = [e._sent[rank].reshape(-1) for e in exchanges]
        exchange._received.reshape(-1)[:] = np.concatenate(parts)
        team.all_to_all = lambda *_: None
        exchange._finish_tree(3.0)
        found.append(exchange._whole[: exchange.piece])
    assert (np.concatenate(found)[:size] == wanted).all()


# Training.


def fitted(model, *data, **options):
    model.fit(*data, **{"epochs": 3, "random_state": 0, "verbose": 0} | options)
    return model


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("count", [1, 3, 8, 40])
@pytest.mark.parametrize("kind", ["plain", "tbptt", "tokens"])
def test_shards_are_training_as_without_them(kind, count, dtype):
    """The gradient is the same but for the order of additions."""
    if kind == "tokens":
        tokens = generator().integers(8, size=(24, 6))
        layers = [lstmx.Embedding(8, 3), lstmx.LSTM(3, 5), lstmx.Last(), lstmx.Dense(5, 1)]
        model, data = Sequential(layers, random_state=0).astype(dtype), (tokens, tokens.mean(axis=1))
    else:
        model, data = small(dtype=dtype), regression()
    more = {"batch_size": 9, "optimizer": SGD(0.05, momentum=0.5)} | ({"tbptt": (2, 4)} if kind == "tbptt" else {})
    one, other = fitted(model.copy(), *data, **more), fitted(model.copy(), *data, shards=count, **more)
    for name, p in other.parameters().items():
        np.testing.assert_allclose(p, one.parameters()[name], **tolerances.ENGINES[dtype])
    np.testing.assert_allclose(other.history_["loss"], one.history_["loss"], **tolerances.ENGINES[dtype])


@pytest.mark.parametrize("kind", ["plain", "tbptt", "memory", "tokens", "source"])
def test_threads_change_nothing(kind):
    found = []
    for threads in (1, 2):
        with lstmx.num_threads(threads):
            tokens = generator().integers(8, size=(24, 6))
            data = {"tokens": (tokens, tokens.mean(axis=1)), "memory": regression(8, 900)}.get(kind, regression())
            model = token_model() if kind == "tokens" else small(dropout=0.2)
            more = {"tbptt": {"tbptt": 2}, "memory": {"memory": "400kB"}}.get(kind, {})
            if kind == "source":
                data = (lambda shard, x=data[0], y=data[1]: [(x[shard::4], y[shard::4])],)
            found.append(bits(fitted(model, *data, shards=4, **more)))
    assert same(*found)


def test_a_shard_depends_on_itself_alone():
    """What another one of the batch holds, or how long it is, changes nothing: of a batch whose other shards weigh 0,
    the update is that of the shard.
    """
    x = [generator(k).normal(size=(n, 2)) for k, n in enumerate([5, 7, 3, 9, 4, 6, 2, 8])]
    y, weight = np.arange(8.0), np.zeros(8)
    weight[4:6] = 1.0
    found = []
    for change in (1.0, 3.0):
        data = [a * (1.0 if 4 <= k < 6 else change) for k, a in enumerate(x)]
        if change != 1:
            data[0] = np.ones((40, 2))
        found.append(bits(fitted(small(dropout=0.3), data, y, sample_weight=weight, shards=4, shuffle=False)))
    assert same(*found)


@pytest.mark.parametrize("n", [1, 2, 8])
def test_empty_shards_add_nothing(n):
    """Where there are fewer sequences than shards; a shard of one sequence then is the sequence."""
    x, y = regression(n)
    more = {"optimizer": SGD(0.05), "batch_size": n}
    assert same(bits(fitted(small(), x, y, shards=n, **more)), bits(fitted(small(), x, y, shards=2 * n, **more)))


def test_shards_drop_each_in_its_own_places():
    seen = []

    def look(target, prediction):
        seen.append(prediction[:, 0].tolist())
        return 0.0

    fitted(small(dropout=0.5), np.ones((6, 3, 2)), np.ones(6), metrics=look, shards=6, epochs=1)
    assert len(set(seen[0])) > 3


def test_weights_of_zero_make_no_update():
    model, before = small(), None
    before = bits(model)
    fitted(model, *regression(), sample_weight=np.zeros(24), shards=3)
    assert same(bits(model), before) and model.history_["loss"] == [0.0] * 3


def test_losses_are_added_shard_after_shard_by_any_python():
    """Python's own sum of floats compensates what is lost, since Python 3.12: here that would be 7."""
    model = small(dtype="float64")
    model.set_parameters({"2.weight": np.zeros((1, 5)), "2.bias": np.zeros(1)})
    fitted(model, generator().normal(size=(8, 3, 2)), np.array([1e8, *[1.0] * 7]), shards=8, shuffle=False, epochs=1)
    assert model.history_["loss"] == [1e16 / 8]


def test_a_loss_that_was_next_to_nothing_may_grow():
    """Up to what it would be if all outputs were 0: no warning of divergence."""
    model = small()
    model.set_parameters({"2.weight": np.zeros((1, 5)), "2.bias": np.full(1, 100.0)})
    x, y = regression()
    fitted(model, x, 100 + y / 1000, shards=3, optimizer=SGD(3.0), epochs=6)
    assert 1e4 * model.history_["loss"][0] < model.history_["loss"][-1] < 1e4


def test_metrics_see_all_rows_in_the_order_of_the_shards():
    seen = []

    def look(target, prediction):
        seen.append(target[:, 0].copy())
        return 0.0

    x, y = regression(10)
    fitted(small(dtype="float64"), x, y, metrics=look, shards=3, batch_size=6, shuffle=False, epochs=1)
    assert (seen[0] == y).all()


def test_numbers_that_are_not_finite_are_named_and_nothing_is_learnt_from_them():
    x, y = regression(20)
    y[17] = np.nan
    kept = []

    class Keep(Callback):
        def on_batch_end(self, trainer, batch, loss):
            kept.append(bits(trainer.model))

    model = small()
    with pytest.raises(FloatingPointError, match=r"loss is nan in epoch 1, batch 3: y holds NaN .* in sequence 17"):
        fitted(model, x, y, shards=4, batch_size=8, shuffle=False, callbacks=Keep())
    assert len(kept) == 2 and same(bits(model), kept[-1]) and model.history_.stopped == "failed"


def test_a_gradient_that_is_not_finite_names_the_shard_whose_data_are_not():
    x, y = regression(16)
    x[13] = np.inf
    model = small()
    with pytest.raises(FloatingPointError, match=r"in epoch 1, batch 1: X holds NaN .* in sequence 13, step 0"):
        fitted(model, x, y, shards=4, shuffle=False, batch_size=16)


# A function of the shard.


def test_a_source_is_a_function_of_the_shard_and_an_update_takes_an_item_of_each():
    x, y = regression(24)
    asked = []

    def batches(shard):
        asked.append(shard)
        for k in range(2):
            part = slice(12 * k + 3 * shard, 12 * k + 3 * shard + 3)
            yield x[part], y[part]

    updates = []
    count = lambda trainer, batch, loss: updates.append(batch)  # noqa: E731
    callback = Callback()
    callback.on_batch_end = count
    one = fitted(small(dropout=0.2), batches, shards=4, callbacks=callback)
    other = fitted(small(dropout=0.2), x, y, shards=4, batch_size=12, shuffle=False)
    assert asked == [0, 1, 2, 3] * 3 and updates == [0, 1] * 3
    assert same(bits(one), bits(other)) and one.history_["loss"] == other.history_["loss"]


def test_shards_that_end_early_add_nothing_to_what_is_left():
    x, y = regression(24)
    uneven = lambda shard: [(x[:3], y[:3])] * (1 + shard)  # noqa: E731
    model = fitted(small(), uneven, shards=3, epochs=2)
    assert len(model.history_) == 2 and model.history_.stopped is None


def test_a_source_that_is_used_up_ends_training():
    x, y = regression(24)
    given = {shard: iter([(x[:3], y[:3])] * 5) for shard in range(2)}
    with pytest.warns(UserWarning, match=r"X of shard [01]: gave 2 batches in epoch 2, 5 in all, but "):
        model = fitted(small(), lambda shard: given[shard], shards=2, steps_per_epoch=3)
    assert model.history_.stopped == "exhausted" and len(model.history_) == 2


def test_generators_of_shards_are_closed_when_training_ends():
    x, y = regression(3)
    given = []

    def batches(shard):
        def draw():
            while True:
                yield x, y

        given.append(draw())
        return given[-1]

    fitted(small(), batches, shards=2, steps_per_epoch=1)
    assert len(given) == 2 and all(one.gi_frame is None for one in given)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (lambda: iter(()), TypeError, r"X: .* is called with the number of a shard, which"),
        ([(np.zeros((2, 3, 2)), np.zeros(2))], TypeError, "X: got a list, but with comm or shards batches come from a"),
        (lambda shard: [], ValueError, "X of shard 0: gave no batch in epoch 1"),
        (lambda shard: [(np.zeros((2, 3, 5)), np.zeros(2))], ValueError, "X of shard 0, epoch 1, batch 1, X: got"),
        (lambda shard: 3, TypeError, "X of shard 0: calling it gave int, must be an iterable of batches"),
        (lambda shard: [(np.zeros((2, 3, 2)), np.full(2, (0.0, np.nan)[shard]))], FloatingPointError,
         "loss is nan in epoch 1, batch 1, shard 1: y holds NaN"),
    ],
)  # fmt: skip
def test_bad_sources(given, error, message):
    with pytest.raises(error, match=message):
        fitted(small(), given, shards=2)


# Arguments.


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"shards": 0}, ValueError, "shards: got 0, must be at least 1"),
        ({"shards": 2.5}, TypeError, "shards"),
        ({"exact": "no"}, TypeError, "exact"),
        ({"shards": 2, "monitor": "gradients"}, ValueError, 'shards: monitor="gradients" measures on whole batches'),
        ({"shards": 4, "memory": "100kB"}, ValueError, "memory: got 100,000 bytes, but a batch of 6 sequences"),
    ],
)  # fmt: skip
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match=message):
        fitted(small(), *regression(), **options)


def test_the_largest_shard_must_keep_to_the_memory():
    with pytest.raises(ValueError, match="memory: got 1 bytes, but a batch of 1 sequences") as caught:
        fitted(small(), *regression(), shards=24, memory=1)
    enough = int(re.search("at least ([0-9,]+)", str(caught.value))[1].replace(",", ""))
    fitted(small(), *regression(), shards=24, memory=enough)
    model = small()
    with pytest.raises(ValueError, match=f"memory: got {enough:,} bytes, but a batch of 2 sequences"):
        fitted(model, *regression(), shards=23, memory=enough)
    assert model.history_ is None  # before training


@pytest.mark.parametrize("comm", [True, "MPI.COMM_WORLD", object()])
def test_a_comm_that_is_none(comm):
    with pytest.raises(
        TypeError, match=rf"comm: got {type(comm).__name__}, must be an intracommunicator of mpi4py, such as"
    ):
        fitted(small(), *regression(), comm=comm)


def test_without_mpi4py_an_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(TypeError, match=r"pip install 'lstmx-cpu\[mpi\]'"):
        fitted(small(), *regression(), comm=object())


def test_an_error_on_one_process_leaves_the_model_as_it_was():
    model = small()
    before = bits(model)
    with pytest.raises(ValueError, match="shards"):
        fitted(model, *regression(), shards=-1)
    assert same(bits(model), before) and model.history_ is None
    fitted(model, *regression(), shards=2)


# Estimators.


@pytest.fixture
def estimators():
    return pytest.importorskip("lstmx.estimators", reason="scikit-learn is not installed")


def test_an_estimator_goes_on_from_a_checkpoint_with_as_many_shards_alone(estimators, tmp_path):
    x, y = regression(40)
    path = tmp_path / "checkpoint.safetensors"
    quick = {"hidden_size": 5, "random_state": 0, "dropout": 0.2, "checkpoint": path}
    fit = functools.partial(_fit_quietly, x, y)
    wanted = fit(estimators.LSTMRegressor(max_iter=5, **quick | {"checkpoint": None}), shards=4)
    fit(estimators.LSTMRegressor(max_iter=2, **quick), shards=4)
    for other, word in ((None, "now it is None"), (8, "now it is 8")):
        with pytest.raises(ValueError, match=f"resume: the checkpoint was written with shards=4, {word}"):
            fit(estimators.LSTMRegressor(max_iter=5, resume=True, **quick), shards=other)
    found = fit(estimators.LSTMRegressor(max_iter=5, resume=True, **quick), shards=4)
    assert same(found.parameters_, wanted.parameters_) and found.loss_curve_ == wanted.loss_curve_


def _fit_quietly(x, y, estimator, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return estimator.fit(x, y, **options)


def test_lbfgs_has_no_shards(estimators):
    with pytest.raises(ValueError, match="shards: solver='lbfgs' takes all of the data at once"):
        estimators.LSTMRegressor(4, solver="lbfgs").fit(*regression(), shards=2)


def test_an_exchange_of_one_process_divides():
    gradient = np.array([2.0, 4.0])
    assert Exchange().finish(gradient, [[]], [], np.zeros(1), 4.0) == [] and gradient.tolist() == [0.5, 1.0]
