"""The options of `funcnet train`, and what is left unsaid: the data set's own recipe."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import os
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple, get_args

import numpy as np
import optax
import tyro

from funcnet import data, losses, nets, train
from funcnet.cli._command import CommandError, choice, option
from funcnet.data import SETS
from funcnet.nets import ACTIVATIONS, NETWORKS
from funcnet.optimizers import OPTIMIZERS
from funcnet.train.engine import SAMPLINGS

LOSSES = {
    "softmax": losses.softmax_cross_entropy,
    "hinge": losses.multiclass_hinge,
    "mse": losses.mean_squared_error,
    "binary": losses.binary_cross_entropy,
}
# The losses of each task, its own first.
LOSSES_OF: dict[str, tuple[str, ...]] = {
    "classification": ("softmax", "hinge"),
    "regression": ("mse",),
    "multilabel": ("binary",),
}
PREPROCESSINGS = ("none", "mean_image", "scaled", "scaled_mean_image", "standardised")
AUGMENTATIONS = (
    *("none", "crop", "flip", "cutout"),
    *("crop-flip", "crop-cutout", "flip-cutout", "crop-flip-cutout"),
)
COMPUTE_DTYPES = ("float32", "bfloat16", "float16")
PRECISIONS = ("default", "high", "highest")
# Parameters of the nets' functions whose options have another name.
_OPTION_OF = {"size": "filter_size"}
_OF_ALL_OPTIMIZERS = ("learning_rate", "lr_decay")
_DATA_SETS = "the data set's, see below"
_THE_DATA_SETS = option(_DATA_SETS)


@functools.cache
def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters of a function, by the names of their options.

    Once of each: for every command line, tyro evaluates the options' annotations several times.
    """
    parameters = inspect.signature(function).parameters
    return {_OPTION_OF.get(name, name): parameter for name, parameter in parameters.items()}


def _own(name: str) -> Any:
    """Says of an option what the nets or optimizers that have it take where it is not given."""
    takers: dict[str, list[str]] = {}
    rules = {rule: entry.make for rule, entry in OPTIMIZERS.items()}
    for function_name, function in (NETWORKS | rules).items():
        default = _parameters(function)[name].default if name in _parameters(function) else None
        if default is not None:
            text = " ".join(map(str, default if isinstance(default, tuple) else (default,)))
            takers.setdefault(text, []).append(function_name)
    (most, _), *others = sorted(takers.items(), key=lambda item: -len(item[1]))
    return option("; ".join([most, *(f"{', '.join(names)}: {text}" for text, names in others)]))


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """What is learned."""

    name: Annotated[str | None, option("digits", "data", f"{{{','.join(SETS)}}}|PATH")] = None
    """Data set; digits needs no file, synthetic is made, not read. Or the path of your own: a
    folder of pictures in folders named as their classes, a .csv, .tsv or .parquet table, pictures
    in .parquet, arrays in .npz, or a folder of funcnet pack."""
    target: Annotated[tuple[str, ...] | None, option("target, label, class or y")] = None
    """Column of your table that is to be told, or several."""
    features: Annotated[tuple[str, ...] | None, option("all others that have a name")] = None
    """Columns of your table that it is told from."""
    without: Annotated[tuple[str, ...] | None, option("none")] = None
    """Columns of your table to leave out, in the place of --features."""
    task: Annotated[str | None, choice(get_args(data.Task)), option("as the targets are")] = None
    """What is to be told of a row of your table or arrays: a class, numbers, or several labels."""
    missing: Annotated[str | None, choice(get_args(data.Missing)), option("error")] = None
    """Where your table has no value: error names the place, drop leaves the row out, mean puts the
    mean of the training rows."""
    size: Annotated[tuple[int, ...] | None, option("their own, or the median's")] = None
    """Size of your pictures in pixels: one number, or height and width. Others are scaled until
    they cover it, and their middle is taken."""
    val: Annotated[int | float | None, option("0.1, unless there is one")] = None
    """Your own data's validation split: a number of rows, or a share below 1."""
    test: Annotated[int | float | None, option("0.1, unless there is one")] = None
    """Your own data's test split, likewise."""
    data_dir: Annotated[str | None, option("$FUNCNET_DATA_DIR, else ~/.cache/funcnet")] = None
    """Folder of the data sets. What is missing there is downloaded, unless FUNCNET_DOWNLOAD=0."""
    allow_unverified: bool = False
    """Read files of your own making, which do not have the official checksums."""


