"""What the exporter's tests share: an export that prints nothing, and what is in it."""

from collections import Counter

import mlx2onnx


def export(source, **options):
    return mlx2onnx.to_onnx(source, verbose=False, **options)


def operators(model) -> Counter:
    return Counter(node.op_type for node in model.graph.node)


def dims(value):
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
