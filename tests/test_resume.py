"""Runs that are cut, or killed, and go on as if nothing had happened."""

import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import mlxfunc as mf
import mlx.core as mx
import numpy as np
import pytest
from mlxfunc.callbacks import Callback

random = np.random.default_rng(0)
X = random.normal(size=(40, 4)).astype("float32")
Y = random.normal(size=(40, 2)).astype("float32")


class Noise(mf.Layer):
    """Draws random numbers in training."""

    def call(self, inputs, training=False):
        return inputs + 0.1 * mx.random.normal(inputs.shape) if training else inputs


class Cut(Callback):
    """Raises after so many steps, as a crash would."""

    def __init__(self, after):
        super().__init__()
        self.left = after

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def arrays():
    return {"x": X, "y": Y, "batch_size": 16}


def resumable(folder, *more, save_freq="epoch", data=arrays, epochs=6, jit_compile="auto"):
    """A run with all that is hard to bring back: noise, shuffling, Adam, patience, metrics."""
    mf.clear_session()
    mf.utils.set_random_seed(5)
    x = mf.Input((4,))
    h = Noise()(mf.layers.Dense(8, activation="tanh")(x))
    model = mf.Model(x, mf.layers.Dense(2)(h))
    model.compile("adam", "mse", metrics=["mae"], jit_compile=jit_compile)
    stop = mf.callbacks.EarlyStopping("loss", patience=epochs - 2, restore_best_weights=True)
    plateau = mf.callbacks.ReduceLROnPlateau("loss", factor=0.9, patience=1, min_delta=0.05)
    backup = [mf.callbacks.BackupAndRestore(folder, save_freq=save_freq)] if folder else []
    history = model.fit(
        **data(), epochs=epochs, verbose=0, callbacks=[stop, plateau, *backup, *more]
    )
    return model.get_weights(), history.history


@pytest.mark.parametrize("save_freq, cut", [("epoch", 1), ("epoch", 8), (1, 5), (2, 9), (1, 17)])
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_cut_run_ends_the_same(tmp_path, save_freq, cut, compiled):
    weights, history = resumable(None, jit_compile=compiled)
    with pytest.raises(KeyboardInterrupt):
        resumable(tmp_path / "backup", Cut(cut), save_freq=save_freq, jit_compile=compiled)
    again, told = resumable(tmp_path / "backup", save_freq=save_freq, jit_compile=compiled)
    for got, want in zip(again, weights, strict=True):
        np.testing.assert_array_equal(got, want)
    assert told == history
    assert not list((tmp_path / "backup").iterdir())


class CutBetween(Callback):
    """Raises as the given epoch begins or ends, when every step before it was backed up."""

    def __init__(self, where, epoch):
        super().__init__()
        self.at = (where, epoch)

    def on_epoch_begin(self, epoch, logs=None):
        if self.at == ("begin", epoch):
            raise KeyboardInterrupt

    def on_epoch_end(self, epoch, logs=None):
        if self.at == ("end", epoch):
            raise KeyboardInterrupt


@pytest.mark.parametrize("where", ["begin", "end"])
@pytest.mark.parametrize("epoch", [1, 4])
def test_a_run_cut_between_epochs_ends_the_same(tmp_path, where, epoch):
    weights, history = resumable(None)
    with pytest.raises(KeyboardInterrupt):
        resumable(tmp_path / "backup", CutBetween(where, epoch), save_freq=1)
    again, told = resumable(tmp_path / "backup", save_freq=1)
    for got, want in zip(again, weights, strict=True):
        np.testing.assert_array_equal(got, want)
    assert told == history


