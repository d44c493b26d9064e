"""Names to objects and back: `"adam"`, `"mse"`, `"relu"`; one look-up, one error."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from .storage import blaming

REGISTRIES: dict[str, Registry] = {}
_REGISTERED: dict[str, Any] = {}
_SCOPES: ContextVar[tuple[dict[str, Any], ...]] = ContextVar("scopes", default=())
_SHARED: ContextVar[dict[int, Any] | None] = ContextVar("shared", default=None)
_BY_REFERENCE: ContextVar[bool] = ContextVar("by_reference", default=False)


class Registry:
    """The objects of one kind, by name. `kind` is the plural a user knows: `"optimizers"`."""

    def __init__(self, kind: str) -> None:
        if kind in REGISTRIES:
            raise ValueError(f"registry: expected a new kind, got {kind!r} twice.")
        self.kind = kind
        self._objects: dict[str, Any] = {}
        REGISTRIES[kind] = self

    def register(self, obj: Any, *names: str) -> Any:
        """Make `obj` known under its own name, the snake_case of it, and `names`; return it.

        Raises: ValueError when a name already means something else.
        """
        for name in dict.fromkeys((obj.__name__, snake_case(obj.__name__), *names)):
            known = self._objects.setdefault(name, obj)
            if known is not obj:
                raise ValueError(
                    f"{self.kind}: the name {name!r} is already taken by {known!r}. "
                    "Choose another one."
                )
        return obj

    def names(self) -> list[str]:
        """Every known name, sorted."""
        return sorted(self._objects)

    def lookup(self, name: str) -> Any:
        """What is called `name`: in an enclosing scope, then registered, then built in.

        Raises: ValueError with the nearest known names.
        """
        for known in (*reversed(_SCOPES.get()), _REGISTERED, self._objects):
            if name in known:
                return known[name]
        singular = "loss" if self.kind == "losses" else self.kind.removesuffix("s")
        raise ValueError(f"unknown {singular} {name!r}.{suggest(name, self._objects)}")

    def get(self, identifier: Any) -> Any:
        """An object from a name, a `{"class_name", "config"}` dict, a class, or the object itself.

        A class is made with its default arguments; None stays None.
        Raises: ValueError for an unknown name, TypeError for another kind of thing.
        """
        if isinstance(identifier, str):
            identifier = self.lookup(identifier)
        elif isinstance(identifier, dict) and not isinstance(identifier, nn.Module):
            return self._from_config(identifier)
        if inspect.isclass(identifier):
            return identifier()
        if identifier is None or callable(identifier) or hasattr(identifier, "get_config"):
            return identifier
        raise TypeError(
            f"{self.kind}: expected a name, a config dict or a callable, got {identifier!r}."
        )

    def serialize(self, obj: Any) -> Any:
        """What JSON can hold of `obj`: a name or `{"class_name", "config"}`."""
        return serialize(obj)

    def deserialize(self, data: Any, custom_objects: dict[str, Any] | None = None) -> Any:
        """The object that `serialize` described; `custom_objects` are known names, too."""
        with custom_object_scope(custom_objects or {}):
            return self.get(data)

    def _from_config(self, data: dict[str, Any]) -> Any:
        with blaming(data):
            return self._named(data)

    def _named(self, data: dict[str, Any]) -> Any:
        table = _SHARED.get()
        table = {} if table is None else table
        if "class_name" not in data:
            if data.get("shared") in table:
                return table[data["shared"]]
            raise ValueError(f"{self.kind}: expected a dict with 'class_name', got {data!r}.")
        name = data.get("registered_name") or data["class_name"]
        found = self.lookup(name) if isinstance(name, str) else name
        config = data.get("config") or {}
        if not inspect.isclass(found):
            return found
        made = found.from_config(config) if hasattr(found, "from_config") else found(**config)
        if "shared" in data:
            table[data["shared"]] = made
        return made


class Configurable:
    """Keeps each constructor argument as an attribute of the same name; the config follows."""

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON can hold them."""
        return {name: serialize(getattr(self, name)) for name in constructor_arguments(type(self))}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """The object that `get_config` described."""
        return cls(**config)


def constructor_arguments(cls: type) -> list[str]:
    """The names a class is made with; those of its parents too where it takes `**kwargs`."""
    names: dict[str, None] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
        names.update(dict.fromkeys(p.name for p in parameters if p.kind not in VARIADIC))
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):
            break
    return list(names)


