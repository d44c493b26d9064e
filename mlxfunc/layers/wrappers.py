"""Layers around a layer: TimeDistributed, and Bidirectional for recurrent ones."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx.utils import tree_map

from ..graph import leaves
from ..layer import LAYERS, Layer


def as_layer(name: str, layer: Any) -> Any:
    """A layer, or one made of its config."""
    made = LAYERS.get(layer) if isinstance(layer, dict) and "class_name" in layer else layer
    if not isinstance(made, Layer):
        raise ValueError(
            f"{name}: expected a Layer, got {type(made).__name__}. Wrap an mlx.nn module in "
            "MLXLayer, a function in Lambda."
        )
    return made


class TimeDistributed(Layer):
    """A layer, or a model, on each step: layer(x_t).

    x (batch, time, ...) → (batch, time, ...). Time is folded into the batch, and the layer runs
    once: layers that compute over the batch see all steps together, where Keras gives them one
    step at a time. The mask (batch, time, ...) reaches the layer folded, and is passed on.

    Source: https://keras.io/api/layers/recurrent_layers/time_distributed/
    """

    supports_masking = True

    def __init__(self, layer: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layer = as_layer(self.name, layer)

    @property
    def moves_values(self) -> bool:  # type: ignore[override]
        return self.layer.moves_values

    @property
    def reads_ids(self) -> bool:  # type: ignore[override]
        return self.layer.reads_ids

    def check_ids(self, inputs: Any) -> None:
        def fold(x: Any) -> Any:
            return None if x is None else x[:].reshape(-1, *x.shape[2:])

        self.layer.check_ids(tree_map(fold, inputs))

    def build(self, input_shape: Any) -> None:
        if not self.layer.built:
            self.layer.build(_map_shapes(self._step_shape, input_shape))

    def _step_shape(self, shape: tuple) -> tuple:
        if len(shape) < 3:
            raise ValueError(
                f"{self.name}: expected an input of rank 3 or more, (batch, time, ...), "
                f"got shape {shape}. Call the layer itself on data without a time axis."
            )
        return (shape[0], *shape[2:])

    def call(self, inputs: Any, training: bool = False, mask: Any = None) -> Any:
        batch, time = leaves(inputs)[0].shape[:2]

        def fold(x: mx.array | None) -> mx.array | None:
            if x is None:
                return None
            if x.shape[:2] != (batch, time):
                raise ValueError(
                    f"{self.name}: expected inputs and masks of (batch, time) = {(batch, time)}, "
                    f"got shape {x.shape}. Time is axis 1 of each."
                )
            return mx.flatten(x, 0, 1)

        output = self.layer(tree_map(fold, inputs), training=training, mask=tree_map(fold, mask))
        return tree_map(lambda y: mx.unflatten(y, 0, (batch, time)), output)


def _map_shapes(function: Any, shapes: Any) -> Any:
    if isinstance(shapes, dict):
        return {key: _map_shapes(function, shape) for key, shape in shapes.items()}
    if shapes and isinstance(shapes[0], list | tuple | dict):
        return [_map_shapes(function, shape) for shape in shapes]
    return function(shapes)


MERGES = {
    "concat": lambda a, b: mx.concatenate([a, b], axis=-1),
    "sum": lambda a, b: a + b,
    "mul": lambda a, b: a * b,
    "ave": lambda a, b: (a + b) / 2,
    None: lambda a, b: (a, b),
}


class Bidirectional(Layer):
    """merge(layer(x), backward_layer(x)), the second reading time in reverse.

    x (batch, time, ...) → the last outputs, merged, or those of each step with the layer's
    `return_sequences`, where masked steps are 0; with its `return_state` also the states of the
    forward and of the backward layer. The first half of `initial_state` is the forward layer's.
    Both are made anew from the layer's config; `merge_mode` is concat, sum, mul, ave, or None
    for both outputs.

    Source: https://keras.io/api/layers/recurrent_layers/bidirectional/
    """

    supports_masking = True

    def __init__(
        self,
        layer: Any,
        merge_mode: str | None = "concat",
        *,
        backward_layer: Any = None,
        **kwargs: Any,
    ) -> None:
        self._first_weights = kwargs.pop("weights", None)
        super().__init__(**kwargs)
        if merge_mode not in MERGES:
            raise ValueError(
                f"{self.name}: expected merge_mode to be one of {', '.join(map(str, MERGES))}, "
                f"got {merge_mode!r}. 'concat' is the default."
            )
        self.merge_mode = merge_mode
        layer = as_layer(self.name, layer)
        for needed in ("go_backwards", "return_sequences", "return_state", "stateful"):
            if not hasattr(layer, needed):
                raise ValueError(
                    f"{self.name}: expected a recurrent layer, got {type(layer).__name__} without "
                    f"`{needed}`. Give it an LSTM, GRU, SimpleRNN or RNN."
                )
        self.forward_layer = _remade(layer, "forward_", layer.go_backwards)
        self.backward_layer = (
            _remade(layer, "backward_", True)
            if backward_layer is None
            else as_layer(self.name, backward_layer)
        )
        self._check_pair()
        for side in (self.forward_layer, self.backward_layer):
            side.zero_output_for_mask = side.return_sequences
        self.return_sequences, self.return_state = layer.return_sequences, layer.return_state
        self.stateful = layer.stateful

    @property
    def layer(self) -> Any:
        """The forward layer."""
        return self.forward_layer

    def _check_pair(self) -> None:
        forward, backward = self.forward_layer, self.backward_layer
        if forward.go_backwards == backward.go_backwards:
            raise ValueError(
                f"{self.name}: expected layers of opposite directions, got go_backwards="
                f"{forward.go_backwards} for both. Give the backward layer go_backwards=True."
            )
        for key in ("stateful", "return_sequences", "return_state"):
            if getattr(forward, key) != getattr(backward, key):
                raise ValueError(
                    f"{self.name}: expected the same {key} for both layers, got "
                    f"{getattr(forward, key)} and {getattr(backward, key)}. Make them equal."
                )

    def build(self, sequences_shape: Any) -> None:
        for side in (self.forward_layer, self.backward_layer):
            if not side.built:
                side.build(sequences_shape)
        if self._first_weights:
            self.set_weights(self._first_weights)

    def call(
        self, sequences: Any, initial_state: Any = None, mask: Any = None, training: bool = False
    ) -> Any:
        if isinstance(sequences, list | tuple):
            sequences, *rest = sequences
            initial_state, mask = rest or initial_state, leaves(mask)[0]
        states: tuple[Any, Any] = (None, None)
        if initial_state is not None:
            half = len(initial_state) // 2
            states = initial_state[:half], initial_state[half:]
        flags = {"mask": mask, "training": training}
        y = self.forward_layer(sequences, initial_state=states[0], **flags)
        reverse = self.backward_layer(sequences, initial_state=states[1], **flags)
        last: tuple = ()
        if self.return_state:
            (y, *forward), (reverse, *backward) = y, reverse
            last = (*forward, *backward)
        if self.return_sequences:
            reverse = reverse[:, ::-1]
        merged = MERGES[self.merge_mode](y, reverse)
        if not self.return_state:
            return merged
        return (*merged, *last) if self.merge_mode is None else (merged, *last)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        kept = leaves(mask)[0] if self.return_sequences else None
        return kept if self.merge_mode else (kept, kept)

    def reset_state(self) -> None:
        """Let stateful layers start from zeros again."""
        self.forward_layer.reset_state()
        self.backward_layer.reset_state()

    reset_states = reset_state


def _remade(layer: Any, prefix: str, go_backwards: bool) -> Any:
    """A new layer of the same configuration, with weights of its own."""
    name = prefix + layer.name.removeprefix(prefix)
    config = layer.get_config() | {"go_backwards": go_backwards, "name": name}
    return type(layer).from_config(config)
