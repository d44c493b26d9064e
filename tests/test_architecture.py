"""Who may import whom, and what every layer must have. A failure names the file or the layer."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import mlxfunc as mf
import mlx2onnx.layers
import pytest
from mlxfunc.registry import REGISTRIES

from cases import CASES

ROOT = Path(__file__).parent.parent
# A module imports from those before it; a folder counts as one. A new module takes its place here.
ORDER = (
    *(
        "_blas",
        "files",
        "download",
        "random_state",
        "ranks",
        "conversion",
        "depth",
        "variables",
        "bounds",
        "storage",
    ),
    "registry",
    *("activations", "constraints", "initializers", "regularizers", "schedules", "optimizers"),
    *("losses", "metrics", "graph", "given_ids", "nodes", "members", "weights", "arguments"),
    *("call_record", "layer", "ops"),
    *("modules", "layers", "training", "callbacks", "batches", "model", "saving", "models"),
    *("summary", "plotting", "datasets", "utils", "cli", "__init__"),
)
# These two open the exporter's door when they are asked to, not before.
DOORS = {"model.py", "cli.py"}
# Layers that the exporter traces: two hold a user's function or module, one is few primitives.
TRACED = {"Lambda", "MLXLayer", "Masking"}
# A file, or a folder of the exporter.
ONLY_IN = {"onnx_ir": {"builder"}, "onnxruntime": {"session.py", "quantize.py"}}


def imported(path, package, *, lazily):
    """Full names that a file imports: at its top, and with `lazily` inside functions too."""
    tree = ast.parse(path.read_text())
    bodies = (ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = list(ast.walk(tree))
    if not lazily:
        inner = {id(n) for f in nodes if isinstance(f, bodies) for n in ast.walk(f)}
        nodes = [n for n in nodes if id(n) not in inner]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = [*base, *([node.module] if node.module else [])]
            yield from (".".join([*module, alias.name]) for alias in node.names)


def sources(folder, package):
    for path in sorted((ROOT / folder).rglob("*.py")):
        yield path, [package, *path.relative_to(ROOT / folder).parts[:-1]]


def test_modules_import_only_what_comes_before_them():
    for path, package in sources("mlxfunc", "mlxfunc"):
        own = package[1] if len(package) > 1 else path.stem
        assert own in ORDER, f"{path}: give {own!r} its place in ORDER"
        for name in imported(path, package, lazily=False):
            parts = name.split(".")
            if parts[0] == "mlxfunc" and len(parts) > 1 and parts[1] in ORDER:
                fine = parts[1] == own or ORDER.index(parts[1]) < ORDER.index(own)
                assert fine, f"{path} imports {name}, which comes after {own!r}"


def test_mlxfunc_reaches_the_exporter_through_two_doors():
    for path, package in sources("mlxfunc", "mlxfunc"):
        for lazily in (False, True):
            tops = {name.split(".")[0] for name in imported(path, package, lazily=lazily)}
            allowed = {"mlx2onnx"} if lazily and path.name in DOORS else set()
            assert not tops & {"mlx2onnx", "onnx", "onnx_ir", "onnxruntime"} - allowed, path


@pytest.mark.parametrize("library", ONLY_IN)
def test_onnx_libraries_stay_in_their_files(library):
    for path, package in sources("export/mlx2onnx", "mlx2onnx"):
        tops = {name.split(".")[0] for name in imported(path, package, lazily=True)}
        assert library not in tops or {path.name, path.parent.name} & ONLY_IN[library], path


@pytest.mark.parametrize("folder", ["examples", "perf"])
def test_examples_use_public_names(folder):
    for path, package in sources(folder, folder):
        for name in imported(path, package, lazily=True):
            ours = name.split(".")[0] in ("mlxfunc", "mlx2onnx")
            assert not ours or "._" not in name, f"{path} imports {name}"


def test_import_is_quick_and_loads_no_exporter():
    # The time of this thread alone, the best of some: what the import costs on a busy machine too.
    script = (
        "import time; start = time.thread_time(); import mlxfunc, sys; "
        "print(time.thread_time() - start); "
        "print(*{'onnx', 'onnxruntime', 'onnx_ir', 'rich', 'mlx2onnx', 'PIL', 'matplotlib'}"
        " & set(sys.modules))"
    )
    command = [sys.executable, "-c", script]
    seconds = []
    while len(seconds) < 20 and min(seconds, default=1.0) >= 0.35:
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        spent, loaded, _ = run.stdout.split("\n")
        assert loaded == ""
        seconds.append(float(spent))
    assert min(seconds) < 0.35


# The bases of what is known by name, and the namespace it is found in.
FAMILIES = {
    "layers": mf.layers.Layer,
    "losses": mf.losses.Loss,
    "metrics": mf.metrics.Metric,
    "optimizers": mf.optimizers.Optimizer,
    "callbacks": mf.callbacks.Callback,
}
# Parts of others, which no user makes and no file names.
INNER = {"Projection", "CompileMetrics", "LossTracker"}


def classes(family):
    """The classes of a family that no other class of ours is made from, imported or forgotten."""
    for package in ("mlxfunc", "mlxfunc.training", f"mlxfunc.{family}"):
        folder = getattr(importlib.import_module(package), "__path__", [])
        for module in pkgutil.iter_modules(folder):
            importlib.import_module(f"{package}.{module.name}")
    found, rest = [], [FAMILIES[family]]
    while rest:
        cls = rest.pop()
        below = [c for c in cls.__subclasses__() if c.__module__.startswith("mlxfunc.")]
        rest += below
        if not below and cls.__name__ not in INNER:
            found.append(cls)
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_defined_is_known(family):
    namespace = getattr(mf, family)
    for cls in classes(family):
        where = f"{cls.__module__}.{cls.__name__}"
        public = cls.__module__.startswith("mlxfunc.layers.") or family != "layers"
        if public:
            assert getattr(namespace, cls.__name__, None) is cls, (
                f"{where}: import it in mlxfunc/{family}"
            )
        if family in REGISTRIES:
            assert REGISTRIES[family].lookup(cls.__name__) is cls, f"{where}: register it"


def layer_classes():
    return {
        cls.__name__: cls
        for cls in (*classes("layers"), *vars(mf.layers).values())
        if isinstance(cls, type)
        and issubclass(cls, mf.layers.Layer)
        and cls.__module__.startswith("mlxfunc.layers.")
    }


def test_every_layer_has_a_row():
    made = {type(layer).__name__ for case in CASES for layer in case.make().sublayers()}
    missing = sorted(set(layer_classes()) - made - {"Lambda", "MLXLayer"})
    assert not missing, f"add a row to tests/cases.py for {', '.join(missing)}"


def test_every_layer_has_a_rule():
    rules = set(mlx2onnx.layers.RULES)
    missing = sorted(
        name
        for name, cls in layer_classes().items()
        if name not in TRACED and not any(parent in rules for parent in cls.__mro__)
    )
    assert not missing, f"add a rule in export/mlx2onnx/layers/ for {', '.join(missing)}"
