"""What would change nothing, or break a model, cannot be assigned: an error says what to do instead."""

import copy
import inspect
import pickle
import re
import unittest.mock

import numpy as np
import pytest

import lstmx
from lstmx import LSTM, Dense, Dropout, Embedding, FinalState, Last, MeanPool, Sequential
from lstmx.layers import Layer
from lstmx.predictors import Classifier, Regressor


def classifier():
    config = {"features": 2, "steps": None, "layout": "NTC", "standardize": False}
    model = Sequential([LSTM(2, 3), Last(), Dense(3, 3, "softmax")], random_state=0)
    return Classifier(config | {"multilabel": False, "classes": ["a", "b", "c"], "classes_dtype": "<U1"}, {}, model)


def regressor():
    config = {"features": 2, "steps": None, "layout": "NTC", "standardize": False}
    model = Sequential([LSTM(2, 3), Last(), Dense(3, 1)], random_state=0)
    return Regressor(config | {"outputs": 1, "single": True, "target": "sequence"}, {}, model)


MAKE = {
    "LSTM": lambda: LSTM(2, 3, bidirectional=True, random_state=0),
    "Dense": lambda: Dense(2, 3, random_state=0),
    "Embedding": lambda: Embedding(4, 3, random_state=0),
    "Dropout": lambda: Dropout(0.5),
    "Last": Last,
    "FinalState": FinalState,
    "MeanPool": MeanPool,
    "Sequential": lambda: Sequential([LSTM(2, 3), Last(), Dense(3, 1)], random_state=0),
    "Classifier": classifier,
    "Regressor": regressor,
}


def refused(thing, name, remedy=None):
    with pytest.raises(AttributeError, match=remedy) as assigned:
        setattr(thing, name, 9)
    with pytest.raises(AttributeError) as deleted:
        delattr(thing, name)
    for error in (assigned, deleted):
        said = str(error.value)
        assert said.startswith(f"{name}: ") or re.search("no (setter|deleter)", said), said


@pytest.mark.parametrize("name", MAKE)
def test_whatever_a_constructor_takes_or_an_object_has_stays_as_it_is(name):
    thing = MAKE[name]()
    before = repr(thing), pickle.dumps(thing.state())
    values = {attribute for attribute in dir(thing) if not callable(getattr(thing, attribute))}
    values = {attribute for attribute in values if not attribute.startswith("_")}
    assert "arrays" in values or "dtype" in values
    for attribute in values | set(inspect.signature(type(thing)).parameters):
        refused(thing, attribute)
    assert (repr(thing), pickle.dumps(thing.state())) == before


@pytest.mark.parametrize(
    "make, name, remedy",
    [
        ("LSTM", "weight_ih_l0", r'set by set_parameters\(\{"weight_ih_l0": \.\.\.\}\)$'),
        (
            "LSTM",
            "bias_ih_l0",
            r"no such parameter; there are weight_ih_l0, weight_hh_l0, bias_l0, \w+, \.\., ",
        ),
        ("LSTM", "weight", r'no such parameter; .* set_parameters\(\{"weight_ih_l0": '),
        ("LSTM", "hidden_size", r"fixed since this LSTM was made; make another: LSTM\(\.\.\., hidden_size=\.\.\.\)$"),
        ("LSTM", "random_state", r"make another: LSTM\("),
        ("LSTM", "dtype", r'\.astype\("float32"\) and \.astype\("float64"\) give another$'),
        (
            "LSTM",
            "hiddensize",
            r'no such attribute, .* change nothing; names of your own must begin with "_"$',
        ),
        ("LSTM", "store", r"the arguments of LSTM\(\.\.\.\)$"),
        ("Dense", "weight", r'set by set_parameters\(\{"weight": '),
        ("Dense", "output_size", r"make another: Dense\(\.\.\., output_size="),
        ("Dropout", "weight", "no such attribute"),
        ("Sequential", "layers", r"make another: Sequential\(\[\.\.\., layer\.copy\(\), \.\.\.\]\)$"),
        ("Sequential", "0.weight_ih_l0", r'set by set_parameters\(\{"0\.weight_ih_l0": '),
        ("Sequential", "dtype", "astype"),
        ("Sequential", "loss", "no such attribute"),
        ("Classifier", "classes_", "fixed"),
        ("Classifier", "model", r"make another: Classifier\(\.\.\., model="),
    ],
)
def test_the_error_names_the_remedy(make, name, remedy):
    refused(MAKE[make](), name, remedy)


