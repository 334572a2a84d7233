"""Estimators beside scikit-learn's nets, each with its defaults and the same hidden layers.

python -m tools.sklearn_compared   # prints a table; some minutes
python -m tools.sklearn_compared search   # a grid by `search` and by GridSearchCV
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.datasets import load_diabetes, load_digits, load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from funcnet.sklearn import NetClassifier, NetRegressor, search

SEEDS = range(5)
HIDDEN = (100,)


def makers(net: Any, theirs: Any) -> dict[str, Callable[[int], Any]]:
    return {
        net.__name__: lambda seed: net(HIDDEN, random_state=seed),
        theirs.__name__: lambda seed: theirs(hidden_layer_sizes=HIDDEN, random_state=seed),
        f"{theirs.__name__}, scaled": lambda seed: make_pipeline(
            StandardScaler(),  # as scikit-learn advises; funcnet's scale within
            theirs(hidden_layer_sizes=HIDDEN, random_state=seed),
        ),
    }


CASES = {
    "digits": (load_digits, makers(NetClassifier, MLPClassifier)),
    "diabetes": (load_diabetes, makers(NetRegressor, MLPRegressor)),
}


def search_compared() -> None:
    """Twenty candidates in five folds: one program a fold, and a fit for each."""
    X, y = load_iris(return_X_y=True)
    grid = {"learning_rate": np.geomspace(1e-4, 1e-1, 5), "reg": [0.0, 1e-4, 1e-2, 1.0]}
    net, found, took = NetClassifier(HIDDEN, random_state=0), {}, {}
    runs = {
        "search": lambda: search(net, grid, X, y),
        "GridSearchCV": lambda: GridSearchCV(net, grid).fit(X, y).cv_results_,
    }
    for name, run in runs.items():
        began = time.process_time(), time.perf_counter()
        found[name] = run()
        took[name] = time.process_time() - began[0], time.perf_counter() - began[1]
        print(f"{name}: CPU {took[name][0]:.1f} s, wall {took[name][1]:.1f} s", flush=True)
    ours, theirs = (table["mean_test_score"] for table in found.values())
    cpu, wall = (a / b for a, b in zip(*took.values(), strict=True))
    print(
        f"of its time: CPU {cpu:.3f}, wall {wall:.3f}; scores apart {abs(ours - theirs).max():.1e}"
    )


def main() -> None:
    warnings.simplefilter("ignore", ConvergenceWarning)
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, {len(SEEDS)} seeds")
    print("| data | estimator | score | lowest | highest | CPU s a fit | first | wall s a fit |")
    print("|---|---|---|---|---|---|---|---|")
    for name, (load, makes) in CASES.items():
        X, y = load(return_X_y=True)
        for estimator, make in makes.items():
            scores, cpu, wall = [], [], []
            for seed in SEEDS:
                rows, held, of_rows, of_held = train_test_split(X, y, random_state=seed)
                began = time.process_time(), time.perf_counter()
                fitted = make(seed).fit(rows, of_rows)
                cpu.append(time.process_time() - began[0])
                wall.append(time.perf_counter() - began[1])
                scores.append(fitted.score(held, of_held))
            numbers = np.mean(scores), min(scores), max(scores)
            said = " | ".join(f"{number:.4f}" for number in numbers)
            print(
                f"| {name} | {estimator} | {said} | {np.median(cpu):.2f} | {cpu[0]:.2f} | "
                f"{np.median(wall):.2f} |"
            )


if __name__ == "__main__":
    search_compared() if sys.argv[1:] == ["search"] else main()
