"""A job that is stopped and started again, beside one that was never stopped."""

import json
import signal

import pytest

from dms_jax.errors import Interrupted


def results(directory):
    """What a finished job measured."""
    return json.loads((directory / "results.json").read_text())


def check_stopped_and_resumed(main, job, loading, at, directory, never_stopped, monkeypatch, phases=("search",)):
    """Stop a job at a step of every phase, resume it, and compare it with another.

    Args:
      main: the command.
      job: its flags.
      loading: the module whose `batches` the job draws from.
      at: the step before whose batch the signal comes.
      directory: of the job.
      never_stopped: that of the same job, finished.
      monkeypatch: pytest's.
      phases: in which it is stopped, in order; more than `at` steps of each are left to it when it begins.
    """
    make = loading.batches

    def stopping(*args, **kwargs):
        load = make(*args, **kwargs)

        def draw(step):
            if step == at:
                signal.raise_signal(signal.SIGTERM)
            return load(step)

        return draw

    with monkeypatch.context() as patch:
        patch.setattr(loading, "batches", stopping)
        for phase in phases:
            with pytest.raises(Interrupted, match=f"stopped {phase} after step"):
                main(job)
    main(job)
    for name in ("structure.json", "metrics.jsonl", "masks.jsonl"):
        assert (directory / name).read_bytes() == (never_stopped / name).read_bytes(), name
    assert results(directory)["rows"][0]["quality"] == results(never_stopped)["rows"][0]["quality"]
