"""The building blocks: escaping, colours, scales, numbers."""

import itertools
import re
from html.parser import HTMLParser

import pytest

from modelzoo.report.charts import IntervalScale, Series, interval_mark, line_chart, thinned
from modelzoo.report.numbers import count, decimals, duration, log_ticks, percent, percent_interval, signed, ticks
from modelzoo.report.page import page, section, text
from modelzoo.report.style import DARK, LIGHT, STYLE
from modelzoo.report.tables import Column, Html, difference_table, table
from tests.report.runs import CONFIG, SAMPLES, write_run

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)> \"'&\u202e\x00\ud800"
VOID = {"meta", "link", "br", "img", "input"}


class Outline(HTMLParser):
    """The elements of a page, and whether each that opens is closed."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.attributes = [], [], []
        self.feed(html)
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes


def test_nothing_in_a_run_becomes_markup(tmp_path):
    from modelzoo.report.continuation import write_report

    config = CONFIG | {"name": EVIL, "description": EVIL, "continue_from": EVIL, EVIL: EVIL}
    config["data"] = config["data"] | {"validation": {"sources": {EVIL: {"path": EVIL}}}}
    lines = [{"step": step, "set": EVIL, "bytes_per_token": 4.0, "loss_sums": [3.0 + step, 2.0] * 10,
              "num_tokens": [1] * 20} for step in (0, 400)]  # fmt: skip
    samples = [sample | {"prompt": EVIL, "text": EVIL * 2} for sample in SAMPLES]
    machine = {"name": EVIL}
    write_report(write_run(tmp_path, config=config, evaluations=lines, samples=samples, machine=machine))
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    outline = Outline(html)
    assert outline.tags.count("script") == 1
    assert "img" not in outline.tags
    assert not [name for name, _ in outline.attributes if name.startswith("on") or name == "style"]
    assert not {"\u202e", "\x00"} & set(html)
    assert "⟨202E⟩" in html


def test_the_page_asks_for_nothing(tmp_path):
    html = page("a", [section("b", ["<p>c</p>"])])
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", html)
    assert "default-src 'none'" in html
    assert "innerHTML" not in html
    assert "unsafe" not in html


def test_text_shows_what_cannot_be_seen():
    assert text("a<b>&\"'\n\t\x07\u200b") == "a&lt;b&gt;&amp;&quot;&#x27;\n\t⟨07⟩⟨200B⟩"
    assert text("👩\u200d💻 naïve") == "👩\u200d💻 naïve"


def luminance(color):
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(weight * p for weight, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True)), linear


def contrast(one, other):
    low, high = sorted(luminance(color)[0] for color in (one, other))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("colors", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_can_be_read(colors):
    """WCAG 2: text at 4.5 : 1, lines of a chart at 3 : 1."""
    for back in ("back", "paper"):
        for name in ("text", "dim", "good", "bad", "open"):
            assert contrast(colors[name], colors[back]) >= 4.5, (name, back)
    for tone in ("good", "bad", "open"):
        assert contrast(colors[tone], colors[f"{tone}-back"]) >= 4.5, tone
        assert contrast(colors["dim"], colors[f"{tone}-back"]) >= 4.5, tone
    for number in range(6):
        assert contrast(colors[f"c{number}"], colors["paper"]) >= 3, number


@pytest.mark.parametrize("colors", [LIGHT, DARK], ids=["light", "dark"])
def test_the_first_colours_stay_apart_without_red_or_green(colors):
    """As Viénot et al. 1999 simulate the two, in linear RGB: a chart's first three lines differ clearly."""
    matrices = {
        "protan": ((0.11238, 0.88762, 0.0), (0.11238, 0.88762, 0.0), (0.00401, -0.00401, 1.0)),
        "deutan": ((0.29275, 0.70725, 0.0), (0.29275, 0.70725, 0.0), (-0.02234, 0.02234, 1.0)),
    }
    for matrix in matrices.values():
        seen = [
            [sum(m * p for m, p in zip(row, luminance(colors[f"c{i}"])[1], strict=True)) for row in matrix]
            for i in range(3)
        ]
        for one, other in itertools.combinations(seen, 2):
            assert max(abs(a - b) for a, b in zip(one, other, strict=True)) > 0.08


def test_every_colour_is_in_the_page():
    assert all(f"var(--c{i})" in STYLE for i in range(6))
    assert "prefers-color-scheme: dark" in STYLE
    assert set(LIGHT) == set(DARK)


SERIES = [
    Series("one", [(0, 1.0), (10, 2.0), (20, 4.0)], [None, (1.5, 2.5), (3.0, 5.0)]),
    Series("two", [(0, 0.0), (20, 4.1)], color=1, dashed=True),
]


