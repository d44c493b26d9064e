"""What verification feeds a model: arrays of the user, ids that exist, masks, modes."""

import subprocess
import sys
import textwrap

import mlx2onnx
import mlxfunc as mf
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlxfunc import layers
from mlx2onnx.runner import Runner
from mlx2onnx.samples import Sampler
from mlx2onnx.session import open_session

from exporting import export

NODES, EDGES = ("nodes", 4), ((2, "edges"), "int32")


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """All sizes are tried, however slow the machine is."""
    monkeypatch.setattr(sys.modules["mlx2onnx.verify"], "PATIENCE", 60.0)


def graph_convolution(x, edge_index):
    """The features of each node's neighbours, added up."""
    source, target = edge_index
    return mx.zeros_like(x).at[target].add(x[source])


class Bert(nn.Module):
    """Token and type ids, and a mask of integers that is added to the scores."""

    def __init__(self):
        super().__init__()
        self.words, self.types = nn.Embedding(50, 8), nn.Embedding(2, 8)
        self.positions = nn.Embedding(64, 8)
        self.dense = nn.Linear(8, 8)

    def __call__(self, ids, types, mask):
        x = self.words(ids) + self.types(types) + self.positions(mx.arange(ids.shape[1]))
        added = (1.0 - mask[:, None].astype(mx.float32)) * -1e9
        scores = x @ self.dense(x).transpose(0, 2, 1) + added
        return mx.softmax(scores, axis=-1) @ x


IDS = (("batch", "time"), "int32")


def drawn(source, inputs, point, **options):
    """What verification draws for the inputs at some sizes, by name."""
    exported = export(source, inputs=inputs, verify=False)
    runner = Runner(source, exported, open_session(exported))
    sampler = Sampler(runner, **options)
    arrays = sampler.arrays(point, 0)
    return {entry.name: array for entry, array in zip(runner.inputs, arrays, strict=True)}


def verified(source, capsys, **options):
    """What the report of an export says."""
    mlx2onnx.to_onnx(source, **options)
    return capsys.readouterr().out


# graph convolutions -----------------------------------------------------------------------------


def test_a_graph_convolution_gets_nodes_that_exist():
    inputs = {"x": NODES, "edge_index": EDGES}
    edges = drawn(graph_convolution, inputs, {"nodes": 5, "edges": 200})["edge_index"]
    assert set(np.unique(edges)) == {0, 1, 2, 3, 4}
    assert not drawn(graph_convolution, inputs, {"nodes": 1, "edges": 20})["edge_index"].any()


@pytest.mark.parametrize(
    "function",
    [
        graph_convolution,
        lambda x, edge_index: x[edge_index[0]] * x[edge_index[1]],
        lambda x, edge_index: mx.take(x, edge_index.reshape(-1), axis=0),
        lambda x, edge_index: mx.take_along_axis(x, edge_index[0][:, None], axis=0),
        lambda x, edge_index: mx.zeros_like(x).at[edge_index[0] * 1].add(x[edge_index[1] + 0]),
        lambda x, edge_index: x[edge_index[0], edge_index[1] % 4],
    ],
)
def test_indices_of_nodes_never_leave_the_process_dead(function):
    """One node, then two, then seven: MLX checks no bounds."""
    exported = export(function, inputs={"x": NODES, "edge_index": EDGES})
    assert mlx2onnx.verify(function, exported).runs >= 3


CRASHES = """
    import mlxfunc, mlx2onnx, mlx.core as mx, mlx.nn as nn, numpy as np
    def graph_convolution(x, edges):
        return mx.zeros_like(x).at[edges[1]].add(x[edges[0]])
    for _ in range(3):
        mlx2onnx.to_onnx(graph_convolution, inputs=[("n", 4), ((2, "e"), "int32")], verbose=False)
        exported = mlx2onnx.to_onnx(
            lambda i: mx.zeros(3).at[i + 10**6].add(1.0), inputs=[(("n",), "int32")], verify=False)
        try:
            mlx2onnx.verify(lambda i: mx.zeros(3).at[i + 10**6].add(1.0), exported)
        except mlx2onnx.VerificationError as error:
            assert "give `samples` that it takes" in str(error), error
        update = lambda x, s: mx.slice_update(x, mx.ones(4), s, axes=(0,))
        mlx2onnx.to_onnx(update, inputs=[(8,), ((1,), "int32")], verbose=False)
    small, large = nn.Embedding(2, 4), nn.Embedding(10**6, 4)
    of_another = mlx2onnx.to_onnx(large, inputs=[(("n",), "int32")], verify=False)
    try:
        mlx2onnx.verify(small, of_another)
    except mlx2onnx.VerificationError:
        pass
    x = mx.random.normal((500, 500)); mx.eval(x @ x)
    print("alive")
"""


