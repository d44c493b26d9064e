"""What listens to and steers training: `mf.callbacks.EarlyStopping(patience=3)`."""

from .training.callback_list import CallbackList
from .training.callbacks import (
    Callback,
    History,
    LambdaCallback,
    LearningRateScheduler,
    SwapEMAWeights,
    TerminateOnNaN,
)
from .training.checkpoint import BackupAndRestore, ModelCheckpoint, ResumeFrom
from .training.monitors import EarlyStopping, ReduceLROnPlateau
from .training.progress import ProgbarLogger
from .training.records import CSVLogger, TensorBoard

__all__ = [
    "BackupAndRestore",
    "CSVLogger",
    "Callback",
    "CallbackList",
    "EarlyStopping",
    "History",
    "LambdaCallback",
    "LearningRateScheduler",
    "ModelCheckpoint",
    "ProgbarLogger",
    "ReduceLROnPlateau",
    "ResumeFrom",
    "SwapEMAWeights",
    "TensorBoard",
    "TerminateOnNaN",
]
