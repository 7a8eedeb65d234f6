"""Which layers a torch.nn.Module, a state dict or a file holds: told by their classes, or by names and shapes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lstmx.interop.torch.pickles import Record, Tensor, is_module

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lstmx._types import Array


MOST_MODULES = 20_000
WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "weights")
CONTAINERS = {"Module", "Sequential", "ModuleList", "ModuleDict", "DataParallel", "DistributedDataParallel"}
RECURRENT = re.compile(r"(weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)_l(\d+)(_reverse)?")
OF_CELL = {"weight_ih", "weight_hh", "bias_ih", "bias_hh"}
LSTMS = {"LSTM", "LSTMCell"}
EITHER = "Embedding, or Linear without bias"  # which is not always told by the shape


@dataclass
class Found:
    """A layer of the source.

    Attributes
    ----------
    name : str
        "encoder.lstm"; "" for the source itself.
    kind : str
        The class in torch.nn, as far as it is known; "" if it is not.
    tensors : dict of str to tensor
    options : dict or None
        The attributes of the module; None where there are tensors only.
    ordered : bool
        Whether it surely follows the layer before it, as in nn.Sequential.
    """

    name: str
    kind: str
    tensors: dict[str, Any]
    options: Any = None
    ordered: bool = False

    def full(self, tensor: str) -> str:
        """The name of a tensor in the source."""
        return f"{self.name}.{tensor}" if self.name else tensor

    def said(self) -> str:
        """The name, and what it is: "encoder.lstm: LSTM 40 -> 256, 3 layers"."""
        return f"{self.name or 'the source itself'}: {describe(self)}"


def is_tensor(value: Any) -> bool:
    """Whether a value has the numbers of a tensor."""
    return isinstance(value, Tensor | np.ndarray) or (hasattr(value, "detach") and hasattr(value, "shape"))


def kind_of_numbers(tensor: Any) -> str:
    """ "float32", "int64", "bfloat16"..., of a tensor of any library."""
    return str(tensor.dtype).rpartition(".")[2]


def to_array(tensor: Any) -> Array:
    """The numbers of a tensor; half and bfloat16 become float32."""
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().cpu()
        tensor = (tensor.float() if kind_of_numbers(tensor) in ("bfloat16", "float16") else tensor).numpy()
    found = np.asarray(tensor)
    return found.astype(np.float32) if found.dtype == np.float16 else found


# From the source to layers.


def layers(source: Any, prefix: str = "") -> list[Found]:
    """The layers of a module, of a state dict, or of what a file holds, as a list of `Found`.

    A checkpoint is looked into for its state dict, unless `prefix` begins with one of its names.

    Raises
    ------
    ValueError
        If the source is something else.
    """
    named = isinstance(source, dict) and prefix and isinstance(source.get(prefix.partition(".")[0]), dict)
    source = source if named else _unwrapped(source)
    if isinstance(source, dict):
        tensors = _flat(source)
        if not tensors:
            raise ValueError(f"it holds no tensors; its keys are {[str(key)[:40] for key in list(source)[:8]]}")
        return _of_tensors(tensors)
    if (isinstance(source, Record) and is_module(source)) or _is_live(source):
        return list(_of_module(source))
    raise ValueError(f"it holds neither a state dict nor a module, but a {type(source).__name__}")


def is_script(source: Any) -> bool:
    """Whether a value is a live module of TorchScript."""
    return any(cls.__module__ == "torch.jit._script" and cls.__name__ == "ScriptModule" for cls in type(source).__mro__)


def _is_live(source: Any) -> bool:
    attributes = getattr(source, "__dict__", {})
    return all(isinstance(attributes.get(name), dict) for name in ("_parameters", "_buffers", "_modules"))


def _unwrapped(source: Any) -> Any:
    """The state dict, or the module, of a checkpoint that has it under one of the usual names."""
    for _ in range(4):
        if not isinstance(source, dict):
            break
        inside = (source[key] for key in WRAPPERS if key in source)
        found = next((value for value in inside if _holds_tensors(value)), None)
        if found is None:
            break
        source = found
    return source


def _holds_tensors(value: Any) -> bool:
    if isinstance(value, dict):
        return bool(_flat(value)) or any(_is_module(one) for one in value.values())
    return _is_module(value)


def _is_module(value: Any) -> bool:
    return is_module(value) if isinstance(value, Record) else _is_live(value)


def _flat(source: Any) -> dict[str, Any]:
    """All tensors of nested dicts, by names with dots."""
    found, dicts, seen = {}, [("", source)], {id(source)}
    for prefix, inside in dicts:
        for key, value in inside.items():
            if is_tensor(value):
                found[f"{prefix}{key}"] = value
            elif isinstance(value, dict) and id(value) not in seen and prefix.count(".") < 4:
                seen.add(id(value))
                dicts.append((f"{prefix}{key}.", value))
    return found


def _of_tensors(tensors: Any, prefix: str = "") -> list[Found]:
    """Layers of tensors by name: those of one module have all but the end of their names in common."""
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for name, tensor in tensors.items():
        module, _, end = name.rpartition(".")
        recurrent = bool(RECURRENT.fullmatch(end)) or end in OF_CELL
        groups.setdefault((module, recurrent), {})[end] = tensor
    found = [Found(prefix + module, _kind(group), group) for (module, _), group in groups.items()]
    names = [one.name.rpartition(".") for one in found]
    if len({above for above, _, _ in names}) == 1 and all(end.isdecimal() for _, _, end in names):
        for one in found:  # the numbers of an nn.Sequential, or of a model of ours
            one.ordered = True
        found.sort(key=lambda one: int(one.name.rpartition(".")[2]))
    return found


def _kind(tensors: Any) -> str:
    """What tensors with such names and shapes belong to; "" if that is not known."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    end = "_l0" if "weight_hh_l0" in shapes else ""
    if len(shapes.get("weight_hh" + end, ())) == 2:
        rows, units = shapes["weight_hh" + end]
        if len(shapes.get("weight_hr_l0", ())) == 2:
            units = shapes["weight_hr_l0"][1]
        gates = {4 * units: "LSTM", 3 * units: "GRU", units: "RNN"}.get(rows)
        return gates + ("" if end else "Cell") if gates else ""
    weight = shapes.get("weight", ())
    if len(weight) == 2 and shapes.keys() == {"weight"}:
        return EITHER
    if len(weight) == 2 and shapes.keys() == {"weight", "bias"} and shapes["bias"] == weight[:1]:
        return "Linear"
    if "running_mean" in shapes:
        return "BatchNorm"
    return {1: "LayerNorm or the like", 3: "Conv1d", 4: "Conv2d"}.get(len(weight), "")


