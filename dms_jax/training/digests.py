"""Whether the files of a checkpoint are those that were written.

Orbax does not notice a flipped byte in array data: other numbers come back, and no error. So the last file
written into a checkpoint lists all the others with a digest of each.
"""

import hashlib
import json
from pathlib import Path

from dms_jax.errors import one_line

FILE = "digests.json"
META = "meta/metadata"
# Orbax touches these after the digests are taken; neither holds anything that is restored.
_NOT_DIGESTED = {FILE, "_CHECKPOINT_METADATA", "commit_success.txt"}


def write_digests(folder: Path) -> None:
    """List every file below `folder`, with its SHA-256, in `folder/digests.json`."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in _NOT_DIGESTED)
    digests = {p.relative_to(folder).as_posix(): _digest(p) for p in files}
    (folder / FILE).write_text(json.dumps(digests, separators=(",", ":")))


def find_fault(folder: Path) -> str | None:
    """Say in a few words why the checkpoint in `folder` is not whole.

    Args:
        folder: a checkpoint, named by its step.

    Returns:
        What is wrong, or None where every file is there, is what was written, and belongs to this step.
    """
    try:
        expected = json.loads((folder / FILE).read_bytes())
        if not isinstance(expected, dict) or META not in expected:
            return f"{FILE} lists no files"
        for name, digest in expected.items():
            if _digest(folder / name) != digest:
                return f"{name} is not what was written"
        step = json.loads((folder / META).read_bytes())["step"]
    except FileNotFoundError as error:
        return f"{Path(str(error.filename)).relative_to(folder)} is missing"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"it cannot be read: {one_line(error)[:100]}"
    return None if str(step) == folder.name else f"it was saved as step {step}"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
