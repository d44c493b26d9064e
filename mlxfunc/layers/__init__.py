"""Every layer, and `Input`."""

from ..layer import LAYERS, Input, InputLayer, InputSpec, Layer
from .cells import GRUCell, LSTMCell, SimpleRNNCell, StackedRNNCells
from .conv_lstm import ConvLSTM2D
from .core import Activation, Dense, Embedding, Identity, Lambda, Masking, MLXLayer
from .merging import (
    Add,
    Average,
    Concatenate,
    Dot,
    Maximum,
    Minimum,
    Multiply,
    Subtract,
    add,
    average,
    concatenate,
    dot,
    maximum,
    minimum,
    multiply,
    subtract,
)
from .recurrent import GRU, LSTM, RNN, SimpleRNN
from .wrappers import Bidirectional, TimeDistributed

for _object in list(globals().values()):
    if isinstance(_object, type) and issubclass(_object, Layer) and _object is not Layer:
        LAYERS.register(_object)