def serialize(obj: Any) -> Any:
    """What JSON can hold of `obj`: itself, a function's name, or `{"class_name", "config"}`.

    Raises: ValueError for a function without a name (a lambda), TypeError for anything else.
    """
    if obj is None or isinstance(obj, (str, bool, int, float)):
        return obj
    if hasattr(obj, "get_config") and not inspect.isclass(obj):
        return _serialize_object(obj)
    if isinstance(obj, (list, tuple)):
        return [serialize(item) for item in obj]
    if isinstance(obj, dict):
        return {key: serialize(value) for key, value in obj.items()}
    if isinstance(obj, (mx.array, np.ndarray, np.generic)):
        return obj.tolist()
    if not callable(obj):
        raise TypeError(f"serialize: expected an object with get_config, got {obj!r}.")
    if _BY_REFERENCE.get():
        return obj
    if obj.__name__ == "<lambda>":
        raise ValueError(
            "serialize: a lambda has no name to be found by. Define a function with `def` "
            "and decorate it with `register_serializable()`."
        )
    return _public_name(obj)


def _serialize_object(obj: Any) -> dict[str, Any]:
    entry: dict[str, Any] = {"class_name": _public_name(type(obj))}
    table = _SHARED.get()
    if table is not None and isinstance(obj, nn.Module):
        if id(obj) in table:
            return {"shared": table[id(obj)]}
        table[id(obj)] = entry["shared"] = len(table)
    return entry | {"config": obj.get_config()}


@contextlib.contextmanager
def sharing() -> Iterator[None]:
    """Within the outermost such block a layer met again is written, and read, as the same one."""
    outermost = _SHARED.get() is None
    token = _SHARED.set({}) if outermost else None
    try:
        yield
    finally:
        if token is not None:
            _SHARED.reset(token)


def deserialize(kind: str, data: Any, custom_objects: dict[str, Any] | None = None) -> Any:
    """The object of `kind` that `serialize` described; nothing is imported by name."""
    return REGISTRIES[kind].deserialize(data, custom_objects)


def register_serializable(package: str = "Custom", name: str | None = None) -> Callable:
    """Decorate a class or function so that files may name it, as `package>name`."""

    def decorate(obj: Any) -> Any:
        key = f"{package}>{name or obj.__name__}"
        known = _REGISTERED.get(key, obj)
        # A notebook cell that is run again defines the same thing again.
        if (known.__module__, known.__qualname__) != (obj.__module__, obj.__qualname__):
            raise ValueError(f"register_serializable: the name {key!r} is already taken.")
        _REGISTERED[key] = obj
        return obj

    return decorate


@contextlib.contextmanager
def custom_object_scope(custom_objects: dict[str, Any]) -> Iterator[None]:
    """Within the block these names, too, are known to every registry, before all others.

    In this thread and in those that load its data; another thread opens a scope of its own.
    """
    token = _SCOPES.set((*_SCOPES.get(), dict(custom_objects)))
    try:
        yield
    finally:
        _SCOPES.reset(token)


def suggest(name: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown name: the nearest known one, then all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{hint} Known: {', '.join([n for n in known if n.islower()] or known)}."


def snake_case(name: str) -> str:
    """`GlorotUniform` becomes `glorot_uniform`, and `<lambda>` becomes `lambda`."""
    name = re.sub(r"\W+", "", name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


@contextlib.contextmanager
def by_reference() -> Iterator[None]:
    """Within the block classes and functions stand for themselves: for copies, not for files."""
    token = _BY_REFERENCE.set(True)
    try:
        yield
    finally:
        _BY_REFERENCE.reset(token)


def is_by_reference() -> bool:
    """Whether a copy is being made, and not a file."""
    return _BY_REFERENCE.get()


def _public_name(obj: Any) -> Any:
    """The name a file may find `obj` by. Raises: ValueError when that would find another one."""
    if _BY_REFERENCE.get():
        return obj
    for name, known in list(_REGISTERED.items()):
        if known is obj:
            return name
    same = {
        r.kind: r._objects[obj.__name__] for r in REGISTRIES.values() if obj.__name__ in r._objects
    }
    if same and all(known is not obj for known in same.values()):
        raise ValueError(
            f"serialize: expected a name of its own for {obj!r}, got {obj.__name__!r}, which is "
            f"one of the known {' and '.join(same)}. Rename it, or decorate it with "
            "`register_serializable()`."
        )
    return obj.__name__


VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
