"""Opening sets of pictures: what is read, which pictures are tested on, and what a user is told."""

import json
import sys

import numpy as np
import pytest

from dms_jax import UserError
from dms_jax.data import digits, images

pytest.importorskip("PIL", reason="pictures need Pillow, of the extra data")


@pytest.fixture(scope="module")
def tfds():
    return pytest.importorskip("tensorflow_datasets", reason="of the extra data")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, tfds):
    from tests.data import mini_imagenet

    archives, directory = tmp_path_factory.mktemp("archives"), tmp_path_factory.mktemp("prepared")
    mini_imagenet.write_archives(archives)
    mini_imagenet.write_records(archives, directory)
    return directory


def test_imagenet_is_read_without_tensorflow(prepared, tfds):
    from tests.data import mini_imagenet

    before = "tensorflow" in sys.modules
    data = images.open("imagenet2012", prepared)
    assert (data.name, data.num_classes, len(data.train), len(data.test)) == ("imagenet2012", 1000, 48, 16)
    names = tfds.builder("imagenet2012", data_dir=prepared).info.features["label"].names
    known = sorted(set(mini_imagenet.synsets()))
    for half, count in ((data.train, 48), (data.test, 16)):
        for number in range(count):
            (picture, label), name = half[number], half.name(number)
            written = int(name.rpartition("_")[2].removesuffix(".JPEG"))
            written = 47 + written if "val" in name.rpartition(" ")[2] else written
            assert picture == mini_imagenet.jpeg(known.index(names[label]), written), name
    assert ("tensorflow" in sys.modules) == before


def test_without_a_test_split_a_tenth_is_held_out(tmp_path, tfds):
    from tests.data import mini_imagenet

    mini_imagenet.write_archives(tmp_path)
    mini_imagenet.write_records(tmp_path, tmp_path, validation=False)
    data = images.open("imagenet2012", tmp_path)
    assert (len(data.train), len(data.test)) == (44, 4)
    names = [half.name(i) for half in (data.train, data.test) for i in range(len(half))]
    assert len(set(names)) == 48
    assert data.test.name(0).startswith("imagenet2012 train [9] ")


def test_data_that_is_not_prepared_names_the_command(tmp_path, tfds):
    with pytest.raises(UserError) as error:
        images.open("imagenet2012", tmp_path)
    command = f"python -m dms_jax.data.prepare imagenet2012 --manual-dir=ARCHIVES --data-dir={tmp_path}"
    assert str(error.value).endswith(command)
    with pytest.raises(UserError, match=r"cifar10 is not prepared: .*dms_jax\.data\.prepare cifar10 --data-dir="):
        images.open("cifar10", tmp_path)


@pytest.mark.parametrize(
    "name, said",
    [
        ("imagnet2012", "no data set 'imagnet2012'; did you mean imagenet2012 or "),
        ("xqzw", "no data set 'xqzw'; see "),
        ("cifar10:0.0.1", r"cannot open 'cifar10:0.0.1': .*3\."),
        ("imagenet_resized/65x65", "cannot open 'imagenet_resized/65x65'"),
    ],
)
def test_unknown_names_are_refused(name, said, tmp_path, tfds):
    with pytest.raises(UserError, match=said):
        images.open(name, tmp_path)


def test_texts_are_no_pictures(tmp_path, tfds):
    builder = images.find_builder("ag_news_subset", tmp_path, file_format="array_record")
    builder._split_generators = lambda downloads: {"train": iter([(0, {"title": "a", "description": "b", "label": 0})])}
    builder.download_and_prepare()
    with pytest.raises(UserError, match="ag_news_subset is no classification of pictures: its features are"):
        images.open("ag_news_subset", tmp_path)


def test_another_file_format_is_refused(tmp_path, tfds):
    from tests.data import mini_imagenet

    mini_imagenet.write_archives(tmp_path)
    mini_imagenet.write_records(tmp_path, tmp_path, validation=False)
    (index,) = tmp_path.glob("imagenet2012/*/dataset_info.json")
    index.write_text(json.dumps(json.loads(index.read_text()) | {"fileFormat": "tfrecord"}))
    with pytest.raises(UserError, match="as tfrecord, which cannot be read at random; prepare it in another"):
        images.open("imagenet2012", tmp_path)


@pytest.mark.parametrize("module", ["tensorflow_datasets", "importlib_resources"])
def test_a_missing_extra_is_named(module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=r'is missing: pip install "dms_jax\[data\]"'):
        images.open("cifar10")


def test_digits_are_the_bundled_ones_made_larger():
    data, split = images.digits(16), digits.load()
    assert (data.num_classes, len(data.train), len(data.test)) == (10, 1437, 360)
    assert "8 x 8 pixels made 16 x 16" in data.name
    picture, label = data.test[7]
    assert isinstance(picture, np.ndarray) and picture.shape == (16, 16, 3) and picture.dtype == np.uint8
    assert label == split.test["label"][7]
    same, _ = images.digits(8).test[7]
    assert isinstance(same, np.ndarray)
    normalised = split.test["image"][7]
    low, high = split.train["image"].min(), split.train["image"].max()
    np.testing.assert_array_equal(same, np.rint((normalised - low) / (high - low) * 255).astype(np.uint8))
    assert abs(int(picture.mean()) - int(same.mean())) <= 3


def test_digits_have_a_size():
    with pytest.raises(UserError, match="0 pixels"):
        images.digits(0)


def test_synthetic_data_says_so():
    data = images.synthetic(7, 12)
    assert "speed" in data.name and data.num_classes == 7
    picture, label = data.train[3]
    assert isinstance(picture, np.ndarray) and picture.shape == (12, 12, 3) and 0 <= label < 7
