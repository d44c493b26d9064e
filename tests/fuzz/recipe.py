"""A graph as data: the same text drawn with mlxfunc or with Keras, and printed when it fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


class Drawing:
    """The layers of one drawing: those of `k`, mlxfunc or Keras, by the id of their recipe.

    With `inline` models within models are no layers, and their steps are those of the whole.
    """

    def __init__(self, k: Any, inline: bool = False) -> None:
        self.k, self.inline = k, inline
        self.layers: dict[int, Any] = {}

    def layer(self, recipe: Any) -> Any:
        """The layer of a recipe, made when it is first asked for."""
        if id(recipe) not in self.layers:
            self.layers[id(recipe)] = recipe.draw(self)
        return self.layers[id(recipe)]

    def options(self, value: Any) -> Any:
        """A value in which layers stand where their recipes did."""
        if isinstance(value, LayerRecipe | GraphRecipe):
            return self.layer(value)
        if isinstance(value, list):
            return [self.options(entry) for entry in value]
        return value


@dataclass(eq=False)
class LayerRecipe:
    """A layer's class and arguments, or a row of the table; the object is the layer's identity."""

    kind: str
    options: dict[str, Any] = field(default_factory=dict)
    build: Callable[[Any], Any] | None = None
    keras: bool = True

    def draw(self, drawing: Drawing) -> Any:
        if self.build is not None:
            return self.build(drawing.k.layers)
        options = {key: drawing.options(value) for key, value in self.options.items()}
        return getattr(drawing.k.layers, self.kind)(**options)

    def __str__(self) -> str:
        return f"{self.kind}({', '.join(f'{k}={v}' for k, v in self.options.items())})"


@dataclass
class Spec:
    """An input: its shape without the batch, dtype, the batch where it is fixed."""

    shape: tuple
    dtype: str = "float32"
    batch: int | None = None

    def dims(self) -> list[tuple[int, str | None]]:
        """The dynamic dimensions: their axis, without the batch, and name."""
        return [(axis, d) for axis, d in enumerate(self.shape) if not isinstance(d, int)]

    def draw(self, k: Any, name: str) -> Any:
        keras = k.__name__ == "keras"
        shape = tuple(None if keras and isinstance(d, str) else d for d in self.shape)
        return k.layers.Input(shape, batch_size=self.batch, dtype=self.dtype, name=name)


@dataclass
class Step:
    """One call: `call(k, layer, *tensors)` gives a tensor or a structure of them."""

    text: str
    refs: list[int]
    call: Callable[..., Any]
    layer: LayerRecipe | GraphRecipe | None = None
    results: list[int] = field(default_factory=list)

    def draw(self, drawing: Drawing, tensors: list[Any]) -> list[Any]:
        layer = None if self.layer is None else drawing.layer(self.layer)
        return leaves(self.call(drawing.k, layer, *(tensors[ref] for ref in self.refs)))


@dataclass(eq=False)
class GraphRecipe:
    """Inputs, steps, and which tensors are outputs, in a structure."""

    inputs: list[Spec]
    steps: list[Step | Skipped] = field(default_factory=list)
    outputs: Any = None
    dicts: bool = False

    def draw(self, drawing: Drawing) -> Any:
        """The model; where models are drawn inline, a function of its inputs."""
        if drawing.inline:
            return lambda inputs: self.outputs_of(drawing, leaves(inputs))
        return self.model(drawing)

    def model(self, drawing: Drawing) -> Any:
        inputs = self.draw_inputs(drawing.k)
        return drawing.k.models.Model(self.structure(inputs), self.outputs_of(drawing, inputs))

    def outputs_of(self, drawing: Drawing, inputs: list[Any]) -> Any:
        tensors = list(inputs)
        for step in self.steps:
            tensors += step.draw(drawing, tensors)
        return _picked(self.outputs, tensors)

    def draw_inputs(self, k: Any) -> list[Any]:
        return [spec.draw(k, f"in{i}") for i, spec in enumerate(self.inputs)]

    def structure(self, values: list[Any]) -> Any:
        """Values of the inputs, as the model takes them."""
        if self.dicts:
            return {f"in{i}": value for i, value in enumerate(values)}
        return list(values) if len(values) > 1 else values[0]

    @property
    def count(self) -> int:
        """How many tensors there are."""
        return len(self.inputs) + sum(len(step.results) for step in self.steps)

    def recipes(self) -> list[LayerRecipe]:
        """Every layer's recipe, those of nested models too."""
        return [r for s in self.steps if isinstance(s, Step) for r in _recipes(s.layer)]

    def up_to(self, ref: int) -> GraphRecipe:
        """The same graph with one output, and the steps that it needs; the others give nothing."""
        needed = {ref}
        for step in reversed(self.steps):
            if needed.intersection(step.results):
                needed.update(step.refs)
        steps = [
            step if needed.intersection(step.results) else Skipped(step.results)
            for step in self.steps
        ]
        return GraphRecipe(self.inputs, steps, ref, self.dicts)

    def __str__(self) -> str:
        lines = [f"t{i} = {spec}" for i, spec in enumerate(self.inputs)]
        for step in self.steps:
            if isinstance(step, Skipped):
                continue
            for model in _models(step.layer):
                text = str(model).replace("\n", "\n    ")
                lines.append(f"  model {label(model)}:\n    {text}")
            results, refs = (", ".join(f"t{i}" for i in x) for x in (step.results, step.refs))
            layer = "" if step.layer is None else f" #{label(step.layer)}"
            lines.append(f"{results} = {step.text}({refs}){layer}")
        return "\n".join([*lines, f"outputs {self.outputs}"])


@dataclass
class Skipped:
    """The place of a step that no output needs."""

    results: list[int]

    def draw(self, drawing: Drawing, tensors: list[Any]) -> list[Any]:
        return [UNUSED] * len(self.results)


UNUSED = object()


def label(recipe: Any) -> str:
    """A short name of a layer or model, equal where it is shared."""
    return f"{id(recipe) // 16 % 9973}"


def _recipes(value: Any) -> list[LayerRecipe]:
    if isinstance(value, GraphRecipe):
        return value.recipes()
    if isinstance(value, LayerRecipe):
        return [value, *(r for inner in value.options.values() for r in _recipes(inner))]
    return []


def _models(value: Any) -> list[GraphRecipe]:
    if isinstance(value, GraphRecipe):
        return [value]
    values = value.options.values() if isinstance(value, LayerRecipe) else []
    return [model for inner in values for model in _models(inner)]


def leaves(tree: Any) -> list[Any]:
    """The tensors in nested lists, tuples and dicts, left to right; without None."""
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, list | tuple):
        return [leaf for value in tree for leaf in leaves(value)]
    return [] if tree is None else [tree]


def _picked(structure: Any, tensors: list[Any]) -> Any:
    if isinstance(structure, dict):
        return {key: _picked(value, tensors) for key, value in structure.items()}
    if isinstance(structure, list):
        return [_picked(value, tensors) for value in structure]
    return tensors[structure]
