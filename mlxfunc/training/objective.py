"""What `compile` asked for, bound to a model's outputs: losses, their weights, metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from .. import losses as losses_module
from .. import metrics as metrics_module
from .. import ranks
from ..losses.base import divide
from .arrays import check_range
from .trackers import CompileMetrics, LossTracker

Arrays = Sequence[Any]


def spread(value: Any, names: Sequence[str], what: str) -> list[Any]:
    """One entry for each output, from one for all, a list in their order, or a dict by name.

    Raises: ValueError for unknown names and for lists of another length.
    """
    if isinstance(value, Mapping) and "class_name" not in value:
        unknown = [key for key in value if key not in names]
        if unknown:
            raise ValueError(f"{what}: unknown outputs {unknown}. Known: {list(names)}.")
        return [value.get(name) for name in names]
    if isinstance(value, list | tuple):
        if len(value) != len(names):
            raise ValueError(
                f"{what}: expected {len(names)} entries, one for each of {list(names)}, got "
                f"{len(value)}. Give a list in that order, or a dict by name."
            )
        return list(value)
    return [value] * len(names)


def _spread_metrics(value: Any, names: Sequence[str], what: str) -> list[list[Any]]:
    if value is None:
        return [[] for _ in names]
    if not isinstance(value, list | tuple | Mapping):
        raise ValueError(f"{what}: expected a list or a dict, got {value!r}. Write [{value!r}].")
    if len(names) == 1 and not isinstance(value, Mapping):
        return [_flat(value)]
    return [_flat(entry) for entry in spread(value, names, what)]


def _made(groups: list[list[Any]]) -> list[list[Any]]:
    """The metrics, but for those that labels' shapes choose; one given by name keeps it."""
    made: list[list[Any]] = [[] for _ in groups]
    for entries, group in zip(made, groups, strict=True):
        for given in group:
            metric = given if _is_chosen_by_shape(given) else metrics_module.get(given)
            if isinstance(given, str) and isinstance(metric, metrics_module.Metric):
                metric.name = given
            entries.append(metric)
    return made


def _flat(value: Any) -> list[Any]:
    if isinstance(value, list | tuple):
        return [m for entry in value for m in _flat(entry)]
    return [] if value is None else [value]


