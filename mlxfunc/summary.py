"""A model as a table: its layers, their output shapes, weights and sources."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .graph import Graph, Node, SymbolicTensor, dtype_name
from .model import Model

PLAIN_WIDTH = 100


@dataclass(frozen=True)
class Row:
    """One layer. `depth` counts the models around it; `shapes` has each distinct output once."""

    name: str
    kind: str
    depth: int
    shapes: tuple[str, ...]
    params: int
    sources: tuple[str, ...]
    trainable: bool | None


def rows(model: Model, expand_nested: bool = False, depth: int = 0) -> Iterator[Row]:
    """The layers of `model` in the order they run, each once."""
    for layer, nodes in calls(model.graph):
        outputs = [tensor for node in nodes for tensor in node.outputs]
        moving = bool(layer.trainable_weights) if layer.weights else None
        yield Row(
            layer.name,
            type(layer).__name__,
            depth,
            tuple(dict.fromkeys(shape_text(tensor) for tensor in outputs)),
            layer.count_params(),
            tuple(source(tensor) for node in nodes for tensor in node.inputs),
            moving,
        )
        if expand_nested and isinstance(layer, Model):
            yield from rows(layer, expand_nested, depth + 1)


def calls(graph: Graph) -> list[tuple[Any, list[Node]]]:
    """Each layer of `graph` with its calls there, in the order of first calls."""
    table: dict[int, tuple[Any, list[Node]]] = {}
    for node in graph.nodes:
        table.setdefault(id(node.layer), (node.layer, []))[1].append(node)
    return list(table.values())


def shape_text(tensor: SymbolicTensor) -> str:
    inner = ", ".join(str(dim) for dim in tensor.shape)
    return f"({inner},)" if len(tensor.shape) == 1 else f"({inner})"


def source(tensor: SymbolicTensor) -> str:
    """`layer[call][output]`, as Keras writes where a tensor comes from."""
    node = tensor.node
    return tensor.name if node is None else f"{node.layer.name}[{node.index}][{tensor.index}]"


def totals(model: Model) -> dict[str, tuple[int, int]]:
    """Number of scalars and of bytes: total, trainable, non-trainable; each array once."""
    groups = {
        "Total": model.weights,
        "Trainable": model.trainable_weights,
        "Non-trainable": model.non_trainable_weights,
    }
    return {name: (sum(w.size for w in g), sum(w.nbytes for w in g)) for name, g in groups.items()}


def size_text(count: int) -> str:
    """Bytes in the unit that suits them: `1.50 MB`, powers of 1024."""
    size, units = float(count), ["B", "KB", "MB", "GB", "TB"]
    while size >= 1024 and len(units) > 1:
        size /= 1024
        units.pop(0)
    return f"{size:.0f} B" if units[0] == "B" else f"{size:.2f} {units[0]}"


def as_dict(model: Model, expand_nested: bool = False) -> dict[str, Any]:
    """The summary in a form that JSON can hold."""
    return {
        "name": model.name,
        "layers": [row.__dict__ for row in rows(model, expand_nested)],
        "parameters": {name.lower(): count for name, (count, _) in totals(model).items()},
        "bytes": {name.lower(): size for name, (_, size) in totals(model).items()},
        "inputs": {n: _spec(t) for n, t in zip(model.input_names, model.inputs, strict=True)},
        "outputs": {n: _spec(t) for n, t in zip(model.output_names, model.outputs, strict=True)},
    }


def _spec(tensor: SymbolicTensor) -> dict[str, Any]:
    return {"shape": list(tensor.shape), "dtype": dtype_name(tensor.dtype)}


def summary(
    model: Model,
    line_length: int | None = None,
    print_fn: Callable[[str], None] | None = None,
    expand_nested: bool = False,
    show_trainable: bool = False,
) -> None:
    """Print each layer once, with its output shapes, number of weights and what it is called on.

    Args:
        line_length: columns; the terminal's width when missing, 100 off a terminal.
        print_fn: called with each line; `print` when missing.
        expand_nested: also the layers of models inside the model.
        show_trainable: a column that says whether the optimizer moves the layer's weights.
    """
    from rich.console import Console

    terminal = sys.stdout.isatty()
    plain = print_fn is not None or not terminal
    # A notebook gets the text: rich would show an empty output for what is captured.
    console = Console(
        width=line_length, highlight=False, force_terminal=not plain, force_jupyter=False
    )
    if line_length is None and not terminal:
        console.width = PLAIN_WIDTH
    table = _table(model, expand_nested, show_trainable)
    closing = [
        f" {name} params: {count:,} ({size_text(size)})"
        for name, (count, size) in totals(model).items()
    ]
    with console.capture() as capture:
        console.print(table, *closing, sep="\n")
    for line in capture.get().rstrip("\n").split("\n"):
        (print_fn or _print)(line.rstrip())


def _print(line: str) -> None:
    """Print what the output can write: a character that it lacks is a question mark."""
    encoding = sys.stdout.encoding or "utf-8"
    print(line.encode(encoding, "replace").decode(encoding))


def _table(model: Model, expand_nested: bool, show_trainable: bool) -> Any:
    from rich.table import Table

    shown = list(rows(model, expand_nested))
    # A chain says nothing by its sources: each line is called on the one above.
    chain = all(len(row.sources) <= 1 for row in shown) and len(model.inputs) == 1
    chain = chain and all(len(node.inputs) <= 1 for node in model.graph.nodes)
    table = Table(title=f'Model: "{model.name}"', title_justify="left", title_style="bold")
    table.add_column("Layer (type)", overflow="fold", style="cyan")
    table.add_column("Output shape", overflow="fold")
    table.add_column("Params", justify="right", no_wrap=True)
    if show_trainable:
        table.add_column("Trainable", justify="center", no_wrap=True)
    if not chain:
        table.add_column("Connected to", overflow="fold")
    for row in shown:
        indent = "  " * (row.depth - 1) + "└ " if row.depth else ""
        cells = [f"{indent}{row.name} ({row.kind})", "\n".join(row.shapes), f"{row.params:,}"]
        if show_trainable:
            cells.append({True: "Y", False: "N", None: "-"}[row.trainable])
        if not chain:
            cells.append("\n".join(row.sources))
        table.add_row(*cells)
    return table
