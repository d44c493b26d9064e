"""Progress and summaries in a real notebook: what its cells show, and what its file keeps."""

import re

import pytest

pytestmark = pytest.mark.slow

MODEL = """
import mlxfunc as mf, numpy as np
x = np.ones((64, 4), "float32")
model = mf.Sequential([mf.Input((4,)), mf.layers.Dense(1)])
model.compile("sgd", "mse", run_eagerly=True)
mf.training.progress.REFRESH_SECONDS = 0.0
"""
FIT = "history = model.fit(x, x[:, :1], batch_size=4, epochs=3, verbose={!r}, validation_split=0.5)"
EVALUATE = "model.evaluate(x, x[:, :1])"
SUMMARY = "model.summary()"
LINE = r"Epoch {}/3 \S+ 8/8 .*/step loss: [\d.e-]+ - val_loss: [\d.e-]+"


@pytest.fixture(scope="module")
def outputs():
    """A cell's outputs, by its source."""
    import nbclient
    import nbformat

    sources = [MODEL, *(FIT.format(verbose) for verbose in (1, "auto", 2)), EVALUATE, SUMMARY]
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(notebook, kernel_name="python3", timeout=120).execute()
    return {cell.source: cell.outputs for cell in notebook.cells}


def text(output):
    return re.sub(r"\x1b\[[\d;]*m", "", output["data"]["text/plain"]).strip()


@pytest.mark.parametrize("verbose", [1, "auto"])
def test_one_bar_an_epoch_drawn_in_place(outputs, verbose):
    shown = outputs[FIT.format(verbose)]
    assert [output.output_type for output in shown] == ["display_data"] * 3
    for epoch, output in enumerate(shown, 1):
        assert re.fullmatch(LINE.format(epoch), text(output)), text(output)
        assert f"Epoch {epoch}/3" in output["data"]["text/html"]


def printed(outputs):
    assert {output.get("name") for output in outputs} == {"stdout"}
    return "".join(output.text for output in outputs)


def test_one_line_an_epoch(outputs):
    lines = printed(outputs[FIT.format(2)])
    assert re.findall(r"^Epoch (\d)/3 - 8/8 - ", lines, re.MULTILINE) == ["1", "2", "3"]


def test_evaluate_shows_one_bar_and_its_value(outputs):
    bar, value = outputs[EVALUATE]
    assert re.fullmatch(r"Evaluate \S+ 2/2 .*/step loss: [\d.e-]+", text(bar))
    assert float(value["data"]["text/plain"]) >= 0


def test_a_summary_is_plain_text(outputs):
    lines = printed(outputs[SUMMARY])
    assert lines.startswith("Model: ")
    assert "Total params: 5" in lines
    assert "\x1b" not in lines


def test_making_a_model_shows_nothing(outputs):
    assert outputs[MODEL] == []
