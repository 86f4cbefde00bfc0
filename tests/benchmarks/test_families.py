"""Several sizes in one cell: a family of one size is what a search alone gives, and networks are nested."""

import numpy as np
import pytest

from dms_jax.training.interrupt import InterruptFlag
from experiments.benchmarks import families
from experiments.benchmarks.families import Nested
from experiments.benchmarks.protocol import compete
from experiments.benchmarks.settings import Settings
from experiments.benchmarks.text_task import QUICK, text_task

STEPS = 6
SEARCH = Settings("dms", 0.5, STEPS, 2, 5.0)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.benchmarks.tasks.CACHE", tmp_path_factory.mktemp("supernets"))
        yield text_task(QUICK)


def trained(task, settings):
    return families.train(task, settings, 0, InterruptFlag(), lambda text: None)


@pytest.mark.parametrize("together", [True, False])
def test_a_family_of_one_size_is_what_a_search_alone_gives(task, together):
    """The same batches, schedule and moments: what differs between rows of the table is what their names say."""
    alone = compete(task, SEARCH, 0, InterruptFlag(), lambda text: None)
    found = trained(task, Nested(SEARCH, (0.5,), together))
    assert found["kept"] == [alone["kept"]] and found["supernet"] == alone["supernet"]
    np.testing.assert_allclose(found["test"], [alone["test"]], rtol=1e-5)


def test_networks_are_nested_within_their_sizes_and_taught_otherwise(task):
    even = Nested(Settings("uniform", 0.5, STEPS), (0.9, 0.7, 0.5), together=True)
    plain, taught = (trained(task, Nested(even.search, even.sizes, True, taught)) for taught in (False, True))
    full = task.space.resources()["macs"]
    for size, macs in zip(even.sizes, plain["macs"], strict=True):
        assert 0.9 * size < macs / full <= size
    for larger, smaller in zip(plain["kept"], plain["kept"][1:], strict=False):
        assert all(smaller[name] <= larger[name] for name in larger)
    assert plain["kept"] == taught["kept"] and plain["test"] != taught["test"]
