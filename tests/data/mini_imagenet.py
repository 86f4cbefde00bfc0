"""ImageNet in miniature: crops of scikit-learn's two photographs, in the layout of the official archives.

48 training pictures of at most 16 synsets, and 16 validation pictures. A synset has its own place in a photograph, so
that there is something to learn, and the synsets are those that TFDS knows the first validation pictures to have.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_sample_images

TRAIN, VALIDATION = 48, 16


def synsets() -> list[str]:
    """Of the validation pictures, in the order of their names."""
    import tensorflow_datasets as tfds

    file = Path(tfds.core.tfds_path("datasets/imagenet2012/validation_labels.txt"))
    return file.read_text().split()[:VALIDATION]


def write_archives(directory: Path) -> None:
    """Write ILSVRC2012_img_train.tar, a tar of a tar for each synset, and ILSVRC2012_img_val.tar."""
    known = sorted(set(synsets()))
    owners = [known[i % len(known)] for i in range(TRAIN)]
    with tarfile.open(directory / "ILSVRC2012_img_train.tar", "w") as archive:
        for synset in known:
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as pictures:
                for i in np.flatnonzero(np.array(owners) == synset):
                    _add(pictures, f"{synset}_{i}.JPEG", jpeg(known.index(synset), int(i)))
            _add(archive, f"{synset}.tar", inner.getvalue())
    with tarfile.open(directory / "ILSVRC2012_img_val.tar", "w") as archive:
        for i, synset in enumerate(synsets()):
            _add(archive, f"ILSVRC2012_val_{i + 1:08d}.JPEG", jpeg(known.index(synset), TRAIN + i))


def jpeg(place: int, number: int) -> bytes:
    """A crop of 90 to 160 pixels a side, around a place of a photograph."""
    from PIL import Image

    draw = np.random.default_rng(number)
    photograph = load_sample_images().images[place % 2]
    height, width = draw.integers(90, 160, 2)
    top, left = 60 * (place // 2 % 4) + draw.integers(20), 220 * (place // 8) + draw.integers(20)
    file = io.BytesIO()
    Image.fromarray(photograph[top : top + height, left : left + width]).save(file, "JPEG", quality=90)
    return file.getvalue()


def write_records(archives: Path, directory: Path, *, validation: bool = True) -> None:
    """Prepare imagenet2012 from such archives as the real command does, but for TensorFlow.

    TFDS's own builder reads archives with TensorFlow; its features, its writer and its index need none. (The real
    command is tested in test_prepare.py, where TensorFlow is installed.)
    """
    from dms_jax.data.images import find_builder

    builder = find_builder("imagenet2012", directory, file_format="array_record")
    splits: dict[str, Any] = {"train": _training(archives / "ILSVRC2012_img_train.tar")}
    if validation:
        splits["validation"] = _validation(archives / "ILSVRC2012_img_val.tar")
    builder._split_generators = lambda downloads: splits
    builder.download_and_prepare()


def _training(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with tarfile.open(path) as archive:
        for member in archive:
            with tarfile.open(fileobj=io.BytesIO(_content(archive, member))) as pictures:
                for picture in pictures:
                    yield _example(picture.name, _content(pictures, picture), member.name.removesuffix(".tar"))


def _validation(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with tarfile.open(path) as archive:
        for picture, synset in zip(archive, synsets(), strict=True):
            yield _example(picture.name, _content(archive, picture), synset)


def _example(name: str, content: bytes, synset: str) -> tuple[str, dict[str, Any]]:
    return name, {"file_name": name, "image": io.BytesIO(content), "label": synset}


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None
    return file.read()


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))
