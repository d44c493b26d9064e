"""What writers leave: the old file or the new one, and nothing else."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlx2onnx
import mlxfunc as mf
import mlx.core as mx
import numpy as np
import onnxruntime
import pytest
from mlxfunc import files, layers


def model(units=600, seed=0):
    mf.clear_session()
    mf.utils.set_random_seed(seed)
    x = mf.Input((4,))
    return mf.Model(x, layers.Dense(units)(x))


def external(path, **options):
    mlx2onnx.to_onnx(model(**options), path, external_data=True, verify=False)


# Every way to write a file, and the name of one that it writes.
WRITERS = {
    "archive": ("m.mlxfunc", lambda path: model().save(path)),
    "weights": ("m.safetensors", lambda path: model().save_weights(path)),
    "npz": ("m.npz", lambda path: model().save_weights(path)),
    "onnx": ("m.onnx", lambda path: mlx2onnx.to_onnx(model(), path, verify=False)),
    "external": ("m.onnx", external),
    "plot": ("m.dot", lambda path: mf.utils.plot_model(model(), path)),
}
BY_NAME = pytest.mark.parametrize("name, write", WRITERS.values(), ids=WRITERS)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@BY_NAME
def test_a_new_file_has_the_permissions_that_the_umask_leaves(tmp_path, name, write):
    before = os.umask(0o027)
    try:
        write(tmp_path / name)
    finally:
        os.umask(before)
    assert {p.stat().st_mode & 0o777 for p in tmp_path.iterdir()} == {0o640}


@BY_NAME
def test_a_file_keeps_its_permissions(tmp_path, name, write):
    (tmp_path / name).touch(0o600)
    write(tmp_path / name)
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / name).stat().st_size > 0


@BY_NAME
def test_no_writer_sets_the_umask(tmp_path, name, write, monkeypatch):
    monkeypatch.setattr(os, "umask", None)
    write(tmp_path / name)


@BY_NAME
@pytest.mark.parametrize("there", [True, False], ids=["to a file", "to nothing yet"])
def test_a_link_stays_a_link(tmp_path, name, write, there):
    link, file = tmp_path / name, tmp_path / f"real-{name}"
    link.symlink_to(file.name)
    if there:
        file.write_bytes(b"old")
    write(link)
    assert link.is_symlink()
    assert file.stat().st_size > 3


def test_a_link_into_another_folder_is_followed(tmp_path):
    (tmp_path / "store").mkdir()
    link, file = tmp_path / "m.mlxfunc", tmp_path / "store" / "m.mlxfunc"
    link.symlink_to(file)
    model().save(link)
    assert link.is_symlink()
    assert mf.saving.load_model(file).count_params() == 3000
    link.with_name("m.onnx").symlink_to(tmp_path / "store" / "m.onnx")
    with pytest.raises(ValueError, match="expected a file of this folder .*, got a link to"):
        external(tmp_path / "m.onnx")
    assert names(tmp_path / "store") == ["m.mlxfunc"]


def test_a_read_only_file_is_not_replaced(tmp_path, monkeypatch):
    (tmp_path / "m.mlxfunc").touch(0o400)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write every file
    with pytest.raises(PermissionError, match="got a read-only one"):
        model().save(tmp_path / "m.mlxfunc")
    assert names(tmp_path) == ["m.mlxfunc"]


FULL_DISK = """
import resource, sys
sys.path.insert(0, {tests!r})
from test_files import WRITERS
name, write = WRITERS[{writer!r}]
path = {folder!r} + "/" + name
write(path)
content = open(path, "rb").read()
resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
try:
    write(path)
except OSError as error:
    print(type(error).__name__)
assert open(path, "rb").read() == content
"""


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_leaves_the_old_file(tmp_path, writer):
    code = FULL_DISK.format(tests=str(Path(__file__).parent), folder=str(tmp_path), writer=writer)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("OSError\n", 0), done.stderr
    assert len(names(tmp_path)) == 1 + (writer == "external")


HOLD = """
import sys, time
from pathlib import Path
from mlxfunc.files import replacing
with replacing(sys.argv[1]) as part:
    part.write_bytes(b"half")
    print("writing", flush=True)
    sys.stdin.read()
    part.write_bytes(b"whole")
"""


@pytest.fixture
def writer(tmp_path):
    """A process that is writing `m.mlxfunc`."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "m.mlxfunc")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"writing\n"
    yield process
    process.kill()
    process.wait()


def test_the_rest_of_a_killed_writer_is_removed_by_the_next(tmp_path, writer):
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert len(names(tmp_path)) == 1
    (tmp_path / ".mine.txt").touch()
    external(tmp_path / "other.onnx")
    assert [name for name in names(tmp_path) if not name.startswith("other.")] == [".mine.txt"]


def test_a_writer_at_work_is_left_alone(tmp_path, writer):
    with files.replacing(tmp_path / "m.mlxfunc") as part:
        part.write_bytes(b"mine")
    assert (tmp_path / "m.mlxfunc").read_bytes() == b"mine"
    writer.communicate(timeout=20)
    assert (tmp_path / "m.mlxfunc").read_bytes() == b"whole"
    assert names(tmp_path) == ["m.mlxfunc"]


def run(path):
    (y,) = onnxruntime.InferenceSession(path).run(None, {"input_layer": np.ones((1, 4), "f4")})
    return y


def test_new_weights_have_a_data_file_of_another_name(tmp_path):
    path = tmp_path / "m.onnx"
    external(path)
    first, data = run(path), names(tmp_path)[1]
    external(path)
    assert names(tmp_path) == ["m.onnx", data]
    external(path, seed=1)
    assert len(names(tmp_path)) == 2
    assert names(tmp_path)[1] != data
    assert not np.array_equal(run(path), first)


@pytest.mark.parametrize("moves", [0, 1])
def test_a_model_and_its_data_are_whole_wherever_the_writer_stops(tmp_path, monkeypatch, moves):
    path = tmp_path / "m.onnx"
    external(path)
    before = run(path)
    move, left = os.replace, [moves]

    def stop(source, target):
        left[0] -= 1
        if left[0] < 0:
            raise OSError("no space left on device")
        move(source, target)

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(OSError, match="no space"):
        external(path, seed=1)
    monkeypatch.undo()
    assert np.array_equal(run(path), before)
    time.sleep(0.02)
    external(path, seed=2)
    assert len(names(tmp_path)) == 2


def test_an_inline_model_removes_the_data_of_the_one_before(tmp_path):
    external(tmp_path / "m.onnx")
    (tmp_path / "m.onnx.data").write_bytes(b"another program's")
    time.sleep(0.02)
    mlx2onnx.to_onnx(model(), tmp_path / "m.onnx", verify=False)
    assert names(tmp_path) == ["m.onnx", "m.onnx.data"]


def test_weights_are_read_as_they_were_written(tmp_path):
    for ending in (".safetensors", ".npz"):
        first, second = model(), model(seed=1)
        first.save_weights(tmp_path / f"w{ending}")
        second.load_weights(tmp_path / f"w{ending}")
        assert all(
            mx.array_equal(a, b).item() for a, b in zip(first.weights, second.weights, strict=True)
        )
    with pytest.raises(ValueError, match=r"ends in '\.safetensors' or '\.npz', got '.*w\.txt'"):
        first.save_weights(tmp_path / "w.txt")
