"""Where batches come from, in which order, and what is refused before a step runs."""

import subprocess
import sys
import threading
import traceback
from itertools import chain

import mlxfunc as mf
import h5py
import mlx.core as mx
import mlx.data
import numpy as np
import pytest
from mlxfunc.conversion import to_mlx
from mlxfunc.training import data as data_module
from mlxfunc.training.arrays import class_weights
from mlxfunc.training.data import ArraySource, Reader, make_source
from mlxfunc.training.dataset import PyDataset
from mlxfunc.training.epochs import EpochIterator

random = np.random.default_rng(0)
X = random.normal(size=(20, 3)).astype("float32")
Y = random.normal(size=(20, 1)).astype("float32")


def linear(**options):
    x = mf.Input((3,), name="x")
    model = mf.Model(x, mf.layers.Dense(1, name="y")(x))
    model.set_weights([np.ones((3, 1)), np.zeros(1)])
    model.compile("sgd", "mse", **options)
    return model


def two_by_two():
    a, b = mf.Input((3,), name="a"), mf.Input((2,), name="b")
    c = mf.layers.Dense(1, name="c")(a)
    d = mf.layers.Dense(2, name="d")(mf.layers.Concatenate()([a, b]))
    model = mf.Model([a, b], [c, d])
    model.compile("sgd", "mse")
    return model


def reader():
    return Reader(linear())


def rows_of(source, index=0):
    return [np.array(batch.x[0])[:, 0].tolist() for batch in source.start(index, 0)]


# Every source gives the same fit.


class Batches(PyDataset):
    def __init__(self, **options):
        super().__init__(**options)
        self.ended = 0

    def __len__(self):
        return 5

    def __getitem__(self, i):
        return X[4 * i : 4 * i + 4], Y[4 * i : 4 * i + 4]

    def on_epoch_end(self):
        self.ended += 1


def stream():
    """A stream of mlx.data: dicts of arrays, once, then `reset`."""
    rows = [{"x": x, "label": y} for x, y in zip(X, Y, strict=True)]
    return mlx.data.buffer_from_vector(rows).to_stream().batch(4)


def hdf5(folder, array):
    """A column on disk, which takes slices and sorted indices only."""
    path = folder / f"{array.shape[1]}.h5"
    with h5py.File(path, "w") as file:
        file["column"] = array
    return h5py.File(path)["column"]


def pairs():
    return [(X[i : i + 4], Y[i : i + 4]) for i in range(0, 20, 4)]


def memory_map(folder, array):
    path = folder / f"{array.shape[1]}.npy"
    np.save(path, array)
    return np.load(path, mmap_mode="r")


def loader():
    # Among no extra: on Linux its wheels bring gigabytes of CUDA. Continuous integration has it.
    torch = pytest.importorskip("torch")
    dataset = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
    return torch.utils.data.DataLoader(dataset, batch_size=4)


SOURCES = {
    "float64": lambda folder: {"x": X.astype("float64"), "y": Y.astype("float64")},
    "mlx": lambda folder: {"x": mx.array(X), "y": mx.array(Y)},
    "nested lists": lambda folder: {"x": X.tolist(), "y": Y.tolist()},
    "list of one": lambda folder: {"x": [X], "y": [Y]},
    "dicts": lambda folder: {"x": {"x": X}, "y": {"y": Y}},
    "memory map": lambda folder: {"x": memory_map(folder, X), "y": memory_map(folder, Y)},
    "hdf5": lambda folder: {"x": hdf5(folder, X), "y": hdf5(folder, Y)},
    "pairs": lambda folder: {"x": pairs()},
    "generator": lambda folder: {"x": (p for _ in range(2) for p in pairs()), "steps_per_epoch": 5},
    "mlx generator": lambda folder: {
        "x": ((mx.array(a), mx.array(b) + 0) for _ in range(2) for a, b in pairs()),
        "steps_per_epoch": 5,
    },
    "named batches": lambda folder: {"x": [({"x": a}, {"y": b}) for a, b in pairs()]},
    "dataset": lambda folder: {"x": Batches()},
    "dataset with threads": lambda folder: {"x": Batches(workers=3, max_queue_size=2)},
    "stream": lambda folder: {"x": stream()},
    "torch": lambda folder: {"x": loader()},
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name == "torch" else ()) for name in SOURCES],
)
def test_sources_agree(name, tmp_path):
    expected, model = linear(), linear()
    expected.fit(X, Y, 4, 2, verbose=0, shuffle=False)
    given = SOURCES[name](tmp_path)
    size = {} if "y" not in given else {"batch_size": 4}
    model.fit(**given, **size, epochs=2, verbose=0, shuffle=False)
    for got, want in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.slow
