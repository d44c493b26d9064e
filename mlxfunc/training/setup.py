"""What a model keeps for training: compile's arguments, and the steps made from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain, islice
from typing import Any

import mlx.core as mx
import mlx.optimizers
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from .. import optimizers
from ..conversion import to_mlx
from ..graph import leaves
from ..random_state import get_random_state, set_random_state
from ..storage import check
from . import distributed
from . import step as steps
from .callbacks import CallbackList
from .data import Batch, is_dataset, is_stream
from .logs import to_floats
from .objective import Objective, checker
from .precision import LossScale, parse


class Setup:
    """`compile`, and the overridable steps."""

    # The model's own, which this is mixed into.
    name: Any
    built: Any
    input_names: Any
    output_names: Any
    inputs: Any
    outputs: Any
    output: Any
    parameters: Any
    trainable_parameters: Any
    named_modules: Any
    update: Any
    regularization_loss: Any

    compiled = False
    optimizer: Any = None
    compute_dtype: mx.Dtype | None = None
    loss_scale: LossScale | None = None
    jit_compile: bool | str = "auto"
    steps_per_execution = 1
    stop_training = False
    history: Any = None
    resume: Any = None
    feed: Any = None
    callback_list: Any = ()
    batch_rows = (1, 1)
    _objective: Objective | None = None
    _batches_seen = 0
    _warned_not_finite = False
    _steps: dict[Any, Any] | None = None

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        jit_compile: bool | str = "auto",
        auto_scale_loss: bool = True,
        *,
        dtype: Any = None,
        sample_weight_mode: Any = None,
        target_tensors: Any = None,
    ) -> None:
        """Say how to train.

        Args:
            optimizer: a name, an object of `optimizers`, or of `mlx.optimizers`.
            loss, metrics, weighted_metrics: names, objects, or functions of MLX arrays
                `(y_true, y_pred)`; for several outputs a list or a dict by output name. One loss
                is used for every output. Only weighted_metrics see sample and class weights.
            loss_weights: a factor for each output's loss.
            jit_compile: whether steps are compiled. "auto": always on a GPU; on the CPU, where
                the first compilation takes seconds, for runs of 1000 steps or more.
            run_eagerly: never compile, so that a debugger and print work in a step.
            steps_per_execution: steps between two calls of batch callbacks.
            dtype: "bfloat16" or "float16": layers compute in it, on weights kept in float32;
                float16 with dynamic loss scaling (unless `auto_scale_loss` is False).
            sample_weight_mode: "temporal" is accepted; weights of shape (rows, time) suffice.
        Source: https://keras.io/api/models/model_training_apis/
        """
        _check(target_tensors, sample_weight_mode, jit_compile, steps_per_execution)
        raw = isinstance(optimizer, mlx.optimizers.Optimizer)
        self.optimizer = optimizer if raw else optimizers.get(optimizer)
        self._arguments = {
            "loss": loss,
            "loss_weights": loss_weights,
            "metrics": metrics,
            "weighted_metrics": weighted_metrics,
        }
        self._options = (
            ("run_eagerly", run_eagerly),
            ("steps_per_execution", steps_per_execution),
            ("jit_compile", jit_compile),
            ("auto_scale_loss", auto_scale_loss),
            ("dtype", None if dtype is None else str(dtype).rpartition(".")[2]),
        )
        self.compute_dtype = parse(dtype)
        half = self.compute_dtype is not None and self.compute_dtype == mx.float16
        self.loss_scale = LossScale() if half and auto_scale_loss else None
        self.jit_compile = False if run_eagerly else jit_compile
        self.steps_per_execution = steps_per_execution
        self._objective, self._steps = None, {}
        self._batches_seen, self._warned_not_finite = 0, False
        self.compiled = True
        if self.built:
            self.objective  # noqa: B018  Unknown names are told now.

    def compile_config(self) -> dict[str, Any]:
        """compile's arguments, for `compile_from_config`."""
        return {"optimizer": self.optimizer, **self._arguments, **dict(self._options)}

    def compile_from_config(self, config: Mapping[str, Any]) -> None:
        """Compile with the arguments that `compile_config` gave, serialized or not."""
        self.compile(**config)

    @property
    def objective(self) -> Objective:
        """Losses and metrics, bound to the outputs."""
        if self._objective is None:
            arguments = self._arguments
            self._objective = Objective(self.output_names, self.outputs, **arguments)
        return self._objective

    # What a subclass may override.

    def train_step(self, data: tuple) -> Mapping[str, mx.array]:
        """One training step on `(x, y)` or `(x, y, sample_weight)`; returns what is logged.

        It may be compiled: use MLX operations on what it is given, and read no values.
        """
        return steps.train(self, data)

    def test_step(self, data: tuple) -> Mapping[str, mx.array]:
        """One step of evaluate; returns what is logged."""
        return steps.test(self, data)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> mx.array:
        """The loss of predictions: compile's losses, and the penalties of the weights."""
        outputs = leaves(y_pred)
        ys, ws = steps.as_list(y), steps.as_list(sample_weight)
        values = self.objective.loss(ys, outputs, ws, [None] * len(outputs))
        total = self.objective.total(values) + self.regularization_loss()
        return total

    def apply_gradients(self, gradients: Any) -> None:
        """Move the trainable weights, as `train_step` does: averaged, scaled, constrained."""
        steps.apply(self, gradients)

    def compute_metrics(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> dict[str, mx.array]:
        """Count predictions in the metrics; returns what is logged."""
        outputs = leaves(y_pred)
        ys, ws = steps.as_list(y), steps.as_list(sample_weight)
        self.objective.update(ys, outputs, ws, [None] * len(outputs))
        return self.objective.results()

    # Metrics.

    @property
    def metrics(self) -> list[Any]:
        """The metric objects, once data has told their shapes."""
        return (
            [] if self._objective is None else [m for _, _, m in self._objective.metrics.values()]
        )

    @property
    def metrics_names(self) -> list[str]:
        """What evaluate returns, in its order."""
        return [] if self._objective is None else self._ordered(self._objective.keys)

    def reset_metrics(self) -> None:
        """Begin all means and metrics afresh."""
        if self._objective is not None:
            self._objective.reset()

    def get_metrics_result(self) -> dict[str, Any]:
        """Every logged value so far, as floats."""
        return to_floats(self.objective.results())

    def defer(self, function: Callable[[], None]) -> None:
        """Run `function` once every callback has heard of the batch or epoch that is ending."""
        self._deferred = (*self._deferred, function)

    _deferred: tuple[Callable[[], None], ...] = ()

    def _run_deferred(self) -> None:
        if self._deferred:
            functions, self._deferred = self._deferred, ()
            for function in functions:
                function()

    def _ordered(self, keys: list[str]) -> list[str]:
        known = set(keys)
        single = [k for k in self.objective.metrics if len(self.output_names) == 1]
        losses = [f"{name}_loss" for name in self.output_names]
        first = [k for k in dict.fromkeys(["loss", *single, *losses]) if k in known]
        return first + sorted(known - set(first))

    def _in_order(self, logs: Mapping[str, Any]) -> Any:
        values = [logs[key] for key in self._ordered(list(logs))]
        return values[0] if len(values) == 1 else values

    # Steps.

    def _step(self, kind: str, compiled: bool) -> steps.Step:
        """The step of this kind, made anew when the state that it captures is another."""
        optimizer_state = self.optimizer.state if kind == "train" else None
        trained = tuple(flat[0] for flat in tree_flatten(self.trainable_parameters()))
        key = (kind, compiled, trained)
        if self._steps is None:
            self._steps = {}
        captured, step = self._steps.get(key, (None, None))
        if step is not None and captured is optimizer_state:
            return step
        state: list[Any] = [self]
        if kind != "predict":
            state += self.objective.state
        if kind == "train":
            state.append(optimizer_state)
            state += [self.loss_scale.state] if self.loss_scale is not None else []
        step = steps.Step(getattr(self, f"_{kind}_batch"), state, compiled)
        self._steps[key] = (optimizer_state, step)
        return step

    def _train_batch(self, x: list, y: list, w: list, rows: int, total: int) -> Any:
        self.batch_rows = (rows, total)
        return dict(self.train_step(steps.pack(Batch(x, y, w))))

    def _test_batch(self, x: list, y: list, w: list, rows: int, total: int) -> Any:
        self.batch_rows = (rows, total)
        return dict(self.test_step(steps.pack(Batch(x, y, w))))

    def _predict_batch(self, x: list, y: list, w: list, rows: int, total: int) -> Any:
        return steps.predict(self, steps.pack(Batch(x)))

    def _worth_compiling(self, count: int | None) -> bool:
        return steps.should_compile(self.jit_compile, count)

    def _start_training(self) -> None:
        """Slots for every trainable weight; on several machines, rank 0's weights for all."""
        if hasattr(self.optimizer, "layouts"):
            self.optimizer.layouts |= self._layouts()
        if distributed.size() > 1:
            self.update(distributed.from_main(self.parameters()))
            set_random_state((get_random_state() + distributed.rank()) % 2**64)
        self.optimizer.init(self.trainable_parameters())
        if hasattr(self.optimizer, "begin"):
            self.optimizer.begin()

    def set_optimizer_state(self, state: Mapping[str, mx.array]) -> None:
        """Take the optimizer's arrays by their paths: of each weight all it has, or none.

        Raises: ValueError for others than it would have of these weights.
        """
        if hasattr(self.optimizer, "layouts"):
            self.optimizer.layouts |= self._layouts()
        self.optimizer.init(self.parameters())
        owners = {path.rpartition(".")[0] for path in state}
        own = dict(tree_flatten(self.optimizer.state))
        check(state, {path: own[path] for path in own if path.rpartition(".")[0] in owners})
        self.optimizer.state = tree_unflatten([*state.items()])

    def _layouts(self) -> dict[str, tuple[int, ...]]:
        """The axes from Keras's layout to MLX's, of each weight whose layouts differ."""
        return {
            f"{path}.{name}" if path else name: record.axes
            for path, module in self.named_modules()
            for name, record in getattr(module, "_records", {}).items()
            if record.axes is not None
        }

    def _checker(self) -> Any:
        return checker(self, self.objective)

    def _share(self) -> Any:
        return distributed.share if distributed.size() > 1 else None

    def _shuffle_seed(self) -> int:
        seed = mx.array(np.random.randint(2**31 - 1), mx.int32)
        return int(distributed.from_main(seed).item())

    def _reduced(self, logs: Mapping[str, Any]) -> Mapping[str, Any]:
        """The logs of all machines together: their sums added up, results from the totals."""
        if distributed.size() == 1 or not set(logs) <= set(self.objective.keys):
            return logs
        own = [dict(state) for state in self.objective.state]
        for state in self.objective.state:
            state.update(distributed.total_of(dict(state)))
        logs = to_floats(self.objective.results())
        for state, before in zip(self.objective.state, own, strict=True):
            state.update(before)
        return logs

    def _callbacks(
        self, given: Any, verbose: int | str, epochs: int, count: int | None, history: bool = False
    ) -> CallbackList:
        if isinstance(given, CallbackList):
            return given
        if verbose not in (0, 1, 2, "auto"):
            raise ValueError(f"verbose: expected 0, 1, 2 or 'auto', got {verbose!r}.")
        level = 1 if verbose == "auto" else int(verbose)
        return CallbackList(
            given, history, level != 0, self, verbose=level, epochs=epochs, steps=count
        )

    def _require_compiled(self, what: str) -> None:
        if not self.compiled:
            raise RuntimeError(f"{self.name}: expected compile(...) before {what}(...).")


def _check(
    target_tensors: Any, sample_weight_mode: Any, jit_compile: Any, steps_per_execution: Any
) -> None:
    """Raise ValueError for arguments of compile that nothing can be made of."""
    if target_tensors is not None:
        raise ValueError("compile: target_tensors is not supported. Give y to fit.")
    modes = sample_weight_mode if isinstance(sample_weight_mode, list | dict) else None
    for mode in leaves(modes) if modes else [sample_weight_mode]:
        if mode not in (None, "temporal"):
            raise ValueError(f"compile: expected sample_weight_mode 'temporal', got {mode!r}.")
    if jit_compile not in (True, False, "auto"):
        raise ValueError(
            f"compile: expected jit_compile True, False or 'auto', got {jit_compile!r}."
        )
    if not isinstance(steps_per_execution, int) or steps_per_execution < 1:
        raise ValueError(
            f"compile: expected steps_per_execution of 1 or more, got {steps_per_execution!r}."
        )


def build_for(model: Any, x: Any) -> Any:
    """Draw a Sequential that waited for its first data; returns data that still has it all."""
    if model.built:
        return x
    first, rest = x, x
    if is_dataset(x):
        first = x[0]
    elif is_stream(x):
        items = iter(x)
        first = next(items)
        rest = chain([first], items) if items is x else x
    if is_stream(x):
        first = first[0] if isinstance(first, list | tuple) else first
    array = first[0] if isinstance(first, list | tuple) and hasattr(first[0], "shape") else first
    array = next(iter(islice(array.values(), 1))) if isinstance(array, Mapping) else array
    model.build_from(to_mlx(np.asarray(array[:1])))
    return rest
