"""Pictures a second that the loader gives, beside what a training step takes.

    python -m experiments.benchmarks.loader [--quick]

The loader reads JPEGs of 500 x 375 pixels (ImageNet's usual size, cut from scikit-learn's two photographs) from memory
and gives batches of 224 x 224 with a random resized crop and a flip, and with RandAugment as well; 0 workers load in
threads of the process itself. Times are of the batches after the first ones, which start the workers and empty what
was loaded ahead. Then: a training step of ResNet-50 (forward, backward, SGD) with input at hand.
Expected: with as many workers as cores, nearly as many times the pictures that one worker gives.
"""

from __future__ import annotations

import io
import sys
import time
from dataclasses import dataclass

import jax
import numpy as np
import optax
from PIL import Image
from sklearn.datasets import load_sample_images

from dms_jax import models
from dms_jax.command_line import parse
from dms_jax.data import loading, streaming
from dms_jax.data.augment import Augment
from dms_jax.data.mixing import NONE, mix
from dms_jax.data.sources import Example, Synthetic
from dms_jax.errors import exit_on_user_error
from dms_jax.training import supervised
from dms_jax.training.machine import machine
from experiments.benchmarks.timing import going_on, interleaved_seconds, spread

HEIGHT, WIDTH, SIZE = 375, 500, 224
AUGMENTS = {"crop, flip": Augment(rand_augment=None), "crop, flip, RandAugment": Augment()}


@dataclass(frozen=True)
class Options:
    """Time the loader and a training step.

    Attributes:
      quick: few and small batches, to see that the benchmark runs.
      workers: worker processes to try.
      batches: timed batches of 64 pictures, of each loader.
      rounds: timed steps of each network.
    """

    quick: bool = False
    workers: tuple[int, ...] = (0, 1, 2)
    batches: int = 12
    rounds: int = 5


def main(options: Options) -> None:
    print(f"Machine: {machine()}  \nCommand: `python -m experiments.benchmarks.loader {' '.join(sys.argv[1:])}`\n")
    batch, count = (4, 3) if options.quick else (64, options.batches)
    source = Photographs(64)
    print("| what is done | workers | pictures/s (least to most) |\n|---|---:|---|")
    for name, augment in AUGMENTS.items():
        for workers in options.workers:
            rates = batch / loader_seconds(source, augment, workers, batch, count)
            print(f"| {name} | {workers} | {spread(rates, 0)} |", flush=True)
    print("\n| training step | pictures/s (least to most) |\n|---|---|")
    for size, images in ((32, 2),) if options.quick else ((64, 16), (SIZE, 8)):
        seconds = step_seconds("resnet50", size, images, 2 if options.quick else options.rounds)
        print(f"| resnet50, {size} px, batch {images} | {spread(images / seconds, 0)} |", flush=True)


class Photographs:
    """So many JPEGs in memory."""

    def __init__(self, count: int):
        draw, photographs, self.files = np.random.default_rng(0), load_sample_images().images, list[bytes]()
        for number in range(count):
            pixels = photographs[number % 2]
            top, left = (int(draw.integers(n)) for n in (len(pixels) - HEIGHT, pixels.shape[1] - WIDTH))
            file = io.BytesIO()
            Image.fromarray(pixels[top : top + HEIGHT, left : left + WIDTH]).save(file, "JPEG", quality=90)
            self.files.append(file.getvalue())

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> Example:
        return Example(self.files[number], number)

    def name(self, number: int) -> str:
        return f"photograph {number}"


def loader_seconds(source: Photographs, augment: Augment, workers: int, batch: int, count: int) -> np.ndarray:
    """Seconds between batches, `[count // group]` of groups so large that every worker gives its share."""
    load = loading.batches(source, batch, 0, size=SIZE, augment=augment, workers=workers)
    assert isinstance(load, loading.Loader)
    group = max(workers, streaming.THREADS)
    ahead = 2 * group * streaming.AHEAD
    for step in range(ahead):
        load(step)
    seconds = []
    for first in range(ahead, ahead + count, group):
        start = time.perf_counter()
        for step in range(first, first + group):
            load(step)
        seconds.append((time.perf_counter() - start) / group)
    load.close()
    return np.array(seconds)


def step_seconds(network: str, size: int, batch: int, rounds: int) -> np.ndarray:
    """Seconds of a training step on one and the same batch."""
    model = models.create(network, num_classes=1000)
    images = mix(jax.device_put(Synthetic(1000, size, batch).batch(batch, size)), jax.random.key(0), NONE, 1000)
    optimizer = optax.sgd(0.01, momentum=0.9)
    variables = jax.jit(model.init)(jax.random.key(0), images["image"])
    step = jax.jit(supervised.make_step(supervised.classification_loss(model), optimizer), donate_argnums=0)
    calls = {network: going_on(step, supervised.init(variables, optimizer), images, jax.random.key(1))}
    return interleaved_seconds(calls, rounds, warm=2)[network]


if __name__ == "__main__":
    exit_on_user_error(lambda: main(parse(Options, description=__doc__)))()
