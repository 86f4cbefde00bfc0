"""Evolution over structures: under its budget, repeatable, and never worse than the even structure it starts from."""

import jax
import numpy as np
import pytest

from dms_jax import shrink
from dms_jax.method.projection import project
from dms_jax.training.interrupt import InterruptFlag
from experiments.benchmarks import evolution
from experiments.benchmarks.tasks import Phases
from experiments.benchmarks.text_task import QUICK, text_task


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.benchmarks.tasks.CACHE", tmp_path_factory.mktemp("supernets"))
        yield text_task(QUICK)


def test_evolution_ends_where_the_loss_is_least_of_what_it_tried(task, monkeypatch):
    """The score of what comes out is the least of all scores, that of the even structure among them."""
    monkeypatch.setattr(evolution, "GENERATIONS", 3)
    monkeypatch.setattr(evolution, "POPULATION", 5)
    scores, scorer = [], evolution._scorer

    def recording(*arguments):
        score = scorer(*arguments)

        def recorded(structure):
            scores.append((score(structure), structure))
            return scores[-1][0]

        return recorded

    monkeypatch.setattr(evolution, "_scorer", recording)
    variables, draw = task.pretrained(0), np.random.default_rng(0)
    ranking = {name: draw.uniform(size=group.size) for name, group in task.space.groups.items()}
    budget = {"macs": int(0.5 * task.space.resources()["macs"])}
    found = [
        evolution.evolve(Phases(task, 0, InterruptFlag(), lambda text: None), variables, ranking, budget, 0)
        for _ in range(2)
    ]
    assert found[0].kept == found[1].kept
    tried = scores[: len(scores) // 2]
    assert len(tried) == 15
    best, structure = min(tried, key=lambda one: one[0])
    assert structure.kept == found[0].kept
    even = task.space.structure(project(task.space, dict.fromkeys(task.space.groups, 0.5), ranking, budget))
    assert tried[0][1].kept == even.kept and best <= tried[0][0]
    assert task.space.resources(task.space.kept(found[0]))["macs"] <= budget["macs"]


def test_a_score_is_the_loss_of_the_network_cut_out(task):
    """Masks and slices agree, so that what evolves is judged as what is exported."""
    variables = task.pretrained(0)
    score = evolution._scorer(Phases(task, 0, InterruptFlag(), lambda text: None), variables, 3)
    space, key = task.space, jax.random.fold_in(jax.random.key(0), 3)
    kept = {name: tuple(range(max(1, group.size // 2))) for name, group in space.groups.items()}
    structure = space.structure(kept)
    small = task.loss(task.model.clone(structure=structure))
    params, draw = shrink(space, variables, structure), task.batches(0)
    direct = np.mean([small(params, draw(3 + i), key)[0] for i in range(evolution.BATCHES)])
    np.testing.assert_allclose(score(structure), direct, rtol=1e-5)
