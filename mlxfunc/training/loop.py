"""compile, fit, evaluate, predict: what a Model can do with data."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Mapping
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_map

from . import step as steps
from .callbacks import CallbackList, History
from .data import ArraySource, Batch, Reader, Source, is_stream, make_source
from .feed import Feed
from .logs import LazyLogs, to_floats
from .objective import checker
from .setup import Setup, build_for


class Trainer(Setup):
    """The training half of a Model.

    Source: https://keras.io/api/models/model_training_apis/
    """

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
            verbose: 0 silent, 1 a bar, 2 a line an epoch; "auto" is 1.
            validation_split: the share of the last rows that is held out, before shuffling.
            validation_data: `(x, y[, sample_weight])`, or something that yields batches.
            shuffle: rows, anew each epoch; "batch": whole batches.
            class_weight: the weight of rows by class.
            sample_weight: (rows,), or (rows, time): loss = sum(w l) / N.
            steps_per_epoch, validation_steps: batches, when not all of them.
                A validation of some steps takes the first ones, each time, where x can restart.
            validation_freq: validate every so many epochs, or after these, counted from 1.

        Returns: the History: lists by key, a value an epoch.
        Raises: ValueError for data that does not fit, before any step runs.
        """
        self._require_compiled("fit")
        x = build_for(self, x)
        reader = Reader(self, self._checker(), class_weight, self._share())
        source, validation = self._sources(
            reader,
            (x, y, sample_weight),
            validation_split,
            validation_data,
            validation_batch_size or batch_size,
            batch_size=batch_size,
            shuffle=shuffle,
            seed=self._shuffle_seed(),
            limit=steps_per_epoch * (epochs - initial_epoch) if steps_per_epoch else None,
        )
        feed = Feed(source, steps_per_epoch)
        checks = None if validation is None else Feed(validation, validation_steps)
        run = self._callbacks(callbacks, verbose, epochs, feed.steps, history=True)
        compiled = steps.should_compile(
            self.jit_compile, None if feed.steps is None else feed.steps * epochs
        )
        return self._fit(feed, checks, run, initial_epoch, epochs, validation_freq, compiled)

    def _fit(
        self,
        feed: Feed,
        checks: Feed | None,
        callbacks: CallbackList,
        first: int,
        epochs: int,
        validation_freq: int | Collection[int],
        compiled: bool,
    ) -> History:
        self.feed, self.callback_list, self.resume = feed, callbacks, None
        self.stop_training = False
        self._start_training()
        logs: dict[str, Any] = {}
        callbacks.on_train_begin(None)
        resume, step = self.resume, 0
        if resume is not None:
            first, step, self.stop_training = resume.epoch, resume.step, resume.stopped
            resume.callbacks(callbacks)
        try:
            for epoch in range(first, epochs):
                if self.stop_training:
                    break
                callbacks.params["steps"] = feed.steps
                callbacks.on_epoch_begin(epoch, None)
                drawn = feed.drawn
                logs = self._epoch(feed, callbacks, "train", compiled, step)
                if feed.drawn == drawn and feed.ended:
                    break
                if not all(math.isfinite(np.sum(v)) for v in logs.values()):
                    self._warn_not_finite(epoch)
                if checks is not None and _is_due(epoch + 1, validation_freq):
                    checks.rewind()  # Every validation sees the same steps.
                    found = self._evaluate(checks, callbacks, compiled)
                    logs |= {f"val_{key}": value for key, value in found.items()}
                logs = dict(sorted(logs.items()))
                callbacks.on_epoch_end(epoch, logs)
                self._run_deferred()
                step, self.resume = 0, None
        finally:
            callbacks.close()
            feed.close()
            if checks is not None:
                checks.close()
            if hasattr(self.optimizer, "finalize_variable_values"):
                self.optimizer.finalize_variable_values(self)
        callbacks.on_train_end(logs)
        # The data is not the model's to keep.
        self.feed, self.callback_list, self.resume = None, (), None
        mx.eval(self.parameters())
        return self.history

    def _epoch(
        self, feed: Feed, callbacks: CallbackList, kind: str, compiled: bool, first_step: int = 0
    ) -> dict[str, Any]:
        """Run an epoch's steps without waiting for them; then the logs, as floats."""
        begin = callbacks.hooks(f"on_{kind}_batch_begin")
        end = callbacks.hooks(f"on_{kind}_batch_end")
        per_call = self.steps_per_execution
        run: steps.Step | None = None
        logs: Mapping[str, Any] = {}
        for index, batch in feed.epoch(first_step):
            if run is None:
                run = self._begin_steps(kind, batch, compiled, keep=first_step > 0)
            if index % per_call == 0:
                for hook in begin:
                    hook(index, None)
            logs = run(batch)
            mx.async_eval(run.state)
            if (index + 1) % per_call == 0 or index + 1 == feed.steps:
                lazy = LazyLogs(logs)
                for hook in end:
                    hook(index, lazy)
                self._run_deferred()
            if self.stop_training and kind == "train":
                break
        if run is None and first_step > 0 and self.resume is not None:
            # Every step of this epoch ran before the cut; only its end did not.
            self.resume.metrics(self.objective)
            logs = self.objective.results()
        return to_floats(self._reduced(logs)) if logs else {}

    def _begin_steps(self, kind: str, batch: Batch, compiled: bool, keep: bool) -> steps.Step:
        """The step for batches like this one, with the means and metrics at zero."""
        self.objective.build([None if y is None else tuple(y.shape) for y in batch.y])
        if keep and self.resume is not None:
            self.resume.metrics(self.objective)
        else:
            self.objective.reset()
        return self._step(kind, compiled)

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
            steps: batches, when not all of them.
            return_dict: a dict by key, in the place of a list in the order of `metrics_names`.
        Returns: the loss alone when there are no metrics.
        """
        self._require_compiled("evaluate")
        x = build_for(self, x)
        reader = Reader(self, self._checker(), share=self._share())
        feed = Feed(make_source(reader, x, y, sample_weight, batch_size=batch_size), steps)
        run = self._callbacks(callbacks, verbose, 1, feed.steps)
        try:
            logs = self._evaluate(feed, run, self._worth_compiling(feed.steps))
        finally:
            run.close()
            feed.close()
        return logs if return_dict else self._in_order(logs)

    def _evaluate(self, feed: Feed, callbacks: CallbackList, compiled: bool) -> dict[str, Any]:
        callbacks.on_test_begin(None)
        logs = dict(sorted(self._epoch(feed, callbacks, "test", compiled).items()))
        callbacks.on_test_end(logs)
        return logs

    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: int | str = "auto",
        steps: int | None = None,
        callbacks: Any = None,
    ) -> Any:
        """The outputs for data, as NumPy arrays in the structure of the model's outputs."""
        x = build_for(self, x)
        reader = Reader(self, checker(self, None))
        feed = Feed(make_source(reader, x, batch_size=batch_size), steps)
        run = self._callbacks(callbacks, verbose, 1, feed.steps)
        step = self._step("predict", self._worth_compiling(feed.steps))
        run.on_predict_begin(None)
        parts: list[list[mx.array]] = []
        try:
            for index, batch in feed.epoch():
                run.on_predict_batch_begin(index, None)
                outputs = step(Batch(batch.x, rows=batch.rows, total=batch.total))
                mx.async_eval(outputs)
                parts.append(outputs)
                run.on_predict_batch_end(index, {"outputs": outputs})
            run.on_predict_end(None)
        finally:
            run.close()
            feed.close()
        if not parts:
            raise ValueError("predict: expected at least one batch, got none.")
        arrays = iter([np.concatenate([np.array(a) for a in p]) for p in zip(*parts, strict=True)])
        return tree_map(lambda tensor: next(arrays), self.output)

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
        """The outputs for one batch."""
        x = build_for(self, x)
        batch = Reader(self).read(x).on_device()
        arrays = iter([np.array(a) for a in self._step("predict", False)(batch)])
        return tree_map(lambda tensor: next(arrays), self.output)

    def _on_batch(
        self, kind: str, data: tuple, class_weight: Mapping[int, float] | None, as_dict: bool
    ) -> Any:
        x = build_for(self, data[0])
        reader = Reader(self, self._checker(), class_weight, self._share())
        batch = reader.read(x, *data[1:])
        batch = (batch.part(reader.share(batch.rows)) if reader.share else batch).on_device()
        self.objective.build([None if y is None else tuple(y.shape) for y in batch.y])
        self.objective.reset()
        if kind == "train":
            self._start_training()
        self._batches_seen += 1
        logs = self._step(kind, self._worth_compiling(self._batches_seen))(batch)
        floats = to_floats(self._reduced(logs))
        mx.eval(self.parameters())
        return floats if as_dict else self._in_order(floats)

    def _sources(
        self,
        reader: Reader,
        data: tuple,
        split: float,
        validation_data: Any,
        validation_size: int | None,
        **options: Any,
    ) -> tuple[Source, Source | None]:
        """Where fit's batches come from: those to train on, those to validate on."""
        if not split or validation_data is not None:
            return make_source(reader, *data, **options), self._validation(
                validation_data, validation_size
            )
        if is_stream(data[0]):
            raise ValueError(
                "validation_split: expected arrays, got something that yields batches. "
                "Give validation_data."
            )
        first, last = reader.read(*data).split(split)
        if reader.class_weight is not None:
            last.w = []  # Classes are weighed where they train.
        size, shuffle, seed = (options[key] for key in ("batch_size", "shuffle", "seed"))
        return (
            ArraySource(first, size, shuffle, seed, share=reader.share),
            ArraySource(last, validation_size, share=reader.share),
        )

    def _validation(self, data: Any, batch_size: int | None) -> Source | None:
        """The source for `validation_data`, or None."""
        if data is None:
            return None
        reader = Reader(self, self._checker(), share=self._share())
        if isinstance(data, list | tuple) and not is_stream(data):
            if not 2 <= len(data) <= 3:
                raise ValueError(
                    f"validation_data: expected (x, y) or (x, y, sample_weight), got {len(data)} "
                    "parts."
                )
            return make_source(reader, *data, batch_size=batch_size)
        return make_source(reader, data)

    def _warn_not_finite(self, epoch: int) -> None:
        if not self._warned_not_finite:
            self._warned_not_finite = True
            warnings.warn(
                f"fit: the loss or a metric is not finite in epoch {epoch + 1}; training goes on. "
                "Look for NaN in the data, lower the learning rate, or add TerminateOnNaN.",
                stacklevel=4,
            )


def _is_due(epoch: int, frequency: int | Collection[int]) -> bool:
    """Whether to validate after this epoch, counted from 1."""
    if isinstance(frequency, int):
        return epoch % frequency == 0
    return epoch in frequency
