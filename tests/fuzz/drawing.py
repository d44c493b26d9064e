"""Chooses a random graph step by step; mlxfunc draws each step and so tells the shapes."""

from __future__ import annotations

from random import Random
from typing import Any

import mlxfunc as mf

from case import apply
from fuzz import choices
from fuzz.choices import is_float, listed, one, step_of
from fuzz.recipe import Drawing, GraphRecipe, LayerRecipe, Spec, Step, label, leaves

REFUSALS = (ValueError, TypeError)  # what is documented for wrong arguments and shapes
MOST = 1500  # entries of a sample, for speed
VOCABULARY = 7
SHAPES = (
    *((5,), (3,), (4, 3), (6, 4), (None, 3), (None, 4), ("time", 3), (5, 6, 3), (7, 7, 4)),
    *((None, None, 3), ("height", "width", 2), (3, 5, 4), (3, 5, 4, 2), (None, 6, 4, 3), (1, 1)),
)


def random_graph(seed: int) -> GraphRecipe:
    """The graph of this seed."""
    choose = Random(seed)
    mf.clear_session()
    specs = [_spec(choose) for _ in range(choose.choice((1, 1, 1, 2, 2, 3)))]
    if choose.random() < 0.1:
        batch = choose.randint(1, 3)
        specs = [Spec(spec.shape, spec.dtype, batch) for spec in specs]
    return Growth(choose, specs, Drawing(mf), nesting=2).finish(choose.randint(2, 12))


def _spec(choose: Random) -> Spec:
    if choose.random() < 0.2:
        return Spec((choose.choice((None, "time", 5, 6)),), "int32")
    return Spec(choose.choice(SHAPES))


