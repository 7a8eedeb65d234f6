"""Which layers can follow each other in a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lstmx.layers.lstm import LSTM
from lstmx.layers.masking import Masking, Reversed, Unmask
from lstmx.layers.pooling import FinalState
from lstmx.layers.rnn import RNN
from lstmx.layers.simple import Dropout, Embedding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lstmx.layers.base import Layer


def check_chain(layers: Sequence[Layer]) -> None:
    """Raise ValueError where a layer cannot follow the one before it."""
    size, pooled, dtype = None, None, None
    for k, layer in enumerate(layers):
        name = f"layers[{k}]"
        if isinstance(layer, Embedding) and k:
            raise ValueError(f"{name}: an Embedding takes integers, so it must be the first layer")
        if isinstance(layer, Masking) and k:
            raise ValueError(f"{name}: a Masking looks at the model's input, so it must be the first layer")
        if pooled is not None and (isinstance(layer, LSTM | RNN | Unmask | Reversed) or layer.per_sequence):
            raise ValueError(
                f"{name}: {type(layer).__name__} needs sequences, but {pooled} has left one row per sequence"
            )
        if layer.input_size is not None and size is not None and layer.input_size != size:
            raise ValueError(f"{name}: {type(layer).__name__} takes {layer.input_size} features, but the layer before "
                             f"it gives {size}")  # fmt: skip
        if isinstance(layer, FinalState):
            before = [earlier for earlier in layers[:k] if not isinstance(earlier, Dropout)]
            if not before or not isinstance(before[-1], LSTM | RNN):
                raise ValueError(f"{name}: FinalState must follow an LSTM or RNN (a Dropout may stand between)")
            if layer.merge != "concat" and not before[-1].bidirectional:
                raise ValueError(f'{name}: got merge="{layer.merge}", but the layer before it has one direction; leave '
                                 "it out")  # fmt: skip
            if isinstance(before[-1], LSTM) and before[-1].merge != "concat":
                raise ValueError(f'{name}: FinalState takes each direction from another step, but the LSTM before it '
                                 f'has merged them ("{before[-1].merge}"); use merge="concat", or Last')  # fmt: skip
        if layer.store.arrays:
            if dtype is not None and layer.dtype != dtype:
                raise ValueError(f'{name}: dtype {layer.dtype} beside {dtype}; give every layer dtype="{dtype}", or '
                                 'build the model in one type and use model.astype("float64")')  # fmt: skip
            dtype = layer.dtype
        size = layer.output_size(size)
        pooled = f"layers[{k}] ({type(layer).__name__})" if layer.per_sequence else pooled
    if dtype is None:
        raise ValueError("layers: none of them has parameters; add an LSTM, a Dense or an Embedding")