@dataclasses.dataclass(frozen=True)
class NetOptions:
    """The function. Options that the net does not have are refused."""

    name: Annotated[str | None, choice(NETWORKS), option(_DATA_SETS, "net")] = None
    """Net."""
    hidden: Annotated[tuple[int, ...] | None, _THE_DATA_SETS] = None
    """Units of each hidden layer: one number for two_layer and small."""
    norm: Annotated[str | None, choice(("none", "batch", "layer")), _THE_DATA_SETS] = None
    """Normalisation before each activation of fully_connected."""
    activation: Annotated[str | None, choice(ACTIVATIONS), _own("activation")] = None
    """Activation of fully_connected."""
    dropout: Annotated[float | None, _own("dropout")] = None
    """Probability of dropping a hidden unit of fully_connected, 0 to below 1."""
    channels: Annotated[tuple[int, ...] | None, _own("channels")] = None
    """Filters of each convolution, for resnet of each stage; one number for two_layer_convnet."""
    filter_size: Annotated[int | None, _own("filter_size")] = None
    """Side of the convnets' filters, in pixels."""
    depth: Annotated[int | None, _own("depth")] = None
    """Residual blocks in each stage of resnet; 3 makes ResNet-20."""
    weight_scale: Annotated[float | Literal["he"] | None, _own("weight_scale")] = None
    """Standard deviation of the initial weights; he for sqrt(2 / fan-in)."""


@dataclasses.dataclass(frozen=True)
class OptimizerOptions:
    """The rule of the update. Options that the optimizer does not have are refused."""

    name: Annotated[str | None, choice(OPTIMIZERS), option(_DATA_SETS, "optimizer")] = None
    """Optimizer."""
    learning_rate: Annotated[
        float | None, option("the data set's or the optimizer's, see below")
    ] = None
    """Learning rate of the first epoch."""
    lr_decay: Annotated[float | None, _THE_DATA_SETS] = None
    """Factor on the learning rate after each epoch; 1 keeps it."""
    momentum: Annotated[float | None, _own("momentum")] = None
    """Share of the velocity kept at each step: momentum, nesterov, sgd, rmsprop."""
    velocity: Annotated[str | None, choice(("raw", "scaled")), _own("velocity")] = None
    """Velocity of momentum and nesterov: raw sums gradients, scaled the updates."""
    decay: Annotated[float | None, _own("decay")] = None
    """Share of the mean square kept at each step: rmsprop."""
    rho: Annotated[float | None, _own("rho")] = None
    """Share of the mean squares kept at each step: adadelta."""
    b1: Annotated[float | None, _own("b1")] = None
    """Share of the first moment kept at each step: adam and its kin, lamb, lion."""
    b2: Annotated[float | None, _own("b2")] = None
    """Share of the second moment kept at each step: the same."""
    beta: Annotated[float | None, _own("beta")] = None
    """Share of the momentum kept at each step: muon."""
    eps: Annotated[float | None, _own("eps")] = None
    """What is added to denominators."""
    eps_in_sqrt: Annotated[bool | None, tyro.conf.FlagConversionOff, _own("eps_in_sqrt")] = None
    """Whether rmsprop and adagrad add eps under the square root, or beside it (the courses)."""
    centered: Annotated[bool | None, tyro.conf.FlagConversionOff, _own("centered")] = None
    """Whether rmsprop subtracts the mean gradient."""
    weight_decay: Annotated[float | None, _own("weight_decay")] = None
    """Decoupled weight decay: adamw, lamb, lion, muon, adadelta."""


