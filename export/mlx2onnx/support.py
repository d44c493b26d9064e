"""What can be exported, from the registries: `python -m mlx2onnx.support` prints it as Markdown."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence

import mlxfunc as mf
from mlxfunc import layers
from mlx2onnx.api import to_onnx
from mlx2onnx.layers import RULES
from mlx2onnx.primitives import RULES as PRIMITIVES

Operators = list[str]


def layer_families() -> dict[str, list[str]]:
    """The public layers that have a rule, their own or a parent's, by the file that holds it."""
    found: dict[str, list[str]] = {}
    for name, cls in vars(layers).items():
        if isinstance(cls, type) and name == cls.__name__:
            rule = next((RULES[parent] for parent in cls.__mro__ if parent in RULES), None)
            if rule is not None:
                found.setdefault(_family(rule.file), []).append(name)
    return _sorted(found)


def primitive_families() -> dict[str, list[str]]:
    """The primitives that have a rule, by the file that holds it."""
    found: dict[str, list[str]] = {}
    for name, rule in PRIMITIVES.items():
        found.setdefault(_family(rule.file), []).append(name)
    return _sorted(found)


def operators(models: Iterable[mf.Model]) -> dict[str, tuple[Operators, Operators]]:
    """By layer class: the operators in the first model that needs one, and more in the others."""
    first: dict[str, Operators] = {}
    others: dict[str, set[str]] = {}
    for model in models:
        made: dict[str, Operators] = {type(layer).__name__: [] for layer in model.layers}
        for node in to_onnx(model, verify=False).graph.node:
            for entry in node.metadata_props:
                if entry.key == "layer":
                    made.setdefault(entry.value, []).append(node.op_type)
        for name, found in made.items():
            if not first.get(name):
                first[name] = found
            others.setdefault(name, set()).update(found)
    return {name: (found, sorted(others[name] - set(found))) for name, found in first.items()}


def layer_table(models: Iterable[mf.Model]) -> str:
    """Layers and the operators they become in these models; alike ones share a row."""
    seen = operators(models)
    rows = []
    for names in layer_families().values():
        alike: dict[tuple[str, str], list[str]] = {}
        for name in names:
            first, others = seen.get(name, (["its primitives"], []))
            alike.setdefault((_counted(first) or "nothing", ", ".join(others)), []).append(name)
        rows += [(", ".join(same), *cells) for cells, same in alike.items()]
    return table(("layer", "becomes", "and, with other arguments or a mask"), rows)


def family_list(families: dict[str, list[str]]) -> str:
    """A Markdown list, one entry a family."""
    return "".join(
        textwrap.fill(f"- {family}: {', '.join(names)}", 100, subsequent_indent="  ") + "\n"
        for family, names in families.items()
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _counted(found: Operators) -> str:
    """Names in order, each once, with how many there are."""
    return ", ".join(f"{n} {op}" if n > 1 else op for op, n in Counter(found).items())


def _family(module: str) -> str:
    return module.rpartition(".")[2]


def _sorted(found: dict[str, list[str]]) -> dict[str, list[str]]:
    return {family: sorted(names) for family, names in sorted(found.items())}


if __name__ == "__main__":
    print(f"Layers:\n\n{family_list(layer_families())}")
    print(f"Primitives:\n\n{family_list(primitive_families())}", end="")
