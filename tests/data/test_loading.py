"""Batches of pictures: the same whatever loads them, each picture once, and what cannot be read."""

import io
from dataclasses import dataclass

import numpy as np
import pytest

from dms_jax import UserError
from dms_jax.data import images, loading
from dms_jax.data.augment import Augment
from dms_jax.data.corruption import Corruption
from dms_jax.data.sources import Example, Pictures, Subset

pytest.importorskip("PIL", reason="pictures need Pillow, of the extra data")
pytest.importorskip("grain")

WHOLE = Augment(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, rand_augment=None)


def _numbered(count):
    """Grey pictures whose value is their number."""
    pixels = np.arange(count, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 4, 4, 3), np.uint8)
    return Pictures(pixels, np.arange(count), "numbered", 4)


@dataclass(frozen=True)
class Files:
    """JPEGs of their number's grey, some of them cut off."""

    count: int
    broken: frozenset[int]

    def __len__(self):
        return self.count

    def __getitem__(self, number):
        from PIL import Image

        file = io.BytesIO()
        Image.new("RGB", (24, 20), (number, number, number)).save(file, "JPEG")
        return Example(file.getvalue()[: 300 if number in self.broken else None], number)

    def name(self, number):
        return f"file {number}"


def _labels(source, batch, seed, steps, **options):
    load = loading.batches(source, batch, seed, size=4, augment=WHOLE, **options)
    return np.stack([load(step)["label"] for step in range(steps)])


def test_every_epoch_is_another_permutation():
    source = _numbered(30)
    labels = _labels(source, 12, 0, 5).reshape(2, 30)
    np.testing.assert_array_equal(np.sort(labels, axis=1), np.broadcast_to(np.arange(30), (2, 30)))
    assert not np.array_equal(labels[0], labels[1])
    assert not np.array_equal(_labels(source, 30, 1, 1)[0], labels[1])


def test_pictures_and_labels_stay_together():
    batch = loading.batches(_numbered(30), 12, 0, size=4, augment=WHOLE)(0)
    assert {name: (leaf.shape, leaf.dtype.name) for name, leaf in batch.items()} == {
        "image": ((12, 4, 4, 3), "uint8"),
        "label": ((12,), "int32"),
    }
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["label"])


def test_any_step_is_the_same_whenever_it_is_asked():
    make = lambda: loading.batches(images.digits(16).train, 5, 3, size=16)  # noqa: E731
    in_order = make()
    steps = [in_order(step) for step in range(6)]
    shared = make()
    for step in (4, 5, 1, 0, 3, 3):
        for name, leaf in shared(step).items():
            np.testing.assert_array_equal(leaf, steps[step][name])
    assert not np.array_equal(steps[0]["image"], loading.batches(images.digits(16).train, 5, 4, size=16)(0)["image"])


@pytest.mark.parametrize("processes", [2, 3])
def test_shares_of_processes_make_the_whole_batch(processes):
    source = images.digits(8).train
    whole = loading.batches(source, 6, 0, size=8)
    shares = [loading.batches(source, 6, 0, size=8, shard=(p, processes)) for p in range(processes)]
    for step in (0, 1, 300):
        parts = [share(step) for share in shares]
        for name, leaf in whole(step).items():
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), leaf)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers, capfd):
    source = Files(20, frozenset({3, 11}))
    here = loading.batches(source, 6, 0, size=16)
    there = loading.batches(source, 6, 0, size=16, workers=workers)
    assert isinstance(here, loading.Loader) and isinstance(there, loading.Loader)
    try:
        for step in (0, 1, 2, 3, 4, 5, 6):
            expected, loaded = here(step), there(step)
            for name in expected:
                np.testing.assert_array_equal(loaded[name], expected[name])
    finally:
        there.close()
        here.close()
    assert there.corruption.numbers == here.corruption.numbers == {3, 11}
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("skipped, cannot be read: file")]
    assert len(said) == 4 and len(set(said)) == 2  # once for each loader
    assert all("(OSError: " in line for line in said)


def test_the_next_picture_takes_the_place_of_a_corrupted_one():
    good, broken = Files(20, frozenset()), Files(20, frozenset({7}))
    order, found = _labels(good, 20, 0, 1)[0], _labels(broken, 20, 0, 1)[0]
    place = int(np.flatnonzero(order == 7)[0])
    assert 7 not in found and place < 19
    order[place] = order[place + 1]
    np.testing.assert_array_equal(found, order)


def test_many_corrupted_pictures_are_an_error(capsys):
    load = loading.batches(Files(100, frozenset(range(0, 100, 8))), 10, 0, size=4, augment=WHOLE)
    with pytest.raises(UserError, match=r"[345] of 100 pictures cannot be read, the last is file \d+; more than 0.1%"):
        for step in range(11):
            load(step)
    assert len(capsys.readouterr().err.splitlines()) in (3, 4, 5)


