"""`modelzoo report`: what became of a continued run, as a page, as JSON, and in short here."""

import json
import textwrap
from pathlib import Path
from typing import Any

import typer

WIDTH = 80


def command(
    run: Path = typer.Argument(..., help="A run's directory, such as runs/my_run."),
    new: list[str] = typer.Option(
        None,
        "--new",
        help="An evaluation set that the run was to learn; may be repeated. Default: found from the data.",
    ),
    as_json: bool = typer.Option(False, "--json", help="Print what report.json holds."),
) -> None:
    """Write report.html and report.json into the run: may the new model replace the old?"""
    from modelzoo.report.continuation import PAGE_NAME, write_report

    report = write_report(run, new or ())
    if as_json:
        print(json.dumps(report, indent=1))
        return
    for line in summary(report):
        print(line)
    print(f"\n{run / PAGE_NAME}")


def summary(report: dict[str, Any]) -> list[str]:
    """The answer, a line a domain, and what to try next, in lines of at most WIDTH characters."""
    from modelzoo.report.answer import QUESTION

    lines = [QUESTION, *_wrapped(report["answer"]["headline"]), ""]
    if report["domains"]:
        size = min(18, max(len(domain["name"]) for domain in report["domains"]))
        lines.append(f"{'domain':<{size}}       before    after   change   95 % interval      verdict")
        lines += [_line(domain, size) for domain in report["domains"]]
        lines.append("")
    for sentence in [*report["answer"]["sentences"][-1:], *report["missing"]]:
        lines += _wrapped(sentence)
    for number, step in enumerate(report["advice"], 1):
        source = f" ({step['source']})" if step["source"] else ""
        lines += ["", *_wrapped(f"{step['do']} {step['why']}{source}", f"{number}. ")]
    return lines


def _line(domain: dict[str, Any], size: int) -> str:
    from modelzoo.report.numbers import percent, percent_interval

    name = domain["name"] if len(domain["name"]) <= size else domain["name"][: size - 1] + "…"
    before = "–" if domain["before"] is None else f"{domain['before']:.4f}"
    change = "–" if domain["change"] is None else percent(domain["change"])
    interval = percent_interval(domain["interval"])
    verdict = "no change" if domain["verdict"] == "no change shown" else domain["verdict"]
    if verdict == "worse" and domain["role"] == "old" and domain["kept"]:
        verdict = "kept"
    numbers = f"{before:>7}  {domain['after']:>7.4f}  {change:>7}  {interval:<17}"
    return f"{name:<{size}}  {domain['role']}  {numbers}  {verdict}"


def _wrapped(sentence: str, first: str = "") -> list[str]:
    return textwrap.wrap(sentence, WIDTH, initial_indent=first, subsequent_indent=" " * len(first))
