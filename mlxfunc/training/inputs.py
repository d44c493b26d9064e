"""From what users give to fit, evaluate and predict to the batches of epochs."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_map

from ..conversion import to_mlx
from . import distributed
from .data import ArraySource, Batch, Reader, Source, is_stream, make_source
from .dataset import is_dataset
from .epochs import EpochIterator
from .objective import checker


def training_data(
    model: Any,
    data: tuple[Any, Any, Any],
    *,
    batch_size: int | None,
    shuffle: bool | str,
    class_weight: Mapping[int, float] | None,
    steps: int | None,
    validation_split: float,
    validation_data: Any,
    validation_batch_size: int | None,
    validation_steps: int | None,
) -> tuple[EpochIterator, EpochIterator | None]:
    """What fit trains on, and what it validates on, if anything.

    Args:
        data: x, y and sample_weight.
    """
    x = build_for(model, data[0])
    reader = reader_of(model, class_weight)
    options: dict[str, Any] = {
        "batch_size": batch_size,
        "shuffle": shuffle,
        "seed": _shuffle_seed(),
    }
    source: Source
    validation: Source | None
    held_out = validation_batch_size or batch_size
    if validation_split and validation_data is None:
        source, validation = _split(reader, (x, *data[1:]), validation_split, held_out, options)
    else:
        source = make_source(reader, x, *data[1:], **options)
        validation = _validation(model, validation_data, held_out)
    return (
        EpochIterator(source, steps),
        None if validation is None else EpochIterator(validation, validation_steps),
    )


def _split(
    reader: Reader, data: tuple, share: float, held_out_size: int | None, options: dict[str, Any]
) -> tuple[Source, Source]:
    if is_stream(data[0]):
        raise ValueError(
            "validation_split: expected arrays, got something that yields batches. "
            "Give validation_data."
        )
    first, last = reader.read(*data).split(share)
    if reader.class_weight is not None:
        last.w = []  # class_weight applies to training rows only.
    return (
        ArraySource(
            first, options["batch_size"], options["shuffle"], options["seed"], share=reader.share
        ),
        ArraySource(last, held_out_size, share=reader.share),
    )


def _validation(model: Any, data: Any, batch_size: int | None) -> Source | None:
    if data is None:
        return None
    reader = reader_of(model)
    if isinstance(data, list | tuple) and not is_stream(data):
        if not 2 <= len(data) <= 3:
            raise ValueError(
                f"validation_data: expected (x, y) or (x, y, sample_weight), got {len(data)} parts."
            )
        return make_source(reader, *data, batch_size=batch_size)
    return make_source(reader, data)


def evaluation_data(
    model: Any, data: tuple[Any, Any, Any], batch_size: int | None, steps: int | None
) -> EpochIterator:
    """What evaluate reads: x, y and sample_weight."""
    x = build_for(model, data[0])
    source = make_source(reader_of(model), x, *data[1:], batch_size=batch_size)
    return EpochIterator(source, steps)


def prediction_data(model: Any, x: Any, batch_size: int | None, steps: int | None) -> EpochIterator:
    """What predict reads: inputs alone."""
    x = build_for(model, x)
    source = make_source(Reader(model, checker(model, None)), x, batch_size=batch_size)
    return EpochIterator(source, steps)


def single_batch(
    model: Any, data: tuple[Any, Any, Any], class_weight: Mapping[int, float] | None
) -> Batch:
    """What train_on_batch and test_on_batch take."""
    x = build_for(model, data[0])
    reader = reader_of(model, class_weight)
    batch = reader.read(x, *data[1:])
    return (batch.part(reader.share(batch.rows)) if reader.share else batch).on_device()


def single_inputs(model: Any, x: Any) -> Batch:
    """What predict_on_batch takes."""
    x = build_for(model, x)
    return Reader(model, checker(model, None)).read(x).on_device()


def reader_of(model: Any, class_weight: Mapping[int, float] | None = None) -> Reader:
    """What checks the model's inputs and labels, and takes this machine's share of rows."""
    share = distributed.share if distributed.size() > 1 else None
    return Reader(
        model, checker(model, model.objective), class_weight, share, model.objective.labelled
    )


def _shuffle_seed() -> int:
    """A seed from NumPy's state, the same on all machines."""
    seed = mx.array(np.random.randint(2**31 - 1), mx.int32)
    return int(distributed.from_main(seed).item())


def build_for(model: Any, x: Any) -> Any:
    """Draw a Sequential that waited for its first data; returns data that still has it all."""
    if model.built:
        return x
    first, rest = x, x
    if is_dataset(x):
        first = x[0]
    elif is_stream(x):
        items = iter(x)
        first = next(items)
        rest = chain([first], items) if items is x else x
    if is_stream(x):
        first = first[0] if isinstance(first, list | tuple) else first
    array = first[0] if isinstance(first, list | tuple) and hasattr(first[0], "shape") else first
    model.build_from(tree_map(lambda part: to_mlx(np.asarray(part[:1])), array))
    return rest
