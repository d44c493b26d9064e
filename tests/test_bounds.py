"""No index, window or view leaves its array: what a user, a file or the data can give."""

import contextlib
import json
import re
import zipfile
from pathlib import Path

import mlxfunc as mf
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlxfunc import bounds, layers, losses, metrics, modules, ops, saving

HUGE = 10**8
PLACES = np.array([[0, 4, 5, 7], [-1, -5, -6, -HUGE], [HUGE, 3, 2**31 - 1, -(2**31)]])
# What each of them means on an axis of 5.
MEANT = np.array([[0, 4, 4, 4], [4, 0, 0, 0], [4, 3, 4, 0]])


def table(rows=5, columns=3):
    return mx.arange(rows * columns, dtype=mx.float32).reshape(rows, columns) + 1


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64"])
def test_an_index_beyond_the_axis_is_its_nearest_end(dtype):
    kind = np.iinfo(dtype)
    places = np.clip(PLACES, kind.min, kind.max).astype(dtype)
    assert np.array_equal(ops.take(np.arange(5.0), places), MEANT)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "uint64"])
def test_an_unsigned_index_beyond_the_axis_is_its_last_entry(dtype):
    places = np.array([0, 4, 5, np.iinfo(dtype).max], dtype)
    assert np.array_equal(ops.take(np.arange(5.0), places), [0, 4, 4, 4])


def test_bounds_that_the_type_does_not_hold_change_nothing():
    places = np.array([0, 127, 255], np.uint8)
    assert np.array_equal(ops.take(np.arange(300.0), places), places)
    assert np.array_equal(ops.take(np.arange(300.0), np.array([-128, 127], "i1")), [172, 127])


def indices(*values):
    return mx.array(values)


# name, the safe function, its arguments, the same in NumPy
INDEXED = [
    ("take", lambda: ops.take(table(), indices(7, -9), axis=0), lambda x: x[[4, 0]]),
    ("take of all", lambda: ops.take(table(), indices(HUGE)), lambda x: x.ravel()[[14]]),
    ("getitem", lambda: ops.getitem(table(), indices(7, -9)), lambda x: x[[4, 0]]),
    (
        "getitem of two axes",
        lambda: ops.getitem(table(), (indices(7, -9), indices(HUGE, 1))),
        lambda x: x[[4, 0], [2, 1]],
    ),
    (
        "getitem after others",
        lambda: ops.getitem(table()[None], (..., None, indices(7))),
        lambda x: x[None][..., None, [2]],
    ),
    (
        "take_along_axis",
        lambda: ops.take_along_axis(table(), mx.full((5, 1), HUGE), axis=1),
        lambda x: x[:, 2:],
    ),
    (
        "take_along_axis of all",
        lambda: ops.take_along_axis(table(), indices(-HUGE), axis=None),
        lambda x: x.ravel()[:1],
    ),
    (
        "put_along_axis",
        lambda: ops.put_along_axis(table(), mx.full((5, 1), HUGE), mx.zeros((5, 1)), axis=1),
        lambda x: x * [1, 1, 0],
    ),
    (
        "slice",
        lambda: ops.slice(table(), indices(HUGE, -HUGE), (0, 1), (2, 2)),
        lambda x: x[3:, :2],
    ),
    (
        "slice_update",
        lambda: ops.slice_update(table(), mx.zeros((5, 1)), indices(HUGE), (1,)),
        lambda x: x * [1, 1, 0],
    ),
    (
        "gather_mm",
        lambda: ops.gather_mm(table()[None], mx.eye(3)[None], indices(HUGE), indices(-HUGE))[0],
        lambda x: x,
    ),
    (
        "segmented_mm",
        lambda: ops.segmented_mm(table(), mx.eye(3), mx.array([[0, HUGE]], mx.uint32))[0],
        lambda x: x,
    ),
]


@pytest.mark.parametrize("name, run, meant", INDEXED, ids=[row[0] for row in INDEXED])
def test_what_an_operation_indexes_stays_inside(name, run, meant):
    assert np.array_equal(run(), meant(np.array(table())))


def test_quantized_matrices_are_gathered_inside():
    w, scales, biases = mx.quantize(mx.random.normal((2, 8, 64)), group_size=64, bits=4)
    x, last = mx.ones((1, 1, 64)), mx.array([1], mx.uint32)
    far = mx.array([HUGE], mx.uint32)
    options = {"transpose": True, "group_size": 64, "bits": 4}
    meant = mx.gather_qmm(x, w, scales, biases, None, last, **options)
    assert mx.array_equal(ops.gather_qmm(x, w, scales, biases, None, far, **options), meant)
    with pytest.raises(ValueError, match=r"gather_qmm: expected scales and biases for matrices"):
        ops.gather_qmm(x, w, scales[:1], biases, None, far, **options)


