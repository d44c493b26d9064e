"""THE table: one row a layer configuration. Every runner loops over it.

A row is made with our layers or with Keras's: `case.make()`, `case.make(keras.layers)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlxfunc as mf
import numpy as np


def apply(layer: Any, *inputs: Any) -> Any:
    """The usual call: one input alone, several in a list."""
    return layer(inputs[0] if len(inputs) == 1 else list(inputs))


@dataclass(frozen=True)
class Case:
    """One configuration of a layer.

    Args:
        name: unique; `<layer>-<what is special>`.
        build: makes the layer from a namespace of layers, ours or Keras's.
        shapes: of each input without the batch; None is a dynamic size.
        dtypes: of each input: "float32", "int32" (drawn below `high`), "bool" (a mask; the first
            step is always valid). One name stands for all.
        call: how the layer is called on its inputs, arrays and symbolic tensors alike.
        tolerance: largest absolute error against Keras and ONNX Runtime; above 1e-6 needs `reason`.
        onnx: how many of which operators the exported graph holds; None: not fixed.
        trains: whether weights after SGD steps can be compared with Keras's.
        keras: whether Keras has such a layer.
    """

    name: str
    build: Callable[[Any], Any]
    shapes: tuple[tuple[int | None, ...], ...]
    dtypes: str | tuple[str, ...] = "float32"
    call: Callable[..., Any] = apply
    tolerance: float = 1e-6
    reason: str | None = None
    onnx: dict[str, int] | None = None
    trains: bool = True
    keras: bool = True
    high: int = 5

    def make(self, layers: Any = mf.layers) -> Any:
        """A new layer of this configuration."""
        return self.build(layers)

    def kinds(self) -> tuple[str, ...]:
        """The dtype of each input."""
        return (self.dtypes,) * len(self.shapes) if isinstance(self.dtypes, str) else self.dtypes

    def inputs(self, batch: int = 2, dynamic: int = 6, seed: int = 0) -> list[np.ndarray]:
        """Random arrays to call the layer on."""
        rng = np.random.default_rng(seed)
        arrays = []
        for shape, kind in zip(self.shapes, self.kinds(), strict=True):
            size = (batch, *(dynamic if n is None else n for n in shape))
            if kind == "bool":
                array = rng.random(size) < 0.6
                array[:, :1] = True
            elif kind == "int32":
                array = rng.integers(0, self.high, size).astype(kind)
            else:
                array = rng.standard_normal(size).astype(kind)
            arrays.append(array)
        return arrays

    def symbolic(self, make_input: Callable[..., Any] = mf.Input) -> list[Any]:
        """Symbolic inputs: ours, or Keras's with `keras.Input`."""
        return [
            make_input(shape, dtype=kind)
            for shape, kind in zip(self.shapes, self.kinds(), strict=True)
        ]

    def model(self) -> mf.Model:
        """A model of the layer alone, with `randomize`d weights."""
        inputs = self.symbolic()
        model = mf.Model(inputs, self.call(self.make(), *inputs))
        randomize(model)
        return model


def randomize(layer: Any, seed: int = 0) -> None:
    """Move every weight off its initial value, so that zero biases hide nothing."""
    rng = np.random.default_rng(seed)
    layer.set_weights(
        [w + rng.uniform(0.01, 0.2, w.shape).astype(np.float32) for w in layer.get_weights()]
    )


def masked(layer: Any, x: Any, mask: Any) -> Any:
    """layer(x, mask=mask)"""
    return layer(x, mask=mask)


CORE = [
    Case("dense", lambda L: L.Dense(4), ((3,),)),
    Case("dense-relu", lambda L: L.Dense(4, activation="relu"), ((3,),)),
    Case("dense-no-bias", lambda L: L.Dense(4, use_bias=False), ((3,),)),
    Case("dense-sequence", lambda L: L.Dense(4, activation="tanh"), ((5, 3),)),
    Case("dense-dynamic", lambda L: L.Dense(4), ((None, 3),)),
    Case("dense-rank-4", lambda L: L.Dense(2), ((4, 3, 5),)),
    Case("dense-softmax", lambda L: L.Dense(4, activation="softmax"), ((3,),)),
    Case("dense-regularized", lambda L: L.Dense(4, kernel_regularizer="l2"), ((3,),)),
    Case("embedding", lambda L: L.Embedding(5, 3), ((6,),), "int32"),
    Case("embedding-mask", lambda L: L.Embedding(5, 3, mask_zero=True), ((6,),), "int32"),
    Case("embedding-dynamic", lambda L: L.Embedding(5, 3), ((None,),), "int32"),
    Case("identity", lambda L: L.Identity(), ((3, 2),)),
    Case("masking", lambda L: L.Masking(0.5), ((4, 3),)),
    *(
        Case(f"activation-{name}", lambda L, name=name: L.Activation(name), ((4, 5),))
        for name in (
            *("linear", "relu", "relu6", "leaky_relu", "elu", "selu", "gelu", "silu", "sigmoid"),
            *("hard_sigmoid", "hard_silu", "softmax", "log_softmax", "softplus", "softsign"),
            *("tanh", "exponential", "mish", "celu", "hard_tanh", "log_sigmoid"),
        )
    ),
    Case("activation-glu", lambda L: L.Activation("glu"), ((4, 6),)),
]

