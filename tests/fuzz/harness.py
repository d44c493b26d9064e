"""Runs trials in processes of their own: one that dies or hangs is a failure, and the next begins.

A worker is a session of its own, so that Ctrl-C reaches the figures and not the trials, and what a
trial has started ends with it.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

LIMIT = 120.0  # seconds, after which a trial hangs
RECYCLED = 200  # trials of one process: compiled functions and sessions add up
_processes = multiprocessing.get_context("spawn")


@dataclass
class Figures:
    """What a run of one kind came to; `failures` says by seed what went wrong."""

    trials: int = 0
    seconds: float = 0.0
    failures: dict[int, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.trials} trials, {len(self.failures)} failures, {self.seconds:.0f} s"


def run(
    module: str, seed: int, seconds: float, count: int | None = None, workers: int | None = None
) -> Figures:
    """Trials of a module from a seed on: `count` of them, or as many as `seconds` have room for."""
    figures, lock, start = Figures(), threading.Lock(), time.perf_counter()
    seeds = itertools.count(seed) if count is None else iter(range(seed, seed + count))
    stopped = threading.Event()

    def following() -> int | None:
        late = count is None and time.perf_counter() - start > seconds
        with lock:
            return None if late or stopped.is_set() else next(seeds, None)

    def work() -> None:
        worker = Worker(module)
        while (seed := following()) is not None:
            problem = worker.trial(seed)
            with lock:
                figures.trials += 1
                if problem is not None:
                    figures.failures[seed] = problem
                    print(f"{module} --seed {seed}: {problem}", file=sys.stderr, flush=True)
        worker.end()

    threads = [
        threading.Thread(target=work) for _ in range(min(workers or 1, count or sys.maxsize))
    ]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        stopped.set()
        for thread in threads:
            thread.join()
    figures.seconds = time.perf_counter() - start
    figures.failures = dict(sorted(figures.failures.items()))
    return figures


class Worker:
    """Runs trials of a module in a process, and in another one when that has ended or is old."""

    def __init__(self, module: str) -> None:
        self.module, self.process, self.trials = module, None, 0

    def trial(self, seed: int) -> str | None:
        """What went wrong in a trial."""
        if self.process is None or self.trials == RECYCLED:
            self.end()
            self._start()
        self.trials += 1
        try:
            self.connection.send(seed)
            if self.connection.poll(LIMIT):
                return self.connection.recv()
        except (EOFError, OSError):
            self.process.join(LIMIT)
            return f"the process ended with status {self.end()}"
        self.end()
        return f"did not end in {LIMIT:.0f} s"

    def _start(self) -> None:
        self.connection, theirs = _processes.Pipe()
        self.process = _processes.Process(target=_serve, args=(self.module, theirs))
        self.process.start()
        theirs.close()
        self.trials = 0

    def end(self) -> int | None:
        """Ends the process, and what its trials have started; its exit status."""
        process, self.process = self.process, None
        if process is None:
            return None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()
        self.connection.close()
        return process.exitcode


def _serve(module: str, connection: Connection) -> None:
    os.setsid()
    trial = importlib.import_module(module).trial
    while True:
        seed = connection.recv()
        try:
            problem = trial(seed)
        except Exception:
            problem = traceback.format_exc(limit=-8)
        connection.send(problem)