def test_a_chart_carries_its_numbers():
    html = line_chart("x", "Title", SERIES, "steps", "loss", x_format=str, y_format=lambda y: f"{y:.1f}")
    Outline(html)
    rows = re.findall(r'<tr data-x="([\d.]+)"><th scope="row">(\d+)</th>(.*?)</tr>', html)
    assert [(x, label) for x, label, _ in rows] == [("0.0000", "0"), ("0.5000", "10"), ("1.0000", "20")]
    assert re.sub("<[^>]+>", "", rows[1][2]) == "2.0 (1.5 … 2.5)"
    assert "one: from 1.0 to 4.0. two: from 0.0 to 4.1." in html
    assert html.count("<path") == 3
    assert 'class="line c1 dashed"' in html


def test_a_line_is_where_its_numbers_are():
    html = line_chart("x", "t", [Series("a", [(0, 0.0), (10, 1.0)])], "x", "y")
    (path,) = re.findall(r'd="M(\S+) (\S+?)L(\S+) (\S+)"', html)
    assert [float(value) for value in path] == pytest.approx([0, 946.4, 1000, 53.6], abs=0.1)  # 6 % above and below


def test_labels_do_not_lie_on_one_another():
    html = line_chart("x", "t", [Series(f"n{i}", [(0, 1.0), (1, i / 1e6)]) for i in range(8)], "x", "y")
    places = sorted(float(y) for y in re.findall(r'class="label[^>]* y="([\d.]+)%"', html))
    assert len(places) == 8
    assert all(b - a >= 6.99 for a, b in itertools.pairwise(places))
    assert places[0] >= 0
    assert places[-1] <= 100


def test_a_logarithmic_axis():
    html = line_chart("x", "t", [Series("a", [(1, 1.0), (10, 1.0), (100, 2.0)])], "x", "y", log_x=True)
    assert re.findall(r'data-x="([\d.]+)"', html) == ["0.0000", "0.5000", "1.0000"]


def test_many_points_are_thinned_to_means():
    points = [(float(x), float(x % 2)) for x in range(10_001)]
    few = thinned(points)
    assert (len(few), few[0], few[-1]) == (200, points[0], points[-1])
    assert all(abs(y - 0.5) < 0.02 for _, y in few[1:-1])
    assert thinned(points[:200]) == points[:200]


def test_marks_of_one_scale_can_be_compared():
    scale = IntervalScale([-0.1, 0.02], [(-0.12, -0.08), None])
    assert 0 < scale.place(-0.12) < scale.place(-0.1) < scale.place(0) < scale.place(0.02) < 1
    assert "whisker" in interval_mark(-0.1, (-0.12, -0.08), scale)
    assert "whisker" not in interval_mark(0.02, None, scale)
    assert "limit" in interval_mark(0.02, None, scale, limit=0.01)


def test_tables_escape_what_is_not_html():
    html = table("<c>", [Column("<n>"), Column("v", number=True)], [("<a>", "<b>"), ("x", Html("<i>y</i>"))])
    assert "&lt;a&gt;" in html
    assert "&lt;n&gt;" in html
    assert "<i>y</i>" in html
    assert 'data-name="v">&lt;b&gt;' in html
    assert "<td" in difference_table(["a", "b"], [("model.num_layers", (2, 4))])


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (percent(0.01234), "+1.23 %"),
        (percent(-0.1234), "−12.3 %"),
        (percent(-1e-7), "0.00 %"),
        (percent(2.5), "+250 %"),
        (percent_interval((-0.013, 0.009)), "−1.30 … +0.90 %"),
        (percent_interval(None), "–"),
        (signed(-0.0049, 2), "0.00"),
        (count(1234), "1,234"),
        (count(999_999), "1 M"),
        (count(123_456), "123 k"),
        (count(6_553_600), "6.55 M"),
        (count(4.02e11), "402 G"),
        (duration(59.6), "1 min 00 s"),
        (duration(11_100), "3 h 05 min"),
    ],
)
def test_numbers_as_they_are_read(shown, expected):
    assert shown.replace("\u202f", " ") == expected


def test_ticks_are_round():
    assert ticks(0.03, 0.98) == [0.2, 0.4, 0.6, 0.8]
    assert ticks(-12.3, 0.7) == [-10.0, -5.0, 0.0] or ticks(-12.3, 0.7)[0] >= -12.3
    assert ticks(1, 1) == [1]
    assert log_ticks(1, 1000) == [1, 10, 100, 1000]
    assert log_ticks(3, 60) == [5, 10, 20, 50]
    assert [decimals(t) for t in ([0, 1, 2], [0, 0.5], [1.25, 1.275], [0, 1000])] == [0, 1, 3, 0]
