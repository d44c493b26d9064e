"""`python -m fuzz [kind …] --seconds 600 --seed 123 [--count 1]`: a line of figures per kind."""

from __future__ import annotations

import argparse
import os
import random
import sys

from fuzz import KINDS
from fuzz.harness import run

# Workers fill the cores; Keras's NumPy backend compiles nothing.
ENVIRONMENT = {
    **dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"), "1"),
    "KERAS_BACKEND": "numpy",
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("kinds", nargs="*", help=f"some of {', '.join(KINDS)}; all by default")
    parser.add_argument("--seconds", type=float, default=60, help="for each kind (60)")
    parser.add_argument("--seed", type=int, help="the first trial's; a fresh one by default")
    parser.add_argument("--count", type=int, help="trials of each kind, however long they take")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    options = parser.parse_args()
    if unknown := set(options.kinds) - set(KINDS):
        parser.error(f"expected kinds of {', '.join(KINDS)}, got {', '.join(sorted(unknown))}")
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    seed = random.SystemRandom().randrange(10**9) if options.seed is None else options.seed
    failures = 0
    for kind in options.kinds or KINDS:
        figures = run(f"fuzz.{kind}", seed, options.seconds, options.count, options.workers)
        print(f"{kind}: {figures} from seed {seed}", flush=True)
        for failed in figures.failures:
            print(f"  python -m fuzz {kind} --seed {failed} --count 1", flush=True)
        failures += len(figures.failures)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
