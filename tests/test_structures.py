"""Inputs, labels and outputs in lists and dicts; what a model lists as its layers; clones."""

import mlxfunc as mf
import numpy as np
import pytest

L = mf.layers
X = np.arange(12, dtype="float32").reshape(4, 3) / 12
Y = X[:, :1]


def three():
    return (mf.Input((3,), name=name) for name in "abc")


def nested_dict():
    a, b, _ = three()
    return {"1": a, "others": {"2": b}}, L.Add()([a, b]), {"1": X, "others": {"2": X + 1}}


def nested_list():
    a, b, c = three()
    return [a, [b, c]], L.Add()([a, b, c]), [X, [X, X + 1]]


def dict_of_lists():
    a, b, c = three()
    return {"p": [a, b], "q": c}, L.Add()([a, L.Subtract()([b, c])]), {"q": X - 1, "p": [X, X]}


@pytest.mark.parametrize("make", [nested_dict, nested_list, dict_of_lists])
def test_a_model_takes_the_structure_of_its_inputs(make):
    inputs, output, data = make()
    model = mf.Model(inputs, output)
    model.compile("sgd", "mse")
    expected = np.array(model(data))
    assert expected.shape == (4, 3)
    np.testing.assert_allclose(model.predict(data, verbose=0), expected, rtol=1e-6)
    assert model.evaluate(data, expected, verbose=0) == 0
    assert model.evaluate([(data, expected)], verbose=0) == 0
    np.testing.assert_allclose(model.predict(iter([(data,)]), verbose=0), expected, rtol=1e-6)
    copy = type(model).from_config(model.get_config())
    np.testing.assert_array_equal(copy.predict(data, verbose=0), expected)


def test_labels_have_the_structure_of_the_outputs():
    a = mf.Input((3,))
    outputs = {"o": L.Dense(1, name="first")(a), "p": [L.Dense(1, name="second")(a)]}
    model = mf.Model(a, outputs)
    model.compile("sgd", "mse")
    logs = model.evaluate(X, {"p": [Y + 1], "o": Y}, verbose=0, return_dict=True)
    flat = model.evaluate(X, [Y, Y + 1], verbose=0, return_dict=True)
    assert logs == flat
    assert sorted(logs) == ["first_loss", "loss", "second_loss"]


def test_inputs_that_a_model_has_not_are_left_out_with_a_warning():
    a = mf.Input((3,), name="a")
    model = mf.Model(a, L.Dense(1)(a))
    model.compile("sgd", "mse")
    with pytest.warns(UserWarning, match=r"x: \['z'\] are no inputs of the model, and are left"):
        got = model.predict({"z": X, "a": X}, verbose=0)
    np.testing.assert_array_equal(got, model.predict(X, verbose=0))
    with pytest.raises(ValueError, match=r"x: unknown names \['z'\]. Known: \['a'\]"):
        model.predict({"z": X}, verbose=0)
    with pytest.raises(ValueError, match=r"y: unknown names \['z'\]"):
        model.fit(X, {"z": Y, "dense": Y}, verbose=0)


@pytest.mark.parametrize("options", [{"loss": ["mse", None]}, {"loss": {"o": "mse"}}])
def test_labels_of_outputs_without_a_loss_may_be_left_out(options):
    a = mf.Input((3,), name="a")
    model = mf.Model(a, [L.Dense(1, name="o")(a), L.Dense(2, name="p")(a)])
    model.compile("sgd", **options)
    expected = model.evaluate(X, [Y, np.zeros((4, 2))], verbose=0)
    for y in (Y, [Y], [Y, None], {"o": Y}):
        assert model.evaluate(X, y, verbose=0) == expected
    assert list(model.fit(X, Y, verbose=0).history) == ["loss"]
    model.compile("sgd", **options, metrics=[["mae"], ["mae"]])
    with pytest.raises(ValueError, match="y: expected 2 arrays"):
        model.evaluate(X, Y, verbose=0)


def test_a_sequential_on_a_dict():
    class Both(mf.Layer):
        def call(self, inputs):
            return inputs["a"] + inputs["b"]

    data = {"a": X, "b": X + 1}
    for first in ("fit", "call"):
        model = mf.Sequential([Both(), L.Dense(1)])
        model.compile("sgd", "mse")
        if first == "fit":
            model.fit(data, Y, verbose=0)
        output = np.array(model(data))
        np.testing.assert_allclose(model.predict(data, verbose=0), output, rtol=1e-6)
        assert len(model.get_config()["layers"]) == 2
    named = mf.Sequential([mf.Input((3,), name="x"), L.Dense(1)])
    assert named({"x": X}).shape == (4, 1)


def test_functions_are_no_layers():
    a = mf.Input((3,), name="a")
    model = mf.Model(a, L.Dense(1, name="second")(2 * L.Dense(3, name="first")(a) + 1))
    assert [layer.name for layer in model.layers] == ["a", "first", "second"]
    assert model.get_layer(index=2).name == "second"
    function = next(la for la in model.graph.layer_order if la.name.startswith("add"))
    assert model.get_layer(function.name) is function
    assert len(model.get_weights()) == 4


def test_a_model_that_begins_inside_another_lists_an_input():
    a = mf.Input((3,), name="a")
    b = L.Dense(2, name="first")(a)
    model = mf.Model(b, L.Dense(1, name="second")(b))
    assert [type(layer).__name__ for layer in model.layers] == ["InputLayer", "Dense"]
    assert model.layers[0].output.shape == (None, 2)
    assert len(mf.Model.from_config(model.get_config()).layers) == 2
    assert len(model.parameters()) == 1
    assert model.input_names == ("first",)


def test_a_clone_is_compiled_alike_and_shares_no_state():
    a = mf.Input((3,))
    model = mf.Model(a, L.Dense(1)(a))

    def cube(y_true, y_pred):
        return abs(y_true - y_pred) ** 3

    metric = mf.metrics.MeanAbsoluteError()
    model.compile(mf.optimizers.Adam(0.25), cube, metrics=[metric, "mse"])
    model.fit(X, Y, verbose=0)
    before = [float(value) for value in model.get_metrics_result().values()]
    clone = mf.models.clone_model(model)
    assert clone.compiled
    assert clone.optimizer.learning_rate.item() == 0.25
    assert clone.optimizer.step.item() == 0
    clone.set_weights(model.get_weights())
    assert clone.evaluate(X, Y, verbose=0) == model.evaluate(X, Y, verbose=0)
    model.reset_metrics()
    clone.fit(X, Y, verbose=0)
    assert {float(value) for value in model.get_metrics_result().values()} == {0.0}
    assert len(before) == 3
    plain = mf.models.clone_model(mf.Model(a, L.Dense(1)(a)))
    assert not plain.compiled


def test_a_learning_rate_that_is_asked_for():
    a = mf.Input((3,))
    model = mf.Model(a, L.Dense(1, kernel_initializer="zeros")(a))
    model.compile(mf.optimizers.SGD(learning_rate=lambda: 0.5), "mse")
    other = mf.models.clone_model(model)
    assert other.optimizer.get_config()["learning_rate"] == 0.5
    for one in (model, other):
        one.fit(np.ones((4, 3)), np.ones((4, 1)), verbose=0)
        np.testing.assert_array_equal(one.get_weights()[0], np.ones((3, 1)))


def test_a_first_layer_that_is_an_embedding_takes_integers():
    class Words(L.Embedding):
        pass

    model = mf.Sequential([Words(5, 2, input_length=3)])
    assert model.inputs[0].dtype == mf.Input((3,), dtype="int32").dtype
