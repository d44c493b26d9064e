"""Linux: load a fast BLAS before MLX, whose wheels carry the slow reference one.

MLX's Linux wheels bundle Netlib's BLAS: a 1024 x 1024 product takes 350 ms, and 10 ms once an
OpenBLAS stands in the process's global symbol scope first. `MLXFUNC_BLAS=off` leaves things as
they are; `MLXFUNC_BLAS=/path/to/lib.so` names the library to load. On macOS MLX uses Accelerate.

Source: dlopen(3), RTLD_GLOBAL.
"""

import ctypes
import importlib.util
import os
import site
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

# Asked of the dynamic linker: it knows Debian's alternatives and Fedora's names without a search.
SYSTEM = ("libopenblas.so.0", "libopenblasp.so.0", "libopenblas.so", "libmkl_rt.so")
FOLDERS = ("/opt/intel/oneapi/mkl/latest/lib", "/opt/OpenBLAS/lib", "/usr/local/lib")
PATTERNS = ("libopenblas*.so*", "libmkl_rt.so*")
FIX = (
    "Install OpenBLAS (Debian, Ubuntu: apt install libopenblas0-pthread; Fedora: dnf install "
    "openblas-threads; any x86-64: pip install mkl), or set MLXFUNC_BLAS=off to do without."
)


def bundled_reference() -> Path | None:
    """The reference BLAS inside the installed MLX wheel; None when MLX was built otherwise."""
    spec = importlib.util.find_spec("mlx")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for library in Path(folder).parent.glob("mlx_*.libs/libblas-*.so*"):
            return library
    return None


def candidates() -> Iterator[str]:
    """Names and paths to try, cheapest first."""
    yield from SYSTEM
    for folder in (os.path.join(sys.prefix, "lib"), *FOLDERS):
        for pattern in PATTERNS:
            yield from map(str, sorted(Path(folder).glob(pattern)))
    for folder in site.getsitepackages():
        yield from map(str, sorted(Path(folder).glob("*.libs/libopenblas*.so*")))


def open_globally(library: str | None) -> bool:
    """Put `library` (None: what is loaded already) in global scope if it has the BLAS MLX calls."""
    try:
        # NumPy's and SciPy's OpenBLAS rename their symbols: look before making them global.
        if not hasattr(ctypes.CDLL(library), "cblas_sgemm"):
            return False
        ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True


def load() -> str | None:
    """Load a fast BLAS and return its name; None when there is nothing to do or none is found."""
    wanted = os.environ.get("MLXFUNC_BLAS", "")
    if sys.platform != "linux" or wanted == "off":
        return None
    reference = bundled_reference()
    if reference is None or open_globally(None):
        return None
    if "mlx.core" in sys.modules:
        _warn("MLX was imported first. Import mlxfunc before mlx.")
        return None
    for library in [wanted] if wanted else candidates():
        if open_globally(library):
            return library
    if wanted:
        _warn(f"MLXFUNC_BLAS={wanted} is not a loadable library with the symbol cblas_sgemm. {FIX}")
    elif "cpu" in reference.parent.name:
        _warn(f"no OpenBLAS or MKL was found. {FIX}")
    return None


def _warn(reason: str) -> None:
    message = f"mlxfunc: expected a fast BLAS under MLX, got the reference one: {reason}"
    warnings.warn(message, RuntimeWarning, stacklevel=3)


library = load()

if __name__ == "__main__":
    print(library or "nothing loaded")
