"""Variables of metrics: what users' own metrics, written for Keras, do with them."""

import mlxfunc as mf
import mlx.core as mx
import numpy as np
import pytest
from mlxfunc import layers, metrics

random = np.random.default_rng(0)
X = random.normal(size=(20, 3)).astype("float32")
Y = (random.normal(size=(20, 1)) > 0).astype("float32")


class Share(metrics.Metric):
    """The share of rows that are above a threshold: as in Keras's guide, with add_weight."""

    def __init__(self, threshold=0.5, name="share", **kwargs):
        super().__init__(name=name, **kwargs)
        self.threshold = threshold
        self.above = self.add_weight(shape=(), initializer="zeros", name="above")
        self.rows = self.add_weight(name="rows")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.above.assign_add(mx.sum(y_pred > self.threshold))
        self.rows.assign(self.rows + y_pred.shape[0])

    def result(self):
        return self.above / self.rows

    def reset_state(self):
        self.above.assign(0.0)
        self.rows.assign(0)


class Count(metrics.Metric):
    """Batches; the result is the variable itself."""

    def __init__(self, name="count"):
        super().__init__(name=name)
        self.batches = self.add_variable((), "zeros", "int32", name="n")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.batches.assign_add(1)

    def result(self):
        return self.batches


@pytest.mark.parametrize("compiled", [False, True])
def test_metrics_of_users_hold_variables(compiled):
    x = mf.Input((3,))
    model = mf.Model(x, layers.Dense(1)(x))
    share, count = Share(), Count()
    model.compile("sgd", "mse", metrics=[share, count], jit_compile=compiled)
    for _ in range(2):
        logs = model.evaluate(X, Y, batch_size=6, verbose=0, return_dict=True)
        prediction = model.predict(X, verbose=0)
        assert logs["share"] == pytest.approx((prediction > 0.5).mean())
        assert logs["count"] == 4
    model.fit(X, Y, epochs=2, verbose=0)
    assert share.rows.numpy() == 20
    assert model.history.history["count"] == [1, 1]


def test_a_metric_by_itself():
    share = Share()
    assert share(Y, mx.array([[0.2], [0.7], [0.9], [0.1]])).item() == 0.5
    assert share(Y, mx.array([[0.7], [0.7]])).item() == pytest.approx(4 / 6)
    count = Count()
    assert isinstance(count(Y, Y), mx.array)
    share.reset_state()
    assert share.rows.numpy() == 0


OPERATIONS = [
    (lambda v: v + 1, [2, 3]),
    (lambda v: 1 - v, [0, -1]),
    (lambda v: v * v, [1, 4]),
    (lambda v: np.array([2.0, 2.0]) / v, [2, 1]),
    (lambda v: mx.array([2.0, 2.0]) / v, [2, 1]),
    (lambda v: v**2, [1, 4]),
    (lambda v: -v, [-1, -2]),
    (lambda v: abs(-v), [1, 2]),
    (lambda v: v[1:], [2]),
    (lambda v: v > 1, [False, True]),
    (lambda v: v == 1, [True, False]),
    (lambda v: v @ mx.array([1.0, 1.0]), 3),
    (lambda v: mx.square(v), [1, 4]),
    (lambda v: mx.array(np.array(v)), [1, 2]),
    (lambda v: v.assign_sub(1), [0, 1]),
    (lambda v: v.assign(7), [7, 7]),
    (lambda v: v.assign(v), [1, 2]),
]


@pytest.mark.parametrize("operation, expected", OPERATIONS)
def test_variables_calculate_as_arrays_do(operation, expected):
    metric = Count()
    variable = metric.add_variable((2,), lambda shape, dtype: mx.array([1.0, 2.0]), name="v")
    result = operation(variable)
    assert isinstance(result, mx.array)
    assert result.tolist() == expected


def test_a_variable_tells_what_it_is():
    metric = Count()
    variable = metric.add_variable((2, 1), "ones")
    assert (variable.name, variable.shape, variable.ndim) == ("variable", (2, 1), 2)
    assert metric.add_weight().name == "variable_1"
    assert variable.dtype == mx.float32
    assert repr(variable) == "<Variable 'variable' shape=(2, 1) dtype=mlx.core.float32>"
    assert float(metric.batches) == int(metric.batches) == 0
    assert not metric.batches
    assert len({variable, metric.batches}) == 2


def test_add_variable_refuses():
    with pytest.raises(ValueError, match="count: expected a shape first, got 'total'. Write"):
        Count().add_variable("total")
    with pytest.raises(ValueError, match="count: expected aggregation 'sum', got 'mean'. Keep a s"):
        Count().add_variable(aggregation="mean")
