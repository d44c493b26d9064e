"""The metrics that `compile` makes beside the user's own: the means of losses, and all as one."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from ..graph import leaves
from ..metrics import Mean, Metric


class LossTracker(Mean):
    """The mean of a loss over rows."""

    def track(self, loss: mx.array, rows: int) -> None:
        """Count the loss of a batch of so many rows."""
        self.accumulate(total=loss.astype(mx.float32) * rows, count=rows)


class CompileMetrics(Metric):
    """All metrics of compile as one: `update_state(y, y_pred)` counts a batch in each of them."""

    def __init__(self, objective: Any) -> None:
        super().__init__(name="compile_metrics")
        self.objective = objective

    @property
    def metrics(self) -> list[Any]:
        """The metric objects; those that labels' shapes choose, once there were labels."""
        return [metric for _, _, metric in self.objective.metrics.values()]

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        ys, outputs, ws = (leaves(value) for value in (y_true, y_pred, sample_weight))
        self.objective.build([tuple(y.shape) for y in ys])
        self.objective.update(ys, outputs, ws, [None] * len(outputs))

    def result(self) -> dict[str, mx.array]:
        return self.objective.metric_results()

    def reset_state(self) -> None:
        for metric in self.metrics:
            metric.reset_state()
