"""What users install: the metadata, the built wheel, and what a type checker finds."""

import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def run(*command, cwd):
    result = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout.strip()


def test_dependencies_have_lower_bounds():
    for entry in PROJECT["dependencies"]:
        assert ">=" in entry, f"{entry}: give the oldest version that was tried"


@pytest.mark.parametrize("system, name", [("darwin", "mlx"), ("linux", "mlx[cpu]")])
def test_mlx_comes_with_a_backend(system, name):
    (entry,) = [e for e in PROJECT["dependencies"] if f"sys_platform == '{system}'" in e]
    assert entry.startswith(f"{name}>=")


def test_no_extra_brings_torch():
    extras = PROJECT["optional-dependencies"].values()
    assert not [entry for extra in extras for entry in extra if entry.startswith("torch")]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", folder, ROOT, cwd=folder)
    (path,) = folder.glob("mlxfunc-*.whl")
    return path


@pytest.mark.slow
def test_the_wheel_holds_both_packages_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for name in ("mlxfunc/__init__.py", "mlxfunc/py.typed", "mlx2onnx/api.py", "mlx2onnx/py.typed"):
        assert name in names
    tops = {name.split("/")[0] for name in names}
    assert tops == {"mlxfunc", "mlx2onnx", f"mlxfunc-{PROJECT['version']}.dist-info"}


@pytest.mark.slow
def test_the_wheel_works_away_from_the_checkout(wheel, tmp_path):
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    place = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(run(python, "-c", place, cwd=tmp_path))
    # The dependencies of this environment, without its editable install.
    (packages / "here.pth").write_text(sysconfig.get_path("purelib"))
    run(python, "-m", "pip", "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    script = "import mlx2onnx, mlxfunc; print(mlxfunc.__file__); print(mlx2onnx.__file__)"
    for path in run(python, "-c", script, cwd=tmp_path).split():
        assert path.startswith(str(packages))
    command = tmp_path / "env" / "bin" / "mlxfunc"
    assert run(command, "--version", cwd=tmp_path) == f"mlxfunc {PROJECT['version']}"


@pytest.mark.slow
def test_a_type_checker_finds_both_packages(tmp_path):
    (tmp_path / "use.py").write_text(
        "import mlx2onnx\nimport mlxfunc as mf\n"
        "reveal_type(mf.Input((3,)))\nreveal_type(mlx2onnx.verify)\n"
    )
    told = run(sys.executable, "-m", "mypy", "--follow-imports=silent", "use.py", cwd=tmp_path)
    assert "SymbolicTensor" in told
    assert "Report" in told