class Objective:
    """Losses and metrics of every output, and the running means that are logged.

    loss = sum over outputs of weight · loss(y, output) + what layers and regularizers add.

    The logged losses are means over rows: a smaller last batch counts by its rows.

    Args:
        outputs: the model's symbolic outputs.
    """

    def __init__(
        self,
        names: Sequence[str],
        outputs: Sequence[Any],
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
    ) -> None:
        self.names = list(names)
        self.shapes = [tuple(tensor.shape) for tensor in outputs]
        self._losses = spread(loss, names, "loss")
        self._weights = spread(loss_weights, names, "loss_weights")
        if isinstance(loss_weights, int | float) and len(names) > 1:
            raise ValueError(
                f"loss_weights: expected a list or dict for outputs {self.names}, got "
                f"{loss_weights!r}."
            )
        # Custom objects are known by name only now, where a file is loaded.
        self._metrics = _made(_spread_metrics(metrics, names, "metrics"))
        self._weighted = _made(_spread_metrics(weighted_metrics, names, "weighted_metrics"))
        self.losses: list[Any] = [
            None if _is_chosen_by_shape(given) else losses_module.get(given)
            for given in self._losses
        ]
        self.metrics: dict[str, tuple[int, bool, Any]] = {}
        self.compile_metrics = CompileMetrics(self)
        self.loss_tracker = LossTracker("loss")
        several = self.used if len(self.used) > 1 else []
        self.output_trackers = [LossTracker(f"{self.names[i]}_loss") for i in several]
        self.outputs_tracked = False
        self.built = False
        self.label_shapes: list[Any] = []

    @property
    def used(self) -> list[int]:
        """The outputs that have a loss."""
        return [i for i, given in enumerate(self._losses) if given is not None]

    @property
    def labelled(self) -> list[int]:
        """The outputs that need labels: those with a loss or a metric."""
        wanted = zip(self._losses, self._metrics, self._weighted, strict=True)
        return [i for i, (loss, *metrics) in enumerate(wanted) if loss is not None or any(metrics)]

    @property
    def keys(self) -> list[str]:
        """What is logged, in Keras's order."""
        return ["loss", *self.metrics, *(tracker.name for tracker in self.output_trackers)]

    @property
    def trackers(self) -> list[Any]:
        """What is logged, as metrics: the loss, compile's metrics, the loss of each output."""
        logged = self.output_trackers if self.outputs_tracked else []
        return [self.loss_tracker, self.compile_metrics, *logged]

    @property
    def state(self) -> list[dict[str, mx.array]]:
        """Every array that moves during an epoch, in dicts that stay the same objects."""
        means = [self.loss_tracker, *self.output_trackers]
        return [metric.state for metric in (*means, *self.compile_metrics.metrics)]

    def build(self, y_shapes: Sequence[Any]) -> None:
        """Choose what depends on the labels' shapes: "accuracy", "crossentropy".

        Raises: ValueError when labels are missing for an output that has a loss or a metric.
        """
        if self.built:
            return
        for i in range(len(self.names)):
            if i in self.labelled and (i >= len(y_shapes) or y_shapes[i] is None):
                raise ValueError(
                    f"y: expected targets for output {self.names[i]!r}, which has a loss or "
                    "metric, got none. Give y, or take the loss and metric away."
                )
            if self._losses[i] is not None and self.losses[i] is None:
                self.losses[i] = losses_module.resolve(self._losses[i], y_shapes[i], self.shapes[i])
        for weighted, groups in ((False, self._metrics), (True, self._weighted)):
            for i, group in enumerate(groups):
                for given in group:
                    metric = metrics_module.resolve(given, y_shapes[i], self.shapes[i])
                    self.metrics[self._key(i, given, metric, weighted)] = (i, weighted, metric)
        self.built, self.label_shapes = True, list(y_shapes)

    def _key(self, output: int, given: Any, metric: Any, weighted: bool) -> str:
        prefix = f"{self.names[output]}_" if len(self.names) > 1 else ""
        key = prefix + metric.name
        if key in self.metrics and weighted:
            key = f"{prefix}weighted_{metric.name}"
        base, count = key, 0
        while key in self.metrics:
            count += 1
            key = f"{base}_{count}"
        return key

    def reset(self) -> None:
        """Begin the running means and metrics afresh."""
        for metric in (self.loss_tracker, *self.output_trackers, self.compile_metrics):
            metric.reset_state()

    def loss(self, ys: Arrays, outputs: Arrays, weights: Arrays, masks: Arrays) -> list[mx.array]:
        """The unweighted loss of each output that has one."""
        return [
            _loss_of_all_ranks(
                self.losses[i],
                (ys[i], outputs[i], weights[i] if weights else None),
                _fitting_mask(masks[i], outputs[i]),
            )
            for i in self.used
        ]

    def total(self, values: Sequence[mx.array]) -> mx.array:
        """The sum of losses, each times its weight."""
        total = mx.array(0.0)
        for i, value in zip(self.used, values, strict=True):
            weight = self._weights[i]
            total = total + (value if weight is None else weight * value)
        return total

    def track_outputs(self, values: Sequence[mx.array], rows: int) -> None:
        """Count the loss of each output, where several have one."""
        self.outputs_tracked = True
        for tracker, value in zip(self.output_trackers, values, strict=False):
            tracker.track(value, rows)

    def update(self, ys: Arrays, outputs: Arrays, weights: Arrays, masks: Arrays) -> None:
        """Count a batch in the metrics; a masked output's count its valid entries only."""
        for i, weighted, metric in self.metrics.values():
            weight = weights[i] if weighted and weights else None
            mask = _fitting_mask(masks[i], outputs[i])
            metric.update_state(ys[i], outputs[i], sample_weight=_both(weight, mask))

    def metric_results(self) -> dict[str, mx.array]:
        """The value of each metric, by its key in History; nothing is computed yet."""
        logs: dict[str, mx.array] = {}
        for key, (_, _, metric) in self.metrics.items():
            result = metrics_module.result_of(metric)
            logs |= result if isinstance(result, dict) else {key: result}
        return logs

    def check(self, ys: Arrays) -> None:
        """Raise ValueError for class labels that an output has no entry for."""
        for i in self.used:
            size = self.shapes[i][-1]
            if i >= len(ys) or ys[i] is None:
                continue
            loss = self.losses[i]
            if loss is None:
                loss = losses_module.resolve(self._losses[i], tuple(ys[i].shape), self.shapes[i])
            if not _is_sparse(loss):
                continue
            labels, ignored = ys[i], getattr(loss, "ignore_class", None)
            if ignored is not None:
                labels = np.asarray(labels)
                labels = labels[labels != ignored]
            if isinstance(size, int):
                check_range(labels, size, f"labels of output {self.names[i]!r}")


