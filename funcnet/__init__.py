"""Neural networks as pure functions in JAX, with backward rules that are written, proven, measured.

The rooms: `layers` and `losses` (the rules), `optimizers`, `nets`, `data` and `train` to build and
train with; `checks` and `bench` to prove and measure rules, these or your own; `plain` and
`catalogue`, every layer in plain JAX and everything that is known of it.
"""

from funcnet import layers, losses

__version__ = "0.1.0"

__all__ = ["__version__", "layers", "losses"]
