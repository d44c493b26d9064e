"""The builders of whole models, a script for Keras's functional API: only its imports are ours."""

from __future__ import annotations

from typing import Any

import mlxfunc as mf
from mlxfunc import layers

Dense, Dropout, LSTM = layers.Dense, layers.Dropout, layers.LSTM


def mlp() -> mf.Model:
    x = mf.Input((784,))
    h = Dense(64, activation="relu")(Dense(64, activation="relu")(x))
    return mf.Model(x, Dense(10, activation="softmax")(h))


def mlp_sequential() -> mf.Model:
    return mf.Sequential(
        [
            Dense(64, activation="relu", input_shape=(784,)),
            Dense(64, activation="relu"),
            Dense(10, activation="softmax"),
        ]
    )


def dropout_mlp(units: int, activation: str) -> mf.Model:
    model = mf.Sequential()
    model.add(Dense(64, activation="relu", input_dim=20))
    model.add(Dropout(0.5))
    model.add(Dense(64, activation="relu"))
    model.add(Dropout(0.5))
    model.add(Dense(units, activation=activation))
    return model


def convolve(x: Any, *filters: int) -> Any:
    """3x3 convolutions, then a 2x2 maximum."""
    for count in filters:
        x = layers.Conv2D(count, 3, activation="relu")(x)
    return layers.MaxPooling2D(2)(x)


def vgg_like(size: int = 100) -> mf.Model:
    image = mf.Input((size, size, 3))
    x = Dropout(0.25)(convolve(image, 32, 32))
    x = Dropout(0.25)(convolve(x, 64, 64))
    x = Dropout(0.5)(Dense(256, activation="relu")(layers.Flatten()(x)))
    return mf.Model(image, Dense(10, activation="softmax")(x))


def text_binary() -> mf.Model:
    return mf.Sequential(
        [
            mf.Input((None,), dtype="int32"),
            layers.Embedding(1000, 128),
            LSTM(128),
            Dropout(0.5),
            Dense(1, activation="sigmoid"),
        ]
    )


def conv1d_stack() -> mf.Model:
    return mf.Sequential(
        [
            layers.Conv1D(64, 3, activation="relu", input_shape=(100, 8)),
            layers.Conv1D(64, 3, activation="relu"),
            layers.MaxPooling1D(3),
            layers.Conv1D(128, 3, activation="relu"),
            layers.Conv1D(128, 3, activation="relu"),
            layers.GlobalAveragePooling1D(),
            Dropout(0.5),
            Dense(1, activation="sigmoid"),
        ]
    )


def time_distributed_model() -> mf.Model:
    frames = mf.Input((20, 784))
    return mf.Model(frames, layers.TimeDistributed(mlp())(frames))


def model_as_layer() -> mf.Model:
    x = mf.Input((784,))
    return mf.Model(x, mlp()(x))


def question_answering() -> mf.Model:
    text = mf.Input((None,), dtype="int32", name="text")
    question = mf.Input((None,), dtype="int32", name="question")
    encoded_text = LSTM(32)(layers.Embedding(10000, 64)(text))
    encoded_question = LSTM(32)(layers.Embedding(10000, 32)(question))
    joined = layers.concatenate([encoded_text, encoded_question], axis=-1)
    return mf.Model([text, question], Dense(500, activation="softmax")(joined))


def headline() -> mf.Model:
    words = mf.Input((100,), dtype="int32", name="main_input")
    encoded = LSTM(32)(layers.Embedding(10000, 512)(words))
    auxiliary = Dense(1, activation="sigmoid", name="aux_output")(encoded)
    extra = mf.Input((5,), name="aux_input")
    x = layers.concatenate([encoded, extra])
    for _ in range(3):
        x = Dense(64, activation="relu")(x)
    main = Dense(1, activation="sigmoid", name="main_output")(x)
    return mf.Model([words, extra], [main, auxiliary])


def siamese_tweets() -> mf.Model:
    a, b = mf.Input((280, 256), name="tweet_a"), mf.Input((280, 256), name="tweet_b")
    shared = LSTM(64, name="shared")
    joined = layers.concatenate([shared(a), shared(b)], axis=-1)
    return mf.Model([a, b], Dense(1, activation="sigmoid")(joined))


def autoencoder() -> mf.Model:
    image = mf.Input((28, 28, 1), name="image")
    x = layers.Conv2D(16, 3, activation="relu")(image)
    x = layers.Conv2D(32, 3, activation="relu")(x)
    x = layers.MaxPooling2D(3)(x)
    x = layers.Conv2D(32, 3, activation="relu")(x)
    x = layers.Conv2D(16, 3, activation="relu")(x)
    encoder = mf.Model(image, layers.GlobalMaxPooling2D()(x), name="encoder")
    code = mf.Input((16,), name="code")
    x = layers.Reshape((4, 4, 1))(code)
    x = layers.Conv2DTranspose(16, 3, activation="relu")(x)
    x = layers.Conv2DTranspose(32, 3, activation="relu")(x)
    x = layers.UpSampling2D(3)(x)
    x = layers.Conv2DTranspose(16, 3, activation="relu")(x)
    decoder = mf.Model(code, layers.Conv2DTranspose(1, 3, activation="relu")(x), name="decoder")
    whole = mf.Input((28, 28, 1), name="img")
    return mf.Model(whole, decoder(encoder(whole)), name="autoencoder")


