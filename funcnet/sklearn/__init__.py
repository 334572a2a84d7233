r"""Estimators for scikit-learn: a net as `NetClassifier` or `NetRegressor`, trained by `train.fit`.

They go wherever scikit-learn's own go: pipelines, searches, cross-validation, joblib, pickle. What
they have learnt is `trained_`, a `train.Trained`, which `funcnet.save` writes. scikit-learn is an
extra: `pip install "funcnet[sklearn]"`.

Each fit compiles its programs, for about a second, whatever the data; those that were compiled
before are read where `jax.config.update("jax_compilation_cache_dir", folder)` says that they are.

>>> from sklearn.datasets import load_iris
>>> from funcnet.sklearn import NetClassifier
>>> X, y = load_iris(return_X_y=True)
>>> net = NetClassifier(hidden=(20,), learning_rate=0.01, epochs=100, random_state=0).fit(X, y)
>>> bool(net.score(X, y) > 0.95), net.trained_.input_shape
(True, (4,))
"""

try:
    import sklearn  # noqa: F401
except ImportError as error:
    raise ImportError(
        'funcnet.sklearn needs scikit-learn 1.6 or newer: pip install "funcnet[sklearn]"'
    ) from error

from funcnet._homes import at_home
from funcnet.sklearn._classifier import NetClassifier
from funcnet.sklearn._regressor import NetRegressor
from funcnet.sklearn._search import search

__all__ = ["NetClassifier", "NetRegressor", "search"]

at_home(globals())
