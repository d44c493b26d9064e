"""Archives and configurations: equal models come back, nothing foreign runs."""

import copy
import io
import json
import pickle
import pickletools
import subprocess
import sys
import zipfile

import mlxfunc as mf
import mlx.core as mx
import numpy as np
import pytest
from mlxfunc import layers, models, ops, saving, storage
from mlx.utils import tree_flatten


def shared_model():
    """A layer used through a nested model and directly, operations, a dict of inputs."""
    shared = layers.Dense(4, name="shared")
    i = mf.Input((4,))
    encoder = mf.Model(i, layers.Activation("relu")(shared(i)), name="encoder")
    a, b = mf.Input((4,), name="a"), mf.Input((4,), name="b")
    joined = layers.concatenate([encoder(a), encoder(b), shared(a)])
    scaled = ops.mean(joined[:, 1:] * 2.0, axis=-1, keepdims=True)
    return mf.Model({"a": a, "b": b}, [joined, scaled], name="siamese")


def data(n=3):
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=(n, 4)).astype(np.float32) for name in "ab"}


def equal(first, second):
    return all(mx.array_equal(a, b).item() for a, b in zip(first, second, strict=True))


def test_an_archive_gives_an_equal_model(tmp_path):
    m = shared_model()
    m.save(tmp_path / "m.mlxfunc")
    loaded = saving.load_model(tmp_path / "m.mlxfunc")
    assert equal(m(data()), loaded(data()))
    assert [la.name for la in loaded.layers] == [la.name for la in m.layers]
    assert loaded.count_params() == 20
    assert loaded.get_layer("encoder").get_layer("shared") is loaded.get_layer("shared")


def test_an_archive_holds_each_array_once(tmp_path):
    shared_model().save(tmp_path / "m.mlxfunc")
    with zipfile.ZipFile(tmp_path / "m.mlxfunc") as archive:
        (tmp_path / "w.safetensors").write_bytes(archive.read("weights.safetensors"))
    assert sorted(mx.load(str(tmp_path / "w.safetensors"))) == [
        "encoder.shared.bias",
        "encoder.shared.weight",
    ]


def test_a_clone_shares_as_the_model_does_but_has_its_own_weights():
    m = shared_model()
    clone = models.clone_model(m)
    assert clone.count_params() == 20
    assert not equal(m(data()), clone(data()))
    clone.set_weights(m.get_weights())
    assert equal(m(data()), clone(data()))


def test_json_round_trip():
    m = shared_model()
    again = models.model_from_json(m.to_json())
    assert again.get_config() == m.get_config()


def test_sequential_round_trip(tmp_path):
    m = mf.Sequential([layers.Dense(3, input_shape=(4,), activation="tanh"), layers.Dense(2)])
    m.save(tmp_path / "s.mlxfunc")
    loaded = saving.load_model(tmp_path / "s.mlxfunc")
    assert isinstance(loaded, mf.Sequential)
    assert equal([m(np.ones((2, 4)))], [loaded(np.ones((2, 4)))])


def test_weights_of_a_frozen_model_stay_frozen(tmp_path):
    m = mf.Sequential([layers.Dense(3, input_shape=(4,)), layers.Dense(2)])
    m.layers[0].trainable = False
    m.save(tmp_path / "f.mlxfunc")
    loaded = saving.load_model(tmp_path / "f.mlxfunc")
    assert len(tree_flatten(loaded.trainable_parameters())) == 2


def test_custom_losses_and_metrics_are_found_when_loading_not_later(tmp_path):
    class Cubed(mf.losses.Loss):
        def call(self, y_true, y_pred):
            return mx.mean(mx.abs(y_true - y_pred) ** 3, axis=-1)

    def gap(y_true, y_pred):
        return mx.mean(mx.abs(y_true - y_pred), axis=-1)

    for loss in (Cubed(), gap):
        m = mf.Sequential([layers.Dense(2, input_shape=(4,))])
        m.compile("sgd", loss, metrics=[gap])
        m.save(tmp_path / "c.mlxfunc")
        known = {"Cubed": Cubed, "gap": gap}
        loaded = saving.load_model(tmp_path / "c.mlxfunc", custom_objects=known)
        x, y = np.ones((3, 4), "float32"), np.zeros((3, 2), "float32")
        assert loaded.evaluate(x, y, verbose=0) == pytest.approx(m.evaluate(x, y, verbose=0))


