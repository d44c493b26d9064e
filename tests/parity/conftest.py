"""Keras's numbers for the modules that ask for many of them."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest


@pytest.fixture(scope="module")
def expected(request, tmp_path_factory):
    """The arrays of the test module's `keras_results()`, under Keras's NumPy backend.

    A backend is chosen once a process, and this one takes a tenth of the time of JAX, which
    compiles each operation.
    """
    here = pathlib.Path(request.module.__file__)
    file = tmp_path_factory.mktemp("keras") / "results.npz"
    code = f"import numpy, {here.stem} as t; numpy.savez({str(file)!r}, **t.keras_results())"
    environment = {**os.environ, "KERAS_BACKEND": "numpy", "PYTHONPATH": str(here.parent.parent)}
    subprocess.run([sys.executable, "-c", code], cwd=here.parent, env=environment, check=True)
    return np.load(file)