def test_a_cut_run_over_a_generator(tmp_path):
    def data():
        def batches():
            k = 0
            while True:
                k += 1
                yield X[k % 20 : k % 20 + 8], Y[k % 20 : k % 20 + 8]

        return {"x": batches(), "steps_per_epoch": 4}

    weights, history = resumable(None, data=data)
    with pytest.raises(KeyboardInterrupt):
        resumable(tmp_path, Cut(10), save_freq=3, data=data)
    again, told = resumable(tmp_path, save_freq=3, data=data)
    np.testing.assert_array_equal(again[0], weights[0])
    assert told == history


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import numpy as np
from mlxfunc.callbacks import ModelCheckpoint
from mlxfunc.saving import register_serializable
from test_resume import Noise, resumable
register_serializable()(Noise)
folder = {folder!r}
weights, _ = resumable(
    folder + "/backup", ModelCheckpoint(folder + "/last.mlxfunc"), save_freq=1, epochs=12
)
np.savez(folder + "/weights.npz", *weights)
"""


@pytest.mark.slow
def test_killed_twenty_times(tmp_path):
    """SIGKILL at twenty random moments, saves included; the end is the same, bit for bit."""
    weights, _ = resumable(None, epochs=12)
    code = SCRIPT.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    draw, start = np.random.default_rng(1), time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    whole = time.perf_counter() - start
    (tmp_path / "weights.npz").unlink()
    kills = 0
    while kills < 20:
        process = subprocess.Popen([sys.executable, "-c", code])
        try:
            process.wait(draw.uniform(0.3, 1.0) * whole)
        except subprocess.TimeoutExpired:
            process.kill()
            kills += 1
        process.wait()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    with np.load(tmp_path / "weights.npz") as file:
        for want, got in zip(weights, file.values(), strict=True):
            np.testing.assert_array_equal(got, want)
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"weights.npz", "last.mlxfunc"}


def test_a_run_goes_on_from_a_checkpoint(tmp_path):
    def run(model, path, *more):
        keep = mf.callbacks.ModelCheckpoint(path)
        model.fit(X, Y, batch_size=16, epochs=6, verbose=0, callbacks=[*more, keep])
        return model

    path = tmp_path / "{epoch}.mlxfunc"
    mf.utils.set_random_seed(3)
    x = mf.Input((4,))
    h = mf.layers.Dropout(0.3, seed=1)(mf.layers.Dense(8, activation="tanh")(x))
    model = mf.Model(x, mf.layers.Dense(2)(mf.layers.GaussianNoise(0.1)(h)))
    model.compile("adam", "mse")
    run(model, path)
    again = mf.saving.load_model(tmp_path / "2.mlxfunc")
    mf.utils.set_random_seed(99)
    run(again, tmp_path / "again.mlxfunc", mf.callbacks.ResumeFrom(tmp_path / "2.mlxfunc"))
    for got, want in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(got, want)
    again.save(tmp_path / "plain.mlxfunc")
    with pytest.raises(ValueError, match="expected a whole file of BackupAndRestore or Model"):
        run(again, path, mf.callbacks.ResumeFrom(tmp_path / "plain.mlxfunc"))


def test_a_damaged_backup_is_refused(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        resumable(tmp_path, Cut(8))
    path = tmp_path / "training.zip"
    whole = path.read_bytes()
    for content in (whole[:-400], whole.replace(b'"F32"', b'"F16"'), b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"training\.zip: expected a whole .* Remove it"):
            resumable(tmp_path)
    path.write_bytes(whole)
    assert resumable(tmp_path)


def test_a_backup_of_another_model_leaves_this_one_as_it_is(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        resumable(tmp_path, Cut(8))
    x = mf.Input((4,))
    model = mf.Model(x, mf.layers.Dense(2)(x))
    model.compile("adam", "mse")
    before = model.get_weights()
    with pytest.raises(ValueError, match="Take the model, data and callbacks"):
        model.fit(X, Y, callbacks=[mf.callbacks.BackupAndRestore(tmp_path)], verbose=0)
    for got, want in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(got, want)


L = mf.layers
FROZEN = {
    "dense": ((37,), lambda x: L.Dense(41, trainable=False)(x)),
    "recurrent": ((9, 23), lambda x: L.LSTM(17, trainable=False)(x)),
    "convolution": ((9, 7), lambda x: L.Flatten()(L.Conv1D(13, 3, trainable=False)(x))),
    "attention": ((9, 11), lambda x: L.LSTM(5)(L.MultiHeadAttention(2, 8, trainable=False)(x, x))),
}


@pytest.mark.parametrize("optimizer", ["adam", "adafactor"])
@pytest.mark.parametrize("shape, draw", FROZEN.values(), ids=FROZEN)
def test_a_model_with_a_frozen_layer_goes_on_bit_for_bit(tmp_path, shape, draw, optimizer):
    mf.utils.set_random_seed(1)
    x = mf.Input(shape)
    model = mf.Model(x, L.Dense(2)(draw(x)))
    model.compile(optimizer, "mse", jit_compile=False)
    rng = np.random.default_rng(0)
    data = {"x": rng.normal(size=(24, *shape)).astype("f4"), "y": Y[:24]}
    model.fit(**data, verbose=0)
    model.save(tmp_path / "m.mlxfunc")
    loaded = mf.saving.load_model(tmp_path / "m.mlxfunc")
    np.testing.assert_array_equal(loaded.predict(data["x"]), model.predict(data["x"]))
    for each in (model, loaded):
        each.fit(**data, epochs=2, shuffle=False, verbose=0)
    for got, want in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(got, want)


# By name: what facts of a backup are changed to. None of them comes from a fault of the disk.
FALSE_FACTS = {
    "epoch": ('"epoch": ', '"epoch": "one", "old": '),
    "place": ('"offset": ', '"offset": "one", "old": '),
    "random": ('"random": ', '"random": -1, "old": '),
    "callback": ('EarlyStopping0.wait": "', 'EarlyStopping0.wait": "[1]", "old": "'),
    "attribute": ('EarlyStopping0.wait": "', 'EarlyStopping0.model": "'),
}


def change_facts(path, old, new):
    """Replaces a text among the facts of a backup."""
    with zipfile.ZipFile(path) as archive:
        content = archive.read("training.safetensors")
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    facts = header["__metadata__"]["facts"]
    assert old in facts
    header["__metadata__"]["facts"] = facts.replace(old, new)
    text = json.dumps(header).encode()
    with zipfile.ZipFile(path, "w") as archive:
        member = len(text).to_bytes(8, "little") + text + content[8 + size :]
        archive.writestr("training.safetensors", member)


@pytest.mark.parametrize("old, new", FALSE_FACTS.values(), ids=FALSE_FACTS)
def test_a_backup_with_false_facts_is_refused(tmp_path, old, new):
    with pytest.raises(KeyboardInterrupt):
        resumable(tmp_path, Cut(8))
    change_facts(tmp_path / "training.zip", old, new)
    with pytest.raises(ValueError, match=r"training\.zip: expected "):
        resumable(tmp_path)


@pytest.mark.parametrize("fact", ["step", "epoch", "offset", "drawn"])
@pytest.mark.filterwarnings("ignore:.*is not logged")
def test_a_backup_from_beyond_the_data_ends_the_run(tmp_path, fact):
    with pytest.raises(KeyboardInterrupt):
        resumable(tmp_path, Cut(8))
    change_facts(tmp_path / "training.zip", f'"{fact}": ', f'"{fact}": 10000, "old": ')
    resumable(tmp_path)