def _is_chosen_by_shape(given: Any) -> bool:
    names = ("accuracy", "acc", "crossentropy", "ce")
    return isinstance(given, str) and given.lower() in names


def _is_sparse(loss: Any) -> bool:
    sparse = losses_module.sparse_categorical_crossentropy
    return isinstance(loss, losses_module.SparseCategoricalCrossentropy) or (
        isinstance(loss, losses_module.LossFunctionWrapper) and loss.fn is sparse
    )


def _loss_of_all_ranks(loss: Any, arguments: tuple, mask: mx.array | None) -> mx.array:
    """A loss whose mean over the ranks, by their rows, is the loss of all rows together.

    A mean over all entries is one as it is. Where entries count unequally, and for a sum, the
    denominator is the one of all ranks, and ours is the larger the fewer of the rows are ours.
    """
    if ranks.size() == 1 or type(loss).__call__ is not losses_module.Loss.__call__:
        return loss(*arguments, mask=mask)
    numerator, denominator = loss.parts(*arguments, mask=mask)
    if isinstance(denominator, int):
        return divide(numerator, denominator)
    sums = {"rows": mx.array(arguments[1].shape[0], mx.float32)}
    if denominator is not None:
        sums["denominator"] = denominator
    whole = ranks.total_of(sums)
    value = divide(numerator, whole.get("denominator"))
    return value * (whole["rows"] / sums["rows"])


def _fitting_mask(mask: mx.array | None, output: mx.array) -> mx.array | None:
    """A mask belongs to the leading axes; one that outlived its axes says nothing."""
    if mask is None or mask.ndim >= output.ndim or mask.shape != output.shape[: mask.ndim]:
        return None
    return mask


def _both(weight: mx.array | None, mask: mx.array | None) -> mx.array | None:
    """Weights that are zero where the mask is."""
    if mask is None or weight is None:
        return weight if mask is None else mask.astype(mx.float32)
    shape = weight.shape[: mask.ndim] if weight.shape[mask.ndim :] == (1,) else weight.shape
    weight = weight.reshape(*shape, *[1] * (mask.ndim - len(shape)))
    return weight * mask.astype(weight.dtype)


def checker(model: Any, objective: Objective | None) -> Callable[[list, list], None]:
    """What to look at in data, on the host, before it is used: indices and labels in range."""

    def check(xs: list[Any], ys: list[Any]) -> None:
        with mx.stream(mx.cpu):  # which waits for nothing that a GPU still does
            model.given_ids.check_rows(xs)
        if objective is not None and ys:
            objective.check(ys)

    return check
