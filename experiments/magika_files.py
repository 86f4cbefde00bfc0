"""Files of this machine as labeled data: types by extension, split by directory, listed in a manifest.

Only regular files that every user of the machine may read are taken. The manifest names them, with a digest of what the
network sees of each; a run that goes on, or is repeated, takes exactly these.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import site
import stat
import sysconfig
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dms_jax import files, reading
from dms_jax.errors import UserError
from experiments.magika_network import Preprocessing

TESTED = 4
"""Of so many directories, about one is tested on."""

_SEEN = 50
"""Times the files of a type that are wanted are looked at, at most: copies and unreadable ones are among them."""


class Taken(NamedTuple):
    """A file of the data: its path, its type, "train" or "test", and the digest of its tokens."""

    path: str
    type: str
    half: str
    sha256: str


@dataclass(frozen=True, eq=False)
class Data:
    """Labeled files.

    Attributes:
      taken: which.
      skipped: reason -> files that were left out for it.
      train, test: "tokens" `[N, T]` int16 and "label" `[N]` int32.
    """

    taken: tuple[Taken, ...]
    train: dict[str, np.ndarray]
    test: dict[str, np.ndarray]
    skipped: Mapping[str, int] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Of which files, with which content."""
        return hashlib.sha256(json.dumps([list(one) for one in self.taken]).encode()).hexdigest()[:16]

    @property
    def words(self) -> str:
        """`3,120 training and 1,034 test files of 92 types`."""
        types = len({one.type for one in self.taken})
        return f"{len(self.train['label']):,} training and {len(self.test['label']):,} test files of {types} types"


def usual_folders() -> tuple[Path, ...]:
    """Where most machines have files of many types: this Python with its packages, shared data, headers, settings."""
    python = [sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")] + site.getsitepackages()
    shared = ["/usr/share", "/usr/include", "/usr/lib", "/usr/local", "/etc", "/opt"]
    return tuple(dict.fromkeys(path for name in (*python, *shared) if (path := Path(name)).is_dir()))


def collect(
    folders: Sequence[Path],
    preprocessing: Preprocessing,
    types: Sequence[str],
    extensions: Mapping[str, str],
    most: int,
) -> Data:
    """Take up to `most` files of every type out of folders, from as many directories as there are.

    Raises:
      UserError: a folder is not there, or too few files are found to train and to test on.
    """
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"--files {folder} is no directory; give directories with files of many types")
    skipped: Counter[str] = Counter()
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path in _below(folders, skipped):
        kind = type_of(path, extensions)
        if kind is not None:
            found[kind][os.path.dirname(path)].append(path)
    taken: list[Taken] = []
    tokens: list[np.ndarray] = []
    seen: set[str] = set()
    for kind in sorted(found):
        left = most
        for path in _spread(found[kind])[: _SEEN * most]:
            one = read_tokens(path, preprocessing, skipped)
            if one is None:
                continue
            digest = hashlib.sha256(one.tobytes()).hexdigest()
            if digest in seen:
                skipped["copies of others"] += 1
                continue
            seen.add(digest)
            taken.append(Taken(path, kind, half_of(os.path.dirname(path)), digest))
            tokens.append(one)
            left -= 1
            if not left:
                break
    return _data(taken, tokens, types, skipped)


def type_of(path: str, extensions: Mapping[str, str]) -> str | None:
    """The type that the extension stands for, the longest one that is known: tar.gz before gz."""
    parts = os.path.basename(path).split(".")[1:]
    for start in range(max(len(parts) - 2, 0), len(parts)):
        extension = ".".join(parts[start:])
        kind = extensions.get(extension) or extensions.get(extension.lower())
        if kind is not None:
            return kind
    return None


def half_of(directory: str) -> str:
    """Train or test, by the last two names of a directory without digits.

    So the files of a directory, and those of python3.11/json and python3.12/json, are in the same half.
    """
    name = re.sub(r"[\d.]+", "", "/".join(directory.split("/")[-2:]))
    return "test" if int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) % TESTED == 0 else "train"


def write(path: Path, data: Data, settings: Mapping[str, Any]) -> None:
    """Write the manifest, with what was asked for and what was skipped.

    Raises:
      UserError: it cannot be written.
    """
    rows = [list(one) for one in data.taken]
    content = {"format": _FORMAT, "settings": dict(settings), "skipped": dict(data.skipped), "files": rows}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(path, content)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror or error}); choose another --workdir") from None