def _seen(module: Any) -> Any:
    """(class in torch.nn, attributes or None, tensors, modules) of a live module, or of a record of one."""
    if not isinstance(module, Record):
        kind, attributes = next(filter(None, map(_class, type(module).__mro__)), "Module"), vars(module)
    elif module.cls.module.partition(".")[0] == "__torch__":
        inside = {str(name): value for name, value in module.state.items()}
        children = {name: value for name, value in inside.items() if isinstance(value, Record)}
        tensors = {name: value for name, value in inside.items() if is_tensor(value)}
        return (module.cls.name if ".torch.nn.modules." in module.cls.module else "Module"), None, tensors, children
    else:
        kind, attributes = _class_named(module.cls.module, module.cls.name) or "Module", module.state
    tensors = {str(n): t for n, t in (attributes["_parameters"] | attributes["_buffers"]).items() if is_tensor(t)}
    children = {str(n): m for n, m in attributes["_modules"].items() if isinstance(m, Record) or _is_live(m)}
    return kind, attributes, tensors, children


def _class(cls: type) -> str:
    return _class_named(cls.__module__, cls.__name__)


def _class_named(module: Any, name: str) -> str:
    """The name of a class of PyTorch; "" of one that somebody else derived from it."""
    if module.startswith("torch.ao."):
        return f"quantized {name}"
    return name if module.startswith("torch.nn.") else ""


def _of_module(module: Any) -> Iterator[Any]:
    waiting = [(module, "", False)]
    for _ in range(MOST_MODULES):
        if not waiting:
            return
        module, name, ordered = waiting.pop()
        kind, options, tensors, children = _seen(module)
        if kind not in CONTAINERS:
            more = f" with {next(iter(children)):.60}" if children else ""  # such as parametrizations
            yield Found(name, kind + more, tensors, options or {}, ordered)
            continue
        for one in _of_tensors(tensors):  # those of the module itself
            yield Found(name, one.kind, one.tensors)
        prefix = f"{name}." if name else ""
        inside = [(child, prefix + end, kind == "Sequential") for end, child in children.items()]
        waiting.extend(reversed(inside))
        if name.count(".") > 50:
            break
    raise ValueError(f"it has more than {MOST_MODULES} modules, or 50 inside each other")


