"""Layers of PyTorch in a row, and what they become here."""

from __future__ import annotations

import itertools
import math
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import numpy as np

from lstmx.functional import validate
from lstmx.functional.cell import suffix
from lstmx.interop.imported import Imported, Part
from lstmx.interop.torch import modules as torch_modules
from lstmx.interop.torch.modules import EITHER, LSTMS, Found, describe, kind_of_numbers, lstm_sizes, to_array
from lstmx.interop.torch.probe import Comparison
from lstmx.layers import LSTM, Activation, Dense, Dropout, Embedding, FinalState, Last, MeanPool
from lstmx.model import Sequential

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from lstmx._types import Array, Arrays


HEADS: dict[str, Any] = {"step": None, "last": Last, "mean": MeanPool, "final": FinalState}
MOST_REORDERED = 10  # layers of a file without order
OF_DENSE = ("relu", "tanh", "sigmoid", "softmax")

# The class in torch.nn -> the activation here, of the module's attributes; None: there is none.
ACTIVATIONS: dict[str, Any] = {
    "ReLU": lambda o: "relu",
    "Tanh": lambda o: "tanh",
    "Sigmoid": lambda o: "sigmoid",
    "SiLU": lambda o: "silu",
    "SELU": lambda o: "selu",
    "Softsign": lambda o: "softsign",
    "Hardsigmoid": lambda o: ("hard_sigmoid", 1 / 6, 0.5),
    "Softmax": lambda o: "softmax" if o["dim"] == -1 else None,  # others: see _softmax
    "LeakyReLU": lambda o: ("leaky_relu", o["negative_slope"]),
    "ELU": lambda o: ("elu", o["alpha"]),
    "GELU": lambda o: "gelu_tanh" if o["approximate"] == "tanh" else "gelu",
    "Softplus": lambda o: "softplus" if o["beta"] == 1 else None,
}


