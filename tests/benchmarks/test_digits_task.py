"""The digits task: what its scores are of."""

import numpy as np
import optax

from experiments.benchmarks.digits_task import CROSS_ENTROPY, QUICK, digits_task, split


def test_scores_are_those_of_every_half_by_itself():
    task = digits_task(QUICK)
    variables, parts = task.new(task.model, seed=0), split(QUICK, 3)
    scores = task.scores(task.model, variables, 3)
    for half in ("valid", "test"):
        logits = np.asarray(task.model.apply(variables, parts[half]["image"], train=False))
        assert scores[half] == np.mean(np.argmax(logits, axis=-1) != parts[half]["label"])
        if half == "valid":
            nats = optax.softmax_cross_entropy_with_integer_labels(logits, parts[half]["label"])
            np.testing.assert_allclose(scores[CROSS_ENTROPY], np.mean(nats), rtol=1e-5)
    assert task.choice[0] == CROSS_ENTROPY
