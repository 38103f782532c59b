"""The look of every report: light and dark, wide and narrow, screen and paper."""

# The series' colours begin as Okabe and Ito's for all kinds of colour vision, darkened or lightened until they stand
# out from the page at 3 : 1; tests/report/test_style.py holds that, and that they stay apart without red or green.
LIGHT = {
    "back": "#f6f6f3", "paper": "#ffffff", "text": "#1a1d21", "dim": "#5a616b", "line": "#dfded8", "focus": "#0072b2",
    "good": "#00694e", "good-back": "#e4f2ec", "bad": "#a63a00", "bad-back": "#fbe9df",
    "open": "#54585f", "open-back": "#ecebe6",
    "c0": "#0072b2", "c1": "#c2500b", "c2": "#00805e", "c3": "#a34880", "c4": "#8a6800", "c5": "#3c3f8f",
}  # fmt: skip
DARK = {
    "back": "#121417", "paper": "#1a1d21", "text": "#e7e9ec", "dim": "#a0a7b1", "line": "#31363d", "focus": "#56b4e9",
    "good": "#63d6b0", "good-back": "#13302a", "bad": "#ffa070", "bad-back": "#3a2117",
    "open": "#c3c7cd", "open-back": "#282c32",
    "c0": "#56b4e9", "c1": "#ff9354", "c2": "#34c79a", "c3": "#e58fbf", "c4": "#e5c04a", "c5": "#a6adff",
}  # fmt: skip


def _variables(colors: dict[str, str]) -> str:
    return " ".join(f"--{name}: {value};" for name, value in colors.items())


_SERIES = "\n".join(f".c{i} {{ --c: var(--c{i}); }}" for i in range(6))