# In words.


def describe(found: Found) -> str:
    """What a layer is, with its sizes."""
    shapes = {name: tuple(tensor.shape) for name, tensor in found.tensors.items()}
    if found.kind in LSTMS:
        try:
            sizes = lstm_sizes(found)
        except ValueError:
            return f"{found.kind} that is not whole"
        more = f", {sizes['num_layers']} layers" if sizes["num_layers"] > 1 else ""
        more += ", bidirectional" if sizes["bidirectional"] else ""
        more += f", projected to {sizes['proj_size']}" if sizes["proj_size"] else ""
        return f"{found.kind} {sizes['input_size']} -> {sizes['hidden_size']}{more}"
    if found.kind in ("Linear", "Embedding", EITHER) and len(shapes.get("weight", ())) == 2:
        rows, columns = shapes["weight"]
        if found.kind == EITHER:
            return f"{EITHER} ({rows}, {columns})"
        return (
            "Linear {1} -> {0}".format(*shapes["weight"])
            if found.kind == "Linear"
            else f"Embedding {rows} -> {columns}"
        )
    sizes = ", ".join(f"{found.full(name)} {shape}" for name, shape in list(shapes.items())[:6])
    return " ".join(filter(None, (found.kind, sizes + ", ..." * (len(shapes) > 6))))


def lstm_sizes(found: Found) -> dict[str, Any]:
    """The configuration of an LSTM, told by its tensors; an error if these are not all there, or do not fit.

    Returns
    -------
    dict
        input_size, hidden_size, num_layers, bias, bidirectional, proj_size.
    """
    cell, shapes = found.kind == "LSTMCell", {name: tuple(tensor.shape) for name, tensor in found.tensors.items()}
    if cell:
        shapes = {f"{name}_l0": shape for name, shape in shapes.items()}
    matches = [RECURRENT.fullmatch(name) for name in shapes]
    for match, name in zip(matches, shapes, strict=True):
        if match is None:
            raise ValueError(f"{found.full(name)}: an LSTM has no such tensor")
    for name in ("weight_ih_l0", "weight_hh_l0"):
        if len(shapes.get(name, ())) != 2:
            shown = found.full(name.removesuffix("_l0") if cell else name)
            raise ValueError(
                f"{shown}: {_or_missing(shapes.get(name))}, must be a matrix of 4 * hidden_size rows; "
                "take a file that has all of the LSTM, or give ignore= or prefix= for a part without it"
            )
    kinds = {match[1] for match in matches}  # type: ignore[index]
    rows, width = shapes["weight_hh_l0"]
    sizes = {
        "input_size": shapes["weight_ih_l0"][1], "hidden_size": rows // 4,
        "num_layers": len({match[2] for match in matches}), "bias": bool(kinds & {"bias_ih", "bias_hh"}),  # type: ignore[index]
        "bidirectional": any(match[3] for match in matches), "proj_size": width if "weight_hr" in kinds else 0,  # type: ignore[index]
    }  # fmt: skip
    wanted = dict(_lstm_shapes(sizes))
    for name in wanted | shapes:
        if wanted.get(name) != shapes.get(name):
            shown = found.full(name.removesuffix("_l0") if cell else name)
            raise ValueError(f"{shown}: {_or_missing(shapes.get(name))}, must be {_or_missing(wanted.get(name))} in "
                             f"an LSTM of {sizes['num_layers']} layers and {sizes['hidden_size']} units")  # fmt: skip
    return sizes


def _or_missing(shape: Any) -> str:
    return "missing" if shape is None else f"{shape}"


def _lstm_shapes(sizes: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(name, shape) of every tensor of a torch.nn.LSTM."""
    hidden, inputs = sizes["hidden_size"], sizes["input_size"]
    outputs = sizes["proj_size"] or hidden
    for layer in range(sizes["num_layers"]):
        for end in ("", "_reverse")[: 1 + sizes["bidirectional"]]:
            yield f"weight_ih_l{layer}{end}", (4 * hidden, inputs)
            yield f"weight_hh_l{layer}{end}", (4 * hidden, outputs)
            for kind in ("bias_ih", "bias_hh") * sizes["bias"]:
                yield f"{kind}_l{layer}{end}", (4 * hidden,)
            if sizes["proj_size"]:
                yield f"weight_hr_l{layer}{end}", (sizes["proj_size"], hidden)
        inputs = outputs * (1 + sizes["bidirectional"])
