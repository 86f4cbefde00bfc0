"""Grain's part of the loading of pictures: the order, threads and worker processes, and what a batch is made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from dms_jax.data.sources import Source
from dms_jax.errors import UserError

Batch = dict[str, np.ndarray]

THREADS = 2
"""Of this process, where no worker processes load. Pillow computes without the interpreter's lock."""

AHEAD = 2
"""Batches ready before they are asked for, in every worker or thread."""

ENDLESS = 2**40
"""The length of what has no end."""


def stream(steps: Any, start: int, workers: int) -> Any:
    """The batches of all steps from `start` on, loaded ahead."""
    grain = _grain()
    dataset = grain.MapDataset.source(steps)[start:]
    if not workers:
        return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=AHEAD)))
    in_worker = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=AHEAD)
    return iter(dataset.to_iter_dataset(in_worker).mp_prefetch(options))


def taken(stream: Iterator[Batch]) -> Batch:
    """The next batch in memory of its own: that of a worker is shared, and ends with the process."""
    return {name: np.array(leaf) for name, leaf in next(stream).items()}


def shuffled(length: int, seed: int) -> Any:
    """From a number of the stream to that of a picture: every epoch another permutation, in no memory."""
    # Grain's epochs are seeded one after another, so that neighbouring seeds would share epochs: the hash parts them.
    seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
    return _grain().MapDataset.range(length).shuffle(seed=seed).repeat()


def stacked(images: list[np.ndarray], labels: list[int], **more: np.ndarray) -> Batch:
    """Images `[size, size, 3]` and labels of a share of a batch, and further leaves."""
    return {"image": np.stack(images), "label": np.array(labels, np.int32), **more}


def share_of(source: Source, batch: int, size: int, workers: int, shard: tuple[int, int]) -> int:
    """The pictures that each process has of a batch.

    Raises:
      UserError: what no batch can be made of.
    """
    process, processes = shard
    if not 0 <= process < processes:
        raise UserError(f"process {process} of {processes} is not possible; give (number, how many), from 0")
    if batch < 1 or batch % processes:
        raise UserError(f"a batch of {batch} cannot be cut over {processes} processes; take a multiple")
    if size < 1 or workers < 0 or not len(source):
        raise UserError(
            f"{len(source)} pictures at {size} pixels with {workers} workers are not possible; "
            "give at least one picture, one pixel and 0 workers"
        )
    return batch // processes


def _grain() -> Any:
    try:
        import grain
        from absl import flags
    except ImportError as error:
        raise UserError(f'{error.name} is missing: pip install "dms_jax[data]"') from error
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # its worker processes read a flag, parsed or not (0.2.17 and 0.2.18)
    return grain
