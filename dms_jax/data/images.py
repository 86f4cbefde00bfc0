"""Sets of labelled pictures: any image classification set of TFDS by name, the bundled digits, synthetic pixels.

TFDS sets are read from ArrayRecord files, which `python -m dms_jax.data.prepare NAME` makes once; TensorFlow is not
needed to read them. What becomes a batch is in `dms_jax.data.loading`.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from dms_jax.data import digits as bundled
from dms_jax.data.sources import Pictures, Records, Source, Subset, Synthetic
from dms_jax.errors import UserError

INSTALL = 'pip install "dms_jax[data]"'

HELD_OUT = 10
"""Where a set has no labelled split to test on, one picture in ten of its training split is held out."""


class NotPrepared(UserError):
    """A set of TFDS that could be read once it is prepared, or an extra is installed; the message says how."""


class NeedsTensorFlow(UserError):
    """A set of TFDS that only TensorFlow can describe; once it is prepared, its files do."""


@dataclass(frozen=True)
class ImageData:
    """A set of pictures.

    Attributes:
      name: says where the pictures come from.
      num_classes: labels are below it.
      train, test: `len(...)` pictures each, none in both.
    """

    name: str
    num_classes: int
    train: Source
    test: Source


def open(name: str, directory: str | os.PathLike[str] | None = None) -> ImageData:
    """Open a prepared TFDS image classification set.

    The test pictures are those of the split "test" where its labels are told, else of "validation" (imagenet2012:
    the 50,000 that papers report on), else one picture in ten of "train", which are then not trained on.

    Args:
      name: as TFDS has it: "imagenet2012", "cifar10", "imagenet_resized/64x64".
      directory: where it was prepared; None is TFDS's default, ~/tensorflow_datasets or `TFDS_DATA_DIR`.

    Raises:
      NotPrepared: it is not prepared, or an extra is missing.
      UserError: no such set, or it is no classification of pictures.
    """
    tfds = tensorflow_datasets(prepare_command(name, directory))
    builder = prepared(name, directory)
    features, splits = builder.info.features, list(builder.info.splits)
    image, label = builder.info.supervised_keys or ("image", "label")
    _check_features(name, features, image, label)
    if "train" not in splits:
        raise UserError(f"{name} has no split to train on; it has: {', '.join(splits)}")

    def split(which: str) -> Source:
        records = builder.as_data_source(which, decoders={image: tfds.decode.SkipDecoding()})
        return Records(records, f"{name} {which}", image, label, features[label].num_classes)

    train, test = split("train"), _labelled(split(s) for s in ("test", "validation") if s in splits)
    if test is None:
        held = np.arange(len(train)) % HELD_OUT == HELD_OUT - 1
        train, test = Subset(train, np.flatnonzero(~held)), Subset(train, np.flatnonzero(held))
    if not len(train) or not len(test):
        raise UserError(f"{name} has {len(train)} pictures to train and {len(test)} to test on; prepare it again")
    return ImageData(name, features[label].num_classes, train, test)


def digits(size: int) -> ImageData:
    """scikit-learn's handwritten digits, 8 x 8 pixels made larger bicubically: what runs where nothing is prepared.

    Args:
      size: pixels of a side.

    Raises:
      UserError: scikit-learn or Pillow is missing, or a size below 1.
    """
    split = bundled.load()
    low = min(half["image"].min() for half in (split.train, split.test))
    high = max(half["image"].max() for half in (split.train, split.test))

    def pictures(half: dict[str, np.ndarray], what: str) -> Source:
        pixels = np.rint((half["image"] - low) * (255 / (high - low))).astype(np.uint8)
        return Pictures(pixels, half["label"], f"digits {what}", size)

    if size < 1:
        raise UserError(f"digits of {size} pixels are not possible; give the resolution of the network")
    title = f"scikit-learn digits, 8 x 8 pixels made {size} x {size}"
    return ImageData(title, bundled.CLASSES, pictures(split.train, "train"), pictures(split.test, "test"))


def synthetic(num_classes: int, size: int, examples: int = 50_000) -> ImageData:
    """Random pixels that cost nothing to load: for measuring speed, and for nothing else.

    Args:
      num_classes: of the labels.
      size: pixels of a side.
      examples: pictures to train on; a tenth of that to test on.
    """
    train, test = (Synthetic(num_classes, size, n) for n in (examples, max(examples // 10, 1)))
    return ImageData(
        "synthetic: random pixels, one batch again and again, for measuring speed", num_classes, train, test
    )


def prepare_command(name: str, directory: str | os.PathLike[str] | None) -> str:
    """The command that prepares a set."""
    manual = " --manual-dir=ARCHIVES" if name.partition("/")[0] == "imagenet2012" else ""
    return f"python -m dms_jax.data.prepare {name}{manual}" + (f" --data-dir={directory}" if directory else "")


def tensorflow_datasets(command: str | None = None) -> ModuleType:
    """The module, which needs no TensorFlow to be imported or to read.

    Args:
      command: that prepares the set that is wanted, for the message.

    Raises:
      NotPrepared: it, or what it needs to read, is missing.
    """
    try:
        import array_record.python.array_record_data_source  # noqa: F401
        import importlib_resources  # noqa: F401 - TFDS imports it, and does not say so to pip
        import tensorflow_datasets as tfds
    except ImportError as error:
        then = f"; then prepare it once: {command}" if command else ""
        raise NotPrepared(f"{error.name or error} is missing: {INSTALL}{then}") from error
    return tfds


def find_builder(name: str, directory: str | os.PathLike[str] | None, **options: Any) -> Any:
    """The TFDS builder of a set, prepared or not.

    Raises:
      UserError: TFDS has no such set, or has none of this configuration or version.
    """
    tfds = tensorflow_datasets()
    try:
        with _quiet():
            return tfds.builder(name, data_dir=directory, **options)
    except tfds.core.DatasetNotFoundError:
        known = dict.fromkeys(tfds.list_builders(with_community_datasets=False))
        near = difflib.get_close_matches(name.partition("/")[0], known, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "see tensorflow.org/datasets/catalog"
        raise UserError(f"TFDS has no data set {name!r}; {hint}") from None
    except (AssertionError, ValueError) as error:  # what an unknown configuration or version raises
        raise UserError(f"TFDS cannot open {name!r}: {error}") from None
    except ImportError as error:  # some sets name types of TensorFlow in their description
        raise NeedsTensorFlow(f'TFDS needs TensorFlow to describe {name}: pip install "dms_jax[prepare]"') from error


def prepared(name: str, directory: str | os.PathLike[str] | None) -> Any:
    """The TFDS builder of a set that can be read at random.

    Raises:
      NotPrepared: it is not prepared, or an extra is missing.
      UserError: no such set, or it lies there in another format.
    """
    command = prepare_command(name, directory)
    try:
        said = io.StringIO()  # TFDS says at length that TensorFlow is not there
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            builder = find_builder(name, directory)
    except NeedsTensorFlow:
        builder = _from_files(name, directory)
        if builder is None:
            raise NotPrepared(f"{name} is not prepared; prepare it once: {command}") from None
    if not is_prepared(builder):
        raise NotPrepared(f"{name} is not prepared: nothing is in {builder.data_path}; prepare it once: {command}")
    file_format = getattr(builder.info.file_format, "value", builder.info.file_format)
    if file_format != "array_record":
        raise UserError(
            f"{name} lies in {builder.data_path} as {file_format}, which cannot be read at random; "
            f"prepare it in another directory: {prepare_command(name, 'DIR')}"
        )
    return builder


def _from_files(name: str, directory: str | os.PathLike[str] | None) -> Any:
    """The builder of a prepared set as its files describe it; None: there are none."""
    tfds = tensorflow_datasets()
    try:
        with _quiet():
            return tfds.core.read_only_builder.builder_from_files(name, data_dir=directory)
    except tfds.core.DatasetNotFoundError:
        return None


def is_prepared(builder: Any) -> bool:
    """Whether a TFDS builder's set can be read."""
    with _quiet():
        return builder.is_prepared()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without warnings of TFDS that a set is not prepared: the caller says that, with what to do."""
    absl = logging.getLogger("absl")
    level = absl.level
    absl.setLevel(logging.ERROR)
    try:
        yield
    finally:
        absl.setLevel(level)


def _check_features(name: str, features: Any, image: str, label: str) -> None:
    for key, kind in ((image, "Image"), (label, "ClassLabel")):
        if key not in features or type(features[key]).__name__ != kind:
            raise UserError(f"{name} is no classification of pictures: its features are {', '.join(features)}")


def _labelled(sources: Iterable[Source]) -> Source | None:
    """The first source whose labels are told."""
    return next((source for source in sources if len(source) and source[0].label >= 0), None)
