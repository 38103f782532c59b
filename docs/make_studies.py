"""Writes docs/studies.md from the reports of studies: python docs/make_studies.py DATE runs/compare/*/report.json."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from modelzoo.report.numbers import percent, percent_interval

HEAD = """# What the shipped studies found

Each section is the outcome of one command, copied from its `report.json` by `python docs/make_studies.py`; how it is
judged: [compare.md](compare.md). They are toys, minutes on two cores: what they show holds for models of this size and
this little training, and their intervals say how surely.
"""


def lines_of(report: Mapping[str, Any]) -> Iterator[str]:
    """A study's section."""
    yield f"\n## {report['name']}\n{report['description']}\n"
    yield f"```\n{report['commands'][0]}\n```"
    yield f"**{report['answer']['headline']}** {' '.join(report['answer']['sentences'])}\n"
    domains = [report["primary"], *(d for d in report["domains"] if d != report["primary"])]
    bits = " | ".join(f"bits/byte, {name}" for name in domains)
    yield f"| arm | {bits} | change against | | 95 % interval | verdict |"
    yield f"|---|{'---|' * len(domains)}---|---|---|---|"
    effects = {effect["arm"]: effect for effect in report["effects"] if effect["domain"] == report["primary"]}
    for arm in report["arms"]:
        bits = " | ".join(f"{arm['bits_per_byte'][name]:.4f}" for name in domains)
        effect = effects.get(arm["name"])
        rest = ["", "", "", ""]
        if effect is not None:
            interval = percent_interval(effect["interval"])
            change = "–" if effect["relative"] is None else percent(effect["relative"])
            rest = [effect["against"], change, interval, effect["verdict"]]
        yield f"| {arm['name']} | {bits} | {' | '.join(rest)} |"
    yield from _speeds(report)
    machine = report["machine"]
    threads = [f"runs on {machine.get('threads', '?')} thread(s)"]
    threads += [f"timings on {report['speed_of']['threads']}"] if report["speed"] else []
    yield f"\n{machine.get('name', '')}, {', '.join(threads)}, torch {report['versions']['torch']}."


def _speeds(report: Mapping[str, Any]) -> Iterator[str]:
    if not report["speed"]:
        return
    of = report["speed_of"]
    timed = f" ({', '.join(of['overrides'])})" if of["overrides"] else ""
    busy = "" if of["quiet"] else ", the machine was not quiet"
    yield f"\nTimed in turn{timed}, {of['precision']}, {of['rounds']} rounds{busy}:\n"
    yield "| arm | training | | interval | generation | | interval | all-reduces a layer |"
    yield f"|{'---|' * 8}"
    for arm in report["arms"]:
        own = report["speed"].get(arm["name"])
        if own is None:
            continue
        cells = []
        for kind in ("training", "generation"):
            one = own.get(kind)
            if one is None:
                cells += ["–", "", ""]
                continue
            change = "" if one.get("ratio") is None else percent(one["ratio"] - 1)
            cells += [f"{one['per_second']:,.0f} tokens/s", change, _ratio(one.get("interval"))]
        reduces = own.get("all_reduces")
        cells.append("" if not reduces else f"{reduces['forward']} + {reduces['backward']}")
        yield f"| {arm['name']} | {' | '.join(cells)} |"


def _ratio(interval: Sequence[float] | None) -> str:
    return "" if interval is None else percent_interval([end - 1 for end in interval])


if __name__ == "__main__":
    date, *paths = sys.argv[1:]
    reports = [json.loads(Path(path).read_text(encoding="utf-8")) for path in paths]
    body = [line for report in reports for line in lines_of(report)]
    text = "\n".join([HEAD, f"Made on {date}.", *body]) + "\n"
    Path(__file__).with_name("studies.md").write_text(text, encoding="utf-8")
