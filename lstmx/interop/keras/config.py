"""Configurations of Keras models as a row of parts: which layers there are, and with which options.

A configuration is data: names of classes and modules in it are compared with those known here, and never looked up.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lstmx.functional.cell import ACTIVATIONS as OF_CELLS
from lstmx.layers.activation import ACTIVATIONS

if TYPE_CHECKING:
    from collections.abc import Iterator


MODELS = "Sequential", "Functional", "Model"
RECURRENT = "LSTM", "CuDNNLSTM", "RNN", "Bidirectional"
NOTHING = (  # in inference
    *("InputLayer", "SpatialDropout1D", "GaussianDropout", "GaussianNoise", "AlphaDropout", "ActivityRegularization"),
    "Identity",
)
FUNCTIONS = "Activation", "ReLU", "LeakyReLU", "ELU", "ThresholdedReLU", "Softmax"
KNOWN = (
    *(*RECURRENT, *NOTHING, *FUNCTIONS, "Dense", "TimeDistributed", "Embedding", "Masking", "Dropout"),
    "GlobalAveragePooling1D",
)
MASK_OPERATIONS = "NotEqual", "Any"  # which stand beside the layers in graphs of Keras 3
PACKAGES = "keras", "tf_keras", "tensorflow"
MOST_PARTS = 1000
DEEPEST = 8  # models in models
PRECISIONS = "float32", "float64", "float16", "bfloat16", "mixed_float16", "mixed_bfloat16"
_SAME = (  # by the same name here
    *(
        "linear",
        "sigmoid",
        "tanh",
        "relu",
        "softmax",
        "elu",
        "selu",
        "softplus",
        "softsign",
        "silu",
        "gelu",
        "hard_sigmoid",
    ),
)
_OTHERS = {"swish": "silu", "exponential": "exp", "leaky_relu": ("leaky_relu", 0.2)}


class Options:
    """A part of a configuration; an error where a value is not of its kind.

    Parameters
    ----------
    values : dict
    name : str
        Of the layer, for messages.
    """

    def __init__(self, values: dict[str, Any], name: str) -> None:
        if not isinstance(values, dict):
            raise ValueError(f"the configuration of {name!r:.80} is {values!r:.60}, must be an object")
        self.values, self.name = values, name

    def error(self, key: str, must: str) -> ValueError:
        """The exception for a value that is not what it must be."""
        return ValueError(f"the layer {self.name!r:.80} has {key} = {self.values.get(key)!r:.80}; {must}")

    def flag(self, key: str, default: Any = False) -> bool:
        """True or False."""
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, "it must be true or false")
        return value

    def count(self, key: str) -> int:
        """A positive integer."""
        value = self.values.get(key)
        if type(value) is not int or not 0 < value < 2**31:
            raise self.error(key, "it must be a positive integer")
        return value

    def number(self, key: str, default: Any) -> float:
        """A finite number; of Keras 2 also an array of one."""
        value = self.values.get(key, default)
        if isinstance(value, dict):  # how an array stands in files of Keras 2
            value = value.get("value")
        value = value.item() if hasattr(value, "item") and getattr(value, "size", 0) == 1 else value  # type: ignore[union-attr]
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.error(key, "it must be a number")
        return float(value)

    def among(self, key: str, default: Any, allowed: Any, remedy: str) -> Any:
        """One of some values."""
        value = self.values.get(key, default)
        if not any(type(value) is type(one) and value == one for one in allowed):
            raise self.error(key, remedy)
        return value

    def layer(self, key: str) -> tuple[str, Options]:
        """(class, `Options`) of a layer in this one."""
        kind, values = class_of(self.values.get(key), self.name)
        return kind, Options(values, self.name)


@dataclass(frozen=True)
class Part:
    """A layer of a model, in its place.

    Attributes
    ----------
    kind : str
        Its class.
    name : str
    options : Options
    group : str
        Where its arrays are in a file of Keras 3: "lstm_1", or "sequential/layers/lstm" of a model in a model.
    top : str
        The layer of the model that it is, or stands in.
    mask : str or None
        The layer whose mask it is called with, "" for none, where the configuration says so: graphs of Keras 3.
    """

    kind: str
    name: str
    options: Options
    group: str
    top: str
    mask: str | None = None

    @property
    def has_arrays(self) -> bool:
        """Whether it may have weights."""
        return self.kind not in (*NOTHING, *FUNCTIONS, "Dropout", "Masking", "GlobalAveragePooling1D")


def class_of(config: Any, name: str = "model") -> tuple[str, dict[str, Any]]:
    """(class, configuration) of what Keras has serialised; "?" and a longer name where the class is none of its own."""
    if not isinstance(config, dict) or not isinstance(config.get("class_name"), str):
        raise ValueError(f"the configuration of {name!r:.80} has no class_name, which every layer has")
    kind, values, module = config["class_name"], config.get("config"), config.get("module")
    registered = config.get("registered_name")
    own = module is None or (isinstance(module, str) and module.partition(".")[0] in PACKAGES)
    if not own or ">" in kind or (registered is not None and registered not in (kind, f"Keras>{kind}")):
        kind = f"?{module if module and not own else registered or 'own'}.{kind}"
    return kind, values if isinstance(values, dict) else {"layers": values} if isinstance(values, list) else {}


def is_model(config: Any) -> bool:
    """Whether a configuration is one of a model, not of a layer."""
    return config is not None and class_of(config)[0] in MODELS


def snake(name: str) -> str:
    """How files of Keras 3 spell a class: "LSTM" is "lstm", "TimeDistributed" "time_distributed"."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def parts_of(config: Any, names: Any = None) -> list[Part]:
    """The `Part` of every layer of a model, or of the layer that a configuration is alone; an error that names all
    those of classes that are not known. With `names` a model may be any graph, and its other layers anything.
    """
    kind, values = class_of(config)
    if kind in MODELS:
        parts = list(_model("Sequential" if names is not None else kind, values, "", "", 0))
    else:
        name = _name(values, snake(kind))
        parts = [Part(kind, name, Options(values, name), snake(kind), name)]
    unknown = [f"{part.name} ({part.kind.removeprefix('?')})" for part in parts if part.kind not in KNOWN
               and (names is None or part.name in names)]  # fmt: skip
    if unknown:
        raise ValueError(
            f"there is nothing here for {len(unknown)} of its layers: {', '.join(unknown[:20])}; layers='NAME' takes "
            f"some alone, of {[part.name for part in parts if part.kind in KNOWN][:20]}"
        )
    return parts


