"""The page as a browser shows it: at both widths, in both schemes, on paper, by pointer and by keyboard."""

import pytest

from modelzoo.report.continuation import write_report
from tests.browser import BINARY
from tests.report.runs import CONFIG, evaluations, write_run

pytestmark = pytest.mark.skipif(BINARY is None, reason="there is no chromium or chrome on the path")
LONG = "a_very_long_name_of_a_domain_without_a_place_to_break_it"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    run = write_run(tmp_path_factory.mktemp("run"))
    write_report(run)
    return run / "report.html"


@pytest.fixture(scope="module")
def crowded(tmp_path_factory):
    names = [f"{LONG}_{i}" for i in range(9)]
    lines = evaluations({name: (1.0, 0.01 * i) for i, name in enumerate(names)}, num_blocks=20)
    run = write_run(tmp_path_factory.mktemp("crowded"), config=CONFIG | {"name": LONG * 3}, evaluations=lines)
    write_report(run, names[:1])
    return run / "report.html"


TOO_WIDE = """(() => { const width = document.documentElement.clientWidth;
  return [...document.querySelectorAll("main *")].filter(node => !node.closest("details") && !node.closest("caption")
    && !node.closest("thead") && node.getBoundingClientRect().right > width + 0.5)
    .map(node => node.tagName + "." + node.getAttribute("class") + " " + node.textContent.slice(0, 40)); })()"""
OVERLAPPING = """(() => { const found = [];
  for (const svg of document.querySelectorAll(".canvas")) {
    const boxes = [...svg.querySelectorAll("text")].map(node => [node, node.getBoundingClientRect()])
      .filter(([, box]) => box.width > 0);
    boxes.forEach(([one, a], i) => boxes.slice(i + 1).forEach(([other, b]) => {
      if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
          && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3)
        found.push(one.textContent + " / " + other.textContent); })); }
  return found; })()"""


@pytest.mark.parametrize("which", ["report", "crowded"])
@pytest.mark.parametrize(("width", "media"), [(1280, ""), (768, ""), (390, ""), (340, ""), (688, "print")])
def test_it_fits(browser, request, which, width, media):
    """688 is what a sheet of A4 has between its margins."""
    browser.open(request.getfixturevalue(which), width, media=media)
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.value(TOO_WIDE) == []
    assert browser.value(OVERLAPPING) == []


@pytest.mark.parametrize("dark", [False, True])
def test_it_loads_without_a_complaint_and_without_a_request(browser, report, dark):
    browser.messages.clear()
    browser.requests.clear()
    browser.open(report, 1280, dark=dark)
    background = browser.value("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(18, 20, 23)" if dark else "rgb(246, 246, 243)")
    assert browser.messages == []
    assert [url for url in browser.requests if not url.startswith("data:")] == [report.as_uri()]


def test_a_script_that_got_in_would_not_run(browser, report, tmp_path):
    """The page's own policy is the second wall."""
    html = report.read_text(encoding="utf-8")
    (tmp_path / "report.html").write_text(html.replace("<main>", "<main><script>window.ran = 1</script>"))
    browser.open(tmp_path / "report.html", 1280)
    assert browser.value("window.ran === undefined")
    browser.messages.clear()


def test_values_show_under_the_pointer(browser, report):
    browser.open(report, 1280)
    x, y = browser.value("""(() => { const plot = document.querySelectorAll(".plot")[1];
        plot.scrollIntoView({block: "center"}); const box = plot.getBoundingClientRect();
        return [box.left + 0.31 * box.width, box.top + 20]; })()""")
    browser.point(x, y)
    shown = browser.value("document.querySelectorAll('.tip')[1].textContent").replace("\u202f", " ")
    assert shown.startswith("1.97 M tokens")  # step 120 of 400
    assert "prose+0.3" in shown
    assert "code" in shown
    assert browser.value("document.querySelectorAll('.cursor')[1].querySelectorAll('circle').length") == 2
    browser.point(1, 1)
    assert browser.value("document.querySelectorAll('.tip')[1].hidden")


def test_values_are_reached_by_keyboard(browser, report):
    browser.open(report, 390)
    browser.key("Tab")
    now = "document.activeElement.getAttribute('aria-valuetext')"
    assert browser.value("document.activeElement.className") == "plot"
    assert browser.value(now).startswith("6.55")
    browser.key("ArrowLeft")
    assert browser.value(now).startswith("5.9")
    browser.key("Home")
    assert browser.value(now) == "0 tokens; newswire 0.00\u202f% (0.00\u202f% … 0.00\u202f%)"
    assert not browser.value("document.querySelector('.tip').hidden")
    browser.key("Escape")
    assert browser.value("document.querySelector('.tip').hidden")
    seen = set()
    for _ in range(40):
        browser.key("Tab")
        seen.add(browser.value("document.activeElement.dataset.title || document.activeElement.textContent"))
    assert {"Kept: change of the old domains", "Training loss", "Numbers", "All settings"} <= seen


def test_without_the_script_nothing_is_lost_but_the_pointer(browser, report):
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(report, 1280)
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
    assert browser.value("document.querySelectorAll('.plot path.line').length") >= 9
    assert not browser.value("document.querySelector('.plot').hasAttribute('tabindex')")


def test_it_prints(browser, report, tmp_path):
    browser.open(report, 1280)
    browser.pdf(tmp_path / "report.pdf")
    content = (tmp_path / "report.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    assert 2 <= content.count(b"/Type /Page\n") + content.count(b"/Type /Page ") <= 8
