"""For a test suite: that a model and its exported file agree.

from mlx2onnx.testing import assert_onnx_matches

def test_export(tmp_path):
    assert_onnx_matches(make_model())
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import onnx
from mlx2onnx.api import to_onnx
from mlx2onnx.verify import BATCHES, Report, verify


def assert_onnx_matches(
    source: Any,
    file: str | os.PathLike | onnx.ModelProto | None = None,
    samples: Any = None,
    *,
    rtol: float | None = None,
    atol: float | None = None,
    batches: Sequence[int] = BATCHES,
    **options: Any,
) -> Report:
    """Asserts that ONNX Runtime gives what MLX does, and returns what was measured.

    Without a `file`, `source` is exported with `options`, those of `to_onnx`; for a module or
    function these include `specs`, the `inputs` of `to_onnx`. `samples`: what to run on, see
    `verify`.

    Raises: VerificationError, an AssertionError, with the first layer that differs.
    """
    if file is None:
        file = to_onnx(source, inputs=options.pop("specs", None), verify=False, **options)
    return verify(source, file, samples, rtol, atol, batches=batches)
