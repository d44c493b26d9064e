"""The BLAS loader acts once per process, before MLX: every case runs in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="macOS: MLX uses Accelerate")

REPORT = "import mlxfunc._blas as b; print(b.library)"
PRODUCT = """
import mlx.core as mx
a = mx.arange(64.0).reshape(8, 8)
assert (a @ mx.eye(8) == a).all()
"""
HIDE = """
import ctypes
real = ctypes.CDLL
def cdll(name, *args, **kwargs):
    if name and ("blas" in name or "mkl" in name):
        raise OSError(name)
    return real(name, *args, **kwargs)
ctypes.CDLL = cdll
"""


@pytest.fixture
def python(monkeypatch):
    """Run a script with the given environment; its standard output and standard error."""
    monkeypatch.delenv("MLXFUNC_BLAS", raising=False)

    def run(script: str, **environment: str) -> tuple[str, str]:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        command = [sys.executable, "-c", script]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        return result.stdout.strip(), result.stderr

    return run


def test_found_library_serves_mlx_silently(python):
    scope = "import ctypes; print(hasattr(ctypes.CDLL(None), 'cblas_sgemm'))"
    out, err = python(f"{REPORT}\n{scope}\n{PRODUCT}")
    library, in_global_scope = out.split()
    assert "blas" in library or "mkl" in library, "install libopenblas0-pthread to run these tests"
    assert in_global_scope == "True"
    assert err == ""


@pytest.mark.parametrize("package", ["mlxfunc", "mlx2onnx"])
def test_packages_load_it_before_mlx(python, package):
    out, err = python(f"import {package}, sys; print(sys.modules['mlxfunc._blas'].library)")
    assert out != "None"
    assert err == ""


def test_off_leaves_mlx_alone(python):
    out, err = python(f"{REPORT}\n{PRODUCT}", MLXFUNC_BLAS="off")
    assert out == "None"
    assert err == ""


def test_a_path_is_used(python):
    found, _ = python(REPORT)
    out, err = python(REPORT, MLXFUNC_BLAS=found)
    assert out == found
    assert err == ""


def test_a_bad_path_warns_once(python):
    out, err = python(REPORT, MLXFUNC_BLAS="/no/such/library.so")
    assert out == "None"
    assert err.count("RuntimeWarning") == 1
    assert "MLXFUNC_BLAS=/no/such/library.so is not a loadable library" in err


def test_a_library_without_the_symbol_is_refused(python):
    out, err = python(REPORT, MLXFUNC_BLAS="libm.so.6")
    assert out == "None"
    assert "MLXFUNC_BLAS=libm.so.6 is not a loadable library with the symbol cblas_sgemm" in err


def test_mlx_imported_first_warns(python):
    _, err = python("import mlx.core\nimport mlxfunc")
    assert err.count("RuntimeWarning") == 1
    assert "MLX was imported first. Import mlxfunc before mlx." in err


def test_a_preloaded_library_is_enough(python):
    found, _ = python(REPORT)
    out, err = python(f"import mlx.core\n{REPORT}", LD_PRELOAD=found)
    assert out == "None"
    assert err == ""


def test_none_found_warns_with_the_fix(python):
    out, err = python(f"{HIDE}{REPORT}")
    assert out == "None"
    assert err.count("RuntimeWarning") == 1
    assert "no OpenBLAS or MKL was found. Install OpenBLAS" in err


@pytest.mark.parametrize(
    "elsewhere",
    ["sys.platform = 'darwin'", "importlib.util.find_spec = lambda name: None"],
    ids=["macos", "mlx_built_from_source"],
)
def test_nothing_to_do_elsewhere(python, elsewhere):
    path = Path(__file__).parent.parent / "mlxfunc" / "_blas.py"
    out, err = python(
        f"import importlib.util, runpy, sys\n{elsewhere}\n"
        f"print(runpy.run_path({str(path)!r})['library'])"
    )
    assert out == "None"
    assert err == ""