def _name(values: dict[str, Any], default: str) -> str:
    name = values.get("name", default)
    if not isinstance(name, str) or len(name) > 500:
        raise ValueError(f"a layer has the name {name!r:.60}, must be a text")
    return name


def _model(kind: str, values: dict[str, Any], group: str, top: str, depth: int) -> Iterator[Part]:
    """The parts of a model in the order in which they are called."""
    layers = values.get("layers")
    if not isinstance(layers, list) or not 0 < len(layers) <= MOST_PARTS or depth > DEEPEST:
        raise ValueError(f"a {kind} in it must have a list of at most {MOST_PARTS} layers, and models in models be no "
                         f"deeper than {DEEPEST}")  # fmt: skip
    used: dict[Any, Any] = {}
    found: dict[str, Any] = {}
    for k, layer in enumerate(layers):
        own, options = class_of(layer, f"layers[{k}]")
        name = _name(options, layer.get("name", f"{snake(own)}_{k}"))
        word = snake(own)
        used[word] = used.get(word, -1) + 1
        place = group + (f"{word}_{used[word]}" if used[word] else word)
        if name in found:
            raise ValueError(f"two layers in it have the name {name!r}")
        found[name] = own, options, place, layer
    order, masks = (found, {}) if kind == "Sequential" else _chain(found, values)
    count = 0
    for name in order:
        own, options, place, _ = found[name]
        if own in MODELS:
            inner = _model(own, options, f"{place}/layers/", top or name, depth + 1)
        else:
            inner = [Part(own, name, Options(options, name), place, top or name, masks.get(name))]
        for part in inner:
            count += 1
            if count > MOST_PARTS:
                raise ValueError(f"it has more than the {MOST_PARTS} layers allowed")
            yield part