def test_dataset_with_processes():
    model = linear()
    model.fit(Batches(workers=2, use_multiprocessing=True), epochs=1, verbose=0, shuffle=False)
    expected = linear()
    expected.fit(X, Y, 4, verbose=0, shuffle=False)
    np.testing.assert_array_equal(model.get_weights()[0], expected.get_weights()[0])


def test_dataset_hooks_and_order():
    dataset = Batches()
    linear().fit(dataset, epochs=3, verbose=0)
    assert dataset.ended == 3
    source = make_source(reader(), dataset, shuffle=True, seed=1)
    first, again, second = rows_of(source), rows_of(source), rows_of(source, 1)
    assert first == again != second
    assert sorted(map(tuple, first)) == sorted(map(tuple, second))


def test_several_inputs_and_outputs_by_position_and_name():
    a, b, c, d = X, X[:, :2], Y, np.repeat(Y, 2, 1)
    weights = []
    start = two_by_two().get_weights()
    for x, y in (([a, b], [c, d]), ({"b": b, "a": a}, {"d": d, "c": c}), ((a, b), (c, d))):
        model = two_by_two()
        model.set_weights(start)
        model.fit(x, y, verbose=0, shuffle=False)
        weights.append(np.concatenate([w.ravel() for w in model.get_weights()]))
    np.testing.assert_array_equal(weights[0], weights[1])
    np.testing.assert_array_equal(weights[0], weights[2])


# Order, rests, steps.


def test_order_depends_on_seed_and_pass_alone():
    batch = reader().read(np.arange(60.0).reshape(20, 3), Y)
    source = ArraySource(batch, 8, shuffle=True, seed=3)
    first = rows_of(source)
    assert [len(rows) for rows in first] == [8, 8, 4]
    assert sorted(chain(*first)) == [3.0 * i for i in range(20)]
    assert rows_of(source) == first != rows_of(source, 1)
    assert rows_of(ArraySource(batch, 8, shuffle=True, seed=3), 1) == rows_of(source, 1)
    whole = ArraySource(batch, 8, shuffle="batch", seed=1)
    assert all(rows == sorted(rows) for rows in rows_of(whole))
    assert sorted(chain(*rows_of(whole))) == sorted(chain(*first))


def test_epochs_follow_each_other_through_the_data():
    batch = reader().read(np.arange(60.0).reshape(20, 3), Y)
    feed = EpochIterator(ArraySource(batch, 4), steps_per_epoch=2)
    seen = [[float(b.x[0][0, 0]) / 3 for _, b in feed.epoch()] for _ in range(2)]
    assert seen == [[0, 4], [8, 12]]
    with pytest.warns(UserWarning, match="ended 1 steps short of the 2 steps"):
        assert len(list(feed.epoch())) == 1
    assert [float(b.x[0][0, 0]) / 3 for _, b in feed.epoch()] == [0, 4]


def test_seek_continues_at_the_next_batch():
    batch = reader().read(X, Y)
    feed = EpochIterator(ArraySource(batch, 4, shuffle=True, seed=9))
    list(feed.epoch())
    epoch = feed.epoch()
    next(epoch), next(epoch)
    position = feed.position()
    rest = [np.array(b.x[0]) for _, b in epoch]
    again = EpochIterator(ArraySource(batch, 4, shuffle=True, seed=0))
    again.seek(position)
    steps, batches = zip(*again.epoch(2), strict=True)
    assert steps == (2, 3, 4)
    for got, want in zip(batches, rest, strict=True):
        np.testing.assert_array_equal(np.array(got.x[0]), want)


def test_generator_that_ends_early():
    model = linear()
    with pytest.warns(UserWarning, match="ended 2 steps short of the 3 steps"):
        history = model.fit(iter(pairs()[:4]), epochs=5, steps_per_epoch=3, verbose=0)
    assert history.epoch == [0, 1]
    with pytest.warns(UserWarning, match="ended 5 steps short of the 5 steps"):
        assert model.fit(iter(pairs()), epochs=2, verbose=0).epoch == [0]


def test_generator_is_not_read_further_than_needed():
    drawn = []

    def endless():
        while True:
            drawn.append(1)
            yield X[:4], Y[:4]

    linear().fit(endless(), epochs=2, steps_per_epoch=3, verbose=0)
    assert len(drawn) == 6
    assert not [t for t in threading.enumerate() if t.name == "mlxfunc-prefetch"]


