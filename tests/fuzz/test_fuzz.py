"""The harness tells what fails; about a minute of each kind finds nothing.

Seed and number are the same each time, so that a change is judged by what it changes; `make fuzz`
draws a fresh seed and goes on.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fuzz import KINDS
from fuzz.harness import run

SEED = 20261121
TRIALS = {"graphs": 250, "archives": 500, "functions": 60, "onnx_files": 300, "kills": 12}
BAD = """
import os, signal, time

def trial(seed):
    if seed == 3:
        raise KeyError("three")
    if seed == 4:
        os.abort()
    if seed == 6:
        time.sleep(60)
    return "is five" if seed == 5 else None
"""


def test_each_failure_is_reported_by_its_seed_and_the_run_goes_on(tmp_path, monkeypatch, capfd):
    (tmp_path / "bad_kind.py").write_text(BAD)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("fuzz.harness.LIMIT", 5.0)
    figures = run("bad_kind", 0, seconds=0, count=9, workers=2)
    assert figures.trials == 9
    assert list(figures.failures) == [3, 4, 5, 6]
    assert "KeyError: 'three'" in figures.failures[3]
    assert figures.failures[4] == "the process ended with status -6"
    assert figures.failures[5] == "is five"
    assert figures.failures[6] == "did not end in 5 s"
    assert "bad_kind --seed 5: is five" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_about_a_minute_of(kind):
    tests = Path(__file__).parents[1]
    path = os.pathsep.join([str(tests), *filter(None, [os.environ.get("PYTHONPATH")])])
    options = ["--seed", str(SEED), "--count", str(TRIALS[kind])]
    command = [sys.executable, "-m", "fuzz", kind, *options]
    environment = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"}
    done = subprocess.run(
        command, env=environment | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