def test_no_sample_kills_the_process():
    command = [sys.executable, "-c", textwrap.dedent(CRASHES)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (run.returncode, run.stdout) == (0, "alive\n"), run.stderr[-800:]


# ids and masks ----------------------------------------------------------------------------------


def test_ids_of_each_input_are_those_of_its_own_table():
    arrays = drawn(Bert(), [IDS, IDS, IDS], {"batch": 30, "time": 20})
    assert arrays["ids"].max() > 40
    assert set(np.unique(arrays["types"])) == {0, 1}
    assert set(np.unique(arrays["mask"])) == {0, 1}
    assert arrays["mask"].any(axis=1).all()


def test_a_model_with_a_mask_of_integers_is_right(capsys):
    report = verified(Bert(), capsys, inputs=[IDS, IDS, IDS])
    assert "ids 0 to below 50; types 0 to below 2; mask 0 and 1" in report


@pytest.mark.parametrize(
    "function, largest",
    [
        (lambda i: mx.take(mx.ones((9, 2)), i.reshape(-1)[::2], axis=0), 8),
        (lambda i: mx.take(mx.ones((9, 2)), i.T.astype(mx.uint32), axis=0), 8),
        (lambda i: mx.take(mx.ones((9, 2)), i + 1, axis=0), 1),
        (lambda i: mx.take(mx.ones((9, 2)), mx.where(i > 3, i, 0), axis=0), 8),
        (lambda i: [mx.take(mx.ones((9, 2)), i, axis=0), mx.take(mx.ones((5, 2)), i, axis=0)], 4),
        (lambda i: (i > 0).astype(mx.int32) * 2, 1),
        (lambda i: i * 2, 1),
    ],
)
def test_ids_stay_below_what_they_index(function, largest):
    assert drawn(function, [IDS], {"batch": 30, "time": 30})["i"].max() == largest


def test_ids_through_layers_and_local_functions():
    i = mf.Input((6,), dtype="int32")
    inner = mf.Model(i, layers.Embedding(7, 2)(layers.Reshape((3, 2))(i)))
    a, b = mf.Input((6,), dtype="int32"), mf.Input((4, 6), dtype="int32")
    outputs = [inner(a), inner(a), layers.TimeDistributed(layers.Embedding(5, 2))(b)]
    model = mf.Model([a, b], outputs)
    for functions in (False, True):
        exported = mlx2onnx.to_onnx(model, functions=functions, verify=False)
        sampler = Sampler(Runner(model, exported, open_session(exported)))
        arrays = sampler.arrays({"batch": 40}, 0)
        assert [array.max() for array in arrays] == [6, 4]


def test_pixels_are_bytes():
    pixels = drawn(
        lambda x: x.astype(mx.float32) / 255, [(("batch", 8, 8, 3), "uint8")], {"batch": 9}
    )
    assert pixels["x"].max() > 200


# arrays of the user -----------------------------------------------------------------------------


def test_arrays_of_inputs_are_verified_with(capsys):
    edges = mx.array([[0, 2, 1], [2, 1, 0]])
    inputs = {"x": (3, 4), "edge_index": edges}
    assert "x normal; edge_index as given" in verified(graph_convolution, capsys, inputs=inputs)
    seen = []

    def root(x):
        seen.append(x)
        return mx.sqrt(x)

    mlx2onnx.to_onnx(root, inputs=[np.array([1.0, 4.0], np.float32)], verbose=False)
    np.testing.assert_array_equal(seen[-1], [1.0, 4.0])


def test_an_array_of_equal_elements_stands_for_its_shape(capsys):
    inputs = [mx.zeros((2, 5), mx.int32), mx.zeros((2, 5), mx.int32), mx.ones((2, 5), mx.int32)]
    report = verified(Bert(), capsys, inputs=inputs)
    assert "ids 0 to below 50; types 0 to below 2; mask 0 and 1" in report


def test_samples_are_arrays_in_order_or_by_name(capsys):
    x, edges = np.ones((6, 4), np.float32), np.array([[0, 5], [5, 1]])
    options = {"inputs": {"x": NODES, "edge_index": EDGES}}
    report = verified(graph_convolution, capsys, samples=[x, edges], **options)
    assert "nodes 6, edges 2 in 1 run" in report
    assert "x as given; edge_index as given" in report
    report = verified(graph_convolution, capsys, samples={"edge_index": edges}, **options)
    assert "x normal; edge_index as given" in report
    exported = mlx2onnx.to_onnx(graph_convolution, verify=False, **options)
    assert mlx2onnx.verify(graph_convolution, exported, [None, edges[:, :1] * 0]).ok


def test_samples_are_a_function_of_sizes():
    asked = []

    def samples(sizes):
        asked.append(sizes)
        n = sizes["nodes"]
        return [np.ones((n, 4), np.float32), np.zeros((2, sizes["edges"]), np.int32) + n - 1]

    exported = export(graph_convolution, inputs=[NODES, EDGES], samples=samples)
    report = mlx2onnx.verify(graph_convolution, exported, samples)
    assert report.samples == {"x": "those of samples", "edge_index": "those of samples"}
    assert [point["nodes"] for point in report.sizes] == [1, 2, 3]
    assert {"nodes": 3, "edges": 11} in asked


def test_samples_of_endpoints():
    encoder = mf.Model(x := mf.Input((4,), name="x"), layers.Dense(3)(x))
    source = {"encode": encoder, "graph": graph_convolution}
    edges = np.array([[0, 1], [1, 0]])
    exported = export(
        source, inputs={"graph": [NODES, EDGES]}, samples={"graph": {"edge_index": edges}}
    )
    report = mlx2onnx.verify(source, exported, {"graph": {"edge_index": edges}})
    assert report.samples["graph/edge_index"] == "as given"
    assert report.samples["encode/x"] == "normal"


@pytest.mark.parametrize(
    "samples, error, message",
    [
        ([np.ones((3, 5))], ValueError, r"samples: expected x of shape \(batch, 4\), got \(3, 5\)"),
        ([np.ones((3, 4))] * 2, ValueError, "samples: expected 1 arrays, for x, got 2"),
        ({"y": np.ones((3, 4))}, ValueError, "expected inputs of the file, got 'y'. There is x"),
        (np.ones((3, 4)), TypeError, "samples: expected a list or dict of arrays, or a function"),
        ([np.ones((3, 4)) * 1j], TypeError, "samples: expected x of dtype float32, got complex128"),
        (lambda sizes: [np.ones((9, 4))], ValueError, r"of shape \(1, 4\), got \(9, 4\)"),
    ],
)
def test_samples_that_do_not_fit_are_refused(samples, error, message):
    model = mf.Model(x := mf.Input((4,), name="x"), layers.Dense(3)(x))
    with pytest.raises(error, match=message):
        mlx2onnx.to_onnx(model, samples=samples, verbose=False)


def test_a_function_that_takes_only_long_sequences_is_verified_with_these(capsys):
    mlx2onnx.to_onnx(lambda x: x[:, 256:].max(1), inputs=[("batch", "time", 4)])
    assert "time 704" in capsys.readouterr().out


def test_samples_that_the_model_does_not_take_are_a_problem_not_a_crash():
    exported = export(graph_convolution, inputs=[NODES, EDGES])
    edges = np.array([[0, 10**9], [1, 0]])
    with pytest.raises(mlx2onnx.VerificationError, match="does not run the file on these inputs"):
        mlx2onnx.verify(graph_convolution, exported, {"edge_index": edges})


@pytest.mark.parametrize(
    "function",
    [
        lambda a, b: a - 2 * b,
        lambda a, *, b: a - 2 * b,
        lambda **arrays: arrays["a"] - 2 * arrays["b"],
    ],
)
def test_a_function_is_verified_with_the_names_of_its_arrays(function):
    export(function, inputs={"b": ("batch", 3), "a": ("batch", 3)})


def test_a_divisor_is_not_zero():
    export(lambda a, b: a // b, inputs=[(("n",), "int32"), (("n",), "int32")])


# modes ------------------------------------------------------------------------------------------


def modes(module):
    return [m.training for m in module.modules()]


def dropout_net():
    return nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm(8), nn.Dropout(0.5), nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    )


def frozen_part():
    net = dropout_net()
    net.layers[1].eval()
    net.layers[3].layers[0].eval()
    return net


@pytest.mark.parametrize("make", [dropout_net, frozen_part, lambda: dropout_net().eval()])
def test_a_module_is_exported_for_inference_and_keeps_its_modes(make):
    module = make()
    before = modes(module)
    exported = export(module, inputs=[("batch", 4)])
    assert modes(module) == before
    assert mlx2onnx.verify(module, exported).ok
    assert modes(module) == before
    statistics = np.array(module.layers[1].running_mean)
    np.testing.assert_array_equal(statistics, 0)


def test_modes_come_back_after_an_error():
    class Refuses(nn.Module):
        def __init__(self):
            super().__init__()
            self.frozen, self.other = nn.Dropout(0.5), nn.Dropout(0.5)
            self.frozen.eval()

        def __call__(self, x):
            raise ValueError("no such size")

    module = Refuses()
    before = modes(module)
    with pytest.raises(ValueError, match="no such size"):
        export(module, inputs=[("batch", 4)])
    assert modes(module) == before
    spoiled = export(nn.Linear(4, 8), inputs=[("batch", 4)])
    net = frozen_part()
    before = modes(net)
    with pytest.raises(mlx2onnx.VerificationError):
        mlx2onnx.verify(net, spoiled)
    assert modes(net) == before


def test_a_method_of_a_module_in_training_mode():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = frozen_part()

        def encode(self, x):
            return self.net(x)

    pair = Pair()
    before = modes(pair)
    assert mlx2onnx.verify(pair.encode, export(pair.encode, inputs=[("batch", 4)])).ok
    assert modes(pair) == before


def test_modules_inside_a_model_keep_their_modes():
    net = frozen_part()
    model = mf.Model(x := mf.Input((4,)), layers.MLXLayer(net)(x))
    before = modes(net)
    export(model)
    assert modes(net) == before