_FORMAT = "dms_jax.files"
_HINT = "give a files.json that a run has written"
_MANIFEST = reading.record(
    {
        "format": reading.one_of(_FORMAT),
        "settings": reading.mapping(reading.anything),
        "skipped": reading.mapping(reading.whole(0)),
        "files": reading.listing(reading.listing(reading.text(), 4, 4), 1),
    }
)


def read(path: Path, preprocessing: Preprocessing, types: Sequence[str]) -> tuple[Data, dict[str, Any]]:
    """The files of a manifest, read again, and its settings.

    Raises:
      UserError: it is no manifest, or a file is gone or has changed.
    """
    content = reading.read_json(path, _MANIFEST, hint=_HINT)
    taken, tokens, changed = [Taken(*row) for row in content["files"]], [], []
    for one in taken:
        if one.type not in types or one.half not in ("train", "test"):
            raise UserError(
                f"{path} has {one.path} as {one.type}, {one.half}; give a files.json that a run has written"
            )
        found = read_tokens(one.path, preprocessing, Counter())
        if found is None or hashlib.sha256(found.tobytes()).hexdigest() != one.sha256:
            changed.append(one.path)
        tokens.append(found)
    if changed:
        raise UserError(
            f"{len(changed):,} of the {len(taken):,} files of {path} are gone or have changed, such as {changed[0]}; "
            "begin a run in another --workdir, without --manifest"
        )
    return _data(taken, tokens, types, content["skipped"]), content["settings"]


def _below(folders: Sequence[Path], skipped: Counter[str]) -> Iterator[str]:
    """Files below folders, each once; links are not followed."""

    def unreadable(error: OSError) -> None:
        skipped["directories that cannot be read"] += 1

    done: set[str] = set()
    for folder in folders:
        for root, directories, names in os.walk(os.path.realpath(folder), onerror=unreadable):
            directories[:] = sorted(d for d in directories if os.path.join(root, d) not in done)
            if root in done:
                continue
            done.add(root)
            yield from (os.path.join(root, name) for name in names)


def _spread(directories: Mapping[str, list[str]]) -> list[str]:
    """The first file of every directory, then the second of every one, ...; in an order that their names draw."""
    order: Callable[[str], bytes] = lambda path: hashlib.sha256(os.fsencode(path)).digest()  # noqa: E731
    ranked = [(rank, path) for paths in directories.values() for rank, path in enumerate(sorted(paths, key=order))]
    return [path for _, path in sorted(ranked, key=lambda pair: (pair[0], order(pair[1])))]


def read_tokens(path: str, preprocessing: Preprocessing, skipped: Counter[str]) -> np.ndarray | None:
    """Tokens of a file; None, and a reason counted, where it is not taken."""
    try:
        path.encode()
        descriptor = reading.open_regular(path)
    except UnicodeEncodeError:
        skipped["names that are no text"] += 1
        return None
    except OSError:
        skipped["unreadable or no regular files"] += 1
        return None
    try:
        about = os.fstat(descriptor)
        if not about.st_mode & stat.S_IROTH:
            skipped["not readable by everybody"] += 1
            return None
        size, block = about.st_size, preprocessing.block
        first = os.pread(descriptor, block, 0)
        tokens = preprocessing.tokens(first, os.pread(descriptor, block, max(size - block, 0)))
    except OSError:
        skipped["unreadable or no regular files"] += 1
        return None
    finally:
        os.close(descriptor)
    if tokens is None:
        skipped[f"fewer than {preprocessing.least} bytes"] += 1
    return tokens


def _data(taken: Sequence[Taken], tokens: Sequence[Any], types: Sequence[str], skipped: Mapping[str, int]) -> Data:
    numbers = {name: number for number, name in enumerate(types)}
    halves: dict[str, dict[str, np.ndarray]] = {}
    for half in ("train", "test"):
        rows = [i for i, one in enumerate(taken) if one.half == half]
        if not rows:
            raise UserError(f"no files to {half} on are among the {len(taken):,} found; give more --files")
        label = np.array([numbers[taken[i].type] for i in rows], np.int32)
        halves[half] = {"tokens": np.stack([tokens[i] for i in rows]), "label": label}
    return Data(tuple(taken), halves["train"], halves["test"], dict(skipped))
