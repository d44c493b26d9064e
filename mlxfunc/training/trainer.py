"""Trainer: a layer that can be compiled, fitted, evaluated and asked for predictions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import mlx.core as mx
import mlx.optimizers
import numpy as np
from mlx.utils import tree_map

from .. import metrics as metrics_module
from .. import optimizers
from ..graph import leaves
from ..layer import Layer
from . import inputs
from . import step as steps_module
from .arguments import check_epochs
from .callbacks import History
from .config import CompileConfig, check_legacy
from .logs import to_floats
from .objective import Objective
from .outputs import to_numpy
from .precision import LossScale
from .run import Run, all_logs, callbacks_of_run
from .slots import set_optimizer_state, start_training


class Trainer(Layer):
    """What a model does with data. It keeps weights, optimizer and compile's arguments.

    All else belongs to the run that a call of fit, evaluate or predict makes.

    Source: https://keras.io/api/models/model_training_apis/
    """

    optimizer: Any = None
    loss_scale: LossScale | None = None
    history: History | None = None
    stop_training = False
    stop_evaluating = False
    stop_predicting = False
    _config: CompileConfig | None = None
    _objective: Objective | None = None

    def __init__(self, *, name: str | None = None) -> None:
        super().__init__(name=name)
        self.step_cache = steps_module.StepCache()

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
        check_legacy(target_tensors, sample_weight_mode)
        config = CompileConfig(
            loss,
            loss_weights,
            metrics,
            weighted_metrics,
            run_eagerly,
            steps_per_execution,
            jit_compile,
            auto_scale_loss,
            dtype,
        )
        raw = isinstance(optimizer, mlx.optimizers.Optimizer)
        self.optimizer = optimizer if raw else optimizers.get(optimizer)
        self.loss_scale = LossScale() if config.scales_loss else None
        self._config, self._objective = config, None
        self.step_cache = steps_module.StepCache()
        if self.built:
            self.objective  # noqa: B018  Unknown names are refused by compile itself.

    def compile_config(self) -> dict[str, Any]:
        """compile's arguments, for `compile_from_config`."""
        return {"optimizer": self.optimizer, **self.training_config.as_arguments()}

    def compile_from_config(self, config: Mapping[str, Any]) -> None:
        """Compile with the arguments that `compile_config` gave, serialized or not."""
        self.compile(**config)

    def set_optimizer_state(self, state: Mapping[str, mx.array]) -> None:
        """Take the optimizer's arrays by their paths: of each weight all it has, or none.

        Raises: ValueError for others than it would have of these weights.
        """
        set_optimizer_state(self, state)

    @property
    def compiled(self) -> bool:
        """Whether `compile` was called."""
        return self._config is not None

    @property
    def training_config(self) -> CompileConfig:
        """compile's arguments; the defaults before it was called."""
        return self._config or CompileConfig()

    @property
    def compute_dtype(self) -> mx.Dtype | None:
        """What layers compute in; None is float32, as the weights are."""
        return self.training_config.compute_dtype

    @property
    def jit_compile(self) -> bool | str:
        """Whether steps are compiled: True, False or "auto"."""
        return self.training_config.compiles

    @property
    def run_eagerly(self) -> bool:
        """Whether steps are never compiled."""
        return self.training_config.run_eagerly

    @property
    def steps_per_execution(self) -> int:
        """Steps between two calls of batch callbacks."""
        return self.training_config.steps_per_execution

    @property
    def objective(self) -> Objective:
        """Losses and metrics, bound to the outputs."""
        if self._objective is None:
            arguments = self.training_config.objective
            self._objective = Objective(self.output_names, self.outputs, **arguments)
        return self._objective

    # What a subclass may override: fit, evaluate and predict call these.

    def train_step(self, data: tuple) -> Mapping[str, mx.array]:
        """One training step on `(x, y)` or `(x, y, sample_weight)`; returns what is logged.

        It may be compiled: use MLX operations on what it is given, and read no values.
        """
        return steps_module.train(self, data)

    def test_step(self, data: tuple) -> Mapping[str, mx.array]:
        """One step of evaluate; returns what is logged."""
        return steps_module.test(self, data)

    def predict_step(self, data: tuple) -> Any:
        """One step of predict on `(x,)`; returns the outputs, in any structure."""
        return steps_module.predict(self, data)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> mx.array:
        """The loss of predictions, a scalar: what is minimized, and what evaluate returns.

        compile's losses, what layers have added while they computed `y_pred`, and the penalties
        of the weights. Masks are those of the model's last call.

        Args:
            x: what the predictions are of; for a subclass.
            y, y_pred, sample_weight: by output, each alone or in a list.
            training: whether the model trains, or is evaluated; for a subclass.
        """
        outputs = leaves(y_pred)
        ys, weights = self._per_output(y), self._per_output(sample_weight)
        objective = self.objective
        objective.build([None if one is None else tuple(np.shape(one)) for one in ys])
        values = objective.loss(ys, outputs, weights, self.last_masks(len(outputs)))
        if outputs:
            objective.track_outputs(values, outputs[0].shape[0])
        total = objective.total(values)
        for added in self.losses:
            total = total + added.astype(mx.float32)
        return total

    def compute_metrics(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> Mapping[str, Any]:
        """Count predictions in compile's metrics; returns what is logged."""
        outputs = leaves(y_pred)
        ys, weights = self._per_output(y), self._per_output(sample_weight)
        self.objective.update(ys, outputs, weights, self.last_masks(len(outputs)))
        return self.get_metrics_result()

    def apply_gradients(self, gradients: Any) -> None:
        """Move the trainable weights, as `train_step` does: averaged, scaled, constrained."""
        steps_module.apply(self, gradients)

    def _per_output(self, value: Any) -> list[Any]:
        if isinstance(value, Mapping):
            return [value.get(name) for name in self.output_names]
        return steps_module.as_list(value)

    # Metrics.

    @property
    def metrics(self) -> list[Any]:
        """The mean of the loss, compile's metrics as one, the means of the outputs' losses.

        Then the metrics that are attributes of the model and of its layers. All of them begin
        anew with each epoch.
        """
        own = [] if self._objective is None else self._objective.trackers
        return own + [
            metric
            for module in self.sublayers()
            if module is self or not isinstance(module, Trainer)
            for metric in _metrics_in([*vars(module).values(), *module.values()])
        ]

    @property
    def metrics_names(self) -> list[str]:
        """What evaluate returns, in its order."""
        return [] if self._objective is None else self._ordered(self._objective.keys)

    def reset_metrics(self) -> None:
        """Begin all means and metrics anew."""
        if self._objective is not None:
            self._objective.reset()
        for metric in self.metrics:
            metric.reset_state()

    def get_metrics_result(self) -> dict[str, Any]:
        """Every logged value so far, by name: scalar arrays."""
        logs: dict[str, Any] = {}
        for metric in self.metrics:
            result = metrics_module.result_of(metric)
            logs |= result if isinstance(result, Mapping) else {metric.name: result}
        return logs

    def _ordered(self, keys: list[str]) -> list[str]:
        known = set(keys)
        single = [k for k in self.objective.metrics if len(self.output_names) == 1]
        losses = [f"{name}_loss" for name in self.output_names]
        first = [k for k in dict.fromkeys(["loss", *single, *losses]) if k in known]
        return first + sorted(known - set(first))

    def _in_order(self, logs: Mapping[str, Any]) -> Any:
        values = [logs[key] for key in self._ordered(list(logs))]
        return values[0] if len(values) == 1 else values

    # Runs.

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: int | str = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool | str = True,
        class_weight: Mapping[int, float] | None = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int | Collection[int] = 1,
    ) -> History:
        """Train for epochs `initial_epoch` to `epochs - 1`.

        Args:
            x: arrays (rows, ...) by position or name, or something that yields batches
                `(x, y[, sample_weight])`: an iterable, a generator, a `utils.PyDataset`, an
                mlx.data stream, a PyTorch DataLoader. Memory maps are read as they are needed.
            y: targets, likewise; None when x yields them.
            batch_size: rows in a batch; 32. On several machines, of all of them together.
            verbose: 0 silent, 1 a bar, 2 a line per epoch; "auto" is 1.
            validation_split: the share of the last rows that is held out, before shuffling.
            validation_data: `(x, y[, sample_weight])`, or something that yields batches.
            shuffle: rows, anew each epoch; "batch": whole batches.
            class_weight: the weight of rows by class.
            sample_weight: (rows,), or (rows, time): loss = sum(w l) / N.
            steps_per_epoch, validation_steps: batches, when not all of them. No more are read
                from a generator. A validation of some steps takes the first ones, each time,
                where x can restart.
            validation_freq: validate every so many epochs, or after these, counted from 1.

        Returns: the History: lists by key, a value per epoch.
        Raises: ValueError for data that does not fit, before any step runs.
        """
        self._require_compiled("fit")
        check_epochs(initial_epoch, epochs, validation_freq)
        data, validation = inputs.training_data(
            self,
            (x, y, sample_weight),
            batch_size=batch_size,
            shuffle=shuffle,
            class_weight=class_weight,
            steps=steps_per_epoch,
            validation_split=validation_split,
            validation_data=validation_data,
            validation_batch_size=validation_batch_size,
            validation_steps=validation_steps,
        )
        listeners = callbacks_of_run(callbacks, self, verbose, data.steps, epochs, add_history=True)
        with Run(self, data, listeners, validation, epochs) as run:
            return run.fit(initial_epoch, epochs, validation_freq)

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: int | str = "auto",
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Any = None,
        return_dict: bool = False,
    ) -> Any:
        """Loss and metrics on data, in inference mode.

        Args:
            x, y, sample_weight, batch_size: as in `fit`.
            steps: batches, when not all of them; no more are read.
            return_dict: a dict by key, in the place of a list in the order of `metrics_names`.
        Returns: the loss alone when there are no metrics.
        """
        self._require_compiled("evaluate")
        data = inputs.evaluation_data(self, (x, y, sample_weight), batch_size, steps)
        listeners = callbacks_of_run(callbacks, self, verbose, data.steps)
        with Run(self, data, listeners) as run:
            logs = run.evaluate()
        return logs if return_dict else self._in_order(logs)

    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: int | str = "auto",
        steps: int | None = None,
        callbacks: Any = None,
    ) -> Any:
        """The outputs for data, as NumPy arrays in the structure that `predict_step` returns."""
        data = inputs.prediction_data(self, x, batch_size, steps)
        listeners = callbacks_of_run(callbacks, self, verbose, data.steps)
        with Run(self, data, listeners) as run:
            return run.predict()

    def train_on_batch(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        class_weight: Mapping[int, float] | None = None,
        return_dict: bool = False,
    ) -> Any:
        """One step on one batch; the loss (and metrics) of that batch."""
        self._require_compiled("train_on_batch")
        return self._on_batch("train", (x, y, sample_weight), class_weight, return_dict)

    def test_on_batch(
        self, x: Any, y: Any = None, sample_weight: Any = None, return_dict: bool = False
    ) -> Any:
        """The loss (and metrics) of one batch, in inference mode."""
        self._require_compiled("test_on_batch")
        return self._on_batch("test", (x, y, sample_weight), None, return_dict)

    def predict_on_batch(self, x: Any) -> Any:
        """The outputs for one batch, as NumPy arrays."""
        batch = inputs.single_inputs(self, x)
        outputs = tree_map(to_numpy, self.step_cache.get(self, "predict", False)(batch))
        mx.synchronize()
        return outputs

    def _on_batch(
        self, kind: str, data: tuple, class_weight: Mapping[int, float] | None, as_dict: bool
    ) -> Any:
        batch = inputs.single_batch(self, data, class_weight)
        self.objective.build([None if y is None else tuple(y.shape) for y in batch.y])
        self.reset_metrics()
        if kind == "train":
            start_training(self)
        cache = self.step_cache
        cache.single_batches += 1
        compiled = steps_module.should_compile(self.jit_compile, cache.single_batches)
        logs = cache.get(self, kind, compiled)(batch)
        floats = to_floats(all_logs(self, logs))
        mx.synchronize()
        return floats if as_dict else self._in_order(floats)

    def _require_compiled(self, method: str) -> None:
        if not self.compiled:
            raise RuntimeError(f"{self.name}: expected compile(...) before {method}(...).")


def _metrics_in(values: list[Any]) -> list[Any]:
    """The metrics among these values, and in the lists among them."""
    flat = [one for value in values for one in (value if isinstance(value, list) else [value])]
    return [value for value in flat if isinstance(value, metrics_module.Metric)]