# An index that Python knows: function, the error
KNOWN = [
    (lambda x: ops.getitem(x, -9), r"expected one in \[-5, 5\), got -9"),
    (lambda x: ops.getitem(x, (slice(None), [0, 3])), r"expected one in \[-3, 3\), got 3"),
    (lambda x: ops.getitem(x, [[-6]]), r"expected one in \[-5, 5\), got -6"),
    (lambda x: ops.getitem(x, (0, 0, 0)), "expected at most 2 indices, got 3"),
    (lambda x: ops.take(x, 9, axis=0), r"expected one in \[-5, 5\), got 9"),
    (lambda x: ops.take(x, 0, axis=2), r"axis: expected one in \[-2, 2\), got 2"),
]


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("row", range(len(KNOWN)))
def test_an_index_that_python_knows_is_refused(row, symbolic):
    run, message = KNOWN[row]
    x = mf.Input(batch_shape=(5, 3)) if symbolic else table()
    with pytest.raises(IndexError, match=message):
        run(x)


def test_an_index_of_the_batch_is_refused_when_the_batch_is_smaller():
    x = mf.Input((3,))
    model = mf.Model(x, x[2:3] + x[2])
    assert model.predict(np.ones((3, 3)), batch_size=3, verbose=0).shape == (1, 3)
    with pytest.raises(IndexError, match=r"expected one in \[-2, 2\), got 2"):
        model.predict(np.ones((2, 3)), verbose=0)


def test_an_empty_axis_has_no_entry_to_take():
    for function in (ops.take, ops.take_along_axis):
        with pytest.raises(IndexError, match="expected an axis with entries"):
            function(mx.zeros((3, 0)), mx.zeros((3, 1), mx.int32), axis=1)
    assert ops.take(mx.zeros((0, 3)), mx.zeros((0,), mx.int32), axis=0).shape == (0, 3)


VIEWS = [
    (((64,), (1,), 10**10), "reach from entry 10000000000"),
    (((4,), (1,), -1), "reach from entry -1 to 2"),
    (((2, 2), (-1, 1), 0), "reach from entry -1 to 1"),
    (((16,), (1,), 0), "reach from entry 0 to 15"),
    (((-2, -2), (1, 1), 0), "expected a view of the 15 entries"),
]


