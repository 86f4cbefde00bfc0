"""Errors for people: one line that says what was given, what is possible and what to do."""

from __future__ import annotations


class UserError(ValueError):
    """Input that cannot be used. The message is one line; command lines print it and exit with status 2."""


class TracingError(UserError):
    """A model whose traced program cannot be searched: names the group, the operation and its source line."""
