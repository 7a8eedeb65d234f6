"""The network's options as parameters of estimators: `cell`, `proj_size` and `init`."""

import pickle

import numpy as np
import pytest

pytest.importorskip("sklearn")
from estimators_data import CASES, bits, fit, make, predictions
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

import lstmx
from lstmx import Cell, LSTMForecaster, LSTMRegressor, LSTMTransformer

CELL = Cell(peephole=True, weight_dropout=0.2, learn_state=True)
kinds = pytest.mark.parametrize("kind", CASES)


@kinds
def test_options_reach_the_network_and_outlive_copies_and_files(kind, tmp_path):
    data = CASES[kind][1]
    estimator = fit(make(kind, cell=CELL, proj_size=3, init="uniform", max_iter=2), *data)
    lstm = estimator.model_.layers[0]
    assert (lstm.cell, lstm.proj_size, lstm.init) == (CELL, 3, "uniform")
    assert np.abs(estimator.parameters_["0.initial_c_l0"]).min() > 0
    assert "cell=Cell(peephole=True, weight_dropout=0.2, learn_state=True)" in repr(estimator)
    assert bits(fit(clone(estimator), *data)) == bits(estimator)
    estimator.save(tmp_path / "model")
    wanted = predictions(kind, estimator)
    for again in (lstmx.load(tmp_path / "model"), pickle.loads(pickle.dumps(estimator))):
        assert_array_equal(predictions(kind, again), wanted)
    plain = fit(make(kind, proj_size=3, max_iter=2), *data)
    assert plain.get_params()["cell"] is None and plain.model_.layers[0].cell == Cell()
    assert np.abs(predictions(kind, plain) - wanted).max() > 1e-6


def test_a_search_goes_over_cells():
    X, y = CASES["regressor"][1]
    search = GridSearchCV(
        LSTMRegressor(4, max_iter=2, random_state=0),
        {"cell": [None, Cell(clip=0.1)], "init": ["glorot", "uniform"]},
        cv=2,
    )
    fit(search, X, y)
    assert len(set(search.cv_results_["mean_test_score"])) == 4
    assert search.best_estimator_.cell in (None, Cell(clip=0.1))


@pytest.mark.parametrize(
    "cell",
    [CELL, Cell(slstm=True, recurrent_dropout=0.3), Cell(layer_norm="haste", zoneout=0.2, cifg=True)],
    ids=["learned state", "slstm", "haste"],
)
def test_a_checkpoint_knows_the_cell(cell, tmp_path):
    X, y = CASES["regressor"][1]
    path = {"checkpoint": tmp_path / "point", "resume": True}
    fit(make(cell=cell, max_iter=2, **path), X, y)
    resumed, whole = (fit(make(cell=cell, max_iter=4, **more), X, y) for more in (path, {}))
    assert_array_equal(resumed.predict(X), whole.predict(X))
    with pytest.raises(ValueError, match=r"resume: the checkpoint was written with cell=Cell\(.*now it is None"):
        fit(make(max_iter=4, **path), X, y)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"cell": "peephole"}, TypeError, r"cell: got 'peephole', must be None or an lstmx.Cell"),
        ({"cell": {"clip": 1}}, TypeError, r"cell: got {'clip': 1}, must be None or an lstmx.Cell"),
        ({"cell": Cell(slstm=True, heads=3)}, ValueError, r"heads: got 3, must divide hidden_size = 4"),
        ({"proj_size": -1}, ValueError, r"proj_size: got -1, must be at least 0"),
        ({"proj_size": 1.5}, TypeError, r"proj_size: got 1.5"),
        ({"proj_size": 2, "cell": Cell(slstm=True)}, ValueError, r"proj_size: an sLSTM"),
        ({"init": "he"}, ValueError, r"init: got 'he', must be one of"),
    ],
)  # fmt: skip
@kinds
def test_wrong_options_are_errors_of_fit(kind, options, error, message):
    with pytest.raises(error, match=message):
        make(kind, **options).fit(*CASES[kind][1])


def test_the_features_of_a_transformer_are_the_outputs_of_its_network():
    X = CASES["transformer"][1][0]
    for proj_size, width in ((0, 5), (2, 2)):
        transformer = fit(LSTMTransformer(5, proj_size=proj_size, max_iter=1), X)
        assert transformer.transform(X).shape == (len(X), width) == (len(X), len(transformer.get_feature_names_out()))


def test_a_forecaster_forecasts_recursively_from_the_learned_state():
    forecaster = LSTMForecaster(8, 5, strategy="recursive", hidden_size=4, cell=CELL, max_iter=2, random_state=0)
    assert fit(forecaster, CASES["forecaster"][1][0]).predict().shape == (5,)


@pytest.mark.parametrize("name, value", [("cell", CELL), ("proj_size", 2), ("hidden_size", 5), ("num_layers", 3)])
@kinds
def test_a_warm_start_goes_on_with_the_same_network_alone(kind, name, value):
    data = CASES[kind][1]
    estimator = fit(make(kind, max_iter=1, warm_start=True), *data)
    before, was = bits(estimator), estimator.get_params()[name]
    with pytest.raises(ValueError, match=rf"^{name}: got .*goes on with has .*warm_start=False"):
        fit(estimator.set_params(**{name: value}), *data)
    assert bits(estimator.set_params(**{name: was})) == before
    fit(estimator, *data)
    fit(estimator.set_params(**{name: value}, warm_start=False), *data)
    assert getattr(estimator.model_.layers[0], name) == value
