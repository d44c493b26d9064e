"""Names that are unique and say where in a model they are, and the names of dimensions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple


class _Place(NamedTuple):
    scope: tuple[str, ...]
    metadata: dict[str, str]
    batch: str | None
    dimension: Callable[[Any], Any]


class Names:
    """Unique names under the scopes that are open."""

    def __init__(self) -> None:
        self._place = _Place((), {}, "batch", lambda dim: dim)
        self._counts: dict[str, int] = {}

    @property
    def metadata(self) -> dict[str, str]:
        """What nodes carry."""
        return self._place.metadata

    @property
    def batch(self) -> str | None:
        """The name of a dynamic first dimension."""
        return self._place.batch

    @property
    def dimension(self) -> Callable[[Any], Any]:
        """What a dynamic dimension is in the file: a size, or another name."""
        return self._place.dimension

    @dimension.setter
    def dimension(self, function: Callable[[Any], Any]) -> None:
        self._place = self._place._replace(dimension=function)

    @contextlib.contextmanager
    def _at(self, place: _Place) -> Iterator[None]:
        before, self._place = self._place, place
        try:
            yield
        finally:
            self._place = before

    def scope(self, name: str, **metadata: str) -> contextlib.AbstractContextManager[None]:
        """Prefixes names with `name/`; `metadata` goes into every node made inside."""
        now = self._place
        inside = now._replace(scope=(*now.scope, name), metadata={**now.metadata, **metadata})
        return self._at(inside)

    def sized(
        self, batch: str | None, dimension: Callable[[Any], Any]
    ) -> contextlib.AbstractContextManager[None]:
        """Within, a dynamic first dimension is `batch`; `dimension` says what others are."""
        return self._at(self._place._replace(batch=batch, dimension=dimension))

    def here(self) -> Callable[[], contextlib.AbstractContextManager[None]]:
        """Comes back, later, to the scopes and dimensions of now: for a node made on demand."""
        place = self._place
        return lambda: self._at(place)

    @property
    def path(self) -> str:
        """The names of the open scopes, joined by `/`."""
        return "/".join(self._place.scope)

    def scoped(self, name: str) -> str:
        """`name` under the open scopes, made unique."""
        return self.unique("/".join((*self._place.scope, name)))

    def unique(self, name: str) -> str:
        """`name`, or `name_1`, `name_2` … where it is taken."""
        count = self._counts.get(name, 0)
        self._counts[name] = count + 1
        return self.unique(f"{name}_{count}") if count else name

    def is_taken(self, name: str) -> bool:
        return name in self._counts