def inception_block() -> mf.Model:
    def conv(x: Any, size: int) -> Any:
        return layers.Conv2D(64, size, padding="same", activation="relu")(x)

    image = mf.Input((32, 32, 3))
    pooled = layers.MaxPooling2D(3, strides=1, padding="same")(image)
    towers = [conv(conv(image, 1), 3), conv(conv(image, 1), 5), conv(pooled, 1)]
    return mf.Model(image, layers.concatenate(towers, axis=-1))


def residual_block() -> mf.Model:
    image = mf.Input((32, 32, 3))
    return mf.Model(image, layers.add([image, layers.Conv2D(3, 3, padding="same")(image)]))


def small_resnet() -> mf.Model:
    def residual(x: Any) -> Any:
        y = layers.Conv2D(64, 3, activation="relu", padding="same")(x)
        y = layers.Conv2D(64, 3, activation="relu", padding="same")(y)
        return layers.add([y, x])

    image = mf.Input((32, 32, 3))
    x = layers.Conv2D(32, 3, activation="relu")(image)
    x = layers.Conv2D(64, 3, activation="relu")(x)
    x = residual(residual(layers.MaxPooling2D(3)(x)))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(64, 3, activation="relu")(x))
    x = Dropout(0.5)(Dense(256, activation="relu")(x))
    return mf.Model(image, Dense(10)(x))


def two_digits() -> mf.Model:
    digit = mf.Input((27, 27, 1))
    x = layers.Conv2D(64, 3)(layers.Conv2D(64, 3)(digit))
    x = layers.Flatten()(layers.MaxPooling2D(2)(x))
    vision = mf.Model(digit, x, name="vision")
    a, b = mf.Input((27, 27, 1), name="digit_a"), mf.Input((27, 27, 1), name="digit_b")
    joined = layers.concatenate([vision(a), vision(b)])
    return mf.Model([a, b], Dense(1, activation="sigmoid")(joined))


def vision_model(size: int) -> mf.Model:
    model = mf.Sequential(name="vision")
    model.add(layers.Conv2D(64, 3, activation="relu", padding="same", input_shape=(size, size, 3)))
    model.add(layers.Conv2D(64, 3, activation="relu"))
    model.add(layers.MaxPooling2D(2))
    for filters, count in ((128, 2), (256, 3)):
        for k in range(count):
            padding = "valid" if k else "same"
            model.add(layers.Conv2D(filters, 3, activation="relu", padding=padding))
        model.add(layers.MaxPooling2D(2))
    model.add(layers.Flatten())
    return model


def question_encoder() -> mf.Model:
    question = mf.Input((100,), dtype="int32", name="question")
    encoded = LSTM(256)(layers.Embedding(10000, 256)(question))
    return mf.Model(question, encoded, name="question_encoder")


def visual_question_answering(size: int = 224) -> mf.Model:
    image, encoder = mf.Input((size, size, 3), name="image"), question_encoder()
    joined = layers.concatenate([encoder.output, vision_model(size)(image)])
    return mf.Model([image, encoder.input], Dense(1000, activation="softmax")(joined))


def video_question_answering(frames: int = 100, size: int = 224) -> mf.Model:
    video = mf.Input((frames, size, size, 3), name="video")
    encoded = LSTM(256)(layers.TimeDistributed(vision_model(size))(video))
    question = mf.Input((100,), dtype="int32", name="video_question")
    joined = layers.concatenate([encoded, question_encoder()(question)])
    return mf.Model([video, question], Dense(1000, activation="softmax")(joined))


def stateful_lstm() -> mf.Model:
    x = mf.Input((10, 8), batch_size=4)
    h = LSTM(32, return_sequences=True, stateful=True)(x)
    return mf.Model(x, Dense(10, activation="softmax")(LSTM(32, stateful=True)(h)))


def tagger(kind: str) -> mf.Model:
    words = mf.Input((None,), dtype="int32", name="words")
    x = layers.Embedding(1000, 32, mask_zero=True)(words)
    x = layers.Bidirectional(getattr(layers, kind)(24, return_sequences=True))(x)
    return mf.Model(words, Dense(9, activation="softmax")(x))


def encoder_decoder() -> mf.Model:
    source = mf.Input((None,), dtype="int32", name="source")
    target = mf.Input((None,), dtype="int32", name="target")
    _, h, c = LSTM(32, return_state=True)(layers.Embedding(500, 32)(source))
    decoded = LSTM(32, return_sequences=True)(
        layers.Embedding(500, 32)(target), initial_state=[h, c]
    )
    return mf.Model([source, target], Dense(500, activation="softmax")(decoded))


def transformer_block() -> mf.Model:
    x = mf.Input(("time", 64), name="x")
    attended = layers.MultiHeadAttention(4, 16)(x, x)
    a = layers.LayerNormalization(epsilon=1e-6)(layers.add([x, Dropout(0.1)(attended)]))
    hidden = Dense(64)(Dense(256, activation="relu")(a))
    return mf.Model(x, layers.LayerNormalization(epsilon=1e-6)(layers.add([a, hidden])))


def masked_sequences() -> mf.Model:
    x = mf.Input((None, 8), name="steps")
    y = LSTM(24, return_sequences=True)(layers.Masking(0.0)(x))
    y = layers.GRU(16)(y)
    return mf.Model(x, Dense(1, activation="sigmoid")(y))
