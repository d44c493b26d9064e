"""A model as a table."""

import mlxfunc as mf
import pytest
from mlxfunc import layers
from mlxfunc.summary import as_dict, rows, size_text, totals


@pytest.fixture
def model():
    """Two inputs, a layer shared by both, a frozen model inside."""
    left, right = mf.Input((8,), name="left"), mf.Input(("time", 8), name="right")
    inner_in = mf.Input((8,), name="inner_in")
    hidden = layers.Dense(5, name="hidden")(inner_in)
    encoder = mf.Model(inner_in, layers.Dense(3, name="inner")(hidden), name="encoder")
    encoder.trainable = False
    shared = layers.Dense(4, name="shared")
    return mf.Model([left, right], [shared(left), encoder(left), shared(right)], name="demo")


def lines(model, **options):
    printed = []
    model.summary(print_fn=printed.append, **options)
    return printed


def line(model, text, **options):
    (found,) = [line for line in lines(model, **options) if text in line]
    return [cell.strip() for cell in found.strip("│").split("│")]


def test_a_shared_layer_is_one_row_with_all_its_calls(model):
    (row,) = [row for row in rows(model) if row.name == "shared"]
    assert row.shapes == ("(None, 4)", "(None, time, 4)")
    assert row.sources == ("left[0][0]", "right[0][0]")
    assert row.params == 36


def test_totals_count_each_array_once(model):
    assert totals(model) == {
        "Total": (99, 396),
        "Trainable": (36, 144),
        "Non-trainable": (63, 252),
    }
    again = mf.Model(model.inputs, [*model.outputs, model.get_layer("encoder")(model.inputs[0])])
    assert totals(again)["Total"] == (99, 396)


def test_printed_table(model):
    assert line(model, "shared (Dense)") == ["shared (Dense)", "(None, 4)", "36", "left[0][0]"]
    printed = lines(model)
    assert printed[0] == 'Model: "demo"'
    assert printed[-3:] == [
        " Total params: 99 (396 B)",
        " Trainable params: 36 (144 B)",
        " Non-trainable params: 63 (252 B)",
    ]


def test_nested_layers_on_request(model):
    assert not any("hidden" in line for line in lines(model))
    name, shape, params, source = line(model, "hidden (Dense)", expand_nested=True)
    assert (name, shape, params, source) == (
        "└ hidden (Dense)",
        "(None, 5)",
        "45",
        "inner_in[0][0]",
    )


def test_trainable_column(model):
    marks = {
        name: line(model, f"{name} (", show_trainable=True, expand_nested=True)[3]
        for name in ("left", "shared", "encoder", "hidden")
    }
    assert marks == {"left": "-", "shared": "Y", "encoder": "N", "hidden": "N"}


def test_a_chain_has_no_sources_column():
    model = mf.Sequential([mf.Input((8,)), layers.Dense(4), layers.Dense(2)])
    assert not any("Connected to" in line for line in lines(model))


def test_line_length(model):
    printed = lines(model, line_length=60)
    assert max(map(len, printed)) <= 60
    assert "(InputLayer)" in "".join(printed)


def test_prints_by_itself(model, capsys):
    model.summary()
    assert 'Model: "demo"' in capsys.readouterr().out


def test_as_dict_is_json(model):
    import json

    told = json.loads(json.dumps(as_dict(model, expand_nested=True)))
    assert [layer["depth"] for layer in told["layers"]] == [0, 0, 0, 0, 1, 1, 1]
    assert told["inputs"]["right"] == {"shape": [None, "time", 8], "dtype": "float32"}
    assert len(told["outputs"]) == 3


def test_an_unbuilt_model_says_what_it_lacks():
    with pytest.raises(ValueError, match="expected a model that knows its input's shape"):
        mf.Sequential([layers.Dense(4)]).summary()


@pytest.mark.parametrize(
    "count, text", [(0, "0 B"), (1023, "1023 B"), (1536, "1.50 KB"), (3 * 1024**3, "3.00 GB")]
)
def test_size_text(count, text):
    assert size_text(count) == text
