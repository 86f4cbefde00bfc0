"""Files as data: which are taken, where they go, and that a manifest names exactly these."""

import json
import os
import stat

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from dms_jax.errors import UserError
from experiments import magika_files
from experiments.magika_files import collect, half_of, read, type_of, write
from experiments.magika_network import Preprocessing

TYPES = ("c", "gzip", "python", "txt")
EXTENSIONS = {"c": "c", "py": "python", "txt": "txt", "gz": "gzip", "tar.gz": "gzip", "R": "r"}
SEEN = Preprocessing(begin=16, end=16, block=64, padding=256, least=8)


def made(root, directories=40):
    for number in range(directories):
        folder = root / chr(97 + number % 26) / chr(97 + number // 26)
        folder.mkdir(parents=True)
        for kind in ("c", "py", "txt"):
            (folder / f"one.{kind}").write_text(f"content {kind} of {number}")
            (folder / f"two.{kind}").write_text(f"another {kind} of {number}")
    return root


def taken(data, half=None):
    return [one for one in data.taken if half in (None, one.half)]


def test_files_of_every_type_up_to_a_number_from_many_directories(tmp_path):
    data = collect([made(tmp_path)], SEEN, TYPES, EXTENSIONS, 30)
    kinds = [one.type for one in taken(data)]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"c": 30, "python": 30, "txt": 30}
    directories = [os.path.dirname(one.path) for one in taken(data) if one.type == "c"]
    assert len(set(directories)) == 30  # a second one of a directory comes after the first ones of all
    assert len(data.train["label"]) == len(taken(data, "train")) and len(data.test["label"]) == len(taken(data, "test"))
    for half, arrays in (("train", data.train), ("test", data.test)):
        for one, tokens, label in zip(taken(data, half), arrays["tokens"], arrays["label"], strict=True):
            assert TYPES[label] == one.type
            assert bytes(tokens[:16].astype(np.uint8)).startswith((b"content", b"another"))
    again = collect([tmp_path, tmp_path / "a"], SEEN, TYPES, EXTENSIONS, 30)
    assert again.taken == data.taken and again.digest == data.digest and again.words == data.words


def test_a_directory_is_on_one_side(tmp_path):
    data = collect([made(tmp_path)], SEEN, TYPES, EXTENSIONS, 1000)
    sides = {}
    for one in taken(data):
        sides.setdefault(os.path.dirname(one.path), set()).add(one.half)
    assert all(len(halves) == 1 for halves in sides.values()) and len(taken(data)) == 240
    assert 0.1 < len(taken(data, "test")) / 240 < 0.4


@hypothesis.given(st.integers(0, 99), st.integers(0, 99), st.text("abcdef", min_size=1), st.text("/xyz"))
def test_versions_of_a_directory_are_on_one_side(one, other, name, above):
    assert half_of(f"{above}/lib/python3.{one}/{name}") == half_of(f"/elsewhere/python2.{other}.7/{name}{other}")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.py", "python"),
        ("a.PY", "python"),
        ("a.tar.gz", "gzip"),
        ("a.1.gz", "gzip"),
        ("a.R", "r"),
        ("py", None),
        ("a.py.bak", None),
        (".py", "python"),
        ("a.", None),
    ],
)
def test_a_type_by_the_longest_extension(name, kind):
    assert type_of(f"/dir.c/{name}", EXTENSIONS) == kind


def test_what_is_not_taken_is_counted(tmp_path, capsys):
    made(tmp_path)
    odd = tmp_path / "odd"
    odd.mkdir()
    (odd / "short.txt").write_text("   1234567")
    (odd / "copy.txt").write_text("content txt of 3")
    (odd / "own.txt").write_text("nobody else may read this")
    (odd / "own.txt").chmod(stat.S_IRUSR | stat.S_IWUSR)
    (odd / "nowhere.txt").symlink_to(odd / "nothing.txt")
    os.mkfifo(odd / "pipe.txt")
    with open(os.fsencode(odd) + b"/\xff.txt", "w") as file:
        file.write("a name that is no text")
    (odd / "loop").symlink_to(tmp_path)  # not followed
    data = collect([tmp_path], SEEN, TYPES, EXTENSIONS, 1000)
    assert len(taken(data)) == 240
    assert data.skipped == {
        "copies of others": 1,
        "fewer than 8 bytes": 1,
        "names that are no text": 1,
        "not readable by everybody": 1,
        "unreadable or no regular files": 2,
    }


def test_folders_that_give_nothing(tmp_path):
    with pytest.raises(UserError, match="no files to train on are among the 0 found; give more --files"):
        collect([tmp_path], SEEN, TYPES, EXTENSIONS, 10)
    with pytest.raises(UserError, match="missing is no directory"):
        collect([tmp_path / "missing"], SEEN, TYPES, EXTENSIONS, 10)


def test_a_manifest_names_these_files(tmp_path):
    data = collect([made(tmp_path / "files", 10)], SEEN, TYPES, EXTENSIONS, 1000)
    path = tmp_path / "run" / "files.json"
    write(path, data, {"per_type": 20})
    (tmp_path / "files" / "a" / "a" / "new.py").write_text("a file that was not there")
    again, settings = read(path, SEEN, TYPES)
    assert settings == {"per_type": 20} and again.taken == data.taken and again.digest == data.digest
    for half in ("train", "test"):
        for name in ("tokens", "label"):
            np.testing.assert_array_equal(getattr(again, half)[name], getattr(data, half)[name])
    with open(data.taken[0].path, "a") as file:
        file.write("more")
    os.remove(data.taken[1].path)
    with pytest.raises(
        UserError, match=f"2 of the 60 files of .* are gone or have changed, such as {data.taken[0].path}"
    ):
        read(path, SEEN, TYPES)


@pytest.mark.parametrize(
    "change",
    [{"format": "other"}, {"files": []}, {"files": [["a", "b", "c"]]}, {"files": [["/a", "cobol", "test", "0"]]},
     {"files": [["/a", "c", "validation", "0"]]}, {"settings": 3}],
)  # fmt: skip
def test_what_is_no_manifest_is_one_line(change, tmp_path):
    data = collect([made(tmp_path / "files")], SEEN, TYPES, EXTENSIONS, 1000)  # all: the names of a few decide the half
    write(tmp_path / "files.json", data, {})
    content = json.loads((tmp_path / "files.json").read_text())
    (tmp_path / "files.json").write_text(json.dumps(content | change))
    with pytest.raises(UserError, match="give a files.json that a run has written") as error:
        read(tmp_path / "files.json", SEEN, TYPES)
    assert "\n" not in str(error.value)


def test_the_usual_folders_are_there():
    assert all(folder.is_dir() for folder in magika_files.usual_folders())
