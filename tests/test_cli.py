"""The command: what it prints, what it writes, and its exit status."""

import json
import os
import subprocess
import sys
from pathlib import Path

import mlxfunc as mf
import pytest
from mlxfunc import layers
from mlxfunc.cli import app
from typer.testing import CliRunner


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Call the command in a folder with `model.mlxfunc`; its status, output and errors."""
    monkeypatch.chdir(tmp_path)
    save("model.mlxfunc")

    def call(*arguments):
        result = CliRunner().invoke(app, arguments)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    return call


def save(path, units=3, activation="relu"):
    x = mf.Input((4,), name="x")
    hidden = layers.Dense(units, activation=activation, name="hidden")(x)
    model = mf.Model(x, layers.Dense(2, name="out")(hidden), name="small")
    mf.saving.save_model(model, path)
    return model


def test_summary_lists_layers(run):
    status, out, _ = run("summary", "model.mlxfunc")
    assert status == 0
    for text in ('Model: "small"', "hidden (Dense)", "(None, 3)", "Total params: 23 (92 B)"):
        assert text in out


def test_summary_as_json(run):
    status, out, _ = run("summary", "model.mlxfunc", "--json")
    told = json.loads(out)
    assert status == 0
    assert told["ok"]
    assert [layer["name"] for layer in told["layers"]] == ["x", "hidden", "out"]
    assert told["parameters"] == {"total": 23, "trainable": 23, "non-trainable": 0}
    assert told["inputs"] == {"x": {"shape": [None, 4], "dtype": "float32"}}


def test_export_then_verify(run):
    status, out, _ = run("export", "model.mlxfunc", "model.onnx", "--opset", "21")
    assert status == 0
    assert "model.onnx: 3 nodes" in out
    assert "out: max abs" in out
    status, out, _ = run("verify", "model.mlxfunc", "model.onnx")
    assert status == 0
    assert "out: max abs" in out


def test_export_and_verify_as_json(run):
    status, out, _ = run("export", "model.mlxfunc", "model.onnx", "--json")
    told = json.loads(out)
    assert status == 0
    assert told["bytes"] == Path("model.onnx").stat().st_size
    assert told["verification"]["outputs"]["out"]["max_abs"] < 1e-5
    status, out, _ = run("verify", "model.mlxfunc", "model.onnx", "--json")
    assert json.loads(out)["ok"]


def test_export_without_verification(run):
    status, out, _ = run("export", "model.mlxfunc", "model.onnx", "--no-verify")
    assert status == 0
    assert "not verified" in out
    status, out, _ = run("export", "model.mlxfunc", "model.onnx", "--no-verify", "--json")
    assert json.loads(out)["verification"] is None


def test_inspect_tells_what_a_file_holds(run):
    run("export", "model.mlxfunc", "model.onnx")
    status, out, _ = run("inspect", "model.onnx")
    assert status == 0
    assert "3 nodes: 2 Gemm, 1 Relu" in out
    status, out, _ = run("inspect", "model.onnx", "--json")
    told = json.loads(out)
    assert told["ok"]
    assert told["nodes"] == 3
    assert told["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["batch", 4]}]


def test_another_model_does_not_hold(run):
    run("export", "model.mlxfunc", "model.onnx")
    mf.utils.set_random_seed(1)
    save("other.mlxfunc")
    status, _, err = run("verify", "other.mlxfunc", "model.onnx")
    assert status == 1
    assert "out: max abs" in err
    assert "over tolerance" in err
    status, out, _ = run("verify", "other.mlxfunc", "model.onnx", "--json")
    assert status == 1
    told = json.loads(out)
    assert told["ok"] is False
    assert told["outputs"]["out"]["ok"] is False


def test_a_tolerance_that_nothing_meets_leaves_no_file(run):
    save("tanh.mlxfunc", units=500, activation="tanh")
    status, _, err = run("export", "tanh.mlxfunc", "tanh.onnx", "--tolerance", "0")
    assert status == 1
    assert "over tolerance" in err
    assert not Path("tanh.onnx").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["summary", "missing.mlxfunc"], "No such file"),
        (["summary", "notes.txt"], "expected an archive"),
        (["export", "model.mlxfunc", "out.onnx", "--opset", "5"], "expected opset 17 to 26, got 5"),
        (["export", "model.mlxfunc", "no/out.onnx"], "expected a folder that exists, got no"),
        (["verify", "model.mlxfunc", "missing.onnx"], "expected an ONNX file"),
        (["verify", "model.mlxfunc", "notes.txt"], "expected an ONNX model"),
        (["inspect", "notes.txt"], "expected an ONNX model"),
    ],
)
def test_calls_that_make_no_sense(run, arguments, message):
    Path("notes.txt").write_text("not a model")
    status, _, err = run(*arguments)
    assert status == 2
    assert message in err
    status, out, _ = run(*arguments, "--json")
    assert status == 2
    told = json.loads(out)
    assert told["ok"] is False
    assert message in told["error"]


@pytest.mark.parametrize(
    "arguments",
    [["summary"], ["fly"], ["export", "a", "b", "--opset", "x"], ["verify", "a", "b", "--no"]],
)
def test_unknown_arguments_are_usage_errors(run, arguments):
    assert run(*arguments)[0] == 2


def test_the_installed_command_runs():
    command = [str(Path(sys.executable).parent / "mlxfunc"), "--version"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("mlxfunc 0.")


def command(*arguments, **options):
    """The command in a process of its own."""
    call = [sys.executable, "-m", "mlxfunc.cli", *arguments]
    return subprocess.run(call, stderr=subprocess.PIPE, text=True, **options)


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="only Linux has /dev/full")
@pytest.mark.parametrize("as_json", [(), ("--json",)], ids=["text", "json"])
def test_output_that_cannot_be_written_is_one_line_and_status_2(tmp_path, as_json):
    save(tmp_path / "model.mlxfunc")
    with FULL.open("w") as full:
        done = command("summary", str(tmp_path / "model.mlxfunc"), *as_json, stdout=full)
    assert done.returncode == 2
    assert done.stderr.startswith("mlxfunc: expected to write the output, got: [Errno 28]")
    assert done.stderr.count("\n") == 1


def nested():
    x = mf.Input((4,))
    inner = mf.Model(x, layers.Dense(2, name="größe")(x), name="innen")
    return mf.Model(x, inner(x), name="außen")


ASCII = os.environ | {"PYTHONIOENCODING": "ascii"}


def test_an_ascii_terminal_gets_question_marks(tmp_path):
    nested().save(tmp_path / "model.mlxfunc")
    path = str(tmp_path / "model.mlxfunc")
    for more in ((), ("--expand-nested",)):
        done = command("summary", path, *more, stdout=subprocess.PIPE, env=ASCII)
        assert (done.returncode, done.stderr) == (0, "")
        assert 'Model: "au?en"' in done.stdout
    script = f"import mlxfunc; mlxfunc.models.load_model({path!r}).summary(expand_nested=True)"
    call = [sys.executable, "-c", script]
    done = subprocess.run(call, capture_output=True, text=True, env=ASCII)
    assert "? gr??e (Dense)" in done.stdout, done.stderr
    done = command("summary", "größe.mlxfunc", stdout=subprocess.PIPE, env=ASCII)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_a_file_that_is_no_archive_is_one_line_and_status_2(run):
    Path("other.mlxfunc").write_bytes(b"PK nothing")
    status, out, err = run("summary", "other.mlxfunc")
    assert (status, out, err.count("\n")) == (2, "", 1)
    status, out, _ = run("summary", "other.mlxfunc", "--json")
    assert status == 2
    assert json.loads(out)["ok"] is False
