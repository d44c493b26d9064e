"""Two real processes on this machine's loopback against one."""

import os
import subprocess
import sys
from pathlib import Path

import mlxfunc as mf
import numpy as np
import pytest
from mlxfunc.training import distributed

SCRIPT = Path(__file__).with_name("distributed_script.py").resolve()
LAUNCH = Path(sys.executable).with_name("mlx.launch")


def run(kind: str, target: Path, processes: int) -> list[dict]:
    launch = [LAUNCH, "-n", str(processes), "--python", sys.executable] if processes > 1 else []
    start = launch or [sys.executable]
    done = subprocess.run(
        [*start, SCRIPT, kind, target],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=target.parent,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("Epoch 1/2") == 1, "rank 0 alone prints"
    return [dict(np.load(f"{target}.{rank}.npz")) for rank in range(processes)]


SLOW = ["masked-synchronized", "sum", "mean_with_sample_weight"]


@pytest.mark.parametrize(
    "kind",
    ["plain", "synchronized", "masked", *(pytest.param(k, marks=pytest.mark.slow) for k in SLOW)],
)
def test_equals_one_process(tmp_path, kind):
    (alone,) = run(kind, tmp_path / "alone", 1)
    ranks = run(kind, tmp_path / "both", 2)
    for values in ranks:
        for key in alone.keys() - {"rank"}:
            np.testing.assert_allclose(values[key], alone[key], atol=1e-5, err_msg=key)
    files = {path.name for path in tmp_path.glob("both*.safetensors")}
    assert files == {"both.0.safetensors"}, "rank 0 alone saves"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dropout", "statistics"])
def test_ranks_agree(tmp_path, kind):
    first, second = run(kind, tmp_path / "both", 2)
    for key in first.keys() - {"rank"}:
        np.testing.assert_array_equal(first[key], second[key], err_msg=key)


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 16])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_shares_cover_the_batch(monkeypatch, rows, size):
    taken = []
    for rank in range(size):
        monkeypatch.setattr(distributed, "size", lambda: size)
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        part = distributed.share(rows)
        assert part.stop > part.start
        taken += range(part.start, part.stop)
    assert set(taken) == set(range(rows))
    assert len(taken) == max(rows, size)


def test_synchronized_changes_nothing_alone():
    x = np.random.default_rng(0).normal(size=(9, 4)).astype("float32")
    plain = mf.layers.BatchNormalization()
    together = mf.layers.BatchNormalization(synchronized=True)
    np.testing.assert_array_equal(plain(x, training=True), together(x, training=True))
    for a, b in zip(plain.get_weights(), together.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert type(together).from_config(together.get_config()).synchronized
    assert not plain.get_config()["synchronized"]
