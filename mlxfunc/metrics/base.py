"""Metric: a number kept over many batches. State in, state out, so that a step can be compiled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
from mlx.utils import tree_map

from .. import initializers
from ..conversion import DTypeLike, as_dtype, dtype_name, to_mlx
from ..losses.base import align, as_float32
from ..registry import Configurable, Registry, constructor_arguments, snake_case
from ..variables import Variable, array_of

REGISTRY = Registry("metrics")


class Metric(Configurable):
    """The base of all. A subclass makes its state with `add_variable`, in `__init__` or `build`.

    `state` is a dict of arrays. `update_state` replaces its entries by pure MLX operations on
    them, never reading a value; `result` computes the metric from them. Entries are sums over
    the rows seen, so that several machines may add theirs up.

    Args:
        dtype: of the state, and so of the result; "float32" by default.
    """

    def __init__(self, dtype: DTypeLike = None, name: str | None = None) -> None:
        self.name = name or snake_case(type(self).__name__)
        self.dtype = dtype_name(as_dtype(dtype or "float32"))
        self.state: dict[str, mx.array] = {}
        self.built = False

    @property
    def variables(self) -> dict[str, mx.array]:
        """The state: arrays by name."""
        return self.state

    def add_variable(
        self,
        shape: Sequence[int] = (),
        initializer: Any = None,
        dtype: DTypeLike = None,
        aggregation: str = "sum",
        name: str | None = None,
    ) -> Variable:
        """Make `state[name]`, and return it as a variable to assign to.

        Args:
            initializer: "zeros" when missing.
            dtype: the metric's when missing.
            aggregation: only "sum": several machines add theirs up.
            name: numbered when it is taken; "variable" when missing.
        Source: https://keras.io/api/metrics/base_metric/
        """
        if isinstance(shape, str):
            raise ValueError(
                f"{self.name}: expected a shape first, got {shape!r}. "
                f"Write add_variable(shape=..., name={shape!r})."
            )
        if aggregation != "sum":
            raise ValueError(
                f"{self.name}: expected aggregation 'sum', got {aggregation!r}. Keep a sum and a "
                "count, and divide them in result."
            )
        base = key = name or "variable"
        count = 0
        while key in self.state:
            count += 1
            key = f"{base}_{count}"
        make = initializers.get(initializer or "zeros")
        self.state[key] = array = make(tuple(shape), as_dtype(dtype or self.dtype))
        mx.eval(array)
        return Variable(self.state, key)

    def add_weight(
        self,
        shape: Sequence[int] = (),
        initializer: Any = None,
        dtype: DTypeLike = None,
        name: str | None = None,
    ) -> Variable:
        """`add_variable` by its older name."""
        return self.add_variable(shape, initializer, dtype, name=name)

    def build(self, y_shape: Sequence[int], out_shape: Sequence[int]) -> None:
        """Make the state that depends on the shapes of labels and output."""

    def ensure_built(self, y_shape: Sequence[int], out_shape: Sequence[int]) -> None:
        """`build`, unless that was done."""
        if not self.built:
            self.build(tuple(y_shape), tuple(out_shape))
            self.built = True

    def accumulate(self, **amounts: mx.array | float) -> None:
        """Add each amount to the state of that name."""
        for name, amount in amounts.items():
            self.state[name] = (self.state[name] + amount).astype(self.state[name].dtype)

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Take a batch into account."""
        raise NotImplementedError(f"{self.name}: expected an `update_state` method.")

    def result(self) -> Any:
        """The metric of everything since the last reset: an array, or a dict of them."""
        raise NotImplementedError(f"{self.name}: expected a `result` method.")

    def samplewise(
        self, values: Any, sample_weight: Any, reduce: Callable[..., mx.array]
    ) -> tuple[mx.array, mx.array | None]:
        """Weighted values, one for each sample, and the weights, likewise."""
        values = to_mlx(values).astype(as_dtype(self.dtype))
        if sample_weight is None:
            return _rows(values, 1, reduce), None
        given = to_mlx(sample_weight)
        weights = align(self.name, "sample_weight", given, values)
        if given.ndim < values.ndim:
            values = _rows(values, given.ndim, reduce)
            weights = weights.reshape(weights.shape[: given.ndim])
        weights = mx.broadcast_to(weights, values.shape)
        return _rows(values * weights, 1, reduce), _rows(weights, 1, reduce)

    def reset_state(self) -> None:
        """Forget everything."""
        for name, value in self.state.items():
            self.state[name] = mx.zeros_like(value)
        mx.eval(self.state)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Update, then the result."""
        self.update_state(*args, **kwargs)
        return result_of(self)


def result_of(metric: Metric) -> Any:
    """`metric.result()` with arrays in the place of variables."""
    return tree_map(array_of, metric.result())


def add_exactly(
    total: mx.array, rest: mx.array, amount: mx.array | float
) -> tuple[mx.array, mx.array]:
    """total + rest + amount, rounded, and what that lacks (Knuth's TwoSum)."""
    amount = amount + rest
    whole = total + amount
    added = whole - total
    return whole, (total - (whole - added)) + (amount - added)


class Sum(Metric):
    """sum of w v over the values v with weights w."""

    def __init__(self, name: str = "sum", dtype: DTypeLike = None) -> None:
        super().__init__(dtype, name)
        self.add_variable(name="total")

    def update_state(self, values: Any, sample_weight: Any = None) -> None:  # type: ignore[override]
        values, _ = self.samplewise(values, sample_weight, mx.sum)
        self.accumulate(total=mx.sum(values))

    def result(self) -> mx.array:
        return self.state["total"]


class Mean(Metric):
    """sum of w v / sum of w over the values v with weights w; 0 before the first of them.

    It is right for any number of values.
    """

    def __init__(self, name: str = "mean", dtype: DTypeLike = None) -> None:
        super().__init__(dtype, name)
        for variable in ("total", "total_rest", "count", "count_rest"):
            self.add_variable(name=variable)

    def accumulate(self, **amounts: mx.array | float) -> None:
        # float32 counts to 2**24 and no further: beside each sum stands what it lacks.
        for name, amount in amounts.items():
            sums = self.state[name], self.state[f"{name}_rest"]
            for key, value in zip((name, f"{name}_rest"), add_exactly(*sums, amount), strict=True):
                self.state[key] = value.astype(sums[0].dtype)

    def update_state(self, values: Any, sample_weight: Any = None) -> None:  # type: ignore[override]
        values, weights = self.samplewise(values, sample_weight, mx.mean)
        count = values.size if weights is None else mx.sum(weights)
        self.accumulate(total=mx.sum(values), count=count)

    def result(self) -> mx.array:
        state = self.state
        count = state["count"] + state["count_rest"]
        return divide(state["total"] + state["total_rest"], count)


class FunctionMetric(Mean):
    """The mean of `function(y_true, y_pred)`, called with the constructor's other arguments."""

    function: Callable[..., mx.array]

    def __init__(self, name: str | None = None, dtype: DTypeLike = None) -> None:
        super().__init__(name or snake_case(type(self).__name__), dtype)

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:  # type: ignore[override]
        names = [n for n in constructor_arguments(type(self)) if n not in ("name", "dtype")]
        arguments = {name: getattr(self, name) for name in names}
        values = self.function(to_mlx(y_true), as_float32(y_pred), **arguments)
        super().update_state(values, sample_weight)


class MeanMetricWrapper(Mean):
    """The mean of any function `fn(y_true, y_pred, **kwargs)` of arrays."""

    def __init__(
        self,
        fn: Callable[..., mx.array],
        name: str | None = None,
        dtype: DTypeLike = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name or snake_case(getattr(fn, "__name__", type(fn).__name__)), dtype)
        self.fn, self.kwargs = fn, kwargs

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:  # type: ignore[override]
        values = self.fn(to_mlx(y_true), to_mlx(y_pred), **self.kwargs)
        super().update_state(values, sample_weight)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self.kwargs}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> MeanMetricWrapper:
        return cls(**{**config, "fn": REGISTRY.get(config["fn"])})


def divide(a: mx.array, b: mx.array) -> mx.array:
    """a / b, and 0 where b is 0."""
    return mx.where(b == 0, 0, a / mx.where(b == 0, 1, b))


def _rows(values: mx.array, keep: int, reduce: Callable[..., mx.array]) -> mx.array:
    axes = list(range(keep, values.ndim))
    return reduce(values, axis=axes) if axes else values
