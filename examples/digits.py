"""Two handwritten digits in; out: are they the same, and which are they?

Real 8x8 scans (scikit-learn's). One encoder is shared by both branches. The model is trained on
MLX, evaluated on held-out scans, saved, written to ONNX, and run there on the same scans.
"""

import math
from pathlib import Path

import mlx2onnx
import mlxfunc as mf
import numpy as np
import onnx
import onnxruntime
from mlxfunc import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

FOLDER = Path(__file__).parent / "out"


def pairs(images, labels, count, seed):
    """`count` pairs of scans, half of them of the same digit, and what is true of each."""
    rng = np.random.default_rng(seed)
    left = rng.integers(len(images), size=count)
    right = rng.integers(len(images), size=count)
    of_digit = [np.flatnonzero(labels == digit) for digit in range(10)]
    for k in range(0, count, 2):
        right[k] = rng.choice(of_digit[labels[left[k]]])
    x = {"left": images[left], "right": images[right]}
    same = (labels[left] == labels[right]).astype(np.float32)[:, None]
    return x, {"same": same, "left_digit": labels[left], "right_digit": labels[right]}


def build():
    image = mf.Input((8, 8, 1), name="image")
    x = layers.Conv2D(32, 3, padding="same", activation="relu")(image)
    x = layers.Conv2D(32, 3, padding="same", activation="relu")(x)
    x = layers.MaxPooling2D()(x)
    x = layers.Dropout(0.3)(layers.Flatten()(x))
    encoder = mf.Model(image, layers.Dense(64, activation="relu")(x), name="encoder")

    left, right = mf.Input((8, 8, 1), name="left"), mf.Input((8, 8, 1), name="right")
    a, b = encoder(left), encoder(right)
    distance = mf.ops.abs(a - b)
    merged = layers.concatenate([distance, layers.multiply([a, b])])
    hidden = layers.Dense(64, activation="relu")(merged)
    classes = layers.Dense(10, activation="softmax", name="digit")
    outputs = {
        "same": layers.Dense(1, activation="sigmoid", name="same")(hidden),
        "left_digit": classes(a),
        "right_digit": classes(b),
    }
    return mf.Model([left, right], outputs, name="digits")


def main():
    mf.utils.set_random_seed(0)
    digits = load_digits()
    images = (digits.images[..., None] / 16).astype(np.float32)
    split = train_test_split(images, digits.target.astype(np.int32), test_size=0.25, random_state=0)
    train_images, test_images, train_labels, test_labels = split
    x, y = pairs(train_images, train_labels, 8192, seed=1)
    x_test, y_test = pairs(test_images, test_labels, 2000, seed=2)

    model = build()
    model.summary()
    model.compile(
        optimizer="adam",
        loss={
            "same": "binary_crossentropy",
            "left_digit": "sparse_categorical_crossentropy",
            "right_digit": "sparse_categorical_crossentropy",
        },
        metrics=dict.fromkeys(y, "accuracy"),
    )
    model.fit(x, y, batch_size=128, epochs=6, validation_split=0.1)
    scores = model.evaluate(x_test, y_test, return_dict=True, verbose=0)
    for name in y_test:
        print(f"test accuracy, {name}: {scores[f'{name}_accuracy']:.4f}")

    FOLDER.mkdir(exist_ok=True)
    model.save(FOLDER / "digits.mlxfunc")
    loaded = mf.saving.load_model(FOLDER / "digits.mlxfunc")
    expected = loaded.predict(x_test, verbose=0)

    exported = loaded.export(FOLDER / "digits.onnx")
    session = onnxruntime.InferenceSession(FOLDER / "digits.onnx")
    got = dict(zip([o.name for o in session.get_outputs()], session.run(None, x_test), strict=True))
    error = max(float(np.abs(got[name] - expected[name]).max()) for name in y_test)
    accuracy = np.mean(got["left_digit"].argmax(-1) == y_test["left_digit"])
    print(
        f"ONNX Runtime on {len(y_test['same'])} test pairs: largest difference to MLX "
        f"{error:.1e}, accuracy of the left digit {accuracy:.4f}"
    )

    print(mlx2onnx.inspect(FOLDER / "digits.onnx"))
    floats = [t for t in exported.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    stored = sum(math.prod(tensor.dims) for tensor in floats)
    print(
        f"{len(exported.graph.node)} nodes; {stored} float weights stored for the "
        f"{model.count_params()} of the model: each shared weight once"
    )


if __name__ == "__main__":
    main()
