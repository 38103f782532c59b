"""A study's page as a browser shows it: at every width, in both schemes, on paper, by pointer and by keyboard."""

from itertools import pairwise

import pytest

from modelzoo.compare.results import write_report
from modelzoo.report import statistics
from tests.browser import BINARY
from tests.compare.runs import LADDER, Arm, Study
from tests.report.test_browser import LONG, OVERLAPPING, TOO_WIDE

pytestmark = pytest.mark.skipif(BINARY is None, reason="there is no chromium or chrome on the path")
CROWDED = [Arm("gptj", description="a text " * 20), *(Arm(f"{LONG}_{i}", 0.01 * i) for i in range(5))]
STUDIES = {
    "two": Study(lr_grid=[1e-3, 3e-3, 1e-2]),
    "ladder": Study(arms=LADDER, domains=("code", "prose", "json"), documents=20, missing=[("attention_bias", 1)]),
    "crowded": Study(arms=CROWDED, name=LONG * 2, description="", machines={"gptj": {"name": LONG}}, documents=20,
                     seeds=range(8), domains=(LONG, "code"), missing=[(f"{LONG}_1", 2)]),
}  # fmt: skip


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folders = {name: study.write(tmp_path_factory.mktemp(name)) for name, study in STUDIES.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "RESAMPLES", 1_000)
        for folder in folders.values():
            write_report(folder)
    return {name: folder / "report.html" for name, folder in folders.items()}


@pytest.mark.parametrize("which", STUDIES)
@pytest.mark.parametrize(("width", "media"), [(1280, ""), (768, ""), (390, ""), (688, "print")])
def test_it_fits(browser, pages, which, width, media):
    browser.open(pages[which], width, media=media)
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.value(TOO_WIDE) == []
    assert browser.value(OVERLAPPING) == []
    assert browser.value(OUTSIDE) == []


OUTSIDE = """(() => [...document.querySelectorAll(".rungs tbody td, .rungs tbody th")].flatMap(cell => {
  const box = cell.getBoundingClientRect();
  return [...cell.querySelectorAll("span, small, circle")].filter(node => {
    const own = node.getBoundingClientRect();
    return own.width && (own.right > box.right + 1 || own.left < box.left - 1);
  }).map(node => node.tagName + " " + node.textContent + " of " + cell.textContent.slice(0, 40)); }))()"""


@pytest.mark.parametrize("dark", [False, True])
def test_it_loads_without_a_complaint_and_without_a_request(browser, pages, dark):
    browser.messages.clear()
    browser.requests.clear()
    browser.open(pages["ladder"], 1280, dark=dark)
    assert browser.messages == []
    assert [url for url in browser.requests if not url.startswith("data:")] == [pages["ladder"].as_uri()]


def test_the_steps_join_from_row_to_row(browser, pages):
    """The line of what was reached leaves a row at the place where it enters the next one."""
    browser.open(pages["ladder"], 1280)
    ends = browser.value("""[...document.querySelectorAll(".rungs tbody td.stair svg")].map(svg =>
        [...svg.querySelectorAll(".path")].map(line => { const box = line.getBoundingClientRect();
            return [box.left, box.top, box.bottom]; }))""")
    assert len(ends) == 8
    for upper, lower in pairwise(ends):
        assert upper[-1][0] == pytest.approx(lower[0][0], abs=0.5)
        assert upper[-1][2] >= lower[0][1] - 1


def test_values_show_under_the_pointer_and_by_keyboard(browser, pages):
    browser.open(pages["two"], 1280)
    x, y = browser.value("""(() => { const plot = document.querySelectorAll(".plot")[1];
        plot.scrollIntoView({block: "center"}); const box = plot.getBoundingClientRect();
        return [box.left + 0.5 * box.width, box.top + 20]; })()""")
    browser.point(x, y)
    shown = browser.value("document.querySelectorAll('.tip')[1].textContent").replace("\u202f", " ")
    assert shown.startswith("492 k tokens")
    assert "gptj1.7" in shown
    assert "gpt_neox1.6" in shown
    assert "%" in browser.value("document.querySelector('.rungs title').textContent")
    browser.open(pages["two"], 390)
    seen = set()
    for _ in range(30):
        browser.key("Tab")
        seen.add(browser.value("document.activeElement.dataset.title || document.activeElement.textContent"))
    assert {"Over tokens", "Over FLOPs", "Learning rates", "Numbers", "Folders of the runs"} <= seen


def test_it_reads_without_its_script_and_on_paper(browser, pages, tmp_path):
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(pages["ladder"], 1280)
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
    assert browser.value("document.querySelectorAll('.plot path.line').length") >= 9 * 4
    assert browser.value("document.querySelectorAll('.rungs circle').length") == 8 + 8
    browser.pdf(tmp_path / "report.pdf")
    content = (tmp_path / "report.pdf").read_bytes()
    assert 3 <= content.count(b"/Type /Page\n") + content.count(b"/Type /Page ") <= 14
