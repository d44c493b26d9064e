"""Random models: shared layers, nested and shared models, several inputs and outputs."""

from __future__ import annotations

import random
from typing import Any

WIDTH = 3


def random_model(k: Any, seed: int, nesting: int = 2) -> Any:
    """The model of this seed, of Keras (`k`) or ours; all tensors are (batch, WIDTH)."""
    choose = random.Random(seed)
    inputs = [k.layers.Input((WIDTH,), name=f"in{i}") for i in range(choose.randint(1, 3))]
    tensors, shared = list(inputs), []
    for step in range(choose.randint(1, 10)):
        name = f"step{step}"
        kind = choose.choice(["dense", "dense", "again", "merge", "merge", "model"])
        if kind == "merge":
            merge = choose.choice([k.layers.Add, k.layers.Multiply, k.layers.Average])
            given = [choose.choice(tensors) for _ in range(choose.randint(2, 4))]
            tensors.append(merge(name=name)(given))
            continue
        if kind == "again" and shared:
            layer = choose.choice(shared)
        elif kind == "model" and nesting:
            layer = random_model(k, choose.randrange(10**6), nesting - 1)
            layer.name = name
        else:
            layer = k.layers.Dense(WIDTH, activation="tanh", name=name)
        shared.append(layer)
        count = len(layer.inputs) if hasattr(layer, "inputs") else 1
        given = [choose.choice(tensors) for _ in range(count)]
        made = layer(given if count > 1 else given[0])
        tensors += made if isinstance(made, list) else [made]
    made = tensors[len(inputs) :]
    outputs = choose.sample(made, choose.randint(1, min(3, len(made))))
    return k.models.Model(inputs, outputs if len(outputs) > 1 else outputs[0])