def test_the_share_that_is_an_error(capsys):
    corruption = Corruption(Files(5000, frozenset(range(10))))

    def read(*numbers):
        return corruption.checked({"label": np.zeros(10), "corrupted": np.array(numbers, np.int64)})

    assert set(read(0, 1, 2, 3)) == set(read(4)) == set(read(4, 0)) == {"label"}  # 0.1 %
    assert "file 4 (OSError: Truncated File Read), 5 of 5,000 pictures so far" in capsys.readouterr().err
    with pytest.raises(UserError, match="6 of 5,000 pictures cannot be read, the last is file 5; more than 0.1%"):
        read(5)


def test_corrupted_pictures_without_end_are_an_error():
    load = loading.batches(Files(40, frozenset(range(40))), 4, 0, size=4)
    with pytest.raises(UserError, match="16 pictures one after another cannot be read"):
        load(0)


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("count, batch", [(21, 8), (16, 8), (3, 8)])
def test_evaluation_counts_every_picture_once(count, batch, processes):
    shares = [loading.evaluation(_numbered(count), batch, 4, crop=1.0, shard=(p, processes)) for p in range(processes)]
    loaded = [list(share) for share in shares]
    assert {len(batches) for batches in loaded} == {len(shares[0])} == {-(-count // batch)}
    seen = []
    for batches in loaded:
        for b in batches:
            assert b["image"].shape == (batch // processes, 4, 4, 3) and b["image"].dtype == np.uint8
            assert b["weight"].dtype == np.float32 and b["label"].dtype == np.int32
            np.testing.assert_array_equal(b["image"][:, 0, 0, 0], b["label"])
            seen += b["label"][b["weight"] == 1].tolist()
    assert sorted(seen) == list(range(count))
    assert sum(b["weight"].sum() for batches in loaded for b in batches) == count


def test_evaluation_leaves_corrupted_pictures_out(capsys):
    test = loading.evaluation(Files(20, frozenset({5})), 8, 16)
    for _ in range(2):  # as often as it is gone through
        batches = list(test)
        weights = np.concatenate([b["weight"] for b in batches])
        assert weights.shape == (24,) and weights[5] == 0 and weights.sum() == 19
    assert "cannot be read: file 5 (OSError" in capsys.readouterr().err


def test_evaluation_in_workers_is_the_same():
    source = images.digits(16).test
    source = Subset(source, np.arange(20))
    here, there = (list(loading.evaluation(source, 8, 16, workers=workers)) for workers in (0, 1))
    assert len(here) == len(there) == 3
    for a, b in zip(here, there, strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_synthetic_batches_are_one_and_the_same():
    data = images.synthetic(7, 12, examples=100)
    load = loading.batches(data.train, 8, 0, size=12, shard=(1, 2))
    first, second = load(0), load(10**6)
    assert first["image"] is second["image"] and first["image"].shape == (4, 12, 12, 3)
    assert sum(b["weight"].sum() for b in loading.evaluation(data.test, 4, 12)) == 10


def test_the_stream_is_the_same_on_every_machine():
    # Computed once, with Python 3.11 and NumPy 2.4: another value is another stream, and no old run can go on.
    assert _labels(_numbered(8), 8, 0, 2).tolist() == GOLDEN_ORDER
    draws = loading.generator(1, 2**33)
    assert [int(x) for x in draws.integers(1000, size=4)] == GOLDEN_INTEGERS
    np.testing.assert_allclose(draws.normal(size=2), GOLDEN_NORMALS, rtol=1e-12)


GOLDEN_ORDER = [[5, 3, 6, 7, 4, 2, 1, 0], [6, 5, 4, 1, 0, 7, 3, 2]]
GOLDEN_INTEGERS = [761, 31, 765, 271]
GOLDEN_NORMALS = [-0.11706490771432945, 0.7981880097859763]


@pytest.mark.parametrize(
    "options, said",
    [
        ({"batch": 0}, "batch of 0"),
        ({"batch": 9, "shard": (0, 2)}, "batch of 9 cannot be cut over 2 processes"),
        ({"shard": (2, 2)}, "process 2 of 2"),
        ({"size": 0}, "at 0 pixels"),
        ({"workers": -1}, "-1 workers"),
        ({"seed": -1}, "seed -1"),
        ({"source": _numbered(0)}, "0 pictures"),
    ],
)
def test_bad_input_is_named(options, said):
    given = {"source": _numbered(4), "batch": 2, "seed": 0, "size": 4} | options
    with pytest.raises(UserError, match=said):
        loading.batches(given.pop("source"), given.pop("batch"), given.pop("seed"), **given)


def test_there_is_no_step_before_the_first_and_no_empty_crop():
    with pytest.raises(ValueError, match="step -1"):
        loading.batches(_numbered(3), 1, 0, size=4)(-1)
    with pytest.raises(UserError, match="crop of 0"):
        loading.evaluation(_numbered(3), 1, 4, crop=0)
