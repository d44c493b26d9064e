"""Exported functions are right at every size, or refused with the sizes at which they are not."""

from __future__ import annotations

import mlx2onnx
import mlxfunc as mf
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx2onnx import reach
from mlxfunc import layers
from mlx2onnx.convert import UnsupportedLayers
from mlx2onnx.recording import record, record_at_all_sizes
from mlx2onnx.trace import UnsupportedPrimitives
from mlx2onnx.verify import run_onnx

from fuzz import functions
from tracing import compare

SPEC = [("batch", "time", 4)]


def longer(x):
    return x * 2 if x.shape[1] > 100 else x


WRONG = {
    "slice": (lambda x: x[:, :32].sum(1), "time 1 to 32 is right, 33 and more is not"),
    "minimum": (lambda x: x.sum(1) / min(x.shape[1], 30), "time 1 to 30 is right, 31 and more"),
    "one": (lambda x: x * 2 if x.shape[1] == 1 else x, "time 2 and more is right, 1 is not"),
    "branch": (longer, "time 1 to 100 is right, 101 and more .*test_reach.py, line .*> 100"),
    "below the probes": (lambda x: x if x.shape[1] > 9 else -x, "10 and more is right, 1 to 8 is"),
    "even": (lambda x: x[:, : x.shape[1] // 2 * 2], "time 1, 3, .* is right, 2, .* is not"),
    "multiples": (lambda x: x if x.shape[1] % 100 else -x, "100, .* is not"),
    "batch": (lambda x: x if x.shape[0] < 20 else -x, "batch 1 to 19 is right, 20 and more"),
    "both": (
        lambda x: (x + (x.shape[0] == 1)) * (mx.arange(x.shape[1])[:, None] > 90),
        "batch 2 and more is right, 1 is not",
    ),
    "equal": (
        lambda x: -x if x.shape[0] == x.shape[1] != 17 and x.shape[0] > 50 else x,
        "other numbers at batch 96, time 96",
    ),
}


@pytest.mark.parametrize("fn, match", WRONG.values(), ids=WRONG)
def test_other_numbers_at_some_sizes_are_refused(fn, match):
    with pytest.raises(UnsupportedPrimitives, match=match):
        mlx2onnx.to_onnx(fn, inputs=SPEC, verify=False)


@pytest.mark.parametrize("fn, match", WRONG.values(), ids=WRONG)
def test_in_a_layer_too(fn, match):
    x = mf.Input(("time", 4))
    model = mf.Model(x, layers.Lambda(fn, name="odd")(x))
    match = match.replace("batch", "axis 0")
    with pytest.raises(UnsupportedLayers, match=rf"odd \(Lambda\): .*{match}"):
        mlx2onnx.to_onnx(model, verify=False)


def test_an_operation_on_symbolic_tensors_too():
    x = mf.Input(("time", 4))
    with pytest.raises(UnsupportedLayers, match="time 1 to 32 is right"):
        mlx2onnx.to_onnx(mf.Model(x, x[:, :32] * 2))


def test_a_fixed_size_is_the_way_out():
    model = mlx2onnx.to_onnx(WRONG["slice"][0], inputs=SPEC, dimensions={"time": 40}, verbose=False)
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][1:] == [40, 4]


def test_a_function_that_looks_at_its_shape_keeps_its_layout():
    """At small sizes it is elementwise, and could run channels first."""
    x = mf.Input((None, None, 3), name="x")
    image = layers.Conv2D(4, 3, padding="same")(x)
    image = layers.Lambda(lambda v: v * 2 if v.shape[1] > 64 else v)(image)
    with pytest.raises(UnsupportedLayers, match="x_dim_1 1 to 64 is right, 65 and more"):
        mlx2onnx.to_onnx(mf.Model(x, layers.Conv2D(4, 3)(image)))


def chunks(x, size=50):
    parts = [x[:, i : i + size] for i in range(0, x.shape[1], size)]
    return mx.concatenate([mx.exp(part) for part in parts], axis=1)


@pytest.mark.parametrize("size", [1, 3, 4, 7, 13, 16, 17, 31, 64, 129, 1023])
def test_a_branch_at_one_size_is_seen_in_a_long_function_too(size):
    def fn(x):
        for _ in range(25):
            x = mx.sin(x * 2)
        return -x if x.shape[1] == size else x

    with pytest.raises(UnsupportedPrimitives, match=f"{size} is not"):
        mlx2onnx.to_onnx(fn, inputs=SPEC, verify=False)


@pytest.mark.parametrize(
    "fn",
    [chunks, lambda x: x.mean(1), lambda x: mx.softmax(x, 1), lambda x: mx.cumsum(x, 1)[:, ::3]],
    ids=["chunks", "mean", "softmax", "steps"],
)
def test_the_same_in_another_way_is_run_and_taken(fn):
    model = mlx2onnx.to_onnx(fn, inputs=SPEC, verbose=False)
    for time in (1, 2, 49, 50, 51, 101, 700):
        x = np.random.default_rng(0).normal(size=(2, time, 4)).astype(np.float32)
        (found,) = run_onnx(model, {"x": x})
        np.testing.assert_allclose(found, np.asarray(fn(mx.array(x))), rtol=1e-5, atol=1e-5)


def test_sizes_that_a_function_refuses_are_not_wrong():
    def grouped(x):
        if x.shape[1] % 4:
            raise ValueError("expected groups of 4")
        return x.reshape(x.shape[0], -1, 16)

    mlx2onnx.to_onnx(lambda x: grouped(mx.repeat(x, 4, 1)), inputs=SPEC, verbose=False)


def test_the_smallest_size_that_a_function_takes_is_seen():
    def one_is_left(x):
        if (x := x[:, :-50]).shape[1] == 0:
            raise ValueError("expected more than 50 steps")
        return 2 * x if x.shape[1] == 1 else x

    with pytest.raises(UnsupportedPrimitives, match="right, 51 is not"):
        mlx2onnx.to_onnx(one_is_left, inputs=SPEC, verify=False)


def test_every_primitive_with_another_size_is_told():
    """Sizes without a formula too, such as those of a strided slice."""
    fn = lambda x: x[:, ::2] * 1.0  # noqa: E731
    traced = record_at_all_sizes(fn, [(("n", "t", 4), mx.float32)], [None])
    at = {"n": 3, "t": 40}
    assert reach.difference(traced.recording, record(fn, [mx.zeros((3, 40, 4))]), at) is None
    other = record(lambda x: x[:, 1::2] * 1.0, [mx.zeros((3, 40, 4))])
    assert (
        "argument 0 is (0, 1, 0), not (0, 0, 0)"
        in reach.difference(traced.recording, other, at).text
    )


@pytest.mark.parametrize("seed", [2, 6, 51, 148, 155, 7099, 641307])
def test_random_functions(seed):
    assert functions.trial(seed) is None


def test_the_mean_of_no_elements_is_no_number():
    """As MLX has it; ONNX Runtime's mean of none is 0."""
    fn = lambda x: (x[:, 1:] - x[:, :-1]).mean(1)  # noqa: E731
    model = mlx2onnx.to_onnx(fn, inputs=SPEC, verbose=False)
    (found,) = run_onnx(model, {"x": np.ones((2, 1, 4), np.float32)})
    assert np.isnan(found).all()


def test_a_mean_over_another_count_is_refused():
    """It is one at the odd sizes that are traced."""
    fn = lambda x: x[:, 1::2].sum(1) / ((x.shape[1] - 1) // 2)  # noqa: E731
    with pytest.raises(
        UnsupportedPrimitives, match="time 3, 5, .* is right, .* is not: there an array"
    ):
        mlx2onnx.to_onnx(fn, inputs=SPEC)


def test_pooling_of_what_is_padded_by_a_size():
    def pooled(x):
        return nn.AvgPool1d(4, 4)(mx.pad(x, [(0, 0), (0, x.shape[1]), (0, 0)]))

    compare(pooled, SPEC, [{"batch": 2, "time": n} for n in (4, 5, 40)])
