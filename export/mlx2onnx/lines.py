"""Where a function takes another way: the line after which two runs of it differ."""

from __future__ import annotations

import linecache
import os
import sys
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

Step = tuple[str, int, int]


def fork(runs: Iterable[Callable[[], Any]]) -> str | None:
    """`model.py, line 12: if n > 32:` when two runs go on differently after it."""
    first, second = map(_steps, runs)
    for before, one, other in zip(first, first[1:], second[1:], strict=False):
        if one != other:
            file, number, _ = before
            text = linecache.getline(file, number).strip()
            return f"{os.path.basename(file)}, line {number}: {text}"
    return None


def _steps(run: Callable[[], Any]) -> list[Step]:
    """The instructions that run, in order, but for those of MLX and of these packages."""
    steps: list[Step] = []

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        module = frame.f_globals.get("__name__", "")
        frame.f_trace_opcodes = module.partition(".")[0] not in ("mlx", "mlx2onnx", "mlxfunc")
        if event == "opcode":
            steps.append((frame.f_code.co_filename, frame.f_lineno, frame.f_lasti))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)
    return steps
