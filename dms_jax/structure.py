"""`Structure`: the kept elements of every group, the result of a search. Plain JSON on disk."""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from dms_jax import files, reading
from dms_jax.errors import UserError, shortened
from dms_jax.groups import KINDS
from dms_jax.reading import flag, mapping, number, one_of, optional, record, text, whole

FORMAT, VERSION = "dms_jax.structure", 1

MOST_ELEMENTS = 2**24
"""Of one group: more than any network has."""

MOST_GROUPS = 2**14

_RESOURCES = mapping(mapping(number(0, 2**80), 64), 16)
_GROUP = record(
    {"kept": reading.anything},
    {"size": optional(whole(1, MOST_ELEMENTS)), "kind": optional(one_of(*KINDS)), "removed": flag},
)
_MODEL = record({}, {"name": text(256), "arguments": optional(mapping(reading.anything, 64))})
_MORE = {"model": optional(_MODEL), "resources": optional(_RESOURCES)}
_FILE = record({"groups": mapping(_GROUP, MOST_GROUPS)}, _MORE)


@dataclass(frozen=True, eq=False, repr=False)
class Structure:
    """Which elements of which group stay. Hashable, so it can be an attribute of a Flax module.

    Args:
      kept: group name -> the indices kept, ascending, of the full group. A group that is not named keeps all.
      sizes: group name -> number of elements in the full network, where known.
      kinds: group name -> a name of `dms_jax.groups.KINDS`, where known.
      model: {"name": ..., "arguments": {...}} as `dms_jax.models.create` takes them, or None.
      resources: {"before": {"macs": int, "params": int, ...}, "after": {...}}, or None. MACs of one forward pass of the
        example the space was made with. What can be measured is measured, and its "predicted" is what the search saw;
        "spread" is half the range of the middle half of measurements that differ.
      removed: groups that went with a removed block; what `kept` says of them is of no effect.

    Raises:
      UserError: indices that are not ascending integers >= 0, or lie outside a known size; sizes or kinds that are
        none; what JSON cannot hold.
    """

    kept: Mapping[str, tuple[int, ...]]
    sizes: Mapping[str, int] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)
    model: Mapping[str, Any] | None = None
    resources: Mapping[str, Mapping[str, Any]] | None = None
    removed: frozenset[str] = frozenset()

    def __post_init__(self):
        for what, given in (("kept", self.kept), ("sizes", self.sizes), ("kinds", self.kinds)):
            if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
                raise UserError(f"structure: {what} must map names of groups, not {reading.shown(given)}")
        for name, size in self.sizes.items():
            if not _is_whole(size) or not 1 <= size <= MOST_ELEMENTS:
                raise UserError(
                    f"structure: the size of group {name!r} is a whole number from 1 to {MOST_ELEMENTS:,}, not "
                    f"{reading.shown(size)}"
                )
        for name, kind in self.kinds.items():
            if not isinstance(kind, str) or kind not in KINDS:
                raise UserError(f"structure: group {name!r} is one of {', '.join(KINDS)}, not {reading.shown(kind)}")
        names = isinstance(self.removed, Collection) and not isinstance(self.removed, str | bytes)
        if not names or not all(isinstance(name, str) for name in self.removed):
            raise UserError(f"structure: removed is a set of names of groups, not {reading.shown(self.removed)}")
        _check_extras(self.model, self.resources)
        kept = {name: _indices(name, indices, self.sizes.get(name)) for name, indices in self.kept.items()}
        object.__setattr__(self, "kept", MappingProxyType(kept))
        object.__setattr__(self, "sizes", MappingProxyType(dict(self.sizes)))
        object.__setattr__(self, "kinds", MappingProxyType(dict(self.kinds)))
        object.__setattr__(self, "removed", frozenset(self.removed))
        # of thousands of groups, asked for by every module of a network
        object.__setattr__(self, "_hash", hash(tuple(sorted(kept.items()))))

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Structure) and dict(self.kept) == dict(other.kept))

    def __hash__(self) -> int:
        return self._hash  # type: ignore[attr-defined]

    def __repr__(self) -> str:
        of = {name: "?" if (size := self.sizes.get(name)) is None else size for name in self.kept}
        kept = [f"{name} {len(i)}/{of[name]}" for name, i in self.kept.items() if name not in self.removed]
        more = [f"and {len(kept) - 6} more"] if len(kept) > 6 else []
        return f"Structure({', '.join(kept[:6] + more) or 'all kept'})"

    def __deepcopy__(self, memo: Any) -> Structure:
        return self  # immutable; module attributes are deep-copied by Flax's clone

    def __reduce__(self):
        model = None if self.model is None else dict(self.model)
        return Structure, (dict(self.kept), dict(self.sizes), dict(self.kinds), model, self.resources, self.removed)

    def to_json(self) -> dict[str, Any]:
        """The structure as plain JSON values."""
        groups = {
            name: {
                "size": self.sizes.get(name),
                "kept": list(indices),
                "kind": self.kinds.get(name),
                "removed": name in self.removed,
            }
            for name, indices in self.kept.items()
        }
        return {
            "format": FORMAT,
            "version": VERSION,
            "model": self.model and dict(self.model),
            "groups": groups,
            "resources": self.resources and {key: dict(value) for key, value in self.resources.items()},
        }

    @staticmethod
    def from_json(data: Any, source: str = "structure") -> Structure:
        """Read what `to_json` made.

        Raises:
          UserError: it is something else, or of a newer version; `source` is named.
        """
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise UserError(
                f'{source} is not a structure: expected JSON with "format": "{FORMAT}", as a search writes it'
            )
        if data.get("version") != VERSION:
            raise UserError(
                f"{source} has version {reading.shown(data.get('version'))}; this dms_jax reads version {VERSION}"
            )
        groups = data.get("groups")
        if not isinstance(groups, dict) or not all(isinstance(g, dict) and "kept" in g for g in groups.values()):
            raise UserError(f'{source} is not a structure: "groups" must map names to {{"size", "kept", "kind"}}')
        try:
            _FILE(data, "")
        except reading.Mismatch as error:
            raise UserError(f"{source} is not a structure: {error.fault}, as in what a search writes") from None
        return Structure(
            kept={name: group["kept"] for name, group in groups.items()},
            sizes={name: group["size"] for name, group in groups.items() if group.get("size") is not None},
            kinds={name: group["kind"] for name, group in groups.items() if group.get("kind") is not None},
            model=data.get("model"),
            resources=data.get("resources"),
            removed=frozenset(name for name, group in groups.items() if group.get("removed")),
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write `structure.json`; an interrupted write leaves the old file whole."""
        path = Path(path)
        files.write_json(path, self.to_json())
        return path

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Structure:
        """Read a `structure.json`.

        Raises:
          UserError: there is no such file, it is not JSON, or not a structure.
        """
        data = reading.read_json(path, hint="give the structure.json of a search")
        return Structure.from_json(data, str(path))


def _check_extras(model: Any, resources: Any) -> None:
    """Refuse what could not be written, or not be read again, once a search has ended."""
    plain = {"model": _plain(model), "resources": _plain(resources)}
    try:
        record({}, _MORE)(plain, "")
        json.dumps(plain, allow_nan=False)
    except reading.Mismatch as error:
        raise UserError(f"structure: {error.fault}") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"structure: model and resources are JSON values ({shortened(str(error), 100)})") from None


def _plain(value: Any) -> Any:
    """Mappings, which may be read-only, as dictionaries."""
    return {key: _plain(entry) for key, entry in value.items()} if isinstance(value, Mapping) else value


def _indices(name: str, indices: Iterable[Any], size: int | None) -> tuple[int, ...]:
    try:
        found = tuple(operator.index(i) for i in _without_flags(indices))
    except TypeError:
        raise UserError(f"structure: group {name!r} must list indices, not {reading.shown(indices)}") from None
    if any(b <= a for a, b in zip((-1, *found), found, strict=False)):
        raise UserError(f"structure: the indices of group {name!r} must be ascending and not negative")
    if found and found[-1] >= MOST_ELEMENTS:
        raise UserError(f"structure: group {name!r} has at most {MOST_ELEMENTS:,} elements, not {found[-1]:,}")
    if size is not None and found and found[-1] >= size:
        raise UserError(f"structure: group {name!r} has {size} elements, there is no element {found[-1]}")
    return found


def _without_flags(indices: Iterable[Any]) -> Iterable[Any]:
    """`operator.index` takes True for 1, which no list of indices means."""
    for index in indices:
        if isinstance(index, bool | np.bool_):
            raise TypeError(f"{index} is no index")
        yield index


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
