"""What every test needs before the libraries it compares with are loaded."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers fill the cores already; threads of their own would wait for each other.
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")

import mlxfunc as mf
import pytest


@pytest.fixture(autouse=True)
def fresh_session():
    """The same names and the same random numbers, whichever tests ran before."""
    mf.clear_session()
    mf.utils.set_random_seed(0)