@dataclasses.dataclass(frozen=True)
class TrainingOptions:
    """How it is trained."""

    epochs: Annotated[int | None, _THE_DATA_SETS] = None
    """Passes over the training data; 0 only evaluates the initial net."""
    batch_size: Annotated[int | None, _THE_DATA_SETS] = None
    """Images in a step."""
    accumulate: Annotated[int | None, option("1")] = None
    """Parts that a step takes its images in, one after the other, to need less memory."""
    loss: Annotated[str | None, choice(LOSSES), option("the task's")] = None
    """softmax: cross-entropy; hinge: the multiclass support vector machine's; mse: the mean squared
    error of numbers; binary: cross-entropy of each of several labels."""
    label_smoothing: Annotated[float | None, option("0")] = None
    """Share of the target spread over all classes, 0 to below 1; softmax only."""
    reg: Annotated[float | None, option("0")] = None
    """L2 penalty: half of this times the sum of the squared weights, biases and norms free."""
    preprocessing: Annotated[str | None, choice(PREPROCESSINGS), _THE_DATA_SETS] = None
    """What becomes of the pixels; its statistics come from the training split alone."""
    augment: Annotated[str | None, choice(AUGMENTATIONS), option("none")] = None
    """Random shifts by up to 1/8 of the side, flips left to right, squares of 1/4 left out."""
    compute_dtype: Annotated[str | None, choice(COMPUTE_DTYPES), option("float32")] = None
    """What the steps compute in; parameters, sums and evaluations stay float32."""
    precision: Annotated[str | None, choice(PRECISIONS), option("default")] = None
    """Of products and convolutions of float32 on a GPU or TPU, whose default rounds what they
    multiply; highest is full float32, which a CPU always has."""
    sampling: Annotated[str | None, choice(SAMPLINGS), option("permutation")] = None
    """How batches are drawn; full is one batch of all the data in each epoch."""
    seed: Annotated[int | None, option("0")] = None
    """Seed of all that is random, 0 to 2^32 - 1."""


@dataclasses.dataclass(frozen=True)
class StoppingOptions:
    """When it ends, and which epoch was the best."""

    patience: Annotated[int | None, option("the run has all its epochs")] = None
    """Epochs in a row without a better one than the best, by --best, after which the run ends."""
    best: Annotated[
        str | None, option("val_accuracy, of numbers val_r2; of your own data val_loss")
    ] = None
    """Column of the history that chooses the best epoch, such as val_loss, whose lowest is best."""


@dataclasses.dataclass(frozen=True)
class OutputOptions:
    """What is left behind."""

    out: Annotated[str | None, option("runs/DATA-NET-TIME")] = None
    """Folder for the configuration, history, best parameters and curves: a new or empty one."""
    resume: bool = False
    """Go on with the run in the folder --out, or with the latest in runs. Its options are read from
    there; what is said again must not contradict them, but that --epochs may be more, and --data
    where your own data lie now."""
    checkpoint_every: str = "60s"
    """How often the whole run is saved: 90s, 500steps, 2epochs, or never. It is saved in the end
    too, after Ctrl-C and SIGTERM as well."""
    log: Annotated[tuple[Literal["csv", "tensorboard"], ...], option("none")] = ()
    """Write the history as history.csv too, or for TensorBoard into the folder tensorboard."""
    report: bool = False
    """Write the page of funcnet report too."""
    quiet: bool = False
    """Print errors only."""
    traceback: bool = False
    """Show where an error came from; FUNCNET_TRACEBACK=1 does the same."""


# The options of one's own data.
OWN = ("target", "features", "without", "task", "missing", "size", "val", "test")


class Options(NamedTuple):
    """All that a run's numbers depend on."""

    data: DataOptions
    net: NetOptions
    optimizer: OptimizerOptions
    training: TrainingOptions
    stopping: StoppingOptions = StoppingOptions()


_GROUPS: dict[str, Any] = {
    "data": DataOptions,
    "net": NetOptions,
    "optimizer": OptimizerOptions,
    "training": TrainingOptions,
    "stopping": StoppingOptions,
}


class Recipe(NamedTuple):
    """What holds for a data set where the command line says nothing else."""

    net: NetOptions
    optimizer: OptimizerOptions
    training: TrainingOptions


