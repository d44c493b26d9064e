"""Exports a function through its trace and compares ONNX Runtime with MLX."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import onnxruntime
from mlx.utils import tree_flatten
from mlx2onnx.builder import Builder
from mlx2onnx.trace import as_spec, function_to_graph

B, T = "batch", "time"
POINTS = ({B: 1, T: 4, "height": 8, "width": 9}, {B: 3, T: 7, "height": 13, "width": 12})
ROWS, SEQUENCE, IMAGE = [(B, 4)], [(B, T, 8)], [(B, "height", "width", 4)]


def array(*shape):
    return mx.array(np.random.default_rng(7).normal(size=shape).astype(np.float32))


def export(fn, inputs, opset=20, dtype="float32"):
    """The ONNX model of a function."""
    g = Builder(opset, dtype)
    function_to_graph(g, fn, inputs)
    return g.finish()


def session(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def sample(entry, sizes, seed=0):
    """An array for a spec, its dynamic dimensions at given sizes."""
    if isinstance(entry, mx.array):
        return entry
    shape, dtype = as_spec(entry)
    rng = np.random.default_rng(seed)
    shape = [sizes.get(d, 2) if not isinstance(d, int) else d for d in shape]
    if dtype == mx.bool_:
        return mx.array(rng.random(shape) > 0.5)
    if mx.issubdtype(dtype, mx.integer):
        return mx.array(rng.integers(0, 4, shape)).astype(dtype)
    return mx.array(rng.normal(size=shape).astype(np.float32)).astype(dtype)


def compare(fn, inputs, sizes=({},), tolerance=1e-6, opset=20, seed=0):
    """Exports once, runs at every set of sizes; returns the model.

    Raises: AssertionError naming the output with the largest difference.
    """
    model = export(fn, inputs, opset)
    runner = session(model)
    for point in sizes:
        arrays = [sample(e, point, seed + i) for i, e in enumerate(inputs)]
        with mx.stream(mx.cpu):
            call = fn.eval() if isinstance(fn, nn.Module) else fn
            expected = [np.asarray(v) for _, v in tree_flatten(call(*arrays))]
        names = [i.name for i in runner.get_inputs()]
        feeds = {n: np.asarray(a) for n, a in zip(names, arrays, strict=True)}
        found = runner.run(None, feeds)
        assert len(found) == len(expected)
        for i, (mine, theirs) in enumerate(zip(found, expected, strict=True)):
            assert mine.shape == theirs.shape, f"output {i}: {mine.shape}, MLX {theirs.shape}"
            assert mine.dtype == theirs.dtype, f"output {i}: {mine.dtype}, MLX {theirs.dtype}"
            np.testing.assert_allclose(
                mine.astype(np.float64), theirs.astype(np.float64),
                rtol=tolerance, atol=tolerance, err_msg=f"output {i} at {point}",
            )  # fmt: skip
    return model
