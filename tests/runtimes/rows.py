"""THE table: one row a file that every runtime must run, and what a runtime cannot do with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import mlxfunc as mf
import mlx.nn as nn
import numpy as np
from mlxfunc import layers, utils

from models import MODELS, Whole


@dataclass(frozen=True)
class Gap:
    """What a runtime does with a file that ONNX allows, and why.

    Args:
        match: a regular expression for its error, or for "differs by …".
        reason: one sentence, for the table in export/README.md.
    """

    match: str
    reason: str


@dataclass(frozen=True, eq=False)
class Row:
    """One exported file.

    Args:
        name: unique.
        whole: the model and its inputs; None: the model of this name in tests/models.py.
        options: of `model.export`.
        holes: some steps are masked also in the middle and at the start of sequences.
        tolerance: of the largest |runtime - MLX|, over the largest |MLX|; above 1e-5 needs
            `reason`.
        gaps: by runtime, what it cannot do.
    """

    name: str
    whole: Whole | None = None
    options: dict[str, Any] = field(default_factory=dict)
    holes: bool = False
    tolerance: float = 1e-5
    reason: str | None = None
    gaps: dict[str, Gap] = field(default_factory=dict)

    def model(self) -> mf.Model:
        """A new model whose biases and other vectors are not what they start as."""
        utils.set_random_seed(0)
        rng = np.random.default_rng(0)
        model = (self.whole or MODELS[self.name]).build()
        model.set_weights(
            [
                w + rng.uniform(0.05, 0.2, w.shape).astype(np.float32) if w.ndim == 1 else w
                for w in map(np.array, model.get_weights())
            ]
        )
        return model

    def inputs(self, model: mf.Model, batch: int) -> dict[str, np.ndarray]:
        """Random arrays by name."""
        arrays = (self.whole or MODELS[self.name]).inputs(model, batch)
        for array in arrays.values() if self.holes else ():
            # By row of the batch.
            for row, steps in zip(array, ([1, 3], [-2, -1], [0, 1]), strict=False):
                row[steps] = 0
        return arrays


def over(shape: tuple, *steps: Callable[[Any], Any]) -> Whole:
    """A model of one input, through one step after the other."""

    def build() -> mf.Model:
        x = y = mf.Input(shape, name="x")
        for step in steps:
            y = step(y)
        return mf.Model(x, y)

    return Whole(build, "mse")


def backwards(x: Any) -> Any:
    return layers.LSTM(16, return_sequences=True, go_backwards=True)(x)


def traced(x: Any) -> Any:
    """No layer of ours: the exporter has no rule, and follows the primitives."""
    return layers.MLXLayer(nn.TransformerEncoder(1, 16, 2, 32))(x, None)


def fully_convolutional(x: Any) -> Any:
    x = layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    return layers.Conv2D(4, 1)(layers.UpSampling2D(2)(x))


def separable() -> mf.Model:
    x = mf.Input((16, 16, 8), name="x")
    y = layers.SeparableConv2D(12, 3, padding="same", use_bias=False)(x)
    y = layers.Activation("relu")(layers.BatchNormalization()(y))
    y = layers.DepthwiseConv2D(3, strides=2)(y)
    return mf.Model(x, layers.GlobalAveragePooling2D()(layers.BatchNormalization()(y)))


FIXED = "OpenVINO, fixed sizes"
REFERENCE_LENGTHS = Gap(
    "differs by",
    "takes sequence_lens of LSTM, GRU and RNN and does not use it.",
)
OPENVINO_LENGTHS = Gap(
    "differs by",
    "does not use sequence_lens of a node of one direction while a size is dynamic; "
    "fix the sizes with `reshape` first.",
)
OPENVINO_FUNCTIONS = Gap(
    "No conversion rule found for operations: mlxfunc",
    "reads no local functions of a file; export without `functions=True`.",
)
OPENVINO_REDUCE = Gap(
    "Axis 1 out of the tensor rank",
    "does not use the axes of ReduceL1 and ReduceLogSumExp before opset 18.",
)

TIME = ("time", 8)
ROWS = [
    Row("mlp"),
    Row("headline"),
    Row("siamese-tweets"),
    Row("question-answering"),
    Row("encoder-decoder"),
    Row("conv1d-stack"),
    Row("vgg-like"),
    Row("autoencoder"),
    Row("inception-block"),
    Row("small-resnet"),
    Row("two-digits"),
    Row("time-distributed-model"),
    Row("transformer-block"),
    Row("separable-convolutions", Whole(separable, "mse")),
    Row("lstm-dynamic-time", over(TIME, lambda x: layers.LSTM(16)(x))),
    Row("lstm-backwards", over(TIME, backwards)),
    Row("bidirectional-gru", over(TIME, lambda x: layers.Bidirectional(layers.GRU(16))(x))),
    Row(
        "masked-sequences",
        holes=True,
        gaps={"ONNX reference": REFERENCE_LENGTHS, "OpenVINO": OPENVINO_LENGTHS},
    ),
    Row(
        "masked-sequences, right padding",
        MODELS["masked-sequences"],
        {"right_padded": True},
        gaps={"ONNX reference": REFERENCE_LENGTHS, "OpenVINO": OPENVINO_LENGTHS},
    ),
    Row(
        "masked-sequences, opset 17",
        MODELS["masked-sequences"],
        {"opset": 17},
        holes=True,
        gaps={
            "ONNX reference": REFERENCE_LENGTHS,
            "OpenVINO": OPENVINO_REDUCE,
            FIXED: OPENVINO_REDUCE,
        },
    ),
    Row("tagger-gru", holes=True, gaps={"ONNX reference": REFERENCE_LENGTHS}),
    Row("fully-convolutional", over((None, None, 3), fully_convolutional)),
    Row("traced-transformer-encoder", over((6, 16), traced)),
    Row("small-resnet, NCHW", MODELS["small-resnet"], {"inputs_as_nchw": True}),
    Row(
        "inception-block, NCHW",
        MODELS["inception-block"],
        {"inputs_as_nchw": True, "outputs_as_nchw": True},
    ),
    Row(
        "two-digits, local functions",
        MODELS["two-digits"],
        {"functions": True},
        gaps={"OpenVINO": OPENVINO_FUNCTIONS, FIXED: OPENVINO_FUNCTIONS},
    ),
    Row("transformer-block, opset 17", MODELS["transformer-block"], {"opset": 17}),
    Row("transformer-block, opset 26", MODELS["transformer-block"], {"opset": 26}),
    Row(
        "small-resnet, float16",
        MODELS["small-resnet"],
        {"dtype": "float16"},
        tolerance=2e-3,
        reason="float16 has three digits",
    ),
]
