"""Documents that name a test for every sentence name tests that are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", ["reliability.md", "security.md"])
def test_the_tests_that_a_document_names_are_there(name):
    named = re.findall(r"`(tests/[\w/.]+)(?:::(\w+))?`", (ROOT / "docs" / name).read_text())
    assert len(named) > 10
    for file, function in named:
        assert not function or f"def {function}(" in (ROOT / file).read_text(), (file, function)
        assert (ROOT / file).is_file()


@pytest.mark.parametrize("name", ["reliability.md", "security.md"])
def test_what_can_go_wrong_has_a_test_or_says_that_it_can(name):
    rows = re.findall(r"^\| (.+?) \| (.*?) ?\|$", (ROOT / "docs" / name).read_text(), re.MULTILINE)
    rows = [(statement, tests) for statement, tests in rows if "|" not in tests and tests != "test"]
    assert len(rows) > 10
    for statement, tests in rows:
        assert "tests/" in tests or "*can*" in statement, statement