class Chain:
    """The layers of a source in a row, and what they become.

    `live` is a function that gives the source as a module that can be called, or None.
    """

    def __init__(
        self,
        source: Any,
        kind: str,
        prefix: str,
        head: str | None,
        activations: Any,
        layers: Any,
        ignore: Any,
        largest: float = math.inf,
        live: Any = None,
    ) -> None:
        self.live, self.kind, self.prefix, self.head = live, kind, prefix.rstrip("."), head
        self.largest = largest  # bytes of all layers
        self.notes: list[str] = []
        self.guesses: list[str] = []
        self.found = self._below_prefix(torch_modules.layers(source, prefix))
        self._ignored = (ignore,) if isinstance(ignore, str) else tuple(_listed("ignore", ignore))
        self.all = self._without_ignored(self.found)
        self.chain = self._chosen(layers) if layers is not None else self._deduced()
        self._resolve()
        self.activations = self._read_activations(activations)
        self.steps: list[Any] = []  # (Found or None, kind, its options): what the model is made of

    # Which layers.

    def _below_prefix(self, found: Any) -> list[Found]:
        if not self.prefix:
            return found
        inside = [one for one in found if one.name == self.prefix or one.name.startswith(self.prefix + ".")]
        if not inside:
            names = list(dict.fromkeys(one.name for one in found))
            raise ValueError(f"prefix: nothing is called {self.prefix!r}; {_lstms(found)}; all modules: {_few(names)}")
        for one in inside:
            one.name = one.name[len(self.prefix) + 1 :]
        return inside

    def _without_ignored(self, found: Any) -> list[Found]:
        every = [name for one in found for name in (one.name, *map(one.full, one.tensors)) if name]
        for pattern in self._ignored:
            if not any(_matches(name, pattern) for name in every):
                raise ValueError(f"ignore: nothing is called {pattern!r}; there are {_few(_names(found))}")
        kept = []
        for one in found:
            tensors = {name: tensor for name, tensor in one.tensors.items() if not self.ignores(one.full(name))}
            if not self.ignores(one.name) and (tensors or not one.tensors):
                kept.append(Found(one.name, one.kind, tensors, one.options, one.ordered))
        if self._ignored:
            self.notes.append(f"ignored: {_few([name for name in every if self.ignores(name)])}")
        return kept

    def ignores(self, name: str) -> bool:
        """Whether `ignore` names a module or tensor."""
        return any(_matches(name, pattern) for pattern in self._ignored)

    def _chosen(self, layers: Any) -> list[Found]:
        by_name = {one.name: one for one in self.all}
        names = list(_listed("layers", layers))
        if len(set(names)) < len(names) or not names:
            raise ValueError(f"layers: got {layers!r}, must be a list of different names; there are {_few(by_name)}")
        for name in names:
            if name not in by_name:
                raise ValueError(f"layers: nothing is called {name!r}; there are {_few(by_name)}")
        chain = [by_name[name] for name in names]
        for one in chain:
            kind = layers[one.name] if isinstance(layers, dict) else None
            if kind is not None:
                kinds = {"embedding": "Embedding", "linear": "Linear"}
                if kind not in kinds or one.kind not in (EITHER, "Embedding", "Linear"):
                    raise ValueError(f'layers: got {kind!r} for {one.said()}; must be "embedding" or "linear" of one '
                                     "of these, None of others")  # fmt: skip
                one.kind = kinds[kind]
            one.ordered = True
        rest = [one.name for one in self.all if one.name not in names and one.tensors]
        self.notes += [f"not used: {_few(rest)}"] if rest else []
        return _whole(self._usable(chain))

    def _deduced(self) -> list[Found]:
        chain = self._usable(self.all)
        lstms = [one for one in chain if one.kind in LSTMS]
        if len(lstms) > 1 and not all(one.ordered for one in chain):
            names = ", ".join(repr(one.name) for one in chain)
            raise ValueError(f"{_lstms(chain)}, and how they are connected is not known; prefix={lstms[0].name!r} "
                             f"takes one, layers=[{names}] all that there is, in the order of forward")  # fmt: skip
        if self.kind == "safetensors file" and not all(one.ordered for one in chain):
            return self._ordered_by_size(_whole(chain))
        return _whole(chain)

    def _ordered_by_size(self, chain: list[Found]) -> list[Found]:
        """The only order in which each layer takes what the one before it gives: a safetensors file keeps none."""

        def orders(done: Any, rest: Any, size: Any) -> Any:
            if not rest:
                yield done
            for one in rest:
                for wanted, given in _ways(one, not done):
                    if size is None or wanted == size:
                        yield from orders([*done, one], [other for other in rest if other is not one], given)

        found = []
        if len(chain) <= MOST_REORDERED:
            found = list(itertools.islice(orders([], chain, None), 2))
        if len(found) != 1:
            names = ", ".join(repr(one.name) for one in chain)
            raise ValueError("layers: a safetensors file does not keep the order of layers, and their sizes do not "
                             f"tell it; give layers=[{names}], in the order of forward")  # fmt: skip
        return found[0]

    def _usable(self, found: Any) -> list[Found]:
        """Without what does nothing; an error if anything is of another kind."""
        plain = {"Linear", "Embedding", EITHER, "Dropout", *LSTMS, *ACTIVATIONS}
        found = [one for one in found if one.kind != "Identity" and not (one.kind.endswith("Loss") and one.options)]
        for one in found:
            _check_reparametrized(one)
        odd = [one.said() for one in found if one.kind not in plain]
        if odd:
            raise ValueError("it has what has no place in a chain of LSTM, Linear, Embedding, Dropout and "
                             f"activations: {'; '.join(odd[:8])}{'; ...' * (len(odd) > 8)}; if the model is one "
                             "without it, give ignore=[names], or prefix= for a part")  # fmt: skip
        if not any(one.kind in LSTMS for one in found):
            raise ValueError(f"there is no LSTM in it; it has {_few([one.said() for one in found] or ['nothing'])}")
        return found

    # What they become.

    def _read_activations(self, given: Any) -> Any:
        """By name of the layer."""
        if given is None:
            return None
        linear = [one.name for one in self.chain if one.kind == "Linear"]
        given = [given] if isinstance(given, str) else given
        if not isinstance(given, dict):
            if _listed("activations", given) and not linear:
                raise ValueError(f"activations: got {given!r}, but there is no Linear to follow; leave it out")
            if len(given) != len(linear):
                raise ValueError(f"activations: got {given!r}, must be a list of {len(linear)}, for {_few(linear)}, or "
                                 "a dict by names")  # fmt: skip
            given = dict(zip(linear, given, strict=True))
        for name in given:
            if name not in {one.name for one in self.chain}:
                raise ValueError(f"activations: no layer is called {name!r}; there are {_few(_names(self.chain))}")
        self.chain = [one for one in self.chain if one.kind not in ACTIVATIONS]
        return given

    def _resolve(self) -> None:
        """Tell embeddings from linear layers, by their place and size."""
        for k, one in enumerate(self.chain):
            if one.kind != EITHER:
                continue
            rows, columns = one.tensors["weight"].shape
            wanted = next((_input_size(later) for later in self.chain[k + 1 :] if _input_size(later)), None)
            if k or wanted not in (rows, columns) or (rows != columns and wanted == rows):
                one.kind = "Linear"
            elif rows != columns:
                one.kind = "Embedding"
            else:
                raise ValueError(f'{one.name}: an Embedding, or a Linear without bias? Its size ({rows}, {columns}) '
                                 f'does not tell; give layers={{"{one.name}": "embedding", ...}} or "linear", with the '
                                 "names of all layers")  # fmt: skip

    def _check_head(self, last: int) -> None:
        after = [one.name for one in self.chain[last + 1 :]]
        if after and self.head is None:
            raise ValueError(
                f"head: there are layers after the LSTM ({_few(after)}), and what they read is known only to forward; "
                'give head="step" if that is its output y at each step, "last" for y[:, -1], "mean" for y.mean(1), or '
                '"final" for h_n, both directions side by side. Of a bidirectional LSTM the last two of these differ: '
                "at the last step, the backward direction has read that step alone"
            )

    def _plan(self) -> None:
        """Make `steps` of the chain."""
        self._check_sizes()
        last = max(k for k, one in enumerate(self.chain) if one.kind in LSTMS)
        self._check_head(last)
        before = None
        for k, one in enumerate(self.chain):
            self._check_between(before, one)
            if one.kind in ACTIVATIONS:
                self.steps.append((one, "activation", self._activation_of(one, k > last)))
            elif one.kind == "Embedding" and k:
                raise ValueError(f"{one.name}: an Embedding must come first; give layers=[names] in the order in "
                                 "which forward calls them, or ignore=")  # fmt: skip
            else:
                self.steps.append((one, "LSTM" if one.kind in LSTMS else one.kind, one.options or {}))
            if k == last and self.head not in (None, "step"):
                self.steps.append((None, "head", self.head))
            chosen = (self.activations or {}).get(one.name)
            if chosen not in (None, "linear"):
                self.steps.append((None, "activation", Activation(chosen).activation))
            before = before if one.kind == "Dropout" else one

    def _check_between(self, before: Any, one: Any) -> None:
        """An error where an activation is likely between two layers, and nobody says which."""
        if before is None or before.kind != "Linear" or not _input_size(one) or self.activations is not None:
            return
        parents = {two.name.rpartition(".")[0] for two in (before, one) if two.ordered and two.options is not None}
        if len(parents) != 1:
            takers = [_input_size(two) is not None for two in self.chain]
            shown = ", ".join('"relu"' if any(takers[k + 1 :]) else "None"
                              for k, two in enumerate(self.chain) if two.kind == "Linear")  # fmt: skip
            raise ValueError(f"activations: what stands between {before.name!r} and {one.name!r} is known only to "
                             f"forward; give activations=[{shown}], say, one for each Linear; where forward does not "
                             "call them in this order, layers=[names], and what it does not call, ignore=")  # fmt: skip

    def _activation_of(self, one: Found, after: Any) -> Any:
        try:
            found: Any = ACTIVATIONS[one.kind](one.options)
            if one.kind == "Softmax" and found is None:
                found = self._softmax(one, after and self.head not in (None, "step"))
        except KeyError:
            message = f"{one.name}: the file does not tell the options of a {one.kind}; give activations="
            raise ValueError(message) from None
        if found is None:
            raise ValueError(f"{one.name}: a {one.kind} with options that lstmx has no layer for; give ignore= and "
                             "apply it to the outputs, or activations= for another")  # fmt: skip
        return Activation(found).activation

    def _softmax(self, one: Found, pooled: bool) -> str:
        """The name, where `dim` is that of the features: of (N, F) if pooled, else of (N, T, F)."""
        if one.options["dim"] == (1 if pooled else 2):
            return "softmax"
        raise ValueError(f"{one.name}: a Softmax over dim={one.options['dim']}, which is not that of the features "
                         f"{'(N, F)' if pooled else '(N, T, F)'}; if dim=-1 is meant, set it; else give ignore= and "
                         "apply it to the outputs")  # fmt: skip

    def _check_sizes(self) -> None:
        size = before = None
        for one in self.chain:
            wanted = _input_size(one)
            if wanted and size and wanted != size:
                raise ValueError(f"{one.name}: takes {wanted} features, but {before} gives {size}; give layers=[names] "
                                 "in the order in which forward calls them, or ignore=")  # fmt: skip
            if one.kind in (*LSTMS, "Linear", "Embedding"):
                size, before = _output_size(one), one.name or "the source"

    def imported(self) -> Imported:
        """The result of `read`."""
        self._plan()
        for one in (one for one, *_ in self.steps if one):
            if any(getattr(tensor, "is_meta", False) for tensor in one.tensors.values()):
                raise ValueError(f"{one.said()}: it is on the meta device, where tensors have no numbers; load the "
                                 'weights first: module.to_empty(device="cpu").load_state_dict(...)')  # fmt: skip
        kinds = {kind_of_numbers(t) for one, *_ in self.steps if one for t in one.tensors.values()}
        odd = kinds - {"float64", "float32", "float16", "bfloat16"}
        if odd:
            raise ValueError(f"it has weights of type {sorted(odd)[0]}, which are quantized or no weights; save the "
                             "model before it was quantized")  # fmt: skip
        total = sum(math.prod(t.shape) for one, *_ in self.steps if one for t in one.tensors.values())
        if 4 * total > self.largest:
            raise ValueError(f"its layers would have {total:,} parameters, far more than the file has")
        dtype = "float64" if "float64" in kinds else "float32"
        built = self._build(dtype)
        alone = len(built) == 1 and isinstance(built[0], LSTM)
        parts = self._parts(built, alone)
        self._note()
        model = built[0] if alone else Sequential(built)
        return Imported(self.kind, model, tuple(parts), tuple(self.notes), Comparison(self, model), tuple(self.guesses))

    def _build(self, dtype: str) -> list[Any]:
        built: list[Any] = []
        self.place: list[Any] = []
        for one, kind, options in self.steps:
            if kind == "activation":
                plain = built and isinstance(built[-1], Dense) and built[-1].activation == "linear"
                if plain and options in OF_DENSE:
                    config = built[-1].config() | {"activation": options}
                    built[-1] = Dense.from_state(config, built[-1].parameters())
                else:
                    built.append(Activation(options))
            elif kind == "head":
                built.append(HEADS[options]())
            elif kind == "Dropout":
                built.append(Dropout(options.get("p", 0.0)))
            else:
                built.append({"LSTM": _lstm, "Linear": _dense, "Embedding": _embedding}[kind](one, options, dtype))
            self.place.append(len(built) - 1)
        return built

    def _parts(self, built: Any, alone: bool) -> Iterator[Any]:
        for (one, kind, options), place in zip(self.steps, self.place, strict=True):
            layer = type(built[place]).__name__
            if isinstance(built[place], Dense) and built[place].activation != "linear":
                layer += f" with {built[place].activation}"
            said = describe(one) if one else f"head={options!r}" if kind == "head" else f"activations: {options}"
            yield Part(one.name if one else "", said, layer if alone else f"{place}: {layer}")

    def _note(self) -> None:
        for one, kind, options in self.steps:
            if kind == "LSTM" and options.get("batch_first") is False:
                self.notes.append(f"{one.name or 'the LSTM'}: has batch_first=False, so x is (T, N, I) there; here it "
                                  "is (N, T, I)")  # fmt: skip
            if one is not None and one.kind == "LSTMCell":
                self.notes.append(f"{one.name or 'the cell'}: a cell is called step by step; here that is step(x_t, "
                                  "state)")  # fmt: skip
        ends = self.chain[-1]
        if ends.kind != "Linear" or self.activations is not None:
            return
        if ends.options is None:
            self.guesses.append(f"{ends.name}: the last layer is taken to have no activation; activations= says "
                                "what it has: a name, or [None]")  # fmt: skip
        elif self.kind == "TorchScript archive":
            self.guesses.append("functions that forward calls are not seen: the layers are taken in the order in which "
                                "they were registered, with no activations but modules; check=True compares, by "
                                "PyTorch, or give activations=")  # fmt: skip


