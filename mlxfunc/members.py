"""What a layer consists of: arrays and modules, each listed once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map

from .bounds import keep_inside
from .graph import leaves

_STRUCTURES = (mx.array, list, tuple, dict)


class _Frozen(set):
    """Names of arrays without a gradient. `unfreeze` clears it; `always` stays."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        super().__init__(names)
        self.always: set[str] = set()

    def clear(self) -> None:
        super().clear()
        self.update(self.always)


class Members(nn.Module):
    """A Module that lists each of its arrays once, under however many attributes it is kept."""

    name: str
    _no_grad: _Frozen

    def __init__(self) -> None:
        super().__init__()
        self._no_grad = _Frozen()
        self._builds = 0  # how many `build` are running, a subclass's and its parents'
        # Names of the arrays that add_weight has made; of those among them that have none.
        self._listed: set[str] = set()
        self._unnamed: set[str] = set()
        # Attributes that stand for listed arrays: a name, or a structure of names.
        self._aliases: dict[str, Any] = {}

    def __setattr__(self, key: str, value: Any) -> None:
        if self.__dict__.get("_listed"):
            if key in self._listed and not isinstance(value, mx.array):
                raise ValueError(
                    f"{self.name}: expected an MLX array for the weight {key!r}, got a "
                    f"{type(value).__name__}. Give the weight or the attribute another name."
                )
            if isinstance(value, _STRUCTURES) and self._becomes_alias(key, value):
                return
        # Members of a Module are its arrays and modules; what is private or a tuple is not one.
        if key.startswith("_") or isinstance(value, tuple) or _has_setter(self, key):
            object.__setattr__(self, key, value)
        else:
            super().__setattr__(key, keep_inside(value))

    def __getattr__(self, key: str) -> Any:
        aliases = self.__dict__.get("_aliases", ())
        if key in aliases:
            return tree_map(lambda name: self[name], aliases[key])
        return super().__getattr__(key)

    def _becomes_alias(self, key: str, value: Any) -> bool:
        """Whether `value` is told by the names of listed arrays; then the attribute is, too.

        Only until the layer is built: afterwards an array that is kept is a value, not a weight.
        """
        name = self._aliases.get(key)
        if isinstance(name, str) and isinstance(value, mx.array):
            self[name] = value
            return True
        self._aliases.pop(key, None)
        if key in self._listed or (self.built and not self._builds):
            return False
        names = {id(self[name]): name for name in self._listed}
        arrays = leaves(value)
        if not arrays or not all(id(array) in names for array in arrays):
            return False
        if _has_setter(self, key):
            return False
        if hasattr(type(self), key):
            raise ValueError(
                f"{self.name}: expected an attribute of its own for a weight, got {key!r}, which "
                f"{type(self).__name__} has already. Give it another name."
            )
        if isinstance(value, mx.array) and names[id(value)] in self._unnamed:
            self.rename(names[id(value)], self.free_name(key))
            return key in self or self._becomes_alias(key, value)
        dict.pop(self, key, None)
        self.__dict__.pop(key, None)
        self._aliases[key] = tree_map(lambda array: names[id(array)], value)
        return True

    def settle(self) -> None:
        """At the end of `build`: list weights once, and compute all that the layer holds.

        An array that is not computed belongs to the thread that made it.
        """
        for key, value in list(self.items()):
            if isinstance(value, list | dict) and not isinstance(value, nn.Module):
                setattr(self, key, value)  # It may have been filled with weights one by one.
        mx.eval(self, [value for value in vars(self).values() if isinstance(value, _STRUCTURES)])

    def free_name(self, name: str) -> str:
        """A name like this one for an array, which no member, attribute or method has."""
        base = re.sub(r"\W", "_", name).lstrip("_0123456789") or "weight"
        key, count = base, 0
        while (
            key in self
            or key in self._aliases
            or hasattr(type(self), key)
            or self.__dict__.get(key) is not None
        ):
            count += 1
            key = f"{base}_{count}"
        return key

    def rename(self, old: str, new: str) -> None:
        """Call the listed array `old` by another name, in its place."""
        self.__dict__.pop(new, None)
        members = [(new if key == old else key, value) for key, value in self.items()]
        dict.clear(self)
        dict.update(self, members)
        for names in (self._listed, self._no_grad, self._no_grad.always):
            if old in names:
                names.remove(old)
                names.add(new)
        self._unnamed.discard(old)

    def apply(self, map_fn: Callable, filter_fn: Callable | None = None) -> nn.Module:
        """Replace each array by `map_fn(array)`, computed; `set_dtype` does it by this."""
        super().apply(map_fn, filter_fn)
        mx.eval(self)
        return self

    def filter_and_map(
        self,
        filter_fn: Callable,
        map_fn: Callable | None = None,
        is_leaf_fn: Callable | None = None,
    ) -> dict:
        """As in `mlx.nn.Module`, but a module reached twice is listed only the first time."""
        seen = {id(self)}

        def once(module: nn.Module, key: str, value: Any) -> bool:
            if not filter_fn(module, key, value):
                return False
            if isinstance(value, nn.Module):
                if id(value) in seen:
                    return False
                seen.add(id(value))
            return True

        return super().filter_and_map(once, map_fn, is_leaf_fn)

    def sublayers(self) -> list[nn.Module]:
        """This layer and every module in it, each once, in the order they were made."""
        found: dict[int, nn.Module] = {}

        def visit(value: Any) -> None:
            if isinstance(value, nn.Module):
                if id(value) in found:
                    return
                found[id(value)] = value
            for child in value.values() if isinstance(value, dict) else value:
                if isinstance(child, dict | list):
                    visit(child)

        visit(self)
        return list(found.values())

    def foreign_modules(self) -> Iterator[nn.Module]:
        """The modules of this layer, alone or in lists and dicts, that are not layers."""
        rest = list(self.values())
        while rest:
            value = rest.pop()
            if isinstance(value, nn.Module):
                if not isinstance(value, Members):
                    yield value
            elif isinstance(value, dict | list):
                rest += value.values() if isinstance(value, dict) else value


def _has_setter(obj: Any, key: str) -> bool:
    inherited = getattr(type(obj), key, None)
    return isinstance(inherited, property) and inherited.fset is not None
