"""Every row of the table, exported and run in ONNX Runtime, and what the exporter promises."""

from collections import Counter

import mlx2onnx
import pytest

from cases import CASES, Case

rows = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
# Of the largest value; ONNX Runtime and MLX sum in different orders.
RTOL = 1e-5


def operators(model) -> Counter:
    return Counter(node.op_type for node in model.graph.node)


@rows
def test_onnx_runtime_gives_what_mlx_does(case: Case):
    model = case.model()
    tolerance = max(case.tolerance, 2e-6)
    exported = mlx2onnx.to_onnx(model, rtol=RTOL, atol=tolerance, verify=(2, 5))
    if case.onnx is not None:
        assert operators(exported) == case.onnx
