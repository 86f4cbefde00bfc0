"""JSON with one or two values changed to something else: what a hand, a bug or an attacker leaves."""

import copy

import hypothesis.strategies as st

WRONG = st.sampled_from(
    [
        *(None, True, False, 0, 1, -1, 2, 3, 7, 1.5, 2.0, -4, 0.0, 1e-300, 1e300, 10**9, 10**30, "", "2", "x"),
        *("../x", "/etc/x", "\x00", "a" * 5000, [], [0], [1, 0], ["a"], [[]], [1.5], {}, {"a": 1}, {"0": 0}),
        *([None], [True], [10**9], [1] * 50),
    ]
)
"""What stands in the place of a value."""


def places(value, path=()):
    """The paths of all values inside."""
    found = [path] if path else []
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        found += places(entry, (*path, key))
    return found


def changed(value, path, new, how):
    """A copy with the value at `path` replaced, removed or renamed."""
    value = copy.deepcopy(value)
    inside = value
    try:
        for key in path[:-1]:
            inside = inside[key]
        if how == "remove":
            del inside[path[-1]]
        elif how == "rename" and isinstance(inside, dict):
            inside[f"{path[-1]}x"] = inside.pop(path[-1])
        else:
            inside[path[-1]] = new
    except (KeyError, IndexError, TypeError):  # an earlier lie took it away
        pass
    return value


@st.composite
def lies(draw, value, most=2):
    """The value with one to `most` changes."""
    for _ in range(draw(st.integers(1, most))):
        path = draw(st.sampled_from(places(value)))
        value = changed(value, path, draw(WRONG), draw(st.sampled_from(["replace"] * 4 + ["remove", "rename"])))
        if not places(value):
            break
    return value
