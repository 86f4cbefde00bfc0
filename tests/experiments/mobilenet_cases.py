"""Wheels as `experiments.mobilenet_prune` brings them, with small pictures inside."""

import dataclasses
import hashlib
import io
import zipfile

import numpy as np

from dms_jax.data.pictures import pillow
from experiments import mobilenet_pictures
from tests.data import test_trees

IMAGENET = tuple(f"imagenet_{n:02d}_{n}.jpg" for n in range(4))
COLORS = {
    name: np.random.default_rng(n).integers(0, 256, 3, np.uint8)
    for n, name in enumerate((*mobilenet_pictures._IN_SKIMAGE, *IMAGENET))
}
"""Picture -> its only color."""

CROWNS = np.array([[10, 20, 40, 60], [60, 100, 90, 140], [230, 20, 260, 60], [240, 120, 280, 150]])
"""Two in either half."""


def known(monkeypatch, module, name, path):
    """Make a wheel the one that is known."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(module, name, dataclasses.replace(getattr(module, name), sha256=digest))


def wheels(directory, monkeypatch):
    """A directory with the three wheels of pictures, which are then the ones that are known."""
    for name, folder, file, inside in (
        ("SKIMAGE", "skimage/data", "scikit_image-0.25.2-x.whl", mobilenet_pictures._IN_SKIMAGE),
        ("FOOLBOX", "foolbox/data", "foolbox-3.3.4-x.whl", IMAGENET),
    ):
        with zipfile.ZipFile(directory / file, "w") as archive:
            for picture in inside:
                archive.writestr(f"{folder}/{picture}", _png(COLORS[picture]))
        known(monkeypatch, mobilenet_pictures, name, directory / file)
    test_trees.wheel(directory / "deepforest-2.1.0-x.whl", CROWNS)
    known(monkeypatch, mobilenet_pictures, "TREES", directory / "deepforest-2.1.0-x.whl")
    return directory


def _png(color):
    buffer = io.BytesIO()
    pillow().fromarray(np.broadcast_to(color, (40, 60, 3)).copy()).save(buffer, format="PNG")
    return buffer.getvalue()
