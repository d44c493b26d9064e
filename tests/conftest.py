"""What every test needs before the libraries it compares with are loaded."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import mlxfunc as mf
import pytest


@pytest.fixture(autouse=True)
def fresh_session():
    """The same names and the same random numbers, whichever tests ran before."""
    mf.clear_session()
    mf.utils.set_random_seed(0)
