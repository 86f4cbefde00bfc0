"""The command that prepares a data set: on ImageNet in miniature, from archives in the official layout."""

import importlib.util
import os
import subprocess
import sys

import pytest

from dms_jax import UserError
from dms_jax.data import images, loading
from dms_jax.data.prepare import main, prepare

pytest.importorskip("PIL", reason="of the extra data")
pytest.importorskip("tensorflow_datasets", reason="of the extra data")

from tests.data import mini_imagenet  # noqa: E402 - after the check for its needs

needs_tensorflow = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="TFDS prepares with TensorFlow, of the extra prepare"
)


@needs_tensorflow
def test_the_real_command_on_the_official_layout(tmp_path):
    archives, directory = tmp_path / "archives", tmp_path / "prepared"
    archives.mkdir()
    mini_imagenet.write_archives(archives)
    command = [sys.executable, "-m", "dms_jax.data.prepare", "imagenet2012"]
    # Both spellings of a flag.
    command += [f"--manual_dir={archives}", f"--data-dir={directory}"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert result.returncode == 0, result.stderr
    assert "train: 48 pictures\nvalidation: 16 pictures\n" in result.stdout

    data = images.open("imagenet2012", directory)
    light = tmp_path / "light"
    mini_imagenet.write_records(archives, light)
    expected = images.open("imagenet2012", light)
    for made, written in ((data.train, expected.train), (data.test, expected.test)):
        assert len(made) == len(written)
        assert {made.name(i): made[i] for i in range(len(made))} == {
            written.name(i): written[i] for i in range(len(written))
        }
    batch = loading.batches(data.train, 8, 0, size=32)(0)
    assert batch["image"].shape == (8, 32, 32, 3)
    assert sum(b["weight"].sum() for b in loading.evaluation(data.test, 6, 32)) == 16


def test_what_is_prepared_is_left_alone(tmp_path, capsys):
    mini_imagenet.write_archives(tmp_path)
    mini_imagenet.write_records(tmp_path, tmp_path)
    main(["imagenet2012", f"--data_dir={tmp_path}"])
    said = capsys.readouterr().out.splitlines()[-3:]
    assert said[0].startswith(f"imagenet2012 is prepared in {tmp_path}")
    assert said[1:] == ["train: 48 pictures", "validation: 16 pictures"]


def test_missing_tensorflow_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'TensorFlow, which is missing: pip install "dms_jax\[prepare\]"'):
        prepare("cifar10", None, tmp_path)


@pytest.mark.parametrize(
    "given, said",
    [
        (False, "needs --manual-dir, a directory with its archives, and none is given"),
        (True, "lacks ILSVRC2012_img_val.tar; get them from"),
    ],
)
def test_missing_archives_are_named(given, said, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)  # as if TensorFlow were there
    (tmp_path / "ILSVRC2012_img_train.tar").touch()
    with pytest.raises(UserError, match=said):
        prepare("imagenet2012", tmp_path if given else None, tmp_path / "prepared")


@needs_tensorflow
def test_a_broken_archive_is_named(tmp_path):
    mini_imagenet.write_archives(tmp_path)
    (tmp_path / "ILSVRC2012_img_train.tar").write_bytes(b"no archive")
    with pytest.raises(UserError, match="imagenet2012 cannot be prepared"):
        prepare("imagenet2012", tmp_path, tmp_path / "prepared")


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(UserError, match="did you mean cifar10"):
        prepare("cifar01", None, tmp_path)
