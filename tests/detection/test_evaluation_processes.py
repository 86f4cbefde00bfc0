"""Two processes evaluate every image once, and find what one finds.

Run as a program this file is one of two: `python test_evaluation_processes.py RANK PORT DIRECTORY`.
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np

from dms_jax.data import box_loading
from dms_jax.data.objects import composites
from dms_jax.detection import evaluation
from dms_jax.training import make_mesh, processes, shard_batch
from tests.together import free_port, run_together

SIZE, BATCH, IMAGES = 32, 8, 20
POINTS, BINS, CLASSES = SIZE * SIZE * 21 // 1024, 4, 10


def network(params, images):
    """Objects where an image is bright: some of them are found, and most are not."""
    colors = images.reshape(len(images), 4, 8, 4, 8, 3).mean((2, 4)).reshape(len(images), -1)
    return (3 * colors @ params).reshape(len(images), POINTS, 4 * BINS + CLASSES)


def measured(shard, mesh):
    """Mean average precision, and the objects of each image that it was taken over."""
    test = composites(SIZE).test
    test = type(test)(**{**vars(test), "length": IMAGES})
    how = dict(size=SIZE, num_classes=CLASSES, most=5, shard=shard)
    batches = [shard_batch(batch, mesh) for batch in box_loading.evaluation(test, BATCH, **how)]  # type: ignore[arg-type]
    params = np.random.default_rng(0).normal(size=(48, POINTS * (4 * BINS + CLASSES))).astype(np.float32)
    seen, compute = [], evaluation.average_precision

    def heard(truths, said, num_classes):
        seen.extend(truth.boxes.tolist() for truth in truths)
        return compute(truths, said, num_classes)

    evaluation.average_precision = heard
    try:
        return evaluation.mean_average_precision(network, params, batches, CLASSES, mesh), seen
    finally:
        evaluation.average_precision = compute


def main(rank: int, port: str, directory: Path) -> None:
    """One of the two processes; leaves RANK.json."""
    jax.config.update("jax_num_cpu_devices", 2)
    processes.initialize(f"localhost:{port}", 2, rank)
    (directory / f"{rank}.json").write_text(json.dumps(measured((rank, 2), make_mesh())))


def test_two_processes_find_what_one_finds(tmp_path):
    port = str(free_port())
    run_together([[__file__, str(rank), port, str(tmp_path)] for rank in (0, 1)])
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    found, seen = measured((0, 1), make_mesh(jax.devices()[:1]))
    assert 0 < found["mAP"] < 0.9 and len(seen) == IMAGES
    np.testing.assert_equal(second, first)
    assert first[1] == seen  # in their order, each once: the last batch is half empty
    np.testing.assert_allclose(list(first[0].values()), list(found.values()), atol=1e-6)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
