"""Ids that a table has no row for: refused when given, bounded when computed."""

import subprocess
import sys

import mlx2onnx
import mlxfunc as mf
import mlx.core as mx
import numpy as np
import onnxruntime
import pytest
from mlxfunc import layers, ops

IDS = np.array([[0, 4, 2, 1]] * 3)


def table(rows=5):
    return layers.Embedding(rows, 3, name="table")


def inner():
    x = mf.Input((4,), dtype="int32", name="inside")
    return mf.Model(x, table()(x[:, 1:]))


# Ways on which ids reach the table as they are.
MOVED = {
    "directly": lambda x: table()(x),
    "a slice": lambda x: table()(x[:, ::2]),
    "a column": lambda x: table()(x[:, 1]),
    "Reshape": lambda x: table()(layers.Reshape((2, 2))(x)),
    "Flatten and RepeatVector": lambda x: table()(layers.RepeatVector(2)(layers.Flatten()(x))),
    "Concatenate": lambda x: table()(layers.Concatenate()([x, x])),
    "ops.stack": lambda x: table()(ops.stack([x, x], axis=1)),
    "TimeDistributed": lambda x: layers.TimeDistributed(table())(layers.Reshape((2, 2, 1))(x)),
    "a model": lambda x: inner()(x),
    "TimeDistributed of a model": lambda x: layers.TimeDistributed(inner())(
        ops.stack([x, x], axis=1)
    ),
}


class PlusOne(layers.Layer):
    def call(self, inputs):
        return inputs + 1