# One layer.


def _input_size(one: Found) -> int | None:
    """Features that a layer takes; None: any, or integers."""
    if one.kind in LSTMS:
        return lstm_sizes(one)["input_size"]
    return one.tensors["weight"].shape[1] if one.kind == "Linear" else None


def _output_size(one: Found) -> int:
    if one.kind in LSTMS:
        sizes = lstm_sizes(one)
        return (1 + sizes["bidirectional"]) * (sizes["proj_size"] or sizes["hidden_size"])
    return one.tensors["weight"].shape[one.kind == "Embedding"]


def _check_reparametrized(one: Found) -> None:
    """An error for weights that are computed from other tensors when the module is called."""
    module, inside, name = f".{one.name}".partition(".parametrizations")
    module, name, utils = module.removeprefix(".") or "module", repr(name.removeprefix(".")), "torch.nn.utils"
    remedy = None
    if inside or one.kind.endswith(" with parametrizations"):
        remedy = f"{utils}.parametrize.remove_parametrizations({module}, {name if inside else 'tensor_name'})"
    for stem, _, end in (name.rpartition("_") for name in one.tensors):
        if end == "v" and f"{stem}_g" in one.tensors:
            remedy = f"{utils}.remove_weight_norm({module}, {stem!r})"
        elif end == "orig":
            function = "prune.remove" if f"{stem}_mask" in one.tensors else "remove_spectral_norm"
            remedy = f"{utils}.{function}({module}, {stem!r})"
    if remedy:
        raise ValueError(f"{one.said()}: a weight that is computed when the module is called, as weight_norm and "
                         f"pruning have it; {remedy} makes it a plain one")  # fmt: skip


