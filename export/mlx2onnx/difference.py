"""The first layer whose values in a file are not those of MLX.

The model is exported once more, which tells what each layer became. Those values of the file, not
of the new export, are compared: the file may be of other weights than the model has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import mlxfunc as mf
import numpy as np
import onnx
from mlx.utils import tree_flatten, tree_unflatten
from mlx2onnx.assembly import Assembly, Dimensions, Options
from mlx2onnx.builder import FUNCTION_DOMAIN, RUNTIME_DOMAIN, Builder, to_numpy
from mlx2onnx.convert import Step, UnsupportedLayers, is_model
from mlx2onnx.layout import Layout, Tensor
from mlx2onnx.report import Report, compare
from mlx2onnx.runner import Runner
from mlx2onnx.session import is_half, open_session
from mlxfunc.graph import Node, leaves

Arrays = Sequence[Any]


def first_difference(runner: Runner, arrays: Arrays, report: Report) -> str | None:
    """The path of the first layer that is over tolerance on `arrays`; None when none is found.

    A layer whose values are not in the file counts with the one that they go into; its weights
    tell which of the two it is.
    """
    try:
        again, steps = _exported_again(runner)
    except (UnsupportedLayers, ValueError):
        # The file holds what this model has no form for: it is of another one.
        return None
    model = runner.source
    state = tree_flatten(model.parameters())
    graph = _Graph(again, runner.proto, runner.feeds(arrays), steps)
    tolerance = Report(report.rtol, report.atol)
    try:
        found = _search(graph, tolerance, model, steps, runner.as_mlx(arrays))
    finally:
        model.update(tree_unflatten(state))
    return None if found is None else str(found)


def _exported_again(runner: Runner) -> tuple[onnx.ModelProto, list[Step]]:
    """The model as it would be exported with the options that the file tells, and its layers."""
    proto, prefix = runner.proto, runner.prefix
    opset = next((o.version for o in proto.opset_import if not o.domain), 0)
    packed = any(o.domain == RUNTIME_DOMAIN for o in proto.opset_import)
    dtype = "float16" if is_half(proto) else "float32"
    g = Builder(opset, dtype, "MatMulNBits" if packed else None)
    names = {"input": [entry.name for entry in runner.inputs], "output": runner.output_names}
    nchw = {f"{k}s_as_nchw": [n for n in names[k] if n in runner.nchw] for k in names}
    options = Options(nchw, names, bool(proto.functions), runner.right_padded)
    assembly = Assembly(g, options, Dimensions(_dimensions(runner)))
    with g.scope(prefix.rstrip("/")) if prefix else nullcontext():
        assembly.add(runner.source, None, prefix)
    return assembly.finish(None, ()), assembly.steps


def _dimensions(runner: Runner) -> dict[str, int | str]:
    """The sizes and names that the file has for dynamic dimensions."""
    found = {}
    for entry, spec in zip(runner.inputs, runner.source.inputs, strict=True):
        own = entry.name.removeprefix(runner.prefix)
        for axis, (dim, there) in enumerate(zip(spec.shape, runner.shape(entry), strict=True)):
            dim = dim if dim is not None else f"{own}_dim_{axis}" if axis else "batch"
            there = there.removeprefix(runner.prefix) if isinstance(there, str) else there
            if isinstance(dim, str) and there and there != dim:
                found[dim] = there
    return found


class _Graph:
    """A graph of the file on some inputs, asked by the names that the new export has.

    The names are the same, or, for a model whose layers are called otherwise, each node stands
    for the one in its place.
    """

    def __init__(
        self,
        again: onnx.ModelProto,
        file: onnx.ModelProto,
        feeds: Mapping[str, np.ndarray],
        steps: Sequence[Step],
    ) -> None:
        self.again, self.file = again, file
        self.makers = {name: node for node in file.graph.node for name in node.output if name}
        self.names = _matched(again.graph, file.graph)
        there = dict.fromkeys(self.names.get(name) for name in _names(steps))
        outputs = [name for name in there if name in self.makers]
        model = onnx.ModelProto()
        model.CopyFrom(file)
        del model.graph.output[:]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
        found = open_session(model).run(outputs, dict(feeds)) if outputs else []
        self.values = dict(zip(outputs, found, strict=True))

    def array(self, tensor: Tensor) -> np.ndarray | None:
        """A layer's output in MLX's layout, if it is a value of this graph."""
        for layout, value in tensor.values.items():
            array = self.values.get(self.names.get(value.name or "") or "")
            if array is not None and array.ndim == tensor.rank:
                return _plain(array, layout)
        return None

    def has_other_weights(self, path: str) -> bool:
        """Whether weights under a layer's path are not those of the new export."""
        stored = {tensor.name: tensor for tensor in self.file.graph.initializer}
        mine = [t for t in self.again.graph.initializer if t.name.startswith(f"{path}/")]
        pairs = [(t, stored.get(self.names.get(t.name, t.name))) for t in mine]
        return any(b is not None and a.raw_data != b.raw_data for a, b in pairs)

    def body(self, step: Step, arrays: Arrays) -> _Graph | None:
        """What is in the local function that a model became; None when it is in this graph."""
        results = [v.name or "" for made in step.outputs for v in made.values.values()]
        name = next((n for n in results if self.names.get(n) in self.makers), "")
        theirs = self.makers.get(self.names.get(name, ""))
        ours = next((n for n in self.again.graph.node if name in n.output), None)
        if theirs is None or ours is None or theirs.domain != FUNCTION_DOMAIN:
            return None
        kind = np.float16 if is_half(self.file) else np.float32
        given = [a.astype(kind) if a.dtype == np.float32 else a for a in map(to_numpy, arrays)]
        again, file = _as_model(self.again, ours, given), _as_model(self.file, theirs, given)
        names = [value.name for value in file.graph.input]
        return _Graph(again, file, dict(zip(names, given, strict=True)), step.inside)