def test_worker_error_has_its_own_traceback():
    def breaks_in_the_third():
        yield X[:4], Y[:4]
        yield X[:4], Y[:4]
        raise OSError("disk on fire")

    with pytest.raises(OSError, match="disk on fire") as caught:
        linear().fit(breaks_in_the_third(), verbose=0)
    assert "breaks_in_the_third" in "".join(traceback.format_tb(caught.value.__traceback__))

    class Broken(Batches):
        def __getitem__(self, i):
            raise OSError("no such batch")

    with pytest.raises(OSError, match="no such batch") as caught:
        linear().fit(Broken(workers=2), verbose=0)
    assert "__getitem__" in "".join(traceback.format_tb(caught.value.__traceback__))


def test_validation_split_takes_the_last_rows():
    first, last = reader().read(np.arange(30.0).reshape(10, 3), Y[:10]).split(0.25)
    assert last.x[0][:, 0].tolist() == [21, 24, 27]
    assert first.rows == 7
    for share in (1e-17, 0.95):
        with pytest.raises(ValueError, match="leaves one side empty"):
            linear().fit(X[:5], Y[:5], validation_split=share, verbose=0)
    with pytest.raises(ValueError, match=r"expected a number in \(0, 1\), got 1.5"):
        linear().fit(X, Y, validation_split=1.5)


# Memory.


def test_large_memory_map_streams(tmp_path, monkeypatch):
    """64 MB of rows pass through while MLX holds at most 48 MB more."""
    rows = 2**16
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", "float32", (rows, 256))
    x[:, 0] = 1
    x.flush()
    y = np.zeros((rows, 1), "float32")
    inputs = mf.Input((256,))
    model = mf.Model(inputs, mf.layers.Dense(1)(inputs))
    model.compile("sgd", "mse")
    model.evaluate(x[:512], y[:512], batch_size=512, verbose=0)
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    model.fit(np.load(tmp_path / "x.npy", mmap_mode="r"), y, batch_size=512, verbose=0)
    assert mx.get_peak_memory() - before < 48 * 2**20