class Growth:
    """A graph that grows step by step."""

    def __init__(self, choose: Random, specs: list[Spec], drawing: Drawing, nesting: int) -> None:
        self.choose, self.drawing, self.nesting = choose, drawing, nesting
        self.recipe = GraphRecipe(specs, dicts=choose.random() < 0.15)
        self.tensors = self.recipe.draw_inputs(mf)

    def finish(self, count: int) -> GraphRecipe:
        for _ in range(4 * count):
            if len(self.recipe.steps) >= count:
                break
            step = self._step()
            if step is not None:
                self._add(step)
        new = range(len(self.recipe.inputs), len(self.tensors))
        if not new:
            self._add(step_of(LayerRecipe("Identity"), "Identity()", [0]))
            new = range(len(self.recipe.inputs), len(self.tensors))
        self.recipe.outputs = self._outputs(list(new))
        return self.recipe

    def _outputs(self, new: list[int]) -> Any:
        chosen = self.choose.sample(new, min(len(new), self.choose.choice((0, 0, 1, 2))))
        chosen = [i for i in chosen if i != new[-1]] + [new[-1]]
        kind = self.choose.random()
        if kind < 0.15:
            return {f"out{i}": ref for i, ref in enumerate(chosen)}
        return chosen if len(chosen) > 1 or kind < 0.25 else chosen[0]

    def _add(self, step: Step) -> None:
        known = step.layer is None or id(step.layer) in self.drawing.layers
        try:
            found = step.draw(self.drawing, self.tensors)
            fits = all(_fits(tensor) for tensor in found)
        except REFUSALS:
            fits = False
        if fits:
            names = range(len(self.tensors), len(self.tensors) + len(found))
            step.results = list(names)
            self.tensors += found
            self.recipe.steps.append(step)
        elif not known:
            self.drawing.layers.pop(id(step.layer), None)

    # One of the kinds of steps; None: there is nothing that it could take.

    def _step(self) -> Step | None:
        kinds = {
            self._layer: 8,
            self._row: 3,
            self._operator: 3,
            self._merge: 3,
            self._again: 2,
            self._sequence_pair: 1,
            self._embedding: 2,
            self._started: 1,
        }
        if self.nesting:
            kinds |= {self._model: 1, self._model_in_time: 0.5}
        (kind,) = self.choose.choices(list(kinds), list(kinds.values()))
        return kind()

    def _ref(self, floats: bool = True, rank: int | None = None) -> int | None:
        """A tensor, rather one of the last."""
        fitting = [
            i
            for i, t in enumerate(self.tensors)
            if is_float(t) == floats and rank in (None, len(t.shape))
        ]
        if not fitting:
            return None
        return self.choose.choice(fitting[-3:] if self.choose.random() < 0.6 else fitting)

    def _layer(self) -> Step | None:
        ref = self._ref(floats=self.choose.random() < 0.95)
        if ref is None:
            return None
        layer = choices.random_layer(self.choose, self.tensors[ref])
        return step_of(layer, str(layer), [ref])

    def _row(self) -> Step | None:
        found = choices.random_row(self.choose, self.tensors)
        if found is None:
            return None
        case, refs = found
        layer = LayerRecipe(case.name, build=case.build)
        call = one if case.call is apply else (lambda k, layer, *xs: case.call(layer, *xs))
        call = listed if case.call is apply and len(refs) > 1 else call
        return step_of(layer, f"row {case.name!r}", refs, call)

    def _operator(self) -> Step | None:
        if self.choose.random() < 0.7:
            text = self.choose.choice(list(choices.UNARY))
            ref = self._ref()
            function = choices.UNARY[text]
            refs = [ref]
        else:
            text = self.choose.choice(list(choices.BINARY))
            first = self._ref()
            rank = None if first is None else len(self.tensors[first].shape)
            refs, function = [first, self._ref(rank=rank)], choices.BINARY[text]
        if None in refs:
            return None
        return step_of(None, text, refs, lambda k, layer, *xs: function(k, *xs))

    def _merge(self) -> Step | None:
        first = self._ref()
        if first is None:
            return None
        shape = self.tensors[first].shape
        near = [
            i
            for i, t in enumerate(self.tensors)
            if is_float(t) and (len(t.shape) == len(shape) or self.choose.random() < 0.2)
        ]
        refs = [first, *(self.choose.choice(near) for _ in range(self.choose.choice((1, 1, 2))))]
        kind = self.choose.choice((*choices.MERGES, "Dot"))
        options: dict[str, Any] = {}
        if kind == "Concatenate":
            options["axis"] = self.choose.choice((-1, -1, 1, 1 - len(shape)))
        if kind == "Dot":
            axes = (self.choose.randint(1, 2), self.choose.randint(1, 2))
            options = {"axes": self.choose.choice((1, -1, 2, axes))}
            options |= {"normalize": True} if self.choose.random() < 0.3 else {}
        if kind in ("Dot", "Subtract"):
            refs = refs[:2]
        self.choose.shuffle(refs)
        layer = LayerRecipe(kind, options)
        return step_of(layer, str(layer), refs, listed)

    def _again(self) -> Step | None:
        """A layer or model that has been called is called on another tensor."""
        steps = [s for s in self.recipe.steps if s.layer is not None and s.call is one]
        if not steps:
            return None
        step = self.choose.choice(steps)
        rank = len(self.tensors[step.refs[0]].shape)
        ref = self._ref(is_float(self.tensors[step.refs[0]]), rank)
        return None if ref is None else step_of(step.layer, step.text, [ref])

    def _sequence_pair(self) -> Step | None:
        """Attention over two sequences, or one alone."""
        refs = [self._ref(rank=3), self._ref(rank=3)]
        if None in refs:
            return None
        if self.choose.random() < 0.4:
            refs = refs[:1] * 2
        causal = self.choose.random() < 0.3
        kind = self.choose.choice(("Attention", "AdditiveAttention", "MultiHeadAttention"))
        if kind == "MultiHeadAttention":
            options = {"num_heads": self.choose.randint(1, 3), "key_dim": self.choose.randint(1, 4)}
            options |= choices._maybe(self.choose, value_dim=3, output_shape=4, use_bias=False)
            layer = LayerRecipe(kind, options)
            text = f"{layer} causal={causal}"
            return step_of(
                layer, text, refs, lambda k, layer, q, v: layer(q, v, use_causal_mask=causal)
            )
        options = choices._maybe(self.choose, use_scale=True)
        if kind == "Attention":
            options |= choices._maybe(self.choose, score_mode="concat")
        layer = LayerRecipe(kind, options)
        text = f"{layer} causal={causal}"
        return step_of(
            layer, text, refs, lambda k, layer, q, v: layer([q, v], use_causal_mask=causal)
        )

    def _embedding(self) -> Step | None:
        ids = [i for i, spec in enumerate(self.recipe.inputs) if spec.dtype == "int32"]
        if not ids:
            return None
        options = {"input_dim": VOCABULARY, "output_dim": self.choose.randint(1, 5)}
        layer = LayerRecipe("Embedding", options | {"mask_zero": self.choose.random() < 0.6})
        return step_of(layer, str(layer), [self.choose.choice(ids)])

    def _started(self) -> Step | None:
        """A recurrent layer that begins with vectors there are."""
        ref, states = self._ref(rank=3), [i for i, t in enumerate(self.tensors) if _vector(t)]
        if ref is None or not states:
            return None
        state = self.choose.choice(states)
        kind = self.choose.choice(("SimpleRNN", "GRU", "LSTM"))
        refs = [ref, state] + ([state] if kind == "LSTM" else [])
        options = {"units": self.tensors[state].shape[-1], **choices._flow(self.choose)}
        # Keras does not look at a mask beside an initial state.
        layer = LayerRecipe(kind, options, keras=False)
        return step_of(
            layer,
            f"{layer} with initial_state",
            refs,
            lambda k, layer, x, *states: layer(x, initial_state=list(states)),
        )

    def _model(self) -> Step | None:
        count = self.choose.choice((1, 1, 2))
        refs = [self._ref(floats=self.choose.random() < 0.9) for _ in range(count)]
        if None in refs:
            return None
        specs = [self._inner_spec(self.tensors[ref].shape[1:], ref) for ref in refs]
        inner = self._inner(specs)
        if inner is None:
            return None
        if count == 1 and not inner.dicts:
            return step_of(inner, f"model {label(inner)}", refs)
        structure = inner.structure
        return step_of(
            inner,
            f"model {label(inner)}",
            refs,
            lambda k, layer, *xs: layer(structure(list(xs))),
        )

    def _model_in_time(self) -> Step | None:
        ref = self._ref()
        if ref is None or not 3 <= len(self.tensors[ref].shape) <= 4:
            return None
        inner = self._inner([self._inner_spec(self.tensors[ref].shape[2:], ref)], plain=True)
        if inner is None:
            return None
        layer = LayerRecipe("TimeDistributed", {"layer": inner})
        return step_of(layer, f"TimeDistributed(model {label(inner)})", [ref])

    def _inner_spec(self, shape: tuple, ref: int) -> Spec:
        """Sizes as they are, or dynamic, but for the last."""
        loose = self.choose.random() < 0.3
        sizes = [
            d if not isinstance(d, int) or k == len(shape) - 1 or not loose else None
            for k, d in enumerate(shape)
        ]
        return Spec(tuple(sizes), "float32" if is_float(self.tensors[ref]) else "int32")

    def _inner(self, specs: list[Spec], plain: bool = False) -> GraphRecipe | None:
        if any(len(spec.shape) == 0 for spec in specs):
            return None
        growth = Growth(self.choose, specs, self.drawing, self.nesting - 1)
        if plain:
            growth.recipe.dicts = False
        recipe = growth.finish(self.choose.randint(1, 4))
        if plain:
            recipe.outputs = leaves(recipe.outputs)[0]
        return recipe


def _vector(tensor: Any) -> bool:
    return is_float(tensor) and len(tensor.shape) == 2 and tensor.shape[-1] in range(1, 7)


def _fits(tensor: Any) -> bool:
    sizes = [d for d in tensor.shape if isinstance(d, int)]
    product = 1
    for size in sizes:
        product *= size
    return 2 <= len(tensor.shape) <= 6 and all(sizes) and product <= MOST
