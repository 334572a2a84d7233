"""A train step as a course writes it in NumPy: loops over layers, float64, Adam."""

from __future__ import annotations

from typing import Any

import numpy as np

Params = dict[str, np.ndarray]


class NumpyNet:
    """affine - batch norm - relu, `depth` times, then affine; softmax loss; Adam.

    Parameters are W1, b1, gamma1, beta1, W2, ... ; `step` changes them.

    Args:
      params: float64 arrays under these names.
      learning_rate: Adam's.
    """

    def __init__(self, params: Params, learning_rate: float):
        self.params = {name: np.array(p, np.float64) for name, p in params.items()}
        self.depth = sum(name.startswith("gamma") for name in params)
        self.learning_rate = learning_rate
        self.m = {name: np.zeros_like(p) for name, p in self.params.items()}
        self.v = {name: np.zeros_like(p) for name, p in self.params.items()}
        self.t = 0

    def step(self, x: np.ndarray, y: np.ndarray) -> float:
        """One step of Adam on rows x (n, d) with labels y (n,); returns the loss before it."""
        p = self.params
        grads: Params = {}
        caches: list[Any] = []
        h = x
        for i in range(1, self.depth + 1):
            a = h @ p[f"W{i}"] + p[f"b{i}"]
            mean, var = a.mean(0), a.var(0)
            std = np.sqrt(var + 1e-5)
            a_hat = (a - mean) / std
            z = p[f"gamma{i}"] * a_hat + p[f"beta{i}"]
            caches.append((h, a_hat, std, z))
            h = np.maximum(z, 0)
        last = self.depth + 1
        scores = h @ p[f"W{last}"] + p[f"b{last}"]
        shifted = scores - scores.max(1, keepdims=True)
        log_probs = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
        n = len(y)
        loss = -log_probs[np.arange(n), y].mean()
        d = np.exp(log_probs)
        d[np.arange(n), y] -= 1
        d /= n
        grads[f"W{last}"], grads[f"b{last}"] = h.T @ d, d.sum(0)
        d = d @ p[f"W{last}"].T
        for i in range(self.depth, 0, -1):
            h, a_hat, std, z = caches[i - 1]
            d = d * (z > 0)
            grads[f"gamma{i}"], grads[f"beta{i}"] = (d * a_hat).sum(0), d.sum(0)
            d_hat = d * p[f"gamma{i}"]
            d = (d_hat - d_hat.mean(0) - a_hat * (d_hat * a_hat).mean(0)) / std
            grads[f"W{i}"], grads[f"b{i}"] = h.T @ d, d.sum(0)
            d = d @ p[f"W{i}"].T  # for the images too, as the courses' layers have it
        self.t += 1
        for name, g in grads.items():
            self.m[name] = 0.9 * self.m[name] + 0.1 * g
            self.v[name] = 0.999 * self.v[name] + 0.001 * g**2
            m_hat = self.m[name] / (1 - 0.9**self.t)
            v_hat = self.v[name] / (1 - 0.999**self.t)
            p[name] = p[name] - self.learning_rate * m_hat / (np.sqrt(v_hat) + 1e-8)
        return float(loss)
