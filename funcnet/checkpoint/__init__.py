r"""What is kept of a run: its checkpoints, to go on from, and a net's parameters, for anybody.

`Checkpoints` saves a whole `train.Run` while it runs and restores it, to the same bits.
`save_trained` and `load_trained` (`funcnet.save` and `funcnet.load`) write and read a trained net
with all that it takes to use it; `save_params` and `load_params` its parameters and state alone, as
one `.npz` or `.safetensors`. A leaf's name is its path in the tree: `affine1.w`, or
`state.batch_norm1.mean` in the state, and `preprocessing.mean`, `preprocessing.scale` where the
file says what the net's input was made by. Nothing is pickled, and nothing is unpickled.

>>> import tempfile, pathlib
>>> from funcnet import checkpoint, nets
>>> net = nets.fully_connected_net([5], classes=3, norm="batch")
>>> params, state = net.init(jax.random.key(0), (4,))
>>> with tempfile.TemporaryDirectory() as folder:
...     path = pathlib.Path(folder) / "best.npz"
...     checkpoint.save_params(path, params, state)
...     loaded = checkpoint.load_params(path, *net.init(jax.random.key(1), (4,)))
>>> bool((loaded.params["affine1"].w == params["affine1"].w).all())
True
>>> sorted(loaded.state["batch_norm1"]._fields)
['mean', 'var']
"""

from funcnet._homes import at_home
from funcnet.checkpoint._arrays import CheckpointError, read_npz
from funcnet.checkpoint._checkpoints import Checkpoints
from funcnet.checkpoint._lock import LockedError, locked
from funcnet.checkpoint._params import Loaded, load_params, save_params
from funcnet.checkpoint._trained import describe, load_trained, save_trained

__all__ = [
    "CheckpointError",
    "Checkpoints",
    "Loaded",
    "LockedError",
    "describe",
    "load_params",
    "load_trained",
    "locked",
    "read_npz",
    "save_params",
    "save_trained",
]

at_home(globals())
