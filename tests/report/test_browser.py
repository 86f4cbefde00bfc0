"""Reports in a real browser, where there is one: no error in its console, and the slider works."""

import shutil
import subprocess

import pytest

from dms_jax.report import write_report
from dms_jax.report.comparison import write_comparison
from tests.report.test_network import GROUPS, network

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PROBE = """
const slider = document.querySelector(".player input");
const seen = [document.querySelector(".player").hidden, document.querySelectorAll(".block.removed").length];
for (const at of [0, Number(slider.max)]) {
  slider.value = at;
  slider.dispatchEvent(new Event("input"));
  seen.push(document.querySelectorAll(".block.removed").length, document.querySelector(".count").textContent,
            slider.getAttribute("aria-valuetext").slice(0, 6));
}
seen.push(document.documentElement.scrollWidth <= innerWidth);
console.log("SEEN " + JSON.stringify(seen));
"""


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium here")
    return found


def console(browser, path, profile, *more):
    """The lines that a page writes to the console of a browser, errors among them."""
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
    command += ["--enable-logging=stderr", "--v=0", "--window-size=400,900", *more, "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "<h1>" in done.stdout, done.stderr[-2000:]
    return [line.split("CONSOLE", 1)[1] for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_no_error_and_the_slider_shows_every_step(browser, make_run, tmp_path):
    path = write_report(make_run(GROUPS, network=network()))
    profile = tmp_path / "profile"
    assert console(browser, path, profile) == []
    probed = tmp_path / "probed.html"  # the policy allows the page's own script alone
    policy = path.read_text("utf-8").replace("script-src ", "script-src &#x27;unsafe-inline&#x27; ", 1)
    start = policy.index("&#x27;sha256-")
    policy = policy[:start] + policy[policy.index('"', start) :]
    probed.write_text(policy.replace("</body>", f"<script>{PROBE}</script></body>"), encoding="utf-8")
    (said,) = console(browser, probed, profile)
    assert 'SEEN [false,2,0,"8.0 of 8","Step 0",2,"3 of 8","The ne",true]' in said.replace("\\", "")


def test_a_script_that_is_not_the_pages_own_does_not_run(browser, make_run, tmp_path):
    path = write_report(make_run(GROUPS, network=network()))
    strange = tmp_path / "strange.html"
    strange.write_text(path.read_text("utf-8").replace("</body>", "<script>console.log('ran')</script></body>"))
    lines = console(browser, strange, tmp_path / "profile")
    assert not any("ran" in line and "Refused" not in line and "violates" not in line for line in lines)
    assert any("Content Security Policy" in line for line in lines)


def test_a_comparison_has_no_error(browser, write_run, tmp_path):
    places = [tmp_path / name for name in ("one", "two")]
    for place in places:
        place.mkdir()
        write_run(place, GROUPS, network=network())
    assert console(browser, write_comparison(places, tmp_path / "page.html"), tmp_path / "profile") == []
