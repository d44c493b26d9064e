"""From a graph to a checked model, a message, a file."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir import Model
from onnx_ir.passes import PassError, PassManager, common

PRODUCER = "mlx2onnx"
# By opset: the IR version that came with it.
IR_VERSIONS = {
    17: 8,
    18: 8,
    19: 9,
    20: 9,
    21: 10,
    22: 10,
    23: 11,
    24: 12,
    25: 13,
    26: 13,
}


def finished(
    graph: ir.Graph, functions: Sequence[ir.Function], properties: Mapping[str, str]
) -> Model:
    """The cleaned, checked model.

    Raises: ValueError for a graph that ONNX's checker or its shape inference refuses.
    """
    model = ir.Model(
        graph,
        ir_version=IR_VERSIONS[graph.opset_imports[""]],
        producer_name=PRODUCER,
        producer_version=_version(),
        functions=functions,
        metadata_props=dict(properties),
    )
    passes = [
        common.OutputFixPass(),
        common.NameFixPass(),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),
        common.RemoveUnusedOpsetsPass(),
        common.DeduplicateHashedInitializersPass(),
        common.TopologicalSortPass(),
        common.ShapeInferencePass(strict_mode=False),
        common.CheckerPass(full_check=True),
    ]
    with _quietly():
        try:
            PassManager(passes)(model)
        except PassError as error:
            raise ValueError(
                "to_onnx: expected a graph that ONNX accepts, got one that it refuses: "
                f"{_reason(error)}. Correct the rule that wrote it."
            ) from error
    return _without_weight_types(model)


def _reason(error: BaseException) -> str:
    """What went wrong first, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split()).rstrip(".") or repr(error)


def message(model: Model) -> onnx.ModelProto:
    """The model as a protobuf message (this copies the weights once)."""
    with _quietly():
        return ir.to_proto(model)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without onnx_ir's warning of a node in a function that has an output without a name.

    That is how ONNX leaves out what nobody uses, such as the sequence of an LSTM.
    """
    logger = logging.getLogger("onnx_ir.serde")
    logger.addFilter(_is_wanted)
    try:
        yield
    finally:
        logger.removeFilter(_is_wanted)


def _is_wanted(record: logging.LogRecord) -> bool:
    return "Value name not set for node output" not in str(record.msg)


def _version() -> str:
    try:
        return metadata.version("mlxfunc")
    except metadata.PackageNotFoundError:
        return "0"


def write(model: Model | onnx.ModelProto, path: Path, external_data: bool = False) -> Path | None:
    """Writes the model to `path`, its larger tensors to a file beside it, which it returns.

    That file is named after what is in it; there is none when all tensors are small.
    """
    if isinstance(model, onnx.ModelProto):
        model = _without_weight_types(ir.from_proto(model))
    name = f"{path.name}.{_digest(model)}.data" if external_data else None
    with _quietly():
        ir.save(model, path, format="protobuf", external_data=name)
    data = path.with_name(name) if name else None
    return data if data is not None and data.exists() and data.stat().st_size else None


def _digest(model: Model) -> str:
    """A hash of all initializers, in the order in which they are written."""
    digest = hashlib.sha256()
    for graph in model.graphs():
        for name, value in graph.initializers.items():
            if value.const_value is not None:
                digest.update(f"{name} {value.const_value.nbytes} ".encode())
                digest.update(value.const_value.tobytes())
    return digest.hexdigest()[:16]


def _without_weight_types(model: Model) -> Model:
    """Drops what value_info would repeat of the initializers."""
    for value in model.graph.initializers.values():
        if not value.is_graph_input():
            value.shape = value.type = None
    return model


def weight_bytes(model: Model | onnx.ModelProto) -> int:
    """The bytes of all initializers."""
    if isinstance(model, onnx.ModelProto):
        return sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    tensors = (value.const_value for value in model.graph.initializers.values())
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)
