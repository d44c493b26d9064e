"""Whole models, at their real sizes, that must build, train, save, load and export."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlxfunc as mf
import mlx.core as mx
import numpy as np
from mlxfunc import optimizers

import architectures as arch


@dataclass(frozen=True)
class Whole:
    """A model and how it is trained and tried.

    Args:
        build: makes the model.
        loss: for `compile`; says what the targets look like.
        high: integer inputs are drawn below it.
        batch: rows of a training step.
        steps: sizes of the dynamic dimensions in a training step, all equal.
        onnx: operators that the exported graph must hold, and how many of each.
        padded: float and integer inputs end in zeros, row by row from another step on.
        large: minutes or gigabytes: in the slow set, and verified at batch 1.
        fewer: the same model with fewer frames, which is trained and verified in its place: a
            training step on all of them takes more than 15 GB on a CPU.
    """

    build: Callable[..., mf.Model]
    loss: Any
    high: int = 10
    batch: int = 4
    steps: int = 6
    optimizer: Any = "rmsprop"
    loss_weights: Any = None
    onnx: dict[str, int] | None = None
    padded: bool = False
    large: bool = False
    fewer: Callable[[], mf.Model] | None = None

    def inputs(self, model: mf.Model, batch: int | None = None, seed: int = 0) -> dict[str, Any]:
        """Random arrays by input name."""
        rng = np.random.default_rng(seed)
        arrays = {}
        for name, tensor in zip(model.input_names, model.inputs, strict=True):
            first = tensor.shape[0] or batch or self.batch
            shape = (first, *(d if isinstance(d, int) else self.steps for d in tensor.shape[1:]))
            if mx.issubdtype(tensor.dtype, mx.integer):
                arrays[name] = rng.integers(0, self.high, size=shape).astype(np.int32)
            else:
                arrays[name] = rng.normal(size=shape).astype(np.float32)
            if self.padded:
                valid = np.arange(shape[1]) < rng.integers(1, shape[1] + 1, size=(first, 1))
                arrays[name] *= valid.reshape(first, shape[1], *(1,) * (len(shape) - 2))
        return arrays

    def targets(self, model: mf.Model, batch: int | None = None) -> list[np.ndarray]:
        """Random arrays, one for each output, of the form that its loss wants."""
        rng = np.random.default_rng(1)
        losses = list(self.loss.values()) if isinstance(self.loss, dict) else self.loss
        losses = losses if isinstance(losses, list) else [losses] * len(model.outputs)
        return [
            _target(rng, loss, self._sized(tensor.shape, batch or self.batch))
            for loss, tensor in zip(losses, model.outputs, strict=True)
        ]

    def _sized(self, shape: tuple, batch: int) -> tuple[int, ...]:
        first = shape[0] or batch
        return (first, *(d if isinstance(d, int) else self.steps for d in shape[1:]))


def _target(rng: np.random.Generator, loss: str, shape: tuple[int, ...]) -> np.ndarray:
    if loss == "binary_crossentropy":
        return rng.integers(0, 2, size=shape).astype(np.float32)
    if loss == "mse":
        return rng.normal(size=shape).astype(np.float32)
    classes = rng.integers(0, shape[-1], size=shape[:-1])
    if loss == "categorical_crossentropy":
        return np.eye(shape[-1], dtype=np.float32)[classes]
    return classes.astype(np.int32)


BINARY, SPARSE = "binary_crossentropy", "sparse_categorical_crossentropy"
CLASSES = "categorical_crossentropy"
SGD = {"learning_rate": 0.01, "decay": 1e-6, "momentum": 0.9, "nesterov": True}

MODELS: dict[str, Whole] = {
    "mlp": Whole(arch.mlp, CLASSES),
    "mlp-sequential": Whole(arch.mlp_sequential, CLASSES),
    "dropout-mlp": Whole(
        partial(arch.dropout_mlp, 10, "softmax"), CLASSES, optimizer=lambda: optimizers.SGD(**SGD)
    ),
    "dropout-mlp-binary": Whole(partial(arch.dropout_mlp, 1, "sigmoid"), BINARY),
    "vgg-like": Whole(arch.vgg_like, CLASSES, batch=2),
    "text-binary": Whole(arch.text_binary, BINARY, high=1000),
    "conv1d-stack": Whole(arch.conv1d_stack, BINARY),
    "model-as-layer": Whole(arch.model_as_layer, CLASSES),
    "time-distributed-model": Whole(arch.time_distributed_model, SPARSE),
    "question-answering": Whole(arch.question_answering, CLASSES, high=10000),
    "headline": Whole(arch.headline, [BINARY, BINARY], high=10000, loss_weights=[1.0, 0.2]),
    "siamese-tweets": Whole(arch.siamese_tweets, BINARY, batch=2),
    "autoencoder": Whole(arch.autoencoder, "mse"),
    "inception-block": Whole(arch.inception_block, "mse", batch=2),
    "residual-block": Whole(arch.residual_block, "mse"),
    "small-resnet": Whole(arch.small_resnet, "mse", batch=2),
    "two-digits": Whole(arch.two_digits, BINARY),
    "visual-question-answering": Whole(
        arch.visual_question_answering, CLASSES, high=10000, batch=1, large=True
    ),
    "video-question-answering": Whole(
        arch.video_question_answering,
        CLASSES,
        high=10000,
        batch=1,
        large=True,
        fewer=lambda: arch.video_question_answering(frames=3),
    ),
    "stateful-lstm": Whole(arch.stateful_lstm, CLASSES),
    "tagger-gru": Whole(partial(arch.tagger, "GRU"), SPARSE, high=1000, padded=True),
    "tagger-lstm": Whole(partial(arch.tagger, "LSTM"), SPARSE, high=1000, padded=True),
    "encoder-decoder": Whole(arch.encoder_decoder, SPARSE, high=500),
    "transformer-block": Whole(arch.transformer_block, "mse"),
    "masked-sequences": Whole(arch.masked_sequences, BINARY, padded=True),
}