@pytest.mark.parametrize("arguments, message", VIEWS)
def test_a_view_that_leaves_its_array_is_refused(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ops.as_strided(table(), *arguments)


def test_views_inside_are_those_of_mlx():
    for arguments in [((3, 2), (2, 1), 4), ((3,), (-2,), 14), ((0,), (9,), 99), ()]:
        assert mx.array_equal(
            ops.as_strided(table(), *arguments), mx.as_strided(table(), *arguments)
        )


def test_memory_of_others_is_not_shown():
    assert not ops.empty((1000,)).any()
    assert not ops.empty_like(table()).any()


# Windows.

LAYERS = [
    *(getattr(layers, f"Conv{n}D") for n in (1, 2, 3)),
    *(getattr(layers, f"{kind}Conv{n}D") for kind in ("Depthwise", "Separable") for n in (1, 2)),
    *(getattr(layers, f"{kind}Pooling{n}D") for kind in ("Max", "Average") for n in (1, 2, 3)),
]


def windowed(cls, size, **options):
    first = () if "Pool" in cls.__name__ or "Depthwise" in cls.__name__ else (2,)
    return cls(*first, size, strides=size, **options)


@pytest.mark.parametrize("cls", LAYERS, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("size, length", [(4, 3), (16, 11), (5, 0)])
def test_a_window_larger_than_its_input_is_refused(cls, size, length):
    shape = (length,) * windowed(cls, 2).rank
    with pytest.raises(ValueError, match="expected spatial sizes of"):
        windowed(cls, size)(np.ones((1, *shape, 2), "f"))
    x = mf.Input((*(None,) * len(shape), 2))
    model = mf.Model(x, windowed(cls, size)(x))
    with pytest.raises(ValueError, match="expected spatial sizes of"):
        model.predict(np.ones((1, *shape, 2), "f"), verbose=0)


@pytest.mark.parametrize("cls", LAYERS[:7], ids=lambda cls: cls.__name__)
def test_padding_does_not_make_a_window_of_nothing(cls):
    empty = np.ones((1, *(0,) * windowed(cls, 3).rank, 2), "f")
    with pytest.raises(ValueError, match="expected spatial sizes of"):
        windowed(cls, 3, padding="same")(empty)


@pytest.mark.parametrize("strides", [1, 2])
def test_causal_and_transposed_convolutions_of_nothing_are_refused(strides):
    empty = np.ones((1, 0, 2), "f")
    for layer in (
        layers.Conv1D(2, 3, strides, "causal"),
        layers.Conv1DTranspose(2, 3, strides),
        layers.Conv1DTranspose(2, 3, strides, "same"),
    ):
        with pytest.raises(ValueError, match="expected spatial sizes of"):
            layer(empty)


def test_a_recurrent_convolution_is_not_larger_than_its_images():
    images = np.ones((1, 2, 3, 3, 1), "f")
    for size, dilation in ((4, 1), (2, 3)):
        layer = layers.ConvLSTM2D(2, size, strides=4 // dilation, dilation_rate=dilation)
        with pytest.raises(ValueError, match=r"expected spatial sizes of \(4, 4\) or more"):
            layer(images)


# function, shapes of input and weight, options that MLX itself takes
CONVOLUTIONS = [
    (ops.conv1d, (1, 11, 2), (3, 16, 2), {"stride": 16}),
    (ops.conv1d, (1, 11, 2), (3, 16, 2), {"stride": 6}),
    (ops.conv1d, (1, 11, 2), (3, 8, 2), {"stride": 16, "dilation": 2}),
    (ops.conv1d, (1, 11, 2), (3, 8, 2), {"stride": 16, "padding": -2}),
    (ops.conv1d, (1, 11, 2), (3, 3, 2), {"groups": 0}),
    (ops.conv1d, (1, 11, 2), (3, 0, 2), {}),
    (ops.conv2d, (1, 11, 16, 2), (3, 16, 16, 2), {"stride": (16, 16)}),
    (ops.conv3d, (1, 5, 5, 5, 2), (3, 7, 7, 7, 2), {"stride": 7}),
    (ops.conv_general, (1, 0, 2), (3, 3, 2), {"stride": 2, "padding": ([2], [0])}),
    (ops.conv_general, (1, 0, 2), (3, 3, 2), {"input_dilation": 2, "padding": 2}),
    (ops.conv_transpose1d, (1, 0, 2), (3, 3, 2), {"stride": 2}),
    (ops.conv_transpose1d, (1, 4, 2), (3, 3, 2), {"stride": 2, "padding": 5}),
    (ops.conv_transpose2d, (1, 0, 4, 2), (3, 3, 3, 2), {"stride": (2, 2)}),
]


@pytest.mark.parametrize("row", range(len(CONVOLUTIONS)))
def test_an_operation_slides_no_window_beyond_its_input(row):
    function, shape, weight, options = CONVOLUTIONS[row]
    with pytest.raises(ValueError, match=r"convolution: expected (windows of 1 to|groups of)"):
        function(mx.ones(shape), mx.ones(weight), **options)


def test_windows_that_fit_are_those_of_mlx():
    x, w = mx.random.normal((2, 11, 9, 4)), mx.random.normal((6, 3, 2, 4))
    for options in ({}, {"stride": 2, "padding": (1, 0)}, {"stride": (3, 1), "dilation": 2}):
        assert mx.array_equal(ops.conv2d(x, w, **options), mx.conv2d(x, w, **options))
        y = ops.conv_transpose2d(x, w, **options)
        assert mx.array_equal(y, mx.conv_transpose2d(x, w, **options))
    pads = ((1, -1), (0, 2))
    y = ops.conv_general(x, w, 2, pads, 1, (1, 2), flip=True)
    assert mx.array_equal(y, mx.conv_general(x, w, 2, pads, 1, (1, 2), flip=True))


# Losses and metrics: labels that the output has no class for.

FAR = np.array([HUGE, -HUGE])


def test_labels_without_a_class_read_nothing_else():
    p = np.array([[0.2, 0.3, 0.5], [0.1, 0.6, 0.3]], "f")
    near = losses.sparse_categorical_crossentropy(np.array([2, 0]), p)
    assert mx.array_equal(losses.sparse_categorical_crossentropy(FAR, p), near)
    far = np.array([2**32 + 1, -(2**32) - 1])  # 1 and -1, were they cut to 32 bits
    assert mx.array_equal(losses.sparse_categorical_crossentropy(far, p), near)
    assert metrics.sparse_top_k_categorical_accuracy(FAR, p, k=1).tolist() == [1, 0]
    logits = np.random.default_rng(0).normal(size=(1, 6, 3)).astype("f")
    last = losses.ctc(np.array([[1, 2]]), logits)
    assert mx.array_equal(losses.ctc(np.array([[1, HUGE]]), logits), last)


def test_labels_without_a_class_are_in_no_matrix():
    metric = metrics.MeanIoU(3)
    metric.update_state(np.array([0, HUGE, 2**32 + 1, 1]), np.array([0, 1, 1, -HUGE]))
    assert np.array(metric.state["total_confusion_matrix"]).sum() == 1


@pytest.mark.parametrize(
    "make", [metrics.AUC, lambda: metrics.SensitivityAtSpecificity(0.5)], ids=["AUC", "Operating"]
)
def test_a_score_that_is_no_number_lies_above_no_threshold(make):
    metric, plain = make(), make()
    metric.update_state(np.array([1, 0, 0]), np.array([np.nan, 0.2, -np.inf], "f"))
    plain.update_state(np.array([0, 0]), np.array([0.2, 0], "f"))
    assert metric.state["true_positives"].sum() == 0
    assert mx.array_equal(metric.state["false_positives"], plain.state["false_positives"])


# Modules of mlx.nn, which have no such bounds of their own.


def test_modules_in_layers_stay_inside_too():
    class Own(layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.tables = [nn.Embedding(5, 64), nn.QuantizedEmbedding(5, 64)]

        def call(self, ids):
            return sum(table(ids) for table in self.tables)

    layer = Own()
    assert mx.array_equal(layer(PLACES), layer(MEANT))
    inside = layers.MLXLayer(nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 2)))
    assert mx.array_equal(inside(PLACES), inside(MEANT))


MODULES = [
    (lambda: nn.Conv1d(2, 3, 4, stride=4), (1, 3, 2)),
    (lambda: nn.Conv2d(2, 3, 4, stride=4), (1, 3, 3, 2)),
    (lambda: nn.Conv3d(2, 3, 4, stride=4), (1, 3, 3, 3, 2)),
    (lambda: nn.ConvTranspose1d(2, 3, 3, stride=2), (1, 0, 2)),
]


@pytest.mark.parametrize("row", range(len(MODULES)))
def test_modules_slide_no_window_beyond_their_input(row):
    make, shape = MODULES[row]
    with pytest.raises(ValueError, match="convolution: expected windows of 1 to"):
        layers.MLXLayer(make())(np.ones(shape, "f"))


# What a file may name.


def returns_arrays(function):
    """Whether the first line of the help of one of MLX's functions says that it gives arrays."""
    line = (function.__doc__ or "").strip().partition("\n")[0]
    return re.match(r".*-> (array|list\[array\]|tuple\[array.*\])$", line)


def test_every_function_of_mlx_is_looked_at():
    names = {n for n in dir(mx) if not n.startswith("_") and returns_arrays(getattr(mx, n))}
    new = sorted(names - ops.IN_FILES - ops.NOT_IN_FILES)
    assert not new, f"say in ops.py whether a file may name {', '.join(new)}"
    assert not ops.IN_FILES & ops.NOT_IN_FILES
    assert (ops.IN_FILES | ops.NOT_IN_FILES) - names == {"getitem"}
    assert set(bounds.BOUNDED) <= ops.IN_FILES | ops.NOT_IN_FILES


def test_every_module_of_mlx_is_looked_at():
    named = {
        c.__name__ for c in vars(nn).values() if isinstance(c, type) and issubclass(c, nn.Module)
    }
    # These need several machines.
    sharded = {n for n in named if "Sharded" in n}
    assert named - sharded == set(modules.CLASSES)
    assert set(modules.ACTIVATIONS) <= set(dir(nn))


def test_only_one_place_indexes_with_arrays():
    """The functions of MLX that look at no index, by the files that call them."""
    unsafe = set(bounds.BOUNDED) - {"getitem"}
    pattern = re.compile(rf"\bmx\.({'|'.join(sorted(unsafe))})\(|\.at\[")
    root = Path(mf.__file__).parent
    found = {
        f"{path.relative_to(root)}: {match.group()}"
        for path in root.rglob("*.py")
        if path.parent.name != "bounds"
        for match in pattern.finditer(path.read_text())
    }
    # Its places are NumPy's, clipped to the axis.
    assert found == {"layers/reshaping.py: mx.take("}


def edited(model, path, **changes):
    """The model's archive with its last call changed."""
    model.save(path)
    with zipfile.ZipFile(path) as archive:
        members = {n: archive.read(n) for n in archive.namelist()}
    config = json.loads(members["config.json"])
    call = config["model"]["config"]["calls"][-1]
    function = changes.pop("function", None)
    if function is not None:
        call["layer"]["config"]["function"] = function
    call.update(changes)
    members["config.json"] = json.dumps(config)
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return path


X = {"input": 0}
HOSTILE = [
    ("as_strided", [X, [64, 64], [1, 1], 0]),
    ("as_strided", [X, [1, 64], [64, 1], 10**10]),
    ("empty", [[1, 64]]),
    ("empty_like", [X]),
    ("gather_mm", [X, X, X, X]),
    ("segmented_mm", [X, X, X]),
    ("zeros", [[10**6, 10**6]]),
    ("full", [[10**6, 10**6], 1.0]),
    ("eye", [10**6]),
    ("arange", [10**12]),
    ("linspace", [0, 1, 10**12]),
    ("from_dlpack", [X]),
]


@pytest.mark.parametrize("function, arguments", HOSTILE, ids=[row[0] for row in HOSTILE])
def test_a_file_names_no_operation_that_could_leave_its_array(function, arguments, tmp_path):
    x = mf.Input((4,))
    path = edited(
        mf.Model(x, ops.exp(x)), tmp_path / "m.mlxfunc", function=function, args=arguments
    )
    with pytest.raises(
        ValueError, match=f"expected an operation that a file may name, got '{function}'"
    ):
        saving.load_model(path)


def test_a_model_with_such_an_operation_runs_and_is_cloned_but_not_saved(tmp_path):
    x = mf.Input(batch_shape=(2, 4))
    model = mf.Model(x, ops.as_strided(x, (4, 2), (2, 1), 0))
    assert mf.models.clone_model(model).predict(np.ones((2, 4)), verbose=0).shape == (4, 2)
    with pytest.raises(ValueError, match="expected an operation that a file may name"):
        model.save(tmp_path / "m.mlxfunc")


FAR_ARRAY = {"array": [HUGE], "dtype": "int32"}
BOUNDED_IN_FILES = [
    ("take", [X, FAR_ARRAY, 1], np.ones((2, 1))),
    ("take_along_axis", [X, {"array": [[HUGE]] * 2, "dtype": "int32"}, 1], np.ones((2, 1))),
    ("getitem", [X, {"tuple": [{"ellipsis": True}, FAR_ARRAY]}], np.ones((2, 1))),
    ("slice", [X, FAR_ARRAY, [1], {"tuple": [2, 2]}], np.ones((2, 2))),
]


@pytest.mark.parametrize("function, arguments, result", BOUNDED_IN_FILES)
def test_an_operation_that_a_file_names_stays_inside(function, arguments, result, tmp_path):
    x = mf.Input(batch_shape=(2, 4))
    path = edited(
        mf.Model(x, ops.exp(x)), tmp_path / "m.mlxfunc", function=function, args=arguments
    )
    loaded = saving.load_model(path)
    assert np.array_equal(loaded.predict(np.ones((2, 4)), verbose=0, batch_size=2), result)


def test_a_file_makes_no_module_that_slides_its_windows_backwards(tmp_path):
    path = tmp_path / "m.mlxfunc"
    x = mf.Input((4, 2))
    mf.Model(x, layers.MLXLayer(nn.MaxPool1d(2))(x)).save(path)
    with zipfile.ZipFile(path) as archive:
        members = {n: archive.read(n) for n in archive.namelist()}
    text = members["config.json"].decode()
    config = json.loads(text)
    described = config["model"]["config"]["calls"][-1]["layer"]["config"]["module"]
    described["attributes"] |= {"_kernel_size": [10], "_stride": [-1]}
    members["config.json"] = json.dumps(config)
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    with pytest.raises(ValueError, match="expected windows and strides of at least 1"):
        saving.load_model(path)


@pytest.mark.parametrize(
    "function, arguments",
    [
        ("repeat", [X, 10**8, 1]),
        ("repeat", [X, 10**9, 1]),
        ("tile", [X, [1, 10**8]]),
        ("pad", [X, [[0, 10**9], [0, 10**9]]]),
        ("broadcast_to", [X, [10**6, 10**6, 4]]),
    ],
)
def test_loading_computes_nothing_of_the_sizes_that_a_file_names(function, arguments, tmp_path):
    x = mf.Input((4,))
    path = edited(
        mf.Model(x, ops.exp(x)), tmp_path / "m.mlxfunc", function=function, args=arguments
    )
    mx.reset_peak_memory()
    with contextlib.suppress(ValueError):
        saving.load_model(path)
    assert mx.get_peak_memory() - mx.get_active_memory() < 2**20
