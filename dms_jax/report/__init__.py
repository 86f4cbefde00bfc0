"""Pictures and a page of what a search did; needs the extra `report` (matplotlib)."""

try:
    import matplotlib  # noqa: F401 - all modules below need it, and here is the place to say so
except ImportError as error:
    raise ImportError("pictures need matplotlib: pip install 'dms_jax[report]'") from error

from dms_jax.report.page import write_report

__all__ = ["write_report"]
