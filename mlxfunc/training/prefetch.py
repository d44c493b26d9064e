"""Batches made ahead of the step: in a thread, and by a dataset's own workers."""

from __future__ import annotations

import contextlib
import contextvars
import queue
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from ..random_state import end_cleanly

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

_POLL_SECONDS = 0.1
_JOIN_SECONDS = 2.0
_DONE = object()


def prefetch(items: Iterable[Any], depth: int) -> Iterator[Any]:
    """`items`, up to `depth` of them made ahead in a thread.

    What the source raises is raised here, with the traceback of the thread.
    """
    box: queue.Queue = queue.Queue(depth)
    stop = threading.Event()

    def put(entry: Any) -> bool:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                box.put(entry, timeout=_POLL_SECONDS)
                return True
        return False

    def work() -> None:
        end_cleanly()
        try:
            if all(put((item, None)) for item in items):
                put((_DONE, None))
        except BaseException as error:
            put((_DONE, error))

    # The thread knows the custom objects that are known here.
    run = contextvars.copy_context().run
    thread = threading.Thread(target=run, args=(work,), name="mlxfunc-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, error = box.get()
            if error is not None:
                error.add_note("raised by the data source, while it made a batch ahead")
                raise error
            if item is _DONE:
                return
            yield item
    finally:
        stop.set()
        thread.join(_JOIN_SECONDS)


def fetch(
    dataset: Any, order: Iterable[int], workers: int, processes: bool, depth: int
) -> Iterator[Any]:
    """`dataset[i]` for each i of `order`, in that order, by several workers."""
    if workers <= 1 and not processes:
        yield from (_get(dataset, i) for i in order)
        return
    waiting: deque[Future] = deque()
    with _executor(dataset, workers, processes) as pool:
        try:
            for i in order:
                if processes:
                    waiting.append(pool.submit(_item, i))
                else:
                    waiting.append(pool.submit(contextvars.copy_context().run, _get, dataset, i))
                if len(waiting) >= max(depth, workers):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _executor(dataset: Any, workers: int, processes: bool) -> Executor:
    # Imported here: both are slow to load, and few datasets ask for workers.
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

    if not processes:
        return ThreadPoolExecutor(max(workers, 1))
    # A forked child would inherit the locks of MLX's threads.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(max(workers, 1), context, initializer=_adopt, initargs=(dataset,))


_adopted: list[Any] = []


def _adopt(dataset: Any) -> None:
    _adopted[:] = [dataset]


def _item(i: int) -> Any:
    return _get(_adopted[0], i)


def _get(dataset: Any, i: int) -> Any:
    """A batch whose arrays are computed: lazy ones belong to this thread."""
    end_cleanly()
    item = dataset[i]
    mx.eval(item)
    return item