def test_the_layers_of_a_model_are_no_list():
    model = MAKE["Sequential"]()
    with pytest.raises(AttributeError, match="layers: fixed"):
        model.layers += (Dense(1, 1),)
    with pytest.raises(AttributeError, match="append"):
        model.layers.append(Dense(1, 1))
    with pytest.raises(AttributeError, match="hidden_size: fixed"):
        model.layers[0].hidden_size = 9


@pytest.mark.parametrize("name", MAKE)
def test_names_that_begin_with_an_underscore_are_free(name):
    thing = MAKE[name]()
    thing._note = 1
    del thing._note


def test_methods_can_be_mocked():
    model = MAKE["Sequential"]()
    with unittest.mock.patch.object(model, "predict", return_value=3):
        assert model.predict(None) == 3
    assert model.predict(np.zeros((1, 2, 2))).shape == (1, 1)


WAYS = {
    "pickle": lambda thing, path: pickle.loads(pickle.dumps(thing)),
    "copy": lambda thing, path: copy.copy(thing),
    "deepcopy": lambda thing, path: copy.deepcopy(thing),
    ".copy": lambda thing, path: thing.copy(),
    ".astype": lambda thing, path: thing.astype("float64"),
    "load": lambda thing, path: thing.save(path) or lstmx.load(path),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", MAKE)
def test_copies_are_as_fixed_as_what_they_are_of(name, way, tmp_path):
    thing = MAKE[name]()
    if way.startswith(".") and not hasattr(thing, way[1:]):
        pytest.skip(f"{name} has no {way}")
    again = WAYS[way](thing, tmp_path / "thing")
    assert type(again) is type(thing) and again is not thing
    refused(again, next(iter(inspect.signature(type(thing)).parameters), "per_sequence"))


def test_a_fit_sets_the_history_and_nobody_else():
    model, x = MAKE["Sequential"](), np.zeros((4, 5, 2), "f4")
    assert model.history_ is None
    history = model.fit(x, np.zeros(4), epochs=2, verbose=0)
    assert model.history_ is history and len(copy.deepcopy(model).history_) == 2
    refused(model, "history_")


def test_signatures_are_those_that_classes_were_written_with():
    assert list(inspect.signature(LSTM).parameters)[:3] == ["input_size", "hidden_size", "num_layers"]
    assert list(inspect.signature(Dropout).parameters) == ["p"]
    with pytest.raises(TypeError, match=r"Dropout.__init__\(\) got an unexpected keyword argument 'rate'"):
        Dropout(rate=0.5)


# Layers of users.


class Scale(Layer):
    """Has a constructor value, a count that it changes, and a switch of the class."""

    loud = False

    def __init__(self, factor):
        self.count = 0  # before and after `_setup`
        self.factor = factor
        self._setup("float32", None)
        self.seen = []

    @classmethod
    def without_parameters(cls, config):
        return cls(**config)

    def config(self):
        return {"factor": self.factor}

    def astype(self, dtype):
        return type(self)(self.factor)

    def forward_rows(self, rows, context, state, run):
        self.count += 1
        self.seen = [*self.seen, len(rows)]
        return self.factor * rows, context, None, None


class NamedDense(Dense):
    """Adds something of its own after the constructor of Dense."""

    def __init__(self, input_size, output_size, label="none"):
        super().__init__(input_size, output_size, random_state=0)
        self.label = label
        self.remarks = ["new"]


class Named(Sequential):
    """A model with something of its own."""

    def __init__(self, layers):
        super().__init__(layers)
        self.remarks = ["new"]


def test_layers_of_users_keep_and_change_what_is_their_own():
    layer = Scale(2.0)
    model = Sequential([LSTM(2, 3), layer, Last(), Dense(3, 1)], random_state=0)
    model.predict(np.zeros((4, 5, 2), "f4"))
    assert layer.count == 1 and layer.seen == [20]
    layer.loud, layer.count = True, 7
    del layer.seen
    assert (layer.loud, layer.count, Scale.loud) == (True, 7, False)
    for name in ("factor", "dtype", "store", "per_sequence", "counts"):
        refused(layer, name)
    assert layer.factor == 2.0 and copy.deepcopy(model).layers[1].factor == 2.0


def test_subclasses_of_ours_keep_what_is_ours():
    layer = NamedDense(3, 1)
    layer.remarks = ["old"]
    for name in ("label", "units", "activation", "input_size", "dtype", "remark", "weight"):
        refused(layer, name)
    model = Named([LSTM(2, 3), Last(), layer])
    model.remarks = ["old"]
    for name in ("layers", "history_", "output_size", "remark"):
        refused(model, name)
    assert (layer.remarks, model.remarks) == (["old"], ["old"])