STYLE = (
    f"""
:root {{ color-scheme: light; {_variables(LIGHT)} }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ color-scheme: dark; {_variables(DARK)} }} }}
{_SERIES}
"""
    + """
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; overflow-wrap: anywhere; background: var(--back); color: var(--text);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif; }
main, footer { max-width: 70rem; margin: 0 auto; padding: 0 1.5rem; }
main { padding-top: 2.5rem; }
footer { padding-top: 2.5rem; padding-bottom: 3rem; color: var(--dim); font-size: .85rem; }
p { margin: 0 0 .7rem; max-width: 46rem; } .dim, .lead, .absent, small { color: var(--dim); }
h1 { font-size: 2rem; line-height: 1.2; letter-spacing: -.015em; margin: 0 0 1.2rem; font-weight: 650; }
h2 { font-size: 1.2rem; line-height: 1.3; margin: 0 0 .3rem; font-weight: 650; }
h3 { font-size: 1rem; margin: 0 0 .3rem; font-weight: 650; }
section { margin-top: 3rem; }
.kicker { color: var(--dim); font-size: .9rem; margin: 0 0 .3rem; overflow-wrap: anywhere; max-width: none; }
.lead { font-size: .93rem; margin-bottom: 1rem; }
.absent { font-size: .93rem; border-left: 3px solid var(--line); padding: .1rem 0 .1rem .9rem; }
a { color: var(--focus); }
code { font: .88em ui-monospace, Menlo, Consolas, "Liberation Mono", monospace; overflow-wrap: anywhere; }
.command { display: block; background: var(--paper); border: 1px solid var(--line); border-radius: 8px;
  padding: .6rem .8rem; margin: 0 0 1rem; user-select: all; }
:focus-visible { outline: 2px solid var(--focus); outline-offset: 3px; border-radius: 4px; }

.answer { display: flex; gap: 1.1rem; padding: 1.3rem 1.5rem 1rem; border-radius: 12px; background: var(--tint);
  border-left: 6px solid var(--tone); }
.answer > div { min-width: 0; } .answer p { max-width: 52rem; }
.answer .verdict { font-size: 1.4rem; line-height: 1.3; font-weight: 650; color: var(--tone); margin-bottom: .5rem; }
.answer .mark { flex: none; width: 2.2rem; height: 2.2rem; border-radius: 50%; background: var(--tone);
  color: var(--paper); display: grid; place-items: center; font-size: 1.2rem; font-weight: 700; }
.good { --tone: var(--good); --tint: var(--good-back); } .bad { --tone: var(--bad); --tint: var(--bad-back); }
.open { --tone: var(--open); --tint: var(--open-back); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(11.5rem, 1fr)); gap: .8rem; margin: 1rem 0 0; }
.tiles > div { background: var(--paper); border: 1px solid var(--line); border-radius: 12px; padding: .8rem 1rem; }
.tiles dt { color: var(--dim); font-size: .85rem; overflow-wrap: anywhere; }
.tiles dd { margin: 0; font-size: 1.45rem; font-weight: 650; line-height: 1.35; font-variant-numeric: tabular-nums; }
.tiles dd small { display: block; font-size: .82rem; font-weight: 400; }
.pill { display: inline-block; border-radius: 999px; padding: .05rem .65rem; font-size: .85rem; white-space: nowrap;
  color: var(--tone); background: var(--tint); font-weight: 600; }
.card { background: var(--paper); border: 1px solid var(--line); border-radius: 12px; padding: .9rem 1.2rem; }

table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
th, td { text-align: left; padding: .5rem 1.2rem .5rem 0; border-bottom: 1px solid var(--line);
  vertical-align: middle; }
th:last-child, td:last-child { padding-right: 0; }
tbody tr:last-child > * { border-bottom: 0; }
thead th { font-size: .85rem; font-weight: 500; color: var(--dim); vertical-align: bottom; }
tbody th { font-weight: 600; overflow-wrap: anywhere; }
.cards tbody th { min-width: 11rem; } tbody th small { display: block; font-weight: 400; }
.number { text-align: right; white-space: nowrap; } .wide { width: 26%; }
td small { display: block; }
.scroll { overflow: auto; max-height: 22rem; }
.data { width: auto; font-size: .85rem; } .data th, .data td { padding: .2rem 1.2rem .2rem 0; text-align: right;
  white-space: nowrap; } .data small { display: inline; }
.data thead th { position: sticky; top: 0; background: var(--paper); }
.data tbody th { font-weight: 400; }
.interval { display: block; width: 100%; min-width: 8rem; height: 1.6rem; color: var(--tone); overflow: visible; }
.interval .zero { stroke: var(--dim); stroke-width: 1; stroke-dasharray: 2 3; }
.interval .whisker { stroke: currentColor; stroke-width: 3; stroke-linecap: round; opacity: .55; }
.interval circle { fill: currentColor; }
.bar { display: block; width: 100%; min-width: 5rem; height: .8rem; } .bar rect { fill: var(--c); }
.bar .rest { fill: var(--line); }

.grid2, .grid3 { display: grid; gap: 1rem; align-items: start; margin-top: 1rem; }
.grid2 { grid-template-columns: repeat(2, minmax(0, 1fr)); }
.grid3 { grid-template-columns: repeat(3, minmax(0, 1fr)); }
.chart { background: var(--paper); border: 1px solid var(--line); border-radius: 12px; margin: 0;
  padding: .9rem 1.2rem .7rem; min-width: 0; }
figcaption { line-height: 1.35; overflow-wrap: anywhere; } figcaption b { font-weight: 650; margin-right: .4rem; }
figcaption span { font-size: .88rem; display: block; }
.plot { position: relative; height: 15rem; margin: .9rem .4rem 3.4rem 3.3rem; touch-action: pan-y; }
.large .plot { height: 20rem; } .labelled .plot { margin-right: 8.5rem; }
.canvas { width: 100%; height: 100%; overflow: visible; display: block; pointer-events: none; }
.lines { width: 100%; height: 100%; overflow: visible; }
.canvas text { fill: var(--dim); font-size: 12.5px; font-variant-numeric: tabular-nums; }
.canvas text.label { fill: var(--c); font-size: 13.5px; font-weight: 600; }
.canvas line.grid { stroke: var(--line); stroke-width: 1; } .canvas line.rule { stroke: var(--dim); stroke-width: 1; }
.canvas line.limit, .interval .limit { stroke: var(--bad); stroke-width: 1.5; stroke-dasharray: 3 3; }
.line { fill: none; stroke: var(--c); stroke-width: 2; stroke-linejoin: round; stroke-linecap: round;
  vector-effect: non-scaling-stroke; }
.dashed { stroke-dasharray: 6 5; } .dotted { stroke-dasharray: 1 5; }
.band { fill: var(--c); opacity: .16; } .end { fill: var(--c); }
.cursor line { stroke: var(--text); stroke-width: 1; opacity: .5; }
.cursor circle { fill: var(--c); stroke: var(--paper); stroke-width: 2; }
.tip { position: absolute; top: 0; z-index: 1; background: var(--text); color: var(--paper); border-radius: 8px;
  padding: .4rem .7rem; font-size: .85rem; line-height: 1.45; pointer-events: none; white-space: nowrap;
  font-variant-numeric: tabular-nums; box-shadow: 0 2px 10px rgb(0 0 0 / .25); max-width: 100%; }
.tip div { display: flex; justify-content: space-between; gap: 1rem; } .tip span { overflow: hidden;
  text-overflow: ellipsis; } .tip small { color: inherit; opacity: .75; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; padding: 0; margin: .3rem 0 0;
  font-size: .88rem; } .labelled .legend { display: none; }
.legend li { overflow-wrap: anywhere; }
.key { width: 1.5rem; height: .7rem; margin-right: .4rem; overflow: visible; }
details { font-size: .9rem; } summary { cursor: pointer; color: var(--dim); width: fit-content; }
.chart details { margin-top: .2rem; }

.sample { margin-bottom: 1rem; } .sample h3 { overflow-wrap: anywhere; }
.pair { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1.6rem; margin-top: .5rem; }
.pair h4 { margin: 0 0 .2rem; font-size: .85rem; font-weight: 500; color: var(--dim); }
blockquote { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; font-family: Georgia, "Liberation Serif", serif;
  unicode-bidi: isolate; }
.steps { list-style: none; counter-reset: step; padding: 0; margin: 0; display: grid; gap: .8rem; }
.steps li { counter-increment: step; position: relative; padding-left: 3.9rem; }
.steps li::before { content: counter(step); position: absolute; left: 1.2rem; top: .85rem; width: 1.7rem;
  height: 1.7rem; border-radius: 50%; background: var(--open-back); color: var(--open); display: grid;
  place-items: center; font-size: .9rem; font-weight: 650; }
.steps p { margin: 0 0 .2rem; } .steps b { font-weight: 650; } .steps small { font-size: .85rem; }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(14rem, 1fr)); gap: .9rem 1.6rem;
  margin: 0 0 1rem; }
.facts dt { color: var(--dim); font-size: .85rem; } .facts dd { margin: 0; overflow-wrap: anywhere; }
.card + h3 { margin-top: 1.6rem; } .card + details, .grid2 + details, .card + .card { margin-top: .8rem; }
.warning { border-left: 3px solid var(--bad); background: var(--bad-back); border-radius: 0 8px 8px 0;
  padding: .6rem .9rem; margin: .8rem 0 0; max-width: none; font-size: .93rem; } .warning b { color: var(--bad); }
.answer + .absent, .warning + .absent { margin-top: .8rem; } .absent ul { margin: .1rem 0 0; padding-left: 1.1rem; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.checks { list-style: none; margin: 0; display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 0 2.5rem; }
.checks li { display: flex; gap: .8rem; padding: .55rem 0; } .checks div { position: relative; min-width: 0; }
.checks b { font-weight: 600; } .checks small { display: block; }
.sign { flex: none; width: 1.5rem; height: 1.5rem; border-radius: 50%; display: grid; place-items: center;
  font-size: .85rem; font-weight: 700; color: var(--tone); background: var(--tint); }
.rungs { table-layout: fixed; } .rungs + .rungs { margin-top: 1.4rem; }
.rungs thead th:first-child { width: 25%; } .rungs th.number { width: 13%; } .rungs th.told { width: 18%; }
.rungs th.number:nth-child(5) { width: 11%; } .rungs tbody th { position: relative; vertical-align: top; }
.rungs tbody th:has(.rung) { padding-left: 2.2rem; }
.rung { position: absolute; left: 0; top: .55rem; width: 1.5rem; height: 1.5rem; border-radius: 50%; display: grid;
  place-items: center; background: var(--open-back); color: var(--open); font-size: .8rem; font-weight: 650; }
.rungs .fill { position: relative; } .rungs .stair { width: 15%; } .rungs td.stair { border-bottom-color: transparent; }
.rungs td.fill svg { position: absolute; top: -1px; left: .5rem; width: calc(100% - 1rem);
  height: calc(100% + 1px); min-width: 0; overflow: visible; }
.rungs tbody td.fill { padding: 0; } .rungs th.fill { padding-left: 0; }
.rungs .under { fill: transparent; } .rungs .whisker { stroke-width: 4; }
.rungs .path { stroke: var(--dim); stroke-width: 1.5; } .rungs .move { stroke: var(--tone); stroke-width: 6; }
.rungs .stair circle { fill: var(--text); stroke: var(--paper); stroke-width: 1.5; }
.rungs tfoot td { border: 0; height: 2rem; }
.axis text { fill: var(--dim); font-size: .75rem; }
.notes li { margin-bottom: .3rem; max-width: 46rem; } .notes { padding-left: 1.2rem; font-size: .93rem; }

@media (max-width: 64rem) {
  .grid3 { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .labelled .plot { margin-right: .4rem; } .labelled .legend { display: flex; } .canvas text.label { display: none; }
}
@media screen and (max-width: 64rem) {
  .cards thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  .cards, .cards tr, .cards th, .cards td { display: block; width: auto; }
  .cards tbody { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 0 2.5rem; }
  .cards tr { padding: .6rem 0; border-bottom: 1px solid var(--line); } .cards tr:last-child { border: 0; }
  .cards th, .cards td { padding: .1rem 0; border: 0; min-width: 0; }
  .cards td { display: flex; justify-content: space-between; align-items: baseline; gap: 1rem; text-align: right; }
  .cards td::before { content: attr(data-name); color: var(--dim); font-size: .88rem; text-align: left;
    white-space: normal; }
  .rungs tfoot, .rungs .stair, .rungs .fill.bare { display: none !important; }
  .rungs td.fill { height: 2.4rem; width: auto; }
  .cards td.wide { display: block; } .cards td.wide::before { content: none; } .cards td:empty { display: none; }
}
@media screen and (max-width: 44rem) {
  main, footer { padding-left: 1rem; padding-right: 1rem; } main { padding-top: 1.4rem; }
  section { margin-top: 2.4rem; }
  h1 { font-size: 1.55rem; } .answer { flex-direction: column; gap: .6rem; padding: 1rem 1.1rem .6rem; }
  .answer .verdict { font-size: 1.2rem; }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: .6rem; } .tiles > div { padding: .6rem .8rem; }
  .tiles dd { font-size: 1.2rem; }
  .grid2, .grid3, .pair { grid-template-columns: minmax(0, 1fr); } .pair { gap: 1rem; }
  .chart { padding: .8rem .8rem .6rem; } .plot, .large .plot { height: 14rem; margin-left: 2.9rem; }
  .tip { white-space: normal; }
  .cards tbody, .checks { grid-template-columns: minmax(0, 1fr); }
  .card { padding: .5rem .9rem; } .facts { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: .7rem 1rem; }
}
@media print {
  @page { margin: 14mm; }
  html { font-size: 11.5px; } body { font-size: 1rem; background: #fff; } main, footer { max-width: none; padding: 0; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  section { margin-top: 1.6rem; } h2, h3, .lead { break-after: avoid; }
  figure, tr, .tiles, .answer, .steps li, .sample { break-inside: avoid; }
  .cards tbody th { min-width: 8rem; } .cards th, .cards td { padding-right: .8rem; } .interval { min-width: 6rem; }
  .rungs .pill { font-size: .78rem; padding: .05rem .45rem; } .rungs tfoot { display: table-row-group; }
  .chart details, .tip { display: none; } .plot, .large .plot { height: 13rem; }
  .card, .chart, .tiles > div { border-color: #ccc; }
}
"""
)