MERGING = [
    *(
        Case(f"{name.lower()}{suffix}", lambda L, name=name: getattr(L, name)(), shapes)
        for name in ("Add", "Multiply", "Average", "Maximum", "Minimum", "Subtract")
        for suffix, shapes in (
            ("", ((3, 2), (3, 2))),
            ("-broadcast", ((3, 2), (1, 2))),
            ("-dynamic", ((None, 2), (None, 2))),
        )
    ),
    Case("add-three", lambda L: L.Add(), ((3,), (3,), (3,))),
    Case("add-lower-rank", lambda L: L.Add(), ((4, 3), (3,))),
    Case("average-three", lambda L: L.Average(), ((3,), (3,), (3,))),
    Case("concatenate", lambda L: L.Concatenate(), ((3, 2), (3, 4))),
    Case("concatenate-axis", lambda L: L.Concatenate(axis=1), ((3, 2), (5, 2))),
    Case("concatenate-time", lambda L: L.Concatenate(axis=1), ((None, 2), (5, 2))),
    Case("concatenate-three", lambda L: L.Concatenate(axis=-2), ((3, 2), (1, 2), (4, 2))),
    Case("dot", lambda L: L.Dot(axes=1), ((3,), (3,))),
    Case("dot-normalize", lambda L: L.Dot(axes=-1, normalize=True), ((3,), (3,))),
    Case("dot-rank-3", lambda L: L.Dot(axes=(2, 1)), ((4, 3), (3, 5))),
    Case("dot-same-axis", lambda L: L.Dot(axes=2), ((4, 3), (5, 3))),
]


def started(layer: Any, x: Any, *states: Any) -> Any:
    """layer(x, initial_state=states)"""
    return layer(x, initial_state=list(states))


def recurrent(name: str, build: Callable[[Any], Any], **kwargs: Any) -> list[Case]:
    """A recurrent layer alone, and with any mask."""
    return [
        Case(name, build, ((None, 3),), **kwargs),
        Case(f"{name}-mask", build, ((None, 3), (None,)), ("float32", "bool"), masked, **kwargs),
    ]


RECURRENT = [
    *(
        row
        for name in ("SimpleRNN", "LSTM", "GRU")
        for suffix, options in (
            ("", {}),
            ("-sequences", {"return_sequences": True}),
            ("-states", {"return_state": True, "return_sequences": True}),
            ("-backwards", {"go_backwards": True}),
            ("-backwards-sequences", {"go_backwards": True, "return_sequences": True}),
            ("-zeros", {"zero_output_for_mask": True, "return_sequences": True}),
            ("-no-bias", {"use_bias": False}),
            ("-relu", {"activation": "relu"}),
            ("-gelu", {"activation": "gelu", "return_sequences": True}),
        )
        for row in recurrent(
            f"{name.lower()}{suffix}", lambda L, n=name, o=options: getattr(L, n)(4, **o)
        )
    ),
    Case("lstm-fixed-time", lambda L: L.LSTM(4), ((5, 3),)),
    Case("lstm-started", lambda L: L.LSTM(4), ((None, 3), (4,), (4,)), call=started),
    Case("lstm-hard", lambda L: L.LSTM(4, recurrent_activation="hard_sigmoid"), ((5, 3),)),
    Case("lstm-forget-0", lambda L: L.LSTM(4, unit_forget_bias=False), ((5, 3),)),
    Case("lstm-dropout", lambda L: L.LSTM(4, dropout=0.2, recurrent_dropout=0.2), ((5, 3),)),
    Case("gru-started", lambda L: L.GRU(4, return_state=True), ((5, 3), (4,)), call=started),
    *recurrent("gru-before", lambda L: L.GRU(4, reset_after=False, return_sequences=True)),
    *recurrent("rnn", lambda L: L.RNN(L.LSTMCell(4), return_sequences=True)),
    *recurrent("rnn-gru-cell", lambda L: L.RNN(L.GRUCell(4), go_backwards=True)),
    *recurrent("rnn-simple-cell", lambda L: L.RNN(L.SimpleRNNCell(4), return_state=True)),
    *recurrent("rnn-stacked", lambda L: L.RNN([L.LSTMCell(4), L.GRUCell(3)])),
    *(
        row
        for name in ("SimpleRNN", "LSTM", "GRU")
        for suffix, options, merge in (
            ("", {}, "concat"),
            ("-sequences", {"return_sequences": True}, "concat"),
            ("-states", {"return_sequences": True, "return_state": True}, "sum"),
            ("-none", {"return_sequences": True}, None),
            ("-ave", {}, "ave"),
        )
        for row in recurrent(
            f"bidirectional-{name.lower()}{suffix}",
            lambda L, n=name, o=options, m=merge: L.Bidirectional(
                getattr(L, n)(4, **o), merge_mode=m
            ),
        )
    ),
    Case(
        "bidirectional-uneven",
        lambda L: L.Bidirectional(
            L.LSTM(4), backward_layer=L.LSTM(4, activation="relu", go_backwards=True)
        ),
        ((None, 3),),
    ),
    Case("time-distributed-dense", lambda L: L.TimeDistributed(L.Dense(2)), ((None, 3),)),
    Case("time-distributed-lstm", lambda L: L.TimeDistributed(L.LSTM(2)), ((3, 4, 5),)),
    Case("conv-lstm", lambda L: L.ConvLSTM2D(2, 3), ((3, 5, 6, 2),)),
    Case(
        "conv-lstm-same",
        lambda L: L.ConvLSTM2D(2, (3, 2), strides=2, padding="same", return_sequences=True),
        ((None, 5, 6, 2),),
    ),
    Case(
        "conv-lstm-dilated",
        lambda L: L.ConvLSTM2D(2, 2, dilation_rate=2, return_state=True, go_backwards=True),
        ((3, 5, 6, 2),),
    ),
]

CASES: list[Case] = [*CORE, *MERGING, *RECURRENT]