BOUNDED = """
import resource
import mlxfunc as mf
import numpy as np

x = np.load({path!r}, mmap_mode="r")
y = np.zeros((len(x), 1), "float32")
inputs = mf.Input((x.shape[1],))
model = mf.Model(inputs, mf.layers.Dense(1)(inputs))
model.compile("sgd", "mse")
model.fit(x[:4096], y[:4096], batch_size=2048, verbose=0)
with open("/proc/self/status") as file:
    now = next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (now + {more}, -1))
for shuffle in (False, True, "batch"):
    model.fit(x, y, batch_size=2048, shuffle=shuffle, verbose=0)
model.evaluate(x, y, batch_size=2048, verbose=0)
print("streamed")
try:
    np.array(x)
except MemoryError:
    print("no room for a copy")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's private memory")
def test_a_file_larger_than_the_process_may_be(tmp_path):
    """512 MiB of rows, on and off the disk, in a process that may take 160 MiB more than it has."""
    path = tmp_path / "x.npy"
    np.lib.format.open_memmap(path, "w+", "float32", (2**16, 2**11))
    script = BOUNDED.format(path=str(path), more=160 * 2**20)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    path.unlink()
    assert done.stdout.split("\n") == ["streamed", "no room for a copy", ""], done


def test_arrays_over_the_limit_stay_where_they_are():
    batch = reader().read(X, Y)
    assert ArraySource(batch, 4, limit=8).streams
    assert not ArraySource(batch, 4).streams
    assert data_module.memory_size() > 2**28


def test_dtypes():
    assert to_mlx(np.zeros(2)).dtype == mx.float32
    assert to_mlx(np.zeros(2, "int64")).dtype == mx.int64
    assert to_mlx(np.zeros(2, "uint8")).dtype == mx.uint8


def test_reversed_arrays_are_data():
    model = linear()
    first, last = model.predict(X[::-1], verbose=0), model.predict(X, verbose=0)[::-1]
    np.testing.assert_allclose(first, last, rtol=1e-6)
    np.testing.assert_allclose(model(X[::-1]), last, rtol=1e-6)
    assert np.isfinite(model.train_on_batch(X[:1][::-1], Y[:1][::-1], np.ones(1)[::-1]))
    model.set_weights([w[::-1] for w in model.get_weights()])


def test_class_weights():
    table = {0: 2.0, 2: 5.0}
    assert class_weights(np.array([0, 1, 2]), table).tolist() == [2, 1, 5]
    assert class_weights(np.array([[2.0], [0.0]]), table).tolist() == [5, 2]
    assert class_weights(np.eye(3)[[2, 1]], table).tolist() == [5, 1]


# What is refused.


def classifier(classes=3, entries=10):
    x = mf.Input((2,), dtype="int32", name="tokens")
    h = mf.layers.Embedding(entries, 4)(x)
    model = mf.Model(x, mf.layers.Dense(classes, activation="softmax", name="out")(h))
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


TOKENS = np.ones((6, 2), int)
REFUSED = [
    (lambda m: m.fit(X, Y[:7]), "x has 20, y has 7"),
    (lambda m: m.fit(X, Y, sample_weight=np.ones(4)), "sample_weight has 4"),
    (lambda m: m.fit(X[:0], Y[:0]), "expected at least one row"),
    (lambda m: m.fit(None), "x: expected data, got None"),
    (lambda m: m.fit(X), "expected targets for output 'y'"),
    (lambda m: m.fit(X, {"z": Y}), r"y: unknown names \['z'\]. Known: \['y'\]"),
    (lambda m: m.fit({"q": X}, Y), r"x: unknown names \['q'\]"),
    (lambda m: m.fit(X[:, :2], Y), r"input 'x': expected data of shape \(any, 3\), got \(20, 2\)"),
    (lambda m: m.fit(X[:, :, None, None], Y), "input 'x': expected data of shape"),
    (lambda m: m.fit(X, np.ones((20, 4))), r"expected labels shaped as the output \(20, 1\)"),
    (lambda m: m.fit(X, Y, batch_size=0), "batch_size: expected a positive int, got 0"),
    (lambda m: m.fit(X, Y, steps_per_epoch=0), "steps: expected a positive int"),
    (lambda m: m.fit(X, Y, class_weight={0: 1}, sample_weight=Y[:, 0]), "got both"),
    (lambda m: m.fit(iter(pairs()), Y), "y: expected None, because x yields batches"),
    (lambda m: m.fit(iter(pairs()), validation_split=0.5), "validation_split: expected arrays"),
    (lambda m: m.fit(iter([(X, Y, Y, Y)])), "got 4 parts"),
    (lambda m: m.fit(X, Y, validation_data=(X,)), "validation_data: expected"),
    (lambda m: m.fit(X, Y, verbose="loud"), "verbose: expected 0, 1, 2 or 'auto', got 'loud'"),
]


@pytest.mark.parametrize("call, message", REFUSED)
def test_refused(call, message):
    model = linear()
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        call(model)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_refused_for_several():
    model = two_by_two()
    with pytest.raises(ValueError, match=r"x: expected 2 arrays, one for each of \['a', 'b'\]"):
        model.fit(X, [Y, Y])
    with pytest.raises(ValueError, match=r"y: expected 2 arrays.*, got 1"):
        model.fit([X, X[:, :2]], [Y])
    with pytest.raises(ValueError, match=r"x: nothing given for \['b'\]"):
        model.fit({"a": X}, [Y, Y])
    with pytest.raises(ValueError, match="class_weight: expected a model with one output"):
        model.fit([X, X[:, :2]], [Y, Y], class_weight={0: 1})


def test_words_are_not_numbers():
    with pytest.raises(TypeError, match="x: expected numbers, got dtype <U1"):
        linear().fit(np.array([["a", "b", "c"]]), Y[:1])


@pytest.mark.parametrize("as_stream", [False, True])
@pytest.mark.parametrize(
    "token, label, message",
    [
        (10, 0, r"embedding\w*: expected ids in \[0, 10\), got 10"),
        (-1, 0, r"embedding\w*: expected ids in \[0, 10\), got -1"),
        (1, 3, r"labels of output 'out': expected values in \[0, 3\), got 3"),
        (1, -1, r"labels of output 'out': expected values in \[0, 3\), got -1"),
    ],
)
def test_out_of_range(token, label, message, as_stream):
    tokens, labels = TOKENS.copy(), np.zeros((6, 2), int)
    tokens[4, 1], labels[3, 0] = token, label
    given = (iter([(tokens, labels)]),) if as_stream else (tokens, labels)
    with pytest.raises(ValueError, match=message):
        classifier().fit(*given, verbose=0)
    if label == 0:
        with pytest.raises(ValueError, match=message):
            classifier().predict(tokens, verbose=0)


def test_ignored_class_may_be_out_of_range():
    model = classifier()
    loss = mf.losses.SparseCategoricalCrossentropy(ignore_class=-1)
    model.compile("sgd", loss)
    labels = np.zeros((6, 2), int)
    labels[0] = -1
    assert np.isfinite(model.fit(TOKENS, labels, verbose=0).history["loss"][0])