def _whole(chain: list[Found]) -> list[Found]:
    """The same layers; an error if tensors of one are missing, or do not fit."""
    for one in chain:
        if one.kind in LSTMS:
            lstm_sizes(one)
        elif one.kind in ("Linear", "Embedding", EITHER) and len(getattr(one.tensors.get("weight"), "shape", ())) != 2:
            raise ValueError(f"{one.full('weight')}: missing, or no matrix; take a file that has it, or give ignore=")
    return chain


def _ways(one: Found, first: bool) -> list[tuple[Any, int]]:
    """(features it takes, features it gives) of a layer; two of them where it may be an Embedding or a Linear."""
    if one.kind != EITHER:
        return [(_input_size(one), _output_size(one))] if first or one.kind != "Embedding" else []
    rows, columns = one.tensors["weight"].shape
    return [(columns, rows), *([(None, columns)] if first and rows != columns else [])]


def _finite(one: Found, name: str) -> Array:
    found = to_array(one.tensors[name])
    return validate.finite(one.full(name), found, "a model that has diverged; take another checkpoint")


def _lstm(one: Found, options: Any, dtype: str) -> LSTM:
    sizes = lstm_sizes(one)
    end = "" if one.kind == "LSTMCell" else "{}"
    arrays = {}
    for layer in range(sizes["num_layers"]):
        for direction in range(1 + sizes["bidirectional"]):
            ours, theirs = suffix(layer, direction), end.format(suffix(layer, direction))
            for name in ("weight_ih", "weight_hh", "weight_hr")[: 2 + bool(sizes["proj_size"])]:
                arrays[name + ours] = _finite(one, name + theirs)
            if sizes["bias"]:
                both = (_finite(one, name + theirs).astype(np.float64) for name in ("bias_ih", "bias_hh"))
                arrays["bias" + ours] = sum(both)  # type: ignore[assignment]
    dropout = options.get("dropout", 0.0) if sizes["num_layers"] > 1 else 0.0
    return _filled(LSTM, sizes | {"dropout": float(dropout), "dtype": dtype}, arrays)


