"""mlx.nn modules as layers: they draw, train, save and come back."""

import json
import zipfile

import mlxfunc as mf
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlxfunc import layers, saving
from mlx.utils import tree_flatten

MODULES = {
    "Linear": (lambda: nn.Linear(8, 3), ()),
    "TransformerEncoder": (lambda: nn.TransformerEncoder(1, 8, 2, 16), (None,)),
    "Sequential": (
        lambda: nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.RoPE(8), nn.LayerNorm(8), nn.relu),
        (),
    ),
    "GRU": (lambda: nn.GRU(8, 3), ()),
    "SinusoidalPositionalEncoding": (lambda: nn.SinusoidalPositionalEncoding(8), ()),
    "Conv1d": (lambda: nn.Conv1d(8, 4, 3), ()),
    "BatchNorm": (lambda: nn.BatchNorm(8), ()),
    "MultiHeadAttention": (lambda: nn.MultiHeadAttention(8, 2), "self"),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_a_layer_and_survives_the_archive(name, tmp_path):
    make, extra = MODULES[name]
    i = mf.Input((None, 8))
    arguments = (i, i) if extra == "self" else extra
    module = make()
    m = mf.Model(i, layers.MLXLayer(module)(i, *arguments))
    assert m.count_params() == sum(a.size for _, a in tree_flatten(module.parameters()))
    m.save(tmp_path / "m.mlxfunc")
    loaded = saving.load_model(tmp_path / "m.mlxfunc")
    x = np.random.default_rng(0).normal(size=(2, 5, 8))
    assert mx.array_equal(m(x), loaded(x))
    assert [p for p, _ in tree_flatten(loaded.trainable_parameters())] == [
        p for p, _ in tree_flatten(m.trainable_parameters())
    ]


def test_training_reaches_the_module():
    layer = layers.MLXLayer(nn.Dropout(0.5))
    x = mx.ones((4, 100))
    assert mx.array_equal(layer(x), x)
    assert not mx.array_equal(layer(x, training=True), x)


def test_only_modules_are_taken():
    with pytest.raises(TypeError, match=r"expected an mlx\.nn\.Module, got"):
        layers.MLXLayer(nn.relu)


@pytest.mark.parametrize("name", ["Popen", "ModuleType"])
def test_an_unknown_module_class_is_refused(name, tmp_path):
    i = mf.Input((8,))
    mf.Model(i, layers.MLXLayer(nn.Linear(8, 3))(i)).save(tmp_path / "m.mlxfunc")
    with zipfile.ZipFile(tmp_path / "m.mlxfunc") as archive:
        members = {n: archive.read(n) for n in archive.namelist()}
    config = json.loads(members["config.json"])
    config["model"]["config"]["calls"][0]["layer"]["config"]["module"]["module"] = name
    members["config.json"] = json.dumps(config)
    with zipfile.ZipFile(tmp_path / "m.mlxfunc", "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    with pytest.raises(ValueError, match=f"unknown layer '{name}'"):
        saving.load_model(tmp_path / "m.mlxfunc")