def _matched(again: onnx.GraphProto, file: onnx.GraphProto) -> dict[str, str]:
    """The file's name of each value of the new export."""
    there = {t.name for t in file.initializer} | {n for node in file.node for n in node.output}
    mine = [name for node in again.node for name in node.output if name]
    kinds = [[node.domain or node.op_type for node in graph.node] for graph in (again, file)]
    if all(name in there for name in mine) or kinds[0] != kinds[1]:
        return {name: name for name in there if name}
    found: dict[str, str] = {}
    for one, other in zip(again.node, file.node, strict=True):
        found |= dict(zip(one.input, other.input, strict=False))
        found |= dict(zip(one.output, other.output, strict=False))
    return {a: b for a, b in found.items() if a and b}


def _as_model(proto: onnx.ModelProto, call: onnx.NodeProto, given: Arrays) -> onnx.ModelProto:
    """The function of a node as a model: its weights stored, its other inputs those `given`."""
    function = next(f for f in proto.functions if f.name == call.op_type)
    stored = {tensor.name: tensor for tensor in proto.graph.initializer}
    model = onnx.ModelProto(ir_version=proto.ir_version, functions=proto.functions)
    model.opset_import.extend(function.opset_import)
    model.graph.name = function.name
    model.graph.node.extend(function.node)
    for formal, array in zip(function.input, given, strict=False):
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        model.graph.input.append(onnx.helper.make_tensor_value_info(formal, kind, None))
    for formal, actual in list(zip(function.input, call.input, strict=True))[len(given) :]:
        model.graph.initializer.add().CopyFrom(stored[actual])
        model.graph.initializer[-1].name = formal
    return model


def _plain(array: np.ndarray, layout: Layout) -> np.ndarray:
    """A stored value in MLX's order of axes."""
    array = array.transpose(np.argsort(layout.perm))
    indices = layout.indices
    return array if indices is None else array[..., np.argsort(indices)]


def _search(
    graph: _Graph,
    report: Report,
    model: mf.Model,
    steps: Sequence[Step],
    inputs: Arrays,
    masks: Any = None,
) -> Step | None:
    """The first step of a model that differs, or of a model in it."""
    values, masks = model.bind_inputs(list(inputs), masks)
    remaining = iter(steps)
    different: list[Step] = []
    # By value: the steps before it that are not in the file.
    unseen: dict[int, list[Step]] = {}

    def compare_call(node: Node, args: tuple, kwargs: dict, mask: Any) -> tuple[list, list]:
        step = next(remaining)
        output, output_masks = node.layer.forward(args, kwargs, mask=mask)
        outputs = leaves(output)
        if different:
            return outputs, output_masks
        before = [s for tensor in node.inputs for s in unseen.get(id(tensor), ())]
        pairs = zip(outputs, map(graph.array, step.outputs), strict=True)
        seen = [(to_numpy(a), b) for a, b in pairs if b is not None]
        if seen and compare(report, ["" for _ in seen], *zip(*seen, strict=True)):
            return outputs, output_masks
        inner = None
        if is_model(node.layer) and step.inside:
            given, inner_masks = node.layer.bind_inputs(*args, mask=mask)
            inside = graph.body(step, given) or graph
            inner = _search(inside, report, node.layer, step.inside, given, inner_masks)
        if seen or inner is not None:
            others = [s for s in before if graph.has_other_weights(s.path)]
            different.append(inner or next(iter(others), step))
        for tensor in node.outputs:
            unseen[id(tensor)] = [*before, step]
        return outputs, output_masks

    model.graph.for_inputs(masks).interpret(values, masks, compare_call)
    return next(iter(different), None)


def _names(steps: Sequence[Step]) -> Iterator[str]:
    """Of all values that layers became, those in models too."""
    for step in steps:
        for tensor in step.outputs:
            yield from (value.name for value in tensor.values.values() if value.name)
        yield from _names(step.inside)
