"""The runtimes: each a function of a file and its inputs by name, which returns the outputs."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from runtimes.web import Worker

Feeds = dict[str, np.ndarray]


def onnx_runtime(file: Path, feeds: Feeds) -> list[np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def reference(file: Path, feeds: Feeds) -> list[np.ndarray]:
    from onnx.reference import ReferenceEvaluator

    return ReferenceEvaluator(str(file)).run(None, feeds)


def openvino(file: Path, feeds: Feeds) -> list[np.ndarray]:
    return _openvino(file, feeds, fixed=False)


def openvino_fixed(file: Path, feeds: Feeds) -> list[np.ndarray]:
    return _openvino(file, feeds, fixed=True)


def _openvino(file: Path, feeds: Feeds, fixed: bool) -> list[np.ndarray]:
    import openvino

    core = openvino.Core()
    model = core.read_model(file)
    if fixed:
        model.reshape({name: array.shape for name, array in feeds.items()})
    # On some processors its default is to compute in bfloat16.
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    results = compiled(feeds)
    return [results[output] for output in compiled.outputs]


def node(file: Path, feeds: Feeds) -> list[np.ndarray]:
    return _worker("node").run(file, feeds)


def chromium(file: Path, feeds: Feeds) -> list[np.ndarray]:
    return _worker("chromium").run(file, feeds)


RUNTIMES: dict[str, Callable[[Path, Feeds], list[Any]]] = {
    "ONNX Runtime": onnx_runtime,
    "ONNX reference": reference,
    "OpenVINO": openvino,
    "OpenVINO, fixed sizes": openvino_fixed,
    "Web, Node": node,
    "Web, Chromium": chromium,
}

_workers: dict[str, Worker] = {}


def _worker(kind: str) -> Worker:
    """The one that is running, or a new one."""
    if kind not in _workers or not _workers[kind].alive:
        _workers[kind] = worker = Worker(kind)
        atexit.register(worker.close)
    return _workers[kind]