class Doubled(layers.Layer):
    def __init__(self, factor=2, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, x):
        return x * self.factor


def halve(x):
    return x / 2


def custom_model():
    i = mf.Input((4,))
    return mf.Model(i, layers.Lambda(halve)(Doubled(3)(i)))


def test_unknown_classes_need_custom_objects(tmp_path):
    custom_model().save(tmp_path / "c.mlxfunc")
    with pytest.raises(ValueError, match="unknown layer 'Doubled'"):
        saving.load_model(tmp_path / "c.mlxfunc")
    with pytest.raises(ValueError, match="unknown activation 'halve'"):
        saving.load_model(tmp_path / "c.mlxfunc", {"Doubled": Doubled})
    loaded = saving.load_model(tmp_path / "c.mlxfunc", {"Doubled": Doubled, "halve": halve})
    assert loaded(np.ones((1, 4))).tolist() == [[1.5] * 4]


def test_a_lambda_cannot_be_saved_and_leaves_no_file(tmp_path):
    i = mf.Input((4,))
    m = mf.Model(i, layers.Lambda(lambda x: x + 1)(i))
    with pytest.raises(ValueError, match="a lambda has no name"):
        m.save(tmp_path / "l.mlxfunc")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "m.mlxfunc"
    shared_model().save(path)
    before = path.read_bytes()

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full_disk)
    with pytest.raises(OSError, match="No space left"):
        shared_model().save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.mlxfunc"]


