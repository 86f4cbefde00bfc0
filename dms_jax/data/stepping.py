"""Batches as people have them, made a function of the step."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from dms_jax.errors import UserError


def by_step(batches: Any) -> Callable[[int], Any]:
    """From the number of a step to its batch, the same one whenever it is asked.

    Args:
      batches: such a function; a sequence of batches, gone through again and again; an iterable that begins anew
        whenever it is asked for an iterator; or a function without arguments that returns an iterable.

    Raises:
      UserError: something else, or an iterator, which can be gone through once: a job has several phases, and goes on
        where it was stopped.
    """
    if callable(batches):
        given: Any = batches
        return given if _takes_a_step(given) else _Restarted(given)
    if isinstance(batches, str | bytes | Mapping):  # letters and names are no batches
        raise UserError(
            f"batches is one {type(batches).__name__}; give a function from the number of a step to its batch, or an "
            "iterable (one batch again and again: [batch])"
        )
    if isinstance(batches, Sequence) and len(batches):
        return lambda step: batches[step % len(batches)]
    if isinstance(batches, Iterator):
        raise UserError(
            f"batches is a {type(batches).__name__}, which is gone through once; give the function that makes it, or a "
            "function from the number of a step to its batch"
        )
    if isinstance(batches, Iterable) and not isinstance(batches, Sequence):
        return _Restarted(lambda: batches)
    what = "empty" if isinstance(batches, Sequence) else f"a {type(batches).__name__}"
    raise UserError(f"batches is {what}; give a function from the number of a step to its batch, or an iterable")


def _takes_a_step(batches: Callable[..., Any]) -> bool:
    try:
        signature = inspect.signature(batches)
    except ValueError:  # a function without a signature to look at
        return True
    for arguments, answer in (((0,), True), ((), False)):
        try:
            signature.bind(*arguments)
            return answer
        except TypeError:
            pass
    raise UserError(f"batches takes {signature}; it is called as batches(step)")


class _Restarted:
    """An iterable as a function of the step: another step than the next begins anew and passes over those before."""

    def __init__(self, make: Callable[[], Iterable[Any]]):
        self._make, self._iterator, self._next = make, None, 0

    def __call__(self, step: int) -> Any:
        if self._iterator is None or step < self._next:
            self._iterator, self._next = iter(self._make()), 0
        while True:
            batch = self._drawn()
            self._next += 1
            if self._next > step:
                return batch

    def _drawn(self) -> Any:
        for _ in range(2):
            for batch in self._iterator or ():
                return batch
            self._iterator = iter(self._make())
        raise UserError("batches holds none; give at least one batch")