def _chain(found: Any, values: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """The names of a graph's layers in the order of its calls, where each takes what the one before gives; and for
    those of Keras 3 the layer whose mask they are called with, "" for none.
    """
    remedy = "only a chain from one input to one output can be read; layers='NAME' takes layers alone"
    before, masks = {}, {}
    for name, (_, _, _, layer) in found.items():
        nodes = layer.get("inbound_nodes", [])
        if not isinstance(nodes, list):
            raise ValueError(f"inbound_nodes of {name!r} is {nodes!r:.60}, must be a list")
        if _anywhere(nodes, "training", True):
            raise ValueError(f"the layer {name!r} is called with training=True, which drops at random in inference too")
        sources = [source for node in nodes for source in _tensors(_without_mask(node), 0)]
        if len(sources) > 1 or len(nodes) > 1:
            what = f"is called {len(nodes)} times" if len(nodes) > 1 else f"takes {len(sources)} inputs"
            raise ValueError(f"the layer {name!r} {what}; {remedy}")
        before[name] = sources[0] if sources else None
        if nodes and isinstance(nodes[0], dict):
            kwargs = nodes[0].get("kwargs")
            masks[name] = next(_tensors(kwargs.get("mask"), 0), "") if isinstance(kwargs, dict) else ""
    ends = [list(_tensors(values.get(key), 0)) for key in ("input_layers", "output_layers")]
    if [len(end) for end in ends] != [1, 1]:
        raise ValueError(f"it has {len(ends[0])} inputs and {len(ends[1])} outputs; {remedy}")
    (first,), (name,) = ends
    order = []
    while name is not None and name in found and name not in order:
        order.append(name)
        name = before[name]
    masking = {name for name, (kind, _, _, _) in found.items() if kind in MASK_OPERATIONS}
    beside = [f"{name} ({found[name][0]})" for name in found if name not in order and name not in masking]
    if not order or order[-1] != first or beside:
        raise ValueError(f"it is no chain: {', '.join(beside[:10]) or 'a layer'} stands beside it; {remedy}")
    makers = {_made_by(found, before, name): name for name in order}
    masks = {name: makers.get(_computed_by(found, before, mask), "?") if mask else "" for name, mask in masks.items()}
    return order[::-1], masks


def _without_mask(node: Any) -> Any:
    """A call of Keras 3 without its mask, which is computed beside the chain."""
    kwargs = node.get("kwargs") if isinstance(node, dict) else None
    if not isinstance(kwargs, dict):
        return node
    return node | {"kwargs": {key: value for key, value in kwargs.items() if key != "mask"}}


def _made_by(found: Any, before: Any, name: str) -> Any:
    """(layer, value, whether all features must have it): the mask that an Embedding or Masking makes of a layer's
    output; None for other layers.
    """
    kind, options, _, _ = found[name]
    if kind == "Embedding":
        return before[name], 0, False
    return (before[name], options.get("mask_value", 0.0), True) if kind == "Masking" else None


def _computed_by(found: Any, before: Any, name: str) -> tuple[Any, ...]:
    """The same of the operations that end with `name`; an error for others."""
    kind, options, _, _ = found.get(name, (None,) * 4)
    features = kind == "Any" and options.get("axis") in (-1, [-1]) and options.get("keepdims") is not True
    name = before[name] if features else name
    kind, _, _, layer = found.get(name, (None,) * 4)
    if kind != "NotEqual":
        raise ValueError(f"a mask is computed by {name!r} ({kind}); only those of Embedding and Masking can be read")
    arguments = layer["inbound_nodes"][0].get("args") if isinstance(layer["inbound_nodes"][0], dict) else None
    value = arguments[1] if isinstance(arguments, list) and len(arguments) == 2 else None
    return before[name], value if isinstance(value, int | float) else None, features


def _tensors(node: Any, depth: int) -> Iterator[str]:
    """The names of the layers whose outputs a call takes."""
    if depth > 20:
        raise ValueError("a call in its graph is nested too deeply")
    if isinstance(node, dict):
        if node.get("class_name") == "__keras_tensor__":
            node = node["config"]["keras_history"] if isinstance(node.get("config"), dict) else None
            yield from _tensors(node, depth + 1)
        else:
            for value in node.values():
                yield from _tensors(value, depth + 1)
    elif isinstance(node, list | tuple):
        if len(node) >= 3 and isinstance(node[0], str) and all(type(n) is int for n in node[1:3]):
            yield node[0]
            node = node[3:]
        for value in node:
            yield from _tensors(value, depth + 1)


def _anywhere(node: Any, key: str, value: Any) -> bool:
    """Whether a dict in lists and dicts has this key with this value."""
    if isinstance(node, dict):
        return node.get(key) is value or any(_anywhere(one, key, value) for one in node.values())
    return isinstance(node, list | tuple) and any(_anywhere(one, key, value) for one in node)


def precision(options: Options) -> str:
    """The type that a layer computes in, such as "mixed_float16"; an error for one with quantised weights."""
    found = options.values.get("dtype", "float32")
    if isinstance(found, dict):
        values = found.get("config")
        found = values.get("name") if isinstance(values, dict) else None
    if found is not None and found not in PRECISIONS:
        raise options.error("dtype", f"it must be one of {PRECISIONS}: quantised weights cannot be read")
    return found or "float32"


# Activations.


def activation_of(options: Options, key: str, version: str | None, default: str = "linear", cell: bool = False) -> Any:
    """What `lstmx.Activation`, or with `cell` `lstmx.Cell`, calls an activation in a configuration; "linear" included.

    Parameters
    ----------
    options : Options
    key : str
    version : str or None
        Of Keras: hard_sigmoid has changed in 3.
    default : str
        Where the configuration does not say.
    cell : bool
    """
    given = options.values.get(key, default)
    given = "linear" if given is None else given
    if isinstance(given, dict) and isinstance(given.get("class_name"), str):
        kind, values = class_of(given, options.name)
        found = function_of(kind, Options(values, options.name), version) if kind in FUNCTIONS else None
    elif isinstance(given, tuple) and given:  # in no file: a caller's
        found = given
    else:
        found = _named(given, version) if isinstance(given, str) else None
    if found == "linear" and cell:
        return "affine", 1.0, 0.0
    name = found if isinstance(found, str | None) else found[0]
    table = OF_CELLS if cell else ACTIVATIONS
    if name is None or (name != "linear" and name not in table):
        raise options.error(key, f"there is no such activation here; there are {', '.join(table)}")
    return found


def _named(name: str, version: str | None) -> Any:
    if name == "hard_sigmoid":
        major = re.match(r"(\d+)\.", version or "")
        if not major:
            raise ValueError(
                "hard_sigmoid is x / 6 + 0.5 in Keras 3 and 0.2 * x + 0.5 before, and the version is not known; give "
                'the configuration a "keras_version", such as "2.4.0"'
            )
        return "hard_sigmoid", 0.2 if int(major[1]) < 3 else 1 / 6, 0.5
    return name if name in _SAME else _OTHERS.get(name)


def function_of(kind: str, options: Options, version: str | None) -> str | tuple[Any, ...] | None:
    """What a layer without weights computes, as `activation_of`; None where it cannot be had."""
    if kind == "Activation":
        return activation_of(options, "activation", version)
    if kind == "LeakyReLU":
        return "leaky_relu", options.number("negative_slope" if "negative_slope" in options.values else "alpha", 0.3)
    if kind == "ELU":
        return "elu", options.number("alpha", 1.0)
    if kind == "ThresholdedReLU":
        return "thresholded_relu", options.number("theta", 1.0)
    if kind == "Softmax":
        options.among("axis", -1, (-1, [-1]), "only the last axis, -1, can be read")
        return "softmax"
    options.among("max_value", None, (None,), "a relu with a ceiling cannot be read")
    slope, threshold = options.number("negative_slope", 0.0), options.number("threshold", 0.0)
    if slope and threshold:
        raise options.error("threshold", "a relu with a threshold beside a slope cannot be read")
    if threshold:
        return "thresholded_relu", threshold
    return ("leaky_relu", slope) if slope else "relu"
