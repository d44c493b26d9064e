"""What a file says of itself in its metadata: the keys of its entries."""

from __future__ import annotations

import onnx

OWN_METADATA = "mlx2onnx."
ENDPOINTS, EXTRA_OUTPUTS = "mlx2onnx.endpoints", "mlx2onnx.extra_outputs"
NCHW_INPUTS, NCHW_OUTPUTS = "mlx2onnx.inputs_as_nchw", "mlx2onnx.outputs_as_nchw"
RIGHT_PADDED = "mlx2onnx.right_padded"


def names(proto: onnx.ModelProto, key: str) -> list[str]:
    """The names that an entry lists."""
    entries = {p.key: p.value for p in proto.metadata_props}
    return [name for name in entries.get(key, "").split(",") if name]