def _dense(one: Found, options: Any, dtype: str) -> Dense:
    weight = _finite(one, "weight")
    bias = _finite(one, "bias") if "bias" in one.tensors else np.zeros(len(weight))
    config = {"input_size": weight.shape[1], "output_size": weight.shape[0], "activation": "linear", "dtype": dtype}
    return _filled(Dense, config, {"weight": weight, "bias": bias})


def _embedding(one: Found, options: Any, dtype: str) -> Embedding:
    if options.get("max_norm") is not None:
        raise ValueError(f"{one.name}: an Embedding with max_norm changes its weights when it is called; set it to "
                         "None after one call with all tokens")  # fmt: skip
    weight = _finite(one, "weight")
    config = {"num_embeddings": weight.shape[0], "size": weight.shape[1], "padding_idx": options.get("padding_idx")}
    return _filled(Embedding, config | {"dtype": dtype}, {"weight": weight})


def _filled(cls: Any, config: dict[str, Any], arrays: Arrays) -> Any:
    """A layer with these parameters, without drawing others first; an error if they do not fit."""
    config = cls.without_parameters(config).config()
    names = []
    for name, shape, *_ in cls.array_shapes(config):
        if arrays[name].shape != shape:
            raise ValueError(f"{name}: got shape {arrays[name].shape}, must be {shape}")
        names.append(name)
    return cls.from_state(config, {name: arrays[name] for name in names})


def _listed(name: str, value: Any) -> Any:
    """A list, a tuple or a dict."""
    if not isinstance(value, list | tuple | dict):
        raise TypeError(f"{name}: got {value!r:.60}, must be a list, with one for each layer or name")
    return value


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or name.startswith(pattern.rstrip(".") + ".") or fnmatchcase(name, pattern)


def _names(found: Any) -> list[str]:
    return list(dict.fromkeys(one.name or name for one in found for name in (one.tensors or [""])))


def _few(names: Collection[str]) -> str:
    names = [f"{name:.80}" for name in names]
    return ", ".join(names[:12]) + ", ..." * (len(names) > 12)


def _lstms(found: Any) -> str:
    said = [one.said() for one in found if one.kind in LSTMS]
    are = "is 1 LSTM" if len(said) == 1 else f"are {len(said)} LSTMs"
    return f"there {are} ({'; '.join(said[:12])})" if said else "there is no LSTM in it"