def _recipe(hidden: tuple[int, ...], epochs: int, batch_size: int) -> Recipe:
    """Course 000's net and rule (courses.md row 0-19), standardised images and He's weights."""
    return Recipe(
        NetOptions("fully_connected", hidden, norm="batch"),
        OptimizerOptions("adam", learning_rate=1e-3, lr_decay=0.9),
        TrainingOptions(epochs, batch_size, preprocessing="standardised"),
    )


_RECIPES = {
    "digits": _recipe((500, 500), epochs=20, batch_size=50),
    "cifar10": _recipe((500, 500, 500), epochs=10, batch_size=100),
    "svhn": _recipe((500, 500, 500), epochs=10, batch_size=100),
    "synthetic": _recipe((100,), epochs=10, batch_size=50),
}


def recipe_of(data_set: str) -> Recipe:
    """The recipe of a data set; the usual one, of MNIST, where it has none of its own."""
    return _RECIPES.get(data_set) or _recipe((500, 500), epochs=10, batch_size=100)


def recipe_for(dataset: data.Dataset) -> Recipe:
    """The recipe for somebody's own data: pictures that are large enough get convolutions."""
    shape, rows = dataset.input_shape, len(dataset.train.labels)
    batch_size = min(100, max(10, rows // 20), rows)
    epochs = max(10, min(100, 100_000 // rows))
    net = NetOptions("fully_connected", (100, 100), norm="none")
    if len(shape) == 3 and min(shape[:2]) >= _CONVOLVED:
        net, epochs = NetOptions("three_layer_convnet"), min(epochs, 20)
    return Recipe(
        net,
        OptimizerOptions("adam", learning_rate=1e-3, lr_decay=1.0),
        TrainingOptions(epochs, batch_size, preprocessing="standardised"),
    )


_CONVOLVED = 16  # pixels of a side, so that three poolings leave some

# The hidden layers of nets that must have some, where no recipe says.
_HIDDEN = {"two_layer": (100,), "small": (512,)}

# What holds where neither the command line nor a recipe says anything.
_UNSAID: dict[str, dict[str, Any]] = {
    "data": {"name": "digits"},
    "training": {
        "accumulate": 1,
        "label_smoothing": 0.0,
        "reg": 0.0,
        "augment": "none",
        "compute_dtype": "float32",
        "precision": "default",
        "sampling": "permutation",
        "seed": 0,
    },
}
_SHARES = "a number from 0 to below 1"
_LIMITS: dict[str, tuple[float, float, str]] = {
    "learning_rate": (0.0, math.inf, "a number of at least 0"),
    "lr_decay": (math.ulp(0.0), math.inf, "a number above 0"),
    "dropout": (0.0, 1.0, _SHARES),
    "label_smoothing": (0.0, 1.0, _SHARES),
    "reg": (0.0, math.inf, "a number of at least 0"),
    "epochs": (0, math.inf, "a number of at least 0"),
    **dict.fromkeys(("batch_size", "accumulate"), (1, math.inf, "a number of at least 1")),
    "patience": (1, math.inf, "a number of at least 1"),
    "seed": (0, 2**32, "a number from 0 to 2^32 - 1"),
}


def is_own(options: DataOptions) -> bool:
    """Whether the data are somebody's own, by their path."""
    return options.name is not None and options.name not in SETS


def reader_options(options: DataOptions) -> dict[str, Any]:
    """What is said of how one's own data are read, for `data.read`."""
    said = {name: getattr(options, name) for name in OWN if getattr(options, name) is not None}
    if "target" in said and len(said["target"]) == 1:
        said["target"] = said["target"][0]
    if "size" in said and len(said["size"]) == 1:
        said["size"] = said["size"][0]
    return said | {name: list(said[name]) for name in ("features", "without") if name in said}


def resolved(options: Options, own: data.Dataset | None = None) -> Options:
    """Returns the options with nothing left unsaid, or raises CommandError.

    Args:
      options: what is said.
      own: the data, where they are somebody's own.
    """
    for group in options:
        _check_limits(group)
    if own is None and (said := reader_options(options.data)):
        raise CommandError(
            f"{flag(next(iter(said)))} is for data of your own, expected --data PATH with it."
        )
    options = Options(*(_with_unsaid(kind, group) for kind, group in options._asdict().items()))
    losses_there = LOSSES_OF["classification" if own is None else own.task]
    loss = options.training.loss or losses_there[0]
    if loss not in losses_there:
        task = "classification" if own is None else own.task
        raise CommandError(f"--loss is {loss}, expected {' or '.join(losses_there)} for {task}.")
    options = options._replace(training=dataclasses.replace(options.training, loss=loss))
    if options.training.label_smoothing and loss != "softmax":
        raise CommandError("--label-smoothing is an option of --loss softmax alone.")
    recipe = recipe_of(options.data.name or "") if own is None else recipe_for(own)
    if own is not None and options.stopping.best is None:
        # A validation split of a few rows has many epochs of the same accuracy, the first of them.
        stopping = dataclasses.replace(options.stopping, best="val_loss")
        options = options._replace(stopping=stopping)
    training = _merged(options.training, recipe.training)
    net, optimizer = options.net, options.optimizer
    if net.name in (None, recipe.net.name):
        net = _merged(net, recipe.net)
    elif net.hidden is None and net.name in _HIDDEN:
        net = dataclasses.replace(net, hidden=_HIDDEN[net.name])
    elif net.hidden is None and net.name == "fully_connected":
        net = dataclasses.replace(net, hidden=recipe.net.hidden)
    if optimizer.name in (None, recipe.optimizer.name):
        optimizer = _merged(optimizer, recipe.optimizer)
    else:
        rate = _either(optimizer.learning_rate, OPTIMIZERS[optimizer.name].learning_rate)
        decay = _either(optimizer.lr_decay, recipe.optimizer.lr_decay)
        optimizer = dataclasses.replace(optimizer, learning_rate=rate, lr_decay=decay)
    rule = OPTIMIZERS[optimizer.name or ""].make
    return Options(
        options.data,
        _with_own(net, "net", NETWORKS[net.name or ""]),
        _with_own(optimizer, "optimizer", rule, _OF_ALL_OPTIMIZERS),
        training,
        options.stopping,
    )


def _with_unsaid(kind: str, group: Any) -> Any:
    unsaid = _UNSAID.get(kind, {}).items()
    return dataclasses.replace(group, **{k: v for k, v in unsaid if getattr(group, k) is None})


def _either(said: Any, unsaid: Any) -> Any:
    return unsaid if said is None else said


def _merged(said: Any, recipe: Any) -> Any:
    """The options of a group, with what is None taken from the recipe's."""
    names = [field.name for field in dataclasses.fields(said)]
    return type(said)(*(_either(getattr(said, name), getattr(recipe, name)) for name in names))


def _with_own(group: Any, kind: str, function: Callable[..., Any], ours: Any = ()) -> Any:
    """The options of a group, with what is None taken from the defaults of its function.

    What is said must be among the function's parameters, or of `ours`.
    """
    own = _parameters(function)
    fields = {f.name: f for f in dataclasses.fields(group) if f.name not in ("name", *ours)}
    said = {name: getattr(group, name) for name in fields}
    for name, value in said.items():
        if name in own:
            default = own[name].default
            if value is None and default not in (None, inspect.Parameter.empty):
                several = "tuple" in str(fields[name].type) and own[name].annotation in ("int", int)
                said[name] = (default,) if several else default
        elif value is not None:
            takes = ", ".join(map(flag, (other for other in said if other in own)))
            raise CommandError(
                f"{flag(name)} is no option of --{kind} {group.name}, which takes "
                f"{takes or 'none of its kind'}."
            )
    if "norm" in own:
        said["norm"] = said["norm"] or "none"
    return dataclasses.replace(group, **said)


def takes(kind: str, name: str, option: str) -> bool:
    """Whether a net or an optimizer has an option of its group."""
    if option in _OF_ALL_OPTIMIZERS:
        return True
    return option in _parameters(NETWORKS[name] if kind == "net" else OPTIMIZERS[name].make)


def flag(name: str) -> str:
    """An option as it is written on the command line."""
    return "--" + name.replace("_", "-")


def _check_limits(group: Any) -> None:
    for name, (low, high, expected) in _LIMITS.items():
        value = getattr(group, name, None)
        if value is not None and not low <= value < high:
            raise CommandError(f"{flag(name)} is {value}, expected {expected}.")


def command_line(options: Any) -> list[str]:
    """The words after `funcnet` that make these groups of options: all, but not the folder."""
    words = ["train"]
    for kind, group in options._asdict().items():
        for field in dataclasses.fields(group):
            value = getattr(group, field.name)
            name = flag(kind if field.name == "name" else field.name)
            if field.type == "bool":
                words += [name] * value
            elif value is not None:
                words += [name, *map(str, value if isinstance(value, tuple) else (value,))]
    return words


def from_config(stored: dict[str, dict[str, Any]]) -> Options:
    """The options of a run's config.json, or raises KeyError or TypeError."""
    groups = {}
    for kind, group in _GROUPS.items():
        own = stored.get(kind, {}) if kind == "stopping" else stored[kind]  # which is younger
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in own.items()}
        groups[kind] = group(**values)
    return Options(**groups)


def reconciled(said: Options, begun: Options, folder: Any) -> Options:
    """The options of a run that goes on: as it was begun, where what is said does not contradict.

    What may change is the number of epochs, to more (no schedule of these depends on it), and where
    the data lie: whether they are the same, their SHA-256 says.
    """
    groups = begun._asdict()
    for kind, group in said._asdict().items():
        for field in dataclasses.fields(group):
            value, old = getattr(group, field.name), getattr(groups[kind], field.name)
            if value in (field.default, old):  # unsaid, or said again
                continue
            more = field.name == "epochs" and value > old
            moved = field.name in ("data_dir", "allow_unverified")
            if kind == "data" and field.name == "name" and is_own(group) and is_own(begun.data):
                value, moved = os.path.abspath(value), True
            if not more and not moved:
                name = flag(kind if field.name == "name" else field.name)
                hint = ", or more to train longer" if field.name == "epochs" else ""
                raise CommandError(
                    f"{name} is {_words(value)}, but the run in {folder} was begun with "
                    f"{_words(old)}: leave the option out{hint}, or begin a run of its own."
                )
            groups[kind] = dataclasses.replace(groups[kind], **{field.name: value})
    return Options(**groups)


def _words(value: Any) -> str:
    if value is None:
        return "none of its kind"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


# --- What the options stand for


def build_net(options: NetOptions, classes: int) -> nets.Net:
    """The net that resolved options describe."""
    function = NETWORKS[options.name or ""]
    arguments: dict[str, Any] = {}
    for name, parameter in _parameters(function).items():
        if not hasattr(options, name):  # the classes, and what has no option
            continue
        value = getattr(options, name)
        if parameter.annotation in ("int", int) and isinstance(value, tuple):
            if len(value) != 1:
                numbers = " ".join(map(str, value)) or "empty"
                raise CommandError(
                    f"{flag(name)} is {numbers}, expected one number for --net {options.name}."
                )
            value = value[0]
        arguments[parameter.name] = None if (name, value) == ("norm", "none") else value
    return function(classes=classes, **arguments)


def build_optimizer(
    options: OptimizerOptions, steps_per_epoch: int
) -> optax.GradientTransformation:
    """The optimizer that resolved options describe."""
    function = OPTIMIZERS[options.name or ""].make
    arguments = {
        name: getattr(options, name)
        for name in _parameters(function)
        if getattr(options, name, None) is not None
    }
    if options.lr_decay not in (None, 1.0):
        rate, decay = arguments["learning_rate"], options.lr_decay
        arguments["learning_rate"] = train.decay_per_epoch(rate, decay, steps_per_epoch)
    return function(**arguments)


def build_augmentation(name: str, images: np.ndarray) -> Callable[..., Any] | None:
    """The augmentation of that name, for images of this size; None for none."""
    if name == "none":
        return None
    side = min(images.shape[1:3])
    # The paper covers images of mean zero with zeros: before preprocessing, that is the mean.
    fill = round(float(images.mean()))
    functions: dict[str, Any] = {
        "crop": functools.partial(data.random_crop, padding=max(1, side // 8)),
        "flip": data.random_flip,
        "cutout": functools.partial(data.cutout, size=max(1, side // 4), fill=fill),
    }
    return data.compose(*(functions[part] for part in name.split("-")))