class OwnTable(layers.Layer):
    """Its ids are computed between the layer's input and the table in it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.table = table()

    def call(self, inputs):
        return self.table(inputs * 2)


# Ways on which they are computed.
COMPUTED = {
    "an operator": lambda x: table()(x + 1),
    "a layer": lambda x: table()(PlusOne()(x)),
    "a table within a layer": lambda x: OwnTable()(x),
    "a Lambda": lambda x: table()(layers.Lambda(lambda ids: ids * 10**6)(x)),
    "ops.take": lambda x: ops.take(mx.arange(6.0), x, axis=0),
    "half": lambda x: table()(ops.concatenate([x[:, :1] - 10**6, x[:, 1:]], axis=1)),
    "uint32": lambda x: table()(ops.astype(x, mx.uint32) + 7),
    "TimeDistributed": lambda x: layers.TimeDistributed(table())(layers.Reshape((2, 2, 1))(x * 7)),
    "a model": lambda x: inner()(x * 7),
    "a recurrent layer": lambda x: layers.LSTM(2)(table()(x * 7)),
}


def model_of(way, **options):
    x = mf.Input((4,), dtype="int32", name="words", **options)
    model = mf.Model(x, way(x))
    model.compile("sgd", "mse")
    return model


def with_one(wrong):
    ids = IDS.copy()
    ids[2, 1:] = wrong
    return ids


ENTRIES = {
    "fit": lambda m, ids: m.fit(ids, target(m), verbose=0),
    "fit of batches": lambda m, ids: m.fit(iter([(ids, target(m))]), verbose=0),
    "evaluate": lambda m, ids: m.evaluate(ids, target(m), verbose=0),
    "predict": lambda m, ids: m.predict(ids, verbose=0),
    "train_on_batch": lambda m, ids: m.train_on_batch(ids, target(m)),
    "test_on_batch": lambda m, ids: m.test_on_batch(ids, target(m)),
    "predict_on_batch": lambda m, ids: m.predict_on_batch(ids),
    "a call": lambda m, ids: m(ids),
    "a call on MLX's": lambda m, ids: m(mx.array(ids)),
}


def target(model):
    return np.zeros((3, *model.output.shape[1:]), "f")


@pytest.mark.parametrize("way", MOVED)
@pytest.mark.parametrize("entry", ENTRIES)
def test_an_id_without_a_row_is_refused(entry, way):
    model = model_of(MOVED[way])
    before = [w.copy() for w in model.get_weights()]
    for wrong in (5, -1, 10**6):
        message = rf"table: expected ids in \[0, 5\), got {wrong}\. Recode"
        with pytest.raises(ValueError, match=message) as error:
            ENTRIES[entry](model, with_one(wrong))
        assert "in the data of input 'words'" in error.value.__notes__
    for one, other in zip(model.get_weights(), before, strict=True):
        assert np.array_equal(one, other)
    ENTRIES[entry](model, IDS)


@pytest.mark.parametrize("dtype", ["int8", "int64", "uint32", "uint64", "float32"])
def test_ids_of_every_type_are_looked_at(dtype):
    model = model_of(MOVED["a slice"])
    with pytest.raises(ValueError, match=r"expected ids in \[0, 5\), got 100"):
        model.predict(with_one(100).astype(dtype), verbose=0)


def test_ids_beyond_32_bits_are_looked_at_before_they_are_cut():
    for way in ("directly", "a slice"):
        with pytest.raises(ValueError, match=r"expected ids in \[0, 5\), got 4294967297"):
            model_of(MOVED[way]).predict(with_one(2**32 + 1), verbose=0)


def test_each_column_is_looked_at_for_its_own_table():
    x = mf.Input((2,), dtype="int32")
    users, films = layers.Embedding(100, 2), layers.Embedding(5, 2, name="films")
    model = mf.Model(x, layers.Concatenate()([users(x[:, 0]), films(x[:, 1])]))
    rows = np.tile([[99, 4]], (20_000, 1))
    assert model.predict(rows, verbose=0, batch_size=20_000).shape == (20_000, 4)
    rows[-1] = rows[-1, ::-1]
    with pytest.raises(ValueError, match=r"films: expected ids in \[0, 5\), got 99"):
        model.predict(rows, verbose=0)


def test_a_layer_alone_refuses_them_too():
    with pytest.raises(ValueError, match=r"table: expected ids in \[0, 5\), got 1000"):
        table()([1000])


def test_a_function_that_is_traced_asks_for_no_values():
    model = model_of(MOVED["a slice"])
    right, wrong = mx.array(IDS), mx.array(with_one(1000))
    traced = mx.compile(lambda ids: model(ids))
    assert mx.array_equal(traced(right), model(right))
    assert mx.array_equal(traced(wrong), model(mx.array(with_one(4))))


@pytest.mark.parametrize("way", COMPUTED)
def test_computed_ids_stay_inside_the_table(way):
    model = model_of(COMPUTED[way])
    for ids in (IDS, IDS * 10**8, -IDS * 10**8):
        model.fit(ids, target(model), verbose=0)
        assert np.isfinite(model.predict(ids, verbose=0)).all()
        assert np.isfinite(model.predict_on_batch(ids)).all()


def test_a_computed_id_beyond_the_table_is_its_nearest_end():
    model = model_of(COMPUTED["an operator"])
    rows = model.get_weights()[0]
    ids = np.array([[3, 4, 10**8, 2**31 - 2], [-1, -2, -6, -7], [-(10**8)] * 4])
    meant = np.array([[4, 4, 4, 4], [0, 4, 0, 0], [0, 0, 0, 0]])
    assert np.array_equal(model.predict(ids, verbose=0), rows[meant])


# The same in a file.


def session(model, **options):
    proto = mlx2onnx.to_onnx(model, **options)
    return proto, onnxruntime.InferenceSession(proto.SerializeToString(), _quiet())


def _quiet():
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return options


BOUNDS = {"Clip", "Min", "Max"}


@pytest.mark.parametrize("way", MOVED)
def test_a_file_spends_no_node_on_given_ids_and_refuses_the_same_ones(way):
    proto, run = session(model_of(MOVED[way]))
    assert not BOUNDS & {node.op_type for node in proto.graph.node}
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument):
        run.run(None, {"words": with_one(5).astype("i")})


@pytest.mark.parametrize("way", COMPUTED)
def test_a_file_bounds_computed_ids_as_mlx_does(way):
    model = model_of(COMPUTED[way])
    proto, run = session(model)
    assert BOUNDS & {node.op_type for node in proto.graph.node}
    for ids in (IDS, -IDS, IDS * 10**8, -IDS * 10**8, IDS + (2**31 - 5)):
        (y,) = run.run(None, {"words": ids.astype("i")})
        assert np.allclose(y, model.predict(ids, verbose=0), atol=1e-6)


def test_a_function_of_a_file_knows_whether_its_ids_are_given():
    x, shared = mf.Input((4,), dtype="int32", name="words"), inner()
    model = mf.Model(x, layers.Concatenate()([shared(x), shared(x[:, ::-1]), shared(x * 7)]))
    proto, run = session(model, functions=True)
    assert len(proto.functions) == 2
    assert sum(n.op_type == "Clip" for f in proto.functions for n in f.node) == 1
    (y,) = run.run(None, {"words": IDS.astype("i")})
    assert np.array_equal(y, model.predict(IDS, verbose=0))


# Each in a process of its own: before there were bounds, these ended it.
SCRIPT = """
import mlxfunc as mf, mlx.core as mx, numpy as np
L, ops = mf.layers, mf.ops
x = mf.Input((3, 4), dtype="int32")
{model}
m.compile("sgd", "mse", jit_compile={compiled})
for wrong in (7, 1000, 10**5, 10**7, -3, -(10**7), 2**31 - 1, -(2**31)):
    ids = np.full((2, 3, 4), wrong)
    for run in (
        lambda: m.fit(ids, np.zeros((2, *m.output.shape[1:])), verbose=0),
        lambda: m.predict(ids, verbose=0), lambda: m.predict_on_batch(ids), lambda: m(ids),
        lambda: mx.eval(m.run(mx.array(ids))),
        lambda: mx.eval(mx.compile(lambda i: m(i))(mx.array(ids))),
    ):
        try:
            run()
        except ValueError as error:
            assert "expected ids in" in str(error), error
assert all(np.isfinite(w).all() for w in m.get_weights())
print("whole")
"""
PROCESSES = {
    "TimeDistributed": "m = mf.Model(x, L.TimeDistributed(L.Embedding(5, 3))(x))",
    "an operator": "m = mf.Model(x, L.Embedding(5, 3)(x + 1))",
    "ops": "m = mf.Model(x, ops.take_along_axis(ops.astype(x, mx.float32), x, axis=2))",
}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", PROCESSES)
def test_no_id_ends_the_process(name, compiled):
    script = SCRIPT.format(model=PROCESSES[name], compiled=compiled)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "whole\n", (done.returncode, done.stderr)
