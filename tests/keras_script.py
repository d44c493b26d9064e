"""A script as users write them for Keras; `renamed.for_keras` runs the same text with Keras."""

import numpy as np
from mlxfunc import Model, Sequential, callbacks, layers, losses, metrics, optimizers, regularizers
from mlxfunc.layers import LSTM, Dense, Dropout, Embedding, Input, concatenate
from mlxfunc.models import clone_model
from mlxfunc.utils import PyDataset, clear_session, pad_sequences, set_random_seed, to_categorical

ROWS, CLASSES = 60, 3
random = np.random.default_rng(0)
IMAGES = random.normal(size=(ROWS, 12, 12, 2)).astype("float32")
LABELS = random.integers(0, CLASSES, size=ROWS)
TEXTS = pad_sequences(
    [list(random.integers(1, 50, size=n)) for n in random.integers(2, 9, size=ROWS)], maxlen=8
)
EXTRA = random.normal(size=(ROWS, 5)).astype("float32")
BITS = random.integers(0, 2, size=(ROWS, 1)).astype("float32")


class Scale(layers.Layer):
    """A layer of the user's own."""

    def __init__(self, start=1.0, **kwargs):
        super().__init__(**kwargs)
        self.start = start

    def build(self, input_shape):
        self.factor = self.add_weight(
            name="factor", shape=(input_shape[-1],), initializer="ones", trainable=True
        )

    def call(self, inputs):
        return inputs * self.factor * self.start

    def get_config(self):
        return {**super().get_config(), "start": self.start}


class Recorder(callbacks.Callback):
    """A callback of the user's own: which hooks ran, and with which logs."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_begin(self, logs=None):
        self.seen.append("train")

    def on_epoch_begin(self, epoch, logs=None):
        self.seen.append(f"begin {epoch}")

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(f"end {epoch} {sorted(logs)} {type(self.model.optimizer).__name__}")

    def on_test_end(self, logs=None):
        self.seen.append(f"test {sorted(logs or {})}")


class Batches(PyDataset):
    def __len__(self):
        return 5

    def __getitem__(self, index):
        rows = slice(index * 12, index * 12 + 12)
        return IMAGES[rows], to_categorical(LABELS[rows], CLASSES)


def generated():
    while True:
        rows = random.integers(0, ROWS, size=10)
        yield IMAGES[rows], to_categorical(LABELS[rows], CLASSES)


def classifier():
    model = Sequential(name="classifier")
    model.add(Input((12, 12, 2)))
    model.add(layers.Conv2D(4, (3, 3), padding="same", kernel_regularizer=regularizers.L2(1e-4)))
    model.add(layers.BatchNormalization())
    model.add(layers.Activation("relu"))
    model.add(layers.MaxPooling2D(pool_size=(2, 2)))
    model.add(layers.SeparableConv2D(6, 3, activation="relu"))
    model.add(layers.GlobalAveragePooling2D())
    model.add(Dropout(0.25))
    model.add(Scale(0.5))
    model.add(Dense(CLASSES, activation="softmax", kernel_constraint="max_norm"))
    return model


def two_headed():
    words = Input(shape=(None,), dtype="int32", name="words")
    extra = Input(shape=(5,), name="extra")
    encoded = LSTM(6)(Embedding(50, 8, mask_zero=True)(words))
    auxiliary = Dense(1, activation="sigmoid", name="auxiliary")(encoded)
    joined = concatenate([encoded, extra])
    for units in (8, 8):
        joined = Dense(units, activation="relu")(joined)
    main = Dense(1, activation="sigmoid", name="main")(joined)
    return Model(inputs=[words, extra], outputs=[main, auxiliary], name="two_headed")


def images(seen):
    model, recorder = classifier(), Recorder()
    schedule = optimizers.schedules.ExponentialDecay(1e-2, decay_steps=10, decay_rate=0.9)
    model.compile(
        optimizer=optimizers.Adam(learning_rate=schedule, clipnorm=1.0),
        loss=losses.CategoricalCrossentropy(label_smoothing=0.1),
        metrics=["accuracy", metrics.TopKCategoricalAccuracy(k=2, name="top2")],
    )
    targets = to_categorical(LABELS, CLASSES)
    history = model.fit(
        x=IMAGES, y=targets, batch_size=16, epochs=3, verbose=0, validation_split=0.2,
        shuffle=True, class_weight={0: 1.0, 1: 2.0, 2: 0.5},
        callbacks=[recorder, callbacks.TerminateOnNaN(), callbacks.EarlyStopping(patience=5)],
    )  # fmt: skip
    seen["images"] = [list(history.history), history.epoch, recorder.seen]
    history = model.fit(Batches(), epochs=5, initial_epoch=3, verbose=0, validation_data=Batches())
    seen["dataset"] = [list(history.history), history.epoch]
    history = model.fit(generated(), steps_per_epoch=2, epochs=1, verbose=0)
    seen["generator"] = [list(history.history), history.params["steps"]]
    seen["evaluate"] = list(model.evaluate(IMAGES, targets, verbose=0, return_dict=True))
    seen["predict"] = list(model.predict(IMAGES, batch_size=7, verbose=0).shape)
    features = Model(model.inputs, model.get_layer("activation").output)
    seen["features"] = list(features.predict(IMAGES[:3], verbose=0).shape)
    twin = clone_model(model)
    twin.set_weights(model.get_weights())
    seen["twin"] = bool(
        np.allclose(twin.predict(IMAGES, verbose=0), model.predict(IMAGES, verbose=0))
    )


def texts(seen, folder):
    model = two_headed()
    model.compile(
        optimizer="rmsprop",
        loss={"main": "binary_crossentropy", "auxiliary": "binary_crossentropy"},
        loss_weights={"main": 1.0, "auxiliary": 0.2},
        metrics={"main": ["accuracy", metrics.AUC(name="auc")], "auxiliary": ["mae"]},
    )
    rates = []
    history = model.fit(
        {"words": TEXTS, "extra": EXTRA},
        {"main": BITS, "auxiliary": BITS},
        epochs=4, batch_size=20, verbose=0, validation_split=0.25, validation_freq=2,
        callbacks=[
            callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.5),
            callbacks.ReduceLROnPlateau(monitor="loss", patience=1),
            callbacks.CSVLogger(f"{folder}/log.csv"),
            callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: rates.append(epoch)),
        ],
    )  # fmt: skip
    with open(f"{folder}/log.csv") as log:
        seen["csv"] = log.readline().strip().split(",")
    seen["texts"] = [list(history.history), history.epoch, rates]
    values = model.evaluate([TEXTS, EXTRA], [BITS, BITS], verbose=0)
    seen["values"] = len(values)
    main, auxiliary = model.predict([TEXTS, EXTRA], verbose=0)
    seen["outputs"] = [list(main.shape), list(auxiliary.shape)]
    model = two_headed()
    model.compile(optimizer=optimizers.SGD(0.01, momentum=0.9, nesterov=True), loss="mse")
    history = model.fit([TEXTS, EXTRA], [BITS, BITS], sample_weight=np.ones(ROWS), verbose=0)
    seen["one loss"] = list(history.history)
    model.get_layer("embedding_1").trainable = False
    seen["frozen"] = [len(model.trainable_weights), len(model.non_trainable_weights)]
    seen["weights"] = [list(w.shape) for w in model.get_weights()]


def main(folder):
    set_random_seed(1)
    clear_session()
    seen = {}
    images(seen)
    texts(seen, folder)
    return seen
