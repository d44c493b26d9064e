"""Names that are unique, and say where in a model they are."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


class Names:
    """Unique names under the scopes that are open; `metadata` is what nodes in these carry."""

    def __init__(self) -> None:
        self.metadata: dict[str, str] = {}
        self._scope: tuple[str, ...] = ()
        self._counts: dict[str, int] = {}

    @contextlib.contextmanager
    def scope(self, name: str, **metadata: str) -> Iterator[None]:
        """Prefixes names with `name/`; `metadata` goes into every node made inside."""
        with self._at((*self._scope, name), {**self.metadata, **metadata}):
            yield

    def here(self) -> Callable[[], contextlib.AbstractContextManager[None]]:
        """Opens, later, the scopes that are open now: for a node that is made on demand."""
        scope, metadata = self._scope, self.metadata
        return lambda: self._at(scope, metadata)

    @contextlib.contextmanager
    def _at(self, scope: tuple[str, ...], metadata: dict[str, str]) -> Iterator[None]:
        before = self._scope, self.metadata
        self._scope, self.metadata = scope, metadata
        try:
            yield
        finally:
            self._scope, self.metadata = before

    @property
    def path(self) -> str:
        """The names of the open scopes, joined by `/`."""
        return "/".join(self._scope)

    def scoped(self, name: str) -> str:
        """`name` under the open scopes, made unique."""
        return self.unique("/".join((*self._scope, name)))

    def unique(self, name: str) -> str:
        """`name`, or `name_1`, `name_2` … where it is taken."""
        count = self._counts.get(name, 0)
        self._counts[name] = count + 1
        return self.unique(f"{name}_{count}") if count else name

    def is_taken(self, name: str) -> bool:
        return name in self._counts
