"""Pictures: what Graphviz is told, and what is written."""

import re

import mlxfunc as mf
import pytest
from mlxfunc import layers
from mlxfunc.utils import model_to_dot, plot_history, plot_model


@pytest.fixture
def model():
    x, y = mf.Input((8,), name="x"), mf.Input((8,), name="y")
    inner_in = mf.Input((8,), name="inner_in")
    encoder = mf.Model(inner_in, layers.Dense(3, name="hidden")(inner_in), name="encoder")
    return mf.Model([x, y], layers.add([encoder(x), encoder(y)]), name="pair")


def boxes(text):
    return dict(re.findall(r'"(\S+)" \[label="(.*)"\]', text))


def arrows(text):
    return re.findall(r'"(\S+)" -> "(\S+)"', text)


def test_boxes_and_arrows(model):
    text = model_to_dot(model)
    assert boxes(text) == {
        "pair/x": "InputLayer",
        "pair/y": "InputLayer",
        "pair/encoder": "Model",
        "pair/add": "Add",
    }
    assert arrows(text) == [
        ("pair/x", "pair/encoder"),
        ("pair/y", "pair/encoder"),
        ("pair/encoder", "pair/add"),
    ]


def test_names_shapes_and_dtypes(model):
    options = {"show_shapes": True, "show_layer_names": True, "show_dtype": True}
    text = model_to_dot(model, **options)
    assert boxes(text)["pair/encoder"] == r"encoder (Model)\n(None, 3) float32"


def test_nested_models_are_frames(model):
    text = model_to_dot(model, expand_nested=True, rankdir="LR", dpi=96)
    assert 'subgraph "cluster pair/encoder"' in text
    assert "rankdir=LR, dpi=96" in text
    assert arrows(text) == [
        ("pair/encoder/inner_in", "pair/encoder/hidden"),
        ("pair/x", "pair/encoder/inner_in"),
        ("pair/y", "pair/encoder/inner_in"),
        ("pair/encoder/hidden", "pair/add"),
    ]


def test_dot_files_need_no_program(model, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    path = tmp_path / "model.dot"
    assert plot_model(model, path) == str(path)
    assert path.read_text() == model_to_dot(model)


def test_images_say_when_graphviz_is_missing(model, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FileNotFoundError, match="plot_model: expected Graphviz's program 'dot'"):
        plot_model(model, tmp_path / "model.png")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def graphviz(tmp_path, monkeypatch):
    """A `dot` that writes its arguments and its input in the place of an image."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def write(script):
        (folder / "dot").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "dot").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    return write


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_images_are_drawn_by_graphviz(model, tmp_path, graphviz, kind):
    graphviz('{ echo "$1"; cat; } > "$3"')
    plot_model(model, tmp_path / f"model.{kind}", show_shapes=True)
    first, _, rest = (tmp_path / f"model.{kind}").read_text().partition("\n")
    assert first == f"-T{kind}"
    assert rest == model_to_dot(model, show_shapes=True)


def test_what_graphviz_says_is_told_and_no_file_is_left(model, tmp_path, graphviz):
    graphviz("echo no fonts >&2; exit 1")
    with pytest.raises(RuntimeError, match="plot_model: expected a picture, got .*no fonts"):
        plot_model(model, tmp_path / "model.png")
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"to_file": "model.bmp"}, "expected a file .dot, .gv, .png"),
        ({"to_file": "model.dot", "rankdir": "UP"}, "expected rankdir in .*, got 'UP'"),
    ],
)
def test_plot_model_refuses(model, options, message):
    with pytest.raises(ValueError, match=f"plot_model: {message}"):
        plot_model(model, **options)


def test_history_is_one_chart_a_metric(tmp_path):
    history = {"loss": [1.0, 0.5], "val_loss": [1.1, 0.7], "accuracy": [0.5, 0.8]}
    figure = plot_history(history, tmp_path / "history.svg", title="digits")
    loss, accuracy = figure.axes
    assert [line.get_label() for line in loss.lines] == ["training", "validation"]
    assert list(accuracy.lines[0].get_ydata()) == [0.5, 0.8]
    assert "<svg" in (tmp_path / "history.svg").read_text()


def test_an_empty_history_is_refused():
    with pytest.raises(ValueError, match="plot_history: expected at least one metric"):
        plot_history({})
