"""A job that is stopped in its search and started again, beside one that was never stopped."""

import json
import signal

import pytest

from dms_jax.errors import Interrupted


def results(directory):
    """What a finished job measured."""
    return json.loads((directory / "results.json").read_text())


def check_stopped_and_resumed(main, job, loading, at, directory, never_stopped, monkeypatch):
    """Stop a job at a step of its search, resume it, and compare it with another.

    Args:
      main: the command.
      job: its flags.
      loading: the module whose `batches` the job draws from.
      at: the step before whose batch the signal comes.
      directory: of the job.
      never_stopped: that of the same job, finished.
      monkeypatch: pytest's.
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
        with pytest.raises(Interrupted, match="stopped search after step"):
            main(job)
    main(job)
    for name in ("structure.json", "metrics.jsonl", "masks.jsonl"):
        assert (directory / name).read_bytes() == (never_stopped / name).read_bytes(), name
    assert results(directory)["rows"][0]["quality"] == results(never_stopped)["rows"][0]["quality"]
