"""Pictures: a model's graph by Graphviz, a training history by Matplotlib."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .files import replacing
from .graph import SymbolicTensor, dtype_name
from .model import Model
from .summary import calls, shape_text

DOT_SUFFIXES = (".dot", ".gv")
IMAGE_SUFFIXES = (".png", ".svg", ".pdf", ".jpg")
DIRECTIONS = ("TB", "BT", "LR", "RL")
_QUOTED = str.maketrans({'"': r"\"", "\\": r"\\"})


def plot_model(
    model: Model,
    to_file: str | os.PathLike = "model.png",
    show_shapes: bool = False,
    show_layer_names: bool = False,
    show_dtype: bool = False,
    expand_nested: bool = False,
    rankdir: str = "TB",
    dpi: int = 200,
) -> str:
    """Draw the layers as boxes and their calls as arrows; returns the path written.

    Args:
        to_file: .dot needs nothing; .png, .svg, .pdf and .jpg need Graphviz.
        show_shapes, show_layer_names, show_dtype: what a box tells besides the layer's class.
        expand_nested: draw the layers of a model inside the model in a frame.
        rankdir: from the inputs to the outputs: "TB", "BT", "LR" or "RL".
        dpi: pixels an inch.

    Raises: FileNotFoundError when an image is asked for and Graphviz is missing.
    Source: https://keras.io/api/utils/model_plotting_utils/
    """
    path = Path(to_file)
    suffix = path.suffix.lower()
    if suffix not in DOT_SUFFIXES + IMAGE_SUFFIXES:
        raise ValueError(
            f"plot_model: expected a file {', '.join(DOT_SUFFIXES + IMAGE_SUFFIXES)}, got "
            f"{str(to_file)!r}. Give to_file such a suffix."
        )
    text = model_to_dot(
        model,
        show_shapes=show_shapes,
        show_layer_names=show_layer_names,
        show_dtype=show_dtype,
        expand_nested=expand_nested,
        rankdir=rankdir,
        dpi=dpi,
    )
    with replacing(path) as part:
        if suffix in DOT_SUFFIXES:
            part.write_text(text, encoding="utf-8")
        else:
            _render(text, part, suffix[1:])
    return str(path)


def _render(text: str, part: Path, kind: str) -> None:
    program = shutil.which("dot")
    if program is None:
        raise FileNotFoundError(
            "plot_model: expected Graphviz's program 'dot' on the path, got none. Install it "
            "(apt install graphviz, brew install graphviz), or write to_file='model.dot'."
        )
    result = subprocess.run(
        [program, f"-T{kind}", "-o", str(part)], input=text, capture_output=True, text=True
    )
    if result.returncode:
        raise RuntimeError(f"plot_model: expected a picture, got from dot: {result.stderr.strip()}")


def model_to_dot(
    model: Model,
    *,
    show_shapes: bool = False,
    show_layer_names: bool = False,
    show_dtype: bool = False,
    expand_nested: bool = False,
    rankdir: str = "TB",
    dpi: int = 200,
) -> str:
    """The picture of `plot_model` in Graphviz's language."""
    if rankdir not in DIRECTIONS:
        raise ValueError(f"plot_model: expected rankdir in {DIRECTIONS}, got {rankdir!r}.")
    drawing = _Drawing(show_shapes, show_layer_names, show_dtype, expand_nested)
    drawing.frame(model, model.name, "  ")
    head = [
        f"digraph {_quote(model.name)} {{",
        f"  graph [rankdir={rankdir}, dpi={dpi}, fontname=Helvetica]",
        "  node [shape=box, style=rounded, fontname=Helvetica, fontsize=11]",
        "  edge [arrowsize=0.7, fontname=Helvetica, fontsize=9]",
    ]
    return "\n".join([*head, *drawing.lines, *dict.fromkeys(drawing.edges), "}", ""])


class _Drawing:
    """Boxes and arrows, a path of layer names for each box."""

    def __init__(self, shapes: bool, names: bool, dtypes: bool, expand: bool) -> None:
        self.shapes, self.names, self.dtypes, self.expand = shapes, names, dtypes, expand
        self.lines: list[str] = []
        self.edges: list[str] = []

    def frame(self, model: Model, path: str, indent: str) -> None:
        """The boxes of the model's layers, and the arrows between them."""
        for layer, nodes in calls(model.graph):
            inner = f"{path}/{layer.name}"
            if self.expand and isinstance(layer, Model):
                self.lines.append(f"{indent}subgraph {_quote('cluster ' + inner)} {{")
                self.lines.append(
                    f"{indent}  label={_quote(layer.name)}; style=rounded; color=gray"
                )
                self.frame(layer, inner, indent + "  ")
                self.lines.append(f"{indent}}}")
            else:
                outputs = [tensor for node in nodes for tensor in node.outputs]
                self.lines.append(f"{indent}{_quote(inner)} [label={self.label(layer, outputs)}]")
            for node in nodes:
                for place, tensor in enumerate(node.inputs):
                    start, end = self.start(tensor, path), self.end(layer, place, inner)
                    self.edges.append(f"  {_quote(start)} -> {_quote(end)}")

    def label(self, layer: Any, outputs: list[SymbolicTensor]) -> str:
        kind = type(layer).__name__
        lines = [f"{layer.name} ({kind})" if self.names else kind]
        for tensor in outputs:
            told = [shape_text(tensor)] if self.shapes else []
            lines.append(" ".join(told + ([dtype_name(tensor.dtype)] if self.dtypes else [])))
        return _quote(*dict.fromkeys(line for line in lines if line))

    def start(self, tensor: SymbolicTensor, path: str) -> str:
        """The box that `tensor` comes from, inside a model's frame where there is one."""
        node = tensor.node
        assert node is not None
        inner = f"{path}/{node.layer.name}"
        if self.expand and isinstance(node.layer, Model):
            return self.start(node.layer.outputs[tensor.index], inner)
        return inner

    def end(self, layer: Any, place: int, path: str) -> str:
        """The box that argument number `place` of `layer` goes to."""
        if self.expand and isinstance(layer, Model) and place < len(layer.inputs):
            first = layer.inputs[place].node
            assert first is not None
            return self.end(first.layer, 0, f"{path}/{first.layer.name}")
        return path


def _quote(*lines: str) -> str:
    return '"' + r"\n".join(line.translate(_QUOTED) for line in lines) + '"'


def plot_history(
    history: Any, to_file: str | os.PathLike | None = None, title: str | None = None
) -> Any:
    """One chart a metric, training and validation in it; returns Matplotlib's figure.

    Args:
        history: what `fit` returns, or its `.history`: {"loss": [...], "val_loss": [...]}.
        to_file: also written there (.png, .svg, .pdf).

    Raises: ImportError without Matplotlib.
    """
    table: Mapping[str, list[float]] = history if isinstance(history, Mapping) else history.history
    names = [name for name in table if not name.startswith("val_")]
    if not names:
        raise ValueError("plot_history: expected at least one metric, got an empty history.")
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError as error:
        raise ImportError(
            "plot_history: expected Matplotlib, got none. pip install matplotlib."
        ) from error
    figure = Figure(figsize=(4.5 * len(names), 3.4), layout="constrained")
    figure.suptitle(title or "")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for key, label in ((name, "training"), (f"val_{name}", "validation")):
            if key in table:
                epochs = range(1, len(table[key]) + 1)
                axes.plot(epochs, table[key], label=label, marker="o", markersize=3)
        axes.set(title=name, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    if to_file is not None:
        with replacing(to_file) as part:
            figure.savefig(part, format=Path(to_file).suffix[1:] or "png")
    return figure
