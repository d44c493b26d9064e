"""Rows of layers over sequences: recurrent ones, wrappers, attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from case import Case, masked


def started(layer: Any, x: Any, *states: Any) -> Any:
    """layer(x, initial_state=states)"""
    return layer(x, initial_state=list(states))


def recurrent(name: str, build: Callable[[Any], Any], **kwargs: Any) -> list[Case]:
    """A recurrent layer alone, and with any mask."""
    return [
        Case(name, build, ((None, 3),), **kwargs),
        Case(f"{name}-mask", build, ((None, 3), (None,)), ("float32", "bool"), masked, **kwargs),
    ]


RECURRENT = [
    *(
        row
        for name in ("SimpleRNN", "LSTM", "GRU")
        for suffix, options in (
            ("", {}),
            ("-sequences", {"return_sequences": True}),
            ("-states", {"return_state": True, "return_sequences": True}),
            ("-backwards", {"go_backwards": True}),
            ("-backwards-sequences", {"go_backwards": True, "return_sequences": True}),
            ("-zeros", {"zero_output_for_mask": True, "return_sequences": True}),
            ("-no-bias", {"use_bias": False}),
            ("-relu", {"activation": "relu"}),
            ("-gelu", {"activation": "gelu", "return_sequences": True}),
        )
        for row in recurrent(
            f"{name.lower()}{suffix}", lambda L, n=name, o=options: getattr(L, n)(4, **o)
        )
    ),
    Case("lstm-fixed-time", lambda L: L.LSTM(4), ((5, 3),)),
    Case("lstm-started", lambda L: L.LSTM(4), ((None, 3), (4,), (4,)), call=started),
    Case("lstm-hard", lambda L: L.LSTM(4, recurrent_activation="hard_sigmoid"), ((5, 3),)),
    Case("lstm-forget-0", lambda L: L.LSTM(4, unit_forget_bias=False), ((5, 3),)),
    Case("lstm-dropout", lambda L: L.LSTM(4, dropout=0.2, recurrent_dropout=0.2), ((5, 3),)),
    Case("gru-started", lambda L: L.GRU(4, return_state=True), ((5, 3), (4,)), call=started),
    *recurrent("gru-before", lambda L: L.GRU(4, reset_after=False, return_sequences=True)),
    *recurrent("rnn", lambda L: L.RNN(L.LSTMCell(4), return_sequences=True)),
    *recurrent("rnn-gru-cell", lambda L: L.RNN(L.GRUCell(4), go_backwards=True)),
    *recurrent("rnn-simple-cell", lambda L: L.RNN(L.SimpleRNNCell(4), return_state=True)),
    *recurrent("rnn-stacked", lambda L: L.RNN([L.LSTMCell(4), L.GRUCell(3)])),
    *recurrent(
        "rnn-stacked-states",
        lambda L: L.RNN(
            [L.SimpleRNNCell(1), L.LSTMCell(4), L.GRUCell(2)],
            return_sequences=True,
            return_state=True,
            go_backwards=True,
        ),
    ),
    *recurrent(
        "rnn-stacked-twice",
        lambda L: L.RNN(
            [L.SimpleRNNCell(1), L.StackedRNNCells([L.LSTMCell(3), L.GRUCell(2)])],
            return_state=True,
            return_sequences=True,
        ),
    ),
    *(
        row
        for name in ("SimpleRNN", "LSTM", "GRU")
        for suffix, options, merge in (
            ("", {}, "concat"),
            ("-sequences", {"return_sequences": True}, "concat"),
            ("-states", {"return_sequences": True, "return_state": True}, "sum"),
            ("-none", {"return_sequences": True}, None),
            ("-ave", {}, "ave"),
        )
        for row in recurrent(
            f"bidirectional-{name.lower()}{suffix}",
            lambda L, n=name, o=options, m=merge: L.Bidirectional(
                getattr(L, n)(4, **o), merge_mode=m
            ),
        )
    ),
    Case(
        "bidirectional-uneven",
        lambda L: L.Bidirectional(
            L.LSTM(4), backward_layer=L.LSTM(4, activation="relu", go_backwards=True)
        ),
        ((None, 3),),
    ),
    Case("time-distributed-dense", lambda L: L.TimeDistributed(L.Dense(2)), ((None, 3),)),
    Case("time-distributed-lstm", lambda L: L.TimeDistributed(L.LSTM(2)), ((3, 4, 5),)),
    Case("conv-lstm", lambda L: L.ConvLSTM2D(2, 3), ((3, 5, 6, 2),)),
    Case(
        "conv-lstm-same",
        lambda L: L.ConvLSTM2D(2, (3, 2), strides=2, padding="same", return_sequences=True),
        ((None, 5, 6, 2),),
    ),
    Case(
        "conv-lstm-dilated",
        lambda L: L.ConvLSTM2D(2, 2, dilation_rate=2, return_state=True, go_backwards=True),
        ((3, 5, 6, 2),),
    ),
]


def attend(layer: Any, query: Any, value: Any, *masks: Any, **options: Any) -> Any:
    """layer([query, value], mask=[query_mask, value_mask])"""
    return layer([query, value], **({"mask": list(masks)} if masks else {}), **options)


def causal(layer: Any, query: Any, value: Any, *masks: Any) -> Any:
    return attend(layer, query, value, *masks, use_causal_mask=True)


QUERY_VALUE = ((4, 3), (5, 3))
QUERY_VALUE_MASKS = ((4, 3), (5, 3), (4,), (5,))
TWO_MASKS = ("float32", "float32", "bool", "bool")

ATTENTION = [
    Case("attention", lambda L: L.Attention(), QUERY_VALUE),
    Case("attention-key", lambda L: L.Attention(), ((4, 3), (5, 2), (5, 3))),
    Case("attention-scale", lambda L: L.Attention(use_scale=True), QUERY_VALUE),
    Case("attention-concat", lambda L: L.Attention(True, "concat"), QUERY_VALUE),
    Case("attention-masks", lambda L: L.Attention(), QUERY_VALUE_MASKS, TWO_MASKS, attend),
    Case("attention-causal", lambda L: L.Attention(), QUERY_VALUE, call=causal),
    Case("attention-causal-masks", lambda L: L.Attention(), QUERY_VALUE_MASKS, TWO_MASKS, causal),
    Case(
        "attention-scores",
        lambda L: L.Attention(dropout=0.2),
        QUERY_VALUE,
        call=lambda layer, q, v: layer([q, v], return_attention_scores=True),
        trains=False,
    ),
    Case("additiveattention", lambda L: L.AdditiveAttention(), QUERY_VALUE),
    Case("additiveattention-plain", lambda L: L.AdditiveAttention(False), QUERY_VALUE),
    Case(
        "additiveattention-masks",
        lambda L: L.AdditiveAttention(),
        QUERY_VALUE_MASKS,
        TWO_MASKS,
        causal,
    ),
    # Keras's fused attention wants values as wide as keys; with dropout it takes the other way.
    Case(
        "multiheadattention-value-dim",
        lambda L: L.MultiHeadAttention(2, 3, value_dim=4, dropout=0.1),
        ((4, 6), (5, 6)),
        call=lambda layer, q, v: layer(q, v),
        trains=False,
    ),
    *(
        Case(f"multiheadattention{suffix}", make, shapes, dtypes, call)
        for suffix, make, shapes, dtypes, call in (
            (
                "",
                lambda L: L.MultiHeadAttention(2, 3),
                ((4, 6), (5, 6)),
                "float32",
                lambda layer, q, v: layer(q, v),
            ),
            (
                "-self",
                lambda L: L.MultiHeadAttention(2, 3),
                ((None, 6),),
                "float32",
                lambda layer, x: layer(x, x),
            ),
            (
                "-key",
                lambda L: L.MultiHeadAttention(2, 3, output_shape=5),
                ((4, 6), (5, 2), (5, 3)),
                "float32",
                lambda layer, q, v, k: layer(q, v, k),
            ),
            (
                "-no-bias",
                lambda L: L.MultiHeadAttention(2, 3, use_bias=False),
                ((4, 6), (5, 6)),
                "float32",
                lambda layer, q, v: layer(q, v),
            ),
            (
                "-causal",
                lambda L: L.MultiHeadAttention(2, 3),
                ((4, 6),),
                "float32",
                lambda layer, x: layer(x, x, use_causal_mask=True),
            ),
            (
                "-causal-uneven",
                lambda L: L.MultiHeadAttention(2, 3),
                ((4, 6), (5, 6)),
                "float32",
                lambda layer, q, v: layer(q, v, use_causal_mask=True),
            ),
            (
                "-mask",
                lambda L: L.MultiHeadAttention(2, 3),
                ((4, 6), (5, 6), (4, 5)),
                ("float32", "float32", "bool"),
                lambda layer, q, v, m: layer(q, v, attention_mask=m),
            ),
            (
                "-value-mask",
                lambda L: L.MultiHeadAttention(2, 3),
                ((4, 6), (5, 6), (5,)),
                ("float32", "float32", "bool"),
                lambda layer, q, v, m: layer(q, v, value_mask=m, use_causal_mask=True),
            ),
            (
                "-scores",
                lambda L: L.MultiHeadAttention(2, 3),
                ((4, 6), (4, 4)),
                ("float32", "bool"),
                lambda layer, x, m: layer(
                    x, x, attention_mask=m, use_causal_mask=True, return_attention_scores=True
                ),
            ),
            (
                "-window",
                lambda L: L.MultiHeadAttention(2, 3, sliding_window=2),
                ((6, 4),),
                "float32",
                lambda layer, x: layer(x, x),
            ),
            (
                "-gate",
                lambda L: L.MultiHeadAttention(2, 3, use_gate=True),
                ((4, 6),),
                "float32",
                lambda layer, x: layer(x, x),
            ),
            (
                "-image",
                lambda L: L.MultiHeadAttention(2, 3),
                ((3, 4, 5),),
                "float32",
                lambda layer, x: layer(x, x),
            ),
            (
                "-rows",
                lambda L: L.MultiHeadAttention(2, 3, attention_axes=2),
                ((3, 4, 5), (3, 6, 5)),
                "float32",
                lambda layer, q, v: layer(q, v),
            ),
        )
    ),
]
