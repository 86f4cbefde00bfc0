"""The pages of results: links lead somewhere, commands exist, sections are marked; the first page stays short."""

import importlib.util
import re
from pathlib import Path

import pytest

from experiments.benchmarks.tables import DOCUMENT, RESULTS

ROOT = Path(__file__).parents[2]
FIRST = ROOT / DOCUMENT
PAGES = [FIRST, *sorted((ROOT / RESULTS).glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_and_commands_are_there(page):
    text = page.read_text()
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert (page.parent / link).exists(), link
    for module in re.findall(r"python -m ([\w.]+\w)", text):
        assert importlib.util.find_spec(module) is not None, module
    begun, ended = (re.findall(rf"^<!-- {mark} (.+) -->$", text, re.MULTILINE) for mark in ("begin", "end"))
    assert begun == ended and len(set(begun)) == len(begun)


def test_the_first_page_is_read_in_minutes_and_leads_to_all_others():
    text = FIRST.read_text()
    assert len(text.splitlines()) <= 250
    assert {path.name for path in PAGES[1:]} == set(re.findall(r"\(results/(\w+\.md)\)", text))
