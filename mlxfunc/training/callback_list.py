"""The list that calls callbacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from .callbacks import Callback, History
from .progress import ProgbarLogger


class CallbackList:
    """Calls each callback's method of a name, in order; skips those that did not define it.

    `callbacks.on_epoch_end(epoch, logs)` and all the others; without logs they get `{}`.

    Source: https://keras.io/api/callbacks/
    """

    def __init__(
        self,
        callbacks: Any = None,
        add_history: bool = False,
        add_progbar: bool = False,
        model: Any = None,
        **params: Any,
    ) -> None:
        entries = [] if callbacks is None else callbacks
        self.callbacks: list[Callback] = []
        for callback in entries if isinstance(entries, list | tuple) else [entries]:
            if not isinstance(callback, Callback):
                raise TypeError(f"callbacks: expected Callback objects, got {callback!r}.")
            self.callbacks.append(callback)
        if add_progbar and not any(isinstance(c, ProgbarLogger) for c in self.callbacks):
            self.callbacks.append(ProgbarLogger())
        if add_history and self.history is None:
            self.callbacks.append(History())
        self._hooks: dict[str, list[Callable[..., None]]] = {}
        self.set_params(params)
        if model is not None:
            self.set_model(model)

    def __iter__(self) -> Iterator[Callback]:
        return iter(self.callbacks)

    @property
    def history(self) -> History | None:
        """The first History in the list."""
        return next((c for c in self.callbacks if isinstance(c, History)), None)

    def append(self, callback: Callback) -> None:
        """Add a callback at the end."""
        self.callbacks.append(callback)
        self._hooks.clear()

    def set_params(self, params: dict[str, Any]) -> None:
        """Give every callback the run's `verbose`, `epochs` and `steps`."""
        self.params = params
        for callback in self.callbacks:
            callback.set_params(params)

    def set_model(self, model: Any) -> None:
        """Give every callback the model, and the model its History."""
        for callback in self.callbacks:
            callback.set_model(model)
        if self.history is not None:
            model.history = self.history

    def hooks(self, name: str) -> list[Callable[..., None]]:
        """The bound methods called `name` that do something."""
        if name not in self._hooks:
            self._hooks[name] = [getattr(c, name) for c in self.callbacks if _defines(c, name)]
        return self._hooks[name]

    def __getattr__(self, name: str) -> Callable[..., None]:
        if not hasattr(Callback, name) or not name.startswith("on_"):
            raise AttributeError(name)

        def call(*args: Any, logs: Any = None) -> None:
            # An epoch or a batch has its number before the logs.
            numbered = name.startswith("on_epoch") or "batch" in name
            *number, logs = args if len(args) > numbered else (*args, logs)
            for hook in self.hooks(name):
                hook(*number, {} if logs is None else logs)

        return call


def _defines(callback: Callback, name: str) -> bool:
    old = name.replace("_train_batch_", "_batch_")
    return any(getattr(type(callback), n) is not getattr(Callback, n) for n in {name, old}) or any(
        n in vars(callback) for n in {name, old}
    )
