"""One graph from a Model, a module or a function, or from several: names, layouts, sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlxfunc as mf
import mlx.core as mx
import onnx
from mlx2onnx import trace
from mlx2onnx.builder import Builder
from mlx2onnx.convert import Step, Uncertain, UnsupportedLayers, Walk, is_model
from mlx2onnx.endpoints import add_defaults, default_size
from mlx2onnx.layout import Tensor, channels_first, plain
from mlx2onnx.metadata import (
    ENDPOINTS,
    EXTRA_OUTPUTS,
    NCHW_INPUTS,
    NCHW_OUTPUTS,
    OWN_METADATA,
    RIGHT_PADDED,
)
from mlx2onnx.reach import Doubt
from mlx2onnx.recording import Unnamed


@dataclass(frozen=True)
class Options:
    """Of `to_onnx`: `nchw` by option, `names` by side, and how models are walked."""

    nchw: Mapping[str, bool | Collection[str]]
    names: Mapping[str, Sequence[str] | None]
    functions: bool
    right_padded: bool


class Dimensions:
    """The sizes and names that were asked for dynamic dimensions.

    Raises: ValueError for a size below 1, and in `check` for names that no dimension has.
    """

    def __init__(self, given: Mapping[str, int | str] | None) -> None:
        self.given = dict(given or {})
        self.seen: dict[str, None] = {}
        for name, size in self.given.items():
            named = isinstance(size, str) and size != ""
            if not named and (type(size) is not int or size < 1):
                raise ValueError(
                    f"to_onnx: expected a size of 1 or more, or a name, for the dimension "
                    f"{name!r}, got {size!r}."
                )

    def of(self, dim: int | str | None, prefix: str) -> int | str | None:
        """What a dimension is in the file: endpoints run with batches of their own."""
        if not isinstance(dim, str) or (prefix and dim.startswith(prefix)):
            return dim
        found = self.given.get(prefix + dim, self.given.get(dim, dim))
        return found if isinstance(found, int) else prefix + found

    def see(self, dims: Sequence[int | str | None], prefix: str) -> None:
        """Notes the dimensions of an input."""
        for dim in dims:
            if isinstance(dim, str):
                self.seen |= {dim: None, prefix + dim: None}

    def check(self) -> None:
        unknown = [name for name in self.given if name not in self.seen]
        if unknown:
            raise ValueError(
                f"to_onnx: expected dynamic dimensions in `dimensions`, got {unknown[0]!r}. "
                f"There is {', '.join(self.seen) or 'none'}."
            )


class Assembly:
    """What is added becomes one graph. Raises: what `to_onnx` says of its options."""

    def __init__(self, g: Builder, options: Options, dimensions: Dimensions) -> None:
        self.g, self.options, self.dimensions = g, options, dimensions
        self._walk: Walk | None = None
        self._properties: dict[str, list[str]] = {}
        self._images: dict[str, list[str]] = {option: [] for option in options.nchw}
        self._default_sizes: dict[str, int] = {}
        self.doubts: list[tuple[Any, str, Doubt]] = []

    def add_endpoints(self, sources: Mapping[str, Any], inputs: Any) -> None:
        """Each under its name; weights that they share are stored once."""
        if any(names is not None for names in self.options.names.values()):
            raise TypeError(
                "to_onnx: expected no input_names or output_names for endpoints. Name the "
                "inputs and outputs of the models themselves."
            )
        if not sources:
            raise ValueError("to_onnx: expected one endpoint or more, got none.")
        given = dict(inputs or {})
        for name in [*sources, *given]:
            if not isinstance(name, str) or not name or {"/", ","} & set(name):
                raise ValueError(
                    f"to_onnx: expected the name of an endpoint, without / and comma, got {name!r}."
                )
            if name not in sources:
                raise ValueError(
                    f"to_onnx: expected `inputs` of endpoints, got {name!r}. "
                    f"There is {', '.join(sources)}."
                )
        models = [source for source in sources.values() if isinstance(source, mf.Model)]
        self._walk = self._make_walk(models)
        for name, source in sources.items():
            with self.g.scope(name):
                specs = self.add(source, given.get(name), f"{name}/")
            self._default_sizes[f"{name}/"] = default_size(source, specs)
        self._properties[ENDPOINTS] = list(sources)

    def add(self, source: Any, inputs: Any, prefix: str = "") -> list[tuple[tuple, mx.Dtype]]:
        """The (shape, dtype) of its inputs; names in the file begin with `prefix`."""
        self.g.dimension = lambda dim: self.dimensions.of(dim, prefix)
        if isinstance(source, mf.Model):
            if inputs is not None:
                raise TypeError("to_onnx: expected no `inputs` for a Model, which has its own.")
            return self._model(source, prefix)
        return self._function(source, inputs, prefix)

    @property
    def uncertain(self) -> list[Uncertain]:
        """The functions of layers that are not everywhere what was traced."""
        return [] if self._walk is None else self._walk.doubts

    @property
    def steps(self) -> list[Step]:
        """The calls of layers in what was added."""
        return [] if self._walk is None else self._walk.steps

    def finish(
        self, metadata: Mapping[str, str] | None, extra_outputs: Sequence[str]
    ) -> onnx.ModelProto:
        """The checked model, with what verification needs to know in its metadata."""
        if self._walk is not None and self._walk.problems:
            raise UnsupportedLayers(self._walk.problems)
        self.dimensions.check()
        for option, wanted in self.options.nchw.items():
            _check_images(option, wanted, self._images[option])
        self._properties[EXTRA_OUTPUTS] = list(extra_outputs)
        properties = {
            key: ",".join(dict.fromkeys(values))
            for key, values in self._properties.items()
            if any(values)
        }
        model = self.g.finish(properties | _checked(metadata))
        for prefix, size in self._default_sizes.items():
            add_defaults(model, prefix, size)
        return model

    def _note(self, **values: str) -> None:
        for key, value in values.items():
            self._properties.setdefault(key, []).append(value)

    def _make_walk(self, models: Sequence[mf.Model]) -> Walk:
        reused = _reused(models) if self.options.functions else frozenset()
        return Walk(self.g, reused, self.options.right_padded)

    def _model(self, model: mf.Model, prefix: str) -> list[tuple[tuple, mx.Dtype]]:
        walk = self._walk = self._walk or self._make_walk([model])
        g, specs = self.g, model.inputs
        names = self._names("input", [prefix + name for name in model.input_names])
        # An output that is an input, or is called like one, has another name in the file.
        made = [prefix + name for name in model.output_names]
        made = [f"{name}_output" if name in names else name for name in made]
        out_names = self._names("output", made)
        ranks, out_ranks = ([t.ndim for t in side] for side in (specs, model.outputs))
        first_in = self._channels_first("inputs_as_nchw", names, ranks)
        first_out = self._channels_first("outputs_as_nchw", out_names, out_ranks)
        tensors, shapes = [], []
        for name, spec in zip(names, specs, strict=True):
            rank, own = len(spec.shape), name.removeprefix(prefix)
            layout = channels_first(rank) if name in first_in else plain(rank)
            dims = ["batch" if d is None and i == 0 else d for i, d in enumerate(spec.shape)]
            dims = [Unnamed(f"{own}_dim_{i}") if d is None else d for i, d in enumerate(dims)]
            self.dimensions.see(dims, prefix)
            value = g.input(name, spec.dtype, [dims[axis] for axis in layout.perm])
            # Inside too, a dimension has the name of the file: a mask is as long as its sequence.
            shape = (*spec.shape[:1], *dims[1:])
            tensors.append(Tensor(g, value, shape, layout, dtype=spec.dtype))
            tensors[-1].given = True
            shapes.append((tuple(map(g.dimension, dims)), spec.dtype))
        outputs, _ = walk.model(model, tensors, [None] * len(tensors))
        if walk.problems:
            return shapes
        for name, tensor, spec in zip(out_names, outputs, model.outputs, strict=True):
            layout = channels_first(tensor.rank) if name in first_out else plain(tensor.rank)
            # A dtype that rules compute in another one.
            g.output(g.cast(tensor.to(layout), spec.dtype), name)
        self._note(source=f"mlxfunc {type(model).__name__}", model=model.name)
        self._note_channels_first(first_in, first_out)
        self._note(**{RIGHT_PADDED: "yes" if walk.right_padded else ""})
        return shapes

    def _function(self, source: Any, inputs: Any, prefix: str) -> list[tuple[tuple, mx.Dtype]]:
        if not callable(source):
            raise TypeError(
                f"to_onnx: expected a Model, an mlx.nn.Module or a function, got {source!r}."
            )
        if inputs is None:
            raise TypeError(
                "to_onnx: expected `inputs` for a module or function: arrays or specs, "
                'such as inputs=[("batch", 32)].'
            )
        named = dict(inputs) if isinstance(inputs, Mapping) else dict(enumerate(inputs))
        entries = {key: self._sized(entry, prefix) for key, entry in named.items()}
        given: Any = entries if isinstance(inputs, Mapping) else list(entries.values())
        names = (self.options.names["input"], self.options.names["output"])
        images: dict[str, list[str]] = {}

        def channels_first(side: str, names: list[str], ranks: list[int]) -> list[str]:
            images[side] = self._channels_first(f"{side}_as_nchw", names, ranks)
            return images[side]

        trace.function_to_graph(
            self.g, source, given, *names, prefix,
            doubt=lambda doubt: self.doubts.append((source, prefix, doubt)),
            channels_first=channels_first,
        )  # fmt: skip
        self._note_channels_first(images["inputs"], images["outputs"])
        self._note(source=getattr(source, "__name__", type(source).__name__))
        return [trace.as_spec(entry) for entry in entries.values()]

    def _sized(self, entry: Any, prefix: str) -> Any:
        """A spec with the sizes that were asked for; an array has its own."""
        if isinstance(entry, mx.array):
            return entry
        shape, dtype = trace.as_spec(entry)
        dims = ["batch" if d is None and axis == 0 else d for axis, d in enumerate(shape)]
        self.dimensions.see(dims, prefix)
        return tuple(self.dimensions.of(d, prefix) for d in dims), dtype

    def _names(self, side: str, own: Sequence[str]) -> list[str]:
        given = self.options.names[side]
        if given is None:
            return list(own)
        if len(given) != len(own) or len(set(given)) != len(given):
            raise ValueError(
                f"to_onnx: expected {len(own)} different names in {side}_names, got "
                f"{list(given)}. The model's own are {list(own)}."
            )
        return list(given)

    def _note_channels_first(self, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        self._note(**{NCHW_INPUTS: ",".join(inputs), NCHW_OUTPUTS: ",".join(outputs)})

    def _channels_first(self, option: str, names: Sequence[str], ranks: Sequence[int]) -> list[str]:
        images = [name for name, rank in zip(names, ranks, strict=True) if rank >= 3]
        self._images[option] += images
        wanted = self.options.nchw[option]
        if isinstance(wanted, bool):
            return images if wanted else []
        wanted = [wanted] if isinstance(wanted, str) else wanted
        return [name for name in images if name in wanted]


def _check_images(option: str, wanted: bool | Collection[str], images: Sequence[str]) -> None:
    if isinstance(wanted, bool):
        return
    for name in [wanted] if isinstance(wanted, str) else wanted:
        if name not in images:
            raise ValueError(
                f"to_onnx: expected names of rank 3 or more in {option}, got {name!r}. "
                f"There is {', '.join(images) or 'none'}."
            )


def _checked(metadata: Mapping[str, str] | None) -> dict[str, str]:
    entries = dict(metadata or {})
    for key, value in entries.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"to_onnx: expected metadata of text, got {key!r}: {value!r}.")
        if key.startswith(OWN_METADATA):
            raise ValueError(
                f"to_onnx: expected metadata without {OWN_METADATA!r}, got {key!r}. Rename it."
            )
    return entries


def _reused(models: Sequence[mf.Model]) -> frozenset[int]:
    """The ids of the models that are called twice or more inside `models`."""
    calls: Counter[int] = Counter()
    pending = list(models)
    while pending:
        for node in pending.pop().graph.nodes:
            if is_model(node.layer):
                calls[id(node.layer)] += 1
                if calls[id(node.layer)] == 1:
                    pending.append(node.layer)
    return frozenset(key for key, count in calls.items() if count > 1)