def rewritten(path, **changes):
    """The archive with other members; None drops one."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()} | changes
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            if content is not None:
                archive.writestr(name, content)


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_archive_is_refused(tmp_path, part):
    path = tmp_path / "m.mlxfunc"
    shared_model().save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(ValueError, match=r"m\.mlxfunc: expected an archive that `save` wrote"):
        saving.load_model(path)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"config.json": None}, "there is no config.json in it"),
        ({"config.json": "[1]"}, r"expected {'format': .*got \[1\]; at config.json"),
        ({"config.json": '{"format": "mlxfunc", "version": 9}'}, "got .*'version': 9"),
        ({"weights.safetensors": None}, "there is no weights.safetensors in it"),
        (
            {"weights.safetensors": b"\x08\0\0\0\0\0\0\0{}"},
            "weights.safetensors is said to begin with 8 bytes of names, more than it holds",
        ),
    ],
)
def test_a_foreign_archive_is_refused(tmp_path, changes, message):
    path = tmp_path / "m.mlxfunc"
    shared_model().save(path)
    rewritten(path, **changes)
    with pytest.raises(ValueError, match=message):
        saving.load_model(path)


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "save", "load"])
def test_loading_runs_nothing_that_a_file_names(tmp_path, name):
    path = tmp_path / "m.mlxfunc"
    i = mf.Input((4,))
    mf.Model(i, ops.exp(i)).save(path)
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))
    config["model"]["config"]["calls"][0]["layer"]["config"]["function"] = name
    rewritten(path, **{"config.json": json.dumps(config)})
    with pytest.raises(ValueError, match=f"unknown operation '{name}'"):
        saving.load_model(path)


def test_the_ending_is_checked(tmp_path):
    with pytest.raises(ValueError, match=r"a path that ends in '\.mlxfunc', got"):
        shared_model().save(tmp_path / "m.h5")


def test_training_goes_on_with_the_same_optimizer_state(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 4)), rng.normal(size=(64, 1))
    m = mf.Sequential([layers.Dense(8, activation="tanh", input_shape=(4,)), layers.Dense(1)])
    m.compile("adam", "mse", metrics=["mae"])
    m.fit(x, y, epochs=2, verbose=0)
    m.save(tmp_path / "m.mlxfunc")
    loaded = saving.load_model(tmp_path / "m.mlxfunc")
    first, second = (k.fit(x, y, epochs=2, shuffle=False, verbose=0) for k in (m, loaded))
    assert first.history == second.history
    assert equal(m.weights, loaded.weights)


def test_a_model_can_be_loaded_without_its_training_setup(tmp_path):
    m = mf.Sequential([layers.Dense(1, input_shape=(4,))])
    m.compile("adam", "mse")
    m.save(tmp_path / "m.mlxfunc")
    loaded = saving.load_model(tmp_path / "m.mlxfunc", compile=False)
    with pytest.raises(RuntimeError, match="compile"):
        loaded.fit(np.zeros((2, 4)), np.zeros((2, 1)))


def relu(x):
    return x * 0


def test_a_function_named_as_a_known_one_is_not_taken_for_it(tmp_path):
    i = mf.Input((4,))
    m = mf.Model(i, layers.Activation(relu)(i))
    with pytest.raises(ValueError, match="'relu', which is one of the known activations"):
        m.save(tmp_path / "m.mlxfunc")
    saving.register_serializable("tests")(relu)
    m.save(tmp_path / "m.mlxfunc")
    assert saving.load_model(tmp_path / "m.mlxfunc")(np.ones((1, 4))).tolist() == [[0] * 4]


COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda value: pickle.loads(pickle.dumps(value))}


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_is_equal_and_apart(way):
    m = shared_model()
    copied = COPIES[way]({"models": [m, m], "epoch": 3})
    first, second = copied["models"]
    assert first is second
    assert equal(m(data()), first(data()))
    assert first.count_params() == 20
    first.set_weights([w * 0 for w in first.get_weights()])
    assert not equal(m(data()), first(data()))


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_goes_on_training_as_the_model_does(way):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(32, 4)), rng.normal(size=(32, 1))
    m = mf.Sequential([layers.Dense(1, input_shape=(4,)), layers.BatchNormalization()])
    m.compile("adam", "mse", metrics=["mae"], run_eagerly=True)
    m.fit(x, y, verbose=0)
    copied = COPIES[way](m)
    first, second = (k.fit(x, y, epochs=2, shuffle=False, verbose=0) for k in (m, copied))
    assert first.history == second.history
    assert equal(m.weights, copied.weights)


@pytest.mark.parametrize("way", COPIES)
def test_a_model_without_weights_yet_is_copied(way):
    copied = COPIES[way](mf.Sequential([layers.Dense(2, name="last")]))
    assert copied(np.ones((1, 3))).shape == (1, 2)
    assert copied.get_layer("last").units == 2


def test_a_pickle_names_nothing_but_the_reader_of_archives():
    pickled = pickle.dumps(custom_model(), protocol=2)  # where a global is one opcode
    named = [arg for op, arg, _ in pickletools.genops(pickled) if op.name == "GLOBAL"]
    assert named[0] == "mlxfunc.saving from_bytes"
    assert set(named[1:]) <= {"_codecs encode"}
    with pytest.raises(ValueError, match="unknown layer 'Doubled'"):
        pickle.loads(pickled)
    with saving.custom_object_scope({"Doubled": Doubled, "halve": halve}):
        assert pickle.loads(pickled)(np.ones((1, 4))).tolist() == [[1.5] * 4]


def test_a_lambda_is_not_pickled():
    i = mf.Input((4,))
    with pytest.raises(ValueError, match="a lambda has no name"):
        pickle.dumps(mf.Model(i, layers.Lambda(lambda x: x + 1)(i)))


def test_a_damaged_pickle_is_refused():
    archive = saving.to_bytes(shared_model())
    with pytest.raises(ValueError, match="expected an archive that `save` wrote"):
        saving.from_bytes(archive[: len(archive) // 2])


def changed(path, change):
    """The archive with its configuration changed by `change`."""
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))
    change(config)
    rewritten(path, **{"config.json": json.dumps(config)})


def layer_config(config):
    return config["model"]["config"]["calls"][0]["layer"]["config"]


WRONG = {
    "no model": (lambda c: c.update(model=7), r"got 7; at config\.json"),
    "not a model": (lambda c: c.update(model={"class_name": "Add"}), "configuration of a model"),
    "a wrong type": (
        lambda c: layer_config(c).update(units="many"),
        r"; at config\.json: model\.config\.calls\[0\]",
    ),
    "an unknown argument": (
        lambda c: layer_config(c).update(unit=3),
        r"unknown argument 'unit'.*; at config\.json: model\.config\.calls\[0\]\.layer\.",
    ),
    "a nested one": (
        lambda c: layer_config(c)["kernel_initializer"].update(config={"a": 1}),
        r"; at config\.json: model\.config\.calls\[0\]\.layer\.config\.kernel_initializer\.",
    ),
    "more weights than the file has": (
        lambda c: layer_config(c).update(units=10**8), "expected weights that the file holds, got",
    ),
    "other weights": (lambda c: layer_config(c).update(units=2), r"; at weights\.safetensors\."),
    "a missing key": (lambda c: c["model"]["config"]["calls"][0].pop("args"), "KeyError: 'args'"),
}  # fmt: skip


@pytest.mark.parametrize("change, message", WRONG.values(), ids=WRONG)
def test_what_cannot_be_rebuilt_is_one_error_that_tells_where(tmp_path, change, message):
    path = tmp_path / "m.mlxfunc"
    i = mf.Input((4,))
    mf.Model(i, layers.Dense(3)(i)).save(path)
    changed(path, change)
    with pytest.raises(ValueError, match=rf"m\.mlxfunc: .*{message}") as caught:
        saving.load_model(path)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("depth, message", [(1000, "is nested 30"), (10**5, "is nested 3000")])
def test_a_configuration_too_deep_is_refused(tmp_path, depth, message):
    path = tmp_path / "m.mlxfunc"
    shared_model().save(path)
    around = '{"class_name": "Sequential", "config": {"name": "s", "layers": [', "]}}"
    text = around[0] * depth + around[1] * depth
    rewritten(path, **{"config.json": f'{{"format": "mlxfunc", "version": 1, "model": {text}}}'})
    with pytest.raises(ValueError, match=rf"m\.mlxfunc: .*{message}.* Save the model again"):
        saving.load_model(path)


def test_errors_of_custom_objects_are_their_cause(tmp_path):
    class Refuses(Doubled):
        def call(self, x):
            raise KeyError("mine")

    custom_model().save(tmp_path / "c.mlxfunc")
    known = {"Doubled": Refuses, "halve": halve}
    with pytest.raises(ValueError, match=r"got KeyError: 'mine'; at .*calls\[0\]") as caught:
        saving.load_model(tmp_path / "c.mlxfunc", known)
    assert isinstance(caught.value.__cause__, KeyError)


def test_compressed_members_are_refused_before_they_are_read(tmp_path):
    path = tmp_path / "m.mlxfunc"
    shared_model().save(path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("unknown.bin", bytes(2**24))
    assert saving.load_model(path).count_params() == 20
    with (
        pytest.warns(UserWarning, match="Duplicate"),
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive,
    ):
        archive.writestr("weights.safetensors", bytes(2**24))
    with pytest.raises(ValueError, match="weights.safetensors is compressed, and `save`"):
        saving.load_model(path)


def header(**rows):
    text = json.dumps(rows).encode()
    return len(text).to_bytes(8, "little") + text


FALSE_HEADERS = {
    "huge": header(w={"dtype": "F32", "shape": [2**30, 2**30], "data_offsets": [0, 16]}),
    "outside": header(w={"dtype": "F32", "shape": [8], "data_offsets": [0, 32]}) + bytes(16),
    "negative": header(w={"dtype": "F32", "shape": [-4], "data_offsets": [16, 0]}) + bytes(16),
    "shared": header(
        v={"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
        w={"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
    ) + bytes(16),
    "unknown dtype": header(w={"dtype": "F31", "shape": [4], "data_offsets": [0, 16]}) + bytes(16),
    "double": header(w={"dtype": "F64", "shape": [2], "data_offsets": [0, 16]}) + bytes(16),
    "metadata": header(__metadata__={"n": 1}),
    "long": (2**62).to_bytes(8, "little") + bytes(16),
    "deep": header(w=1).replace(b'{"w": 1}', b"[" * 8),
}  # fmt: skip


@pytest.mark.parametrize("content", FALSE_HEADERS.values(), ids=FALSE_HEADERS)
def test_weights_with_a_false_header_are_refused(tmp_path, content):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"w\.safetensors: expected a whole \.safetensors file"):
        shared_model().load_weights(path)


def test_every_dtype_of_mlx_comes_back_from_a_file(tmp_path):
    values = np.random.default_rng(0).integers(0, 2, (2, 3, 4))
    arrays = {
        f"{dtype} {shape}": mx.array(values[at]).astype(dtype)
        for dtype in storage.DTYPES.values()
        for shape, at in {"()": (0, 0, 0), "(3, 4)": 0, "(0, 3, 4)": slice(0)}.items()
    }
    arrays["complex"] = mx.array([1 + 2j, -3j])
    storage.save_arrays(tmp_path / "w.safetensors", arrays)
    read = storage.load_arrays(tmp_path / "w.safetensors")
    assert {k: (a.shape, a.dtype, a.tolist()) for k, a in read.items()} == {
        k: (a.shape, a.dtype, a.tolist()) for k, a in arrays.items()
    }


def test_weights_of_another_kind_are_refused(tmp_path):
    m = shared_model()
    m.save_weights(tmp_path / "w.npz")
    with np.load(tmp_path / "w.npz") as arrays:
        integers = {name: array.astype("int32") for name, array in arrays.items()}
    np.savez(tmp_path / "w.npz", **integers)
    with pytest.raises(ValueError, match=r"bias: expected shape .*float32, got .*int32"):
        m.load_weights(tmp_path / "w.npz")
    np.savez_compressed(tmp_path / "w.npz", **{"encoder.shared.bias": np.zeros(10**7, "f4")})
    with pytest.raises(ValueError, match=r"bias\.npy holds 40000128 bytes, too many"):
        m.load_weights(tmp_path / "w.npz", strict=False)
    np.savez(tmp_path / "w.npz", **{"encoder.shared.bias": np.array([print])})
    with pytest.raises(ValueError, match=r"w\.npz: expected a whole \.npz file"):
        m.load_weights(tmp_path / "w.npz")


def test_optimizer_state_of_another_model_is_refused(tmp_path):
    paths = []
    for units in (2, 3):
        mf.clear_session()
        m = mf.Sequential([layers.Dense(units, input_shape=(4,))])
        m.compile("adam", "mse")
        m.fit(np.zeros((4, 4)), np.zeros((4, units)), verbose=0)
        paths.append(tmp_path / f"{units}.mlxfunc")
        m.save(paths[-1])
    with zipfile.ZipFile(paths[1]) as archive:
        rewritten(paths[0], **{"optimizer.safetensors": archive.read("optimizer.safetensors")})
    with pytest.raises(ValueError, match=r"momentum: expected shape \(2,.*.*; at optimizer\."):
        saving.load_model(paths[0])
    assert saving.load_model(paths[0], compile=False).count_params() == 10


def test_loading_draws_no_weights(tmp_path):
    shared_model().save(tmp_path / "m.mlxfunc")
    mf.utils.set_random_seed(3)
    expected = mx.random.normal((2,)).tolist()
    mf.utils.set_random_seed(3)
    saving.load_model(tmp_path / "m.mlxfunc")
    assert mx.random.normal((2,)).tolist() == expected


def test_an_archive_in_memory_stays_open(tmp_path):
    archive = io.BytesIO(saving.to_bytes(shared_model()))
    assert saving.load_model(archive).count_params() == saving.load_model(archive).count_params()


MEMORY = """
import re, sys
import mlxfunc as mf
def memory(field):
    return int(re.search(field + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
before = memory("VmRSS")
mf.saving.load_model(sys.argv[1])
print(memory("VmHWM") - before, flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read as Linux tells it")
def test_loading_takes_no_more_memory_than_the_file(tmp_path):
    path = tmp_path / "m.mlxfunc"
    i = mf.Input((5000,))
    mf.Model(i, layers.Dense(5000)(i)).save(path)
    command = [sys.executable, "-c", MEMORY, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1.2 * path.stat().st_size + 50e6


def test_a_process_that_loaded_a_model_ends_by_itself(tmp_path):
    path = tmp_path / "m.mlxfunc"
    i = mf.Input((2000,))
    mf.Model(i, layers.Dense(2000)(i)).save(path)
    load = "import sys, mlxfunc as mf; mf.saving.load_model(sys.argv[1])"
    command = [sys.executable, "-c", load, str(path)]
    for _ in range(2):  # more at once than the machine may have cores, so that threads come late
        runs = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(5)]
        assert [(run.communicate()[1], run.returncode) for run in runs] == [("", 0)] * 5
