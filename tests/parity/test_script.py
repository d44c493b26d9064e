"""One script, its text run for Keras and for us: the same history keys, hooks and shapes."""

from pathlib import Path
from typing import Any

import pytest

import keras_script
from renamed import for_keras


@pytest.fixture(scope="module")
def results(tmp_path_factory: Any) -> dict[str, dict[str, Any]]:
    def seen(script: Any, name: str) -> dict[str, Any]:
        folder: Path = tmp_path_factory.mktemp(name)
        return script.main(folder)

    return {"ours": seen(keras_script, "ours"), "keras": seen(for_keras("keras_script"), "keras")}


PARTS = [
    *("images", "dataset", "generator", "evaluate", "predict", "features", "twin"),
    *("csv", "texts", "values", "outputs", "one loss", "frozen", "weights"),
]


@pytest.mark.parametrize("part", PARTS)
def test_the_script_sees_the_same(part: str, results: dict[str, dict[str, Any]]) -> None:
    assert results["ours"][part] == results["keras"][part]


def test_every_part_is_compared(results: dict[str, dict[str, Any]]) -> None:
    assert list(results["ours"]) == list(results["keras"]) == PARTS
