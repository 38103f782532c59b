"""`modelzoo mup check`: table, plot, JSON, exit codes, and what it refuses."""

import json

import pytest
from typer.testing import CliRunner

from modelzoo.base_config import UserError
from modelzoo.cli import mup
from modelzoo.cli.main import app

WITH_MUP = ["gptj_tiny", "model.mup={base_hidden_size: 192, base_ffn_size: 768}"]
FAST = ["--widths", "64,32", "--seeds", "1", "--steps", "1", "--layers", "1"]


def invoke(*arguments: str):
    return CliRunner().invoke(app, ["mup", "check", *arguments])


def test_a_check_that_passes(tmp_path) -> None:
    plot = tmp_path / "check.svg"
    result = invoke(*WITH_MUP, *FAST, "--tolerance", "2", "--plot", str(plot))
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[1].split() == ["part", "32", "64", "slope", "of", "size", "verdict"]
    assert [line.split("  ")[0] for line in lines[3:10]] == [
        "embedding", "block 0 attention logits", "block 0 attention", "block 0 MLP", "block 0 output", "head", "logits",
    ]  # fmt: skip
    assert "ok: every slope is within ±2" in result.stdout
    assert "<svg" in plot.read_text()
    assert list(tmp_path.iterdir()) == [plot]


def test_one_that_does_not_says_where_to_look_and_exits_with_1(tmp_path) -> None:
    result = invoke(*WITH_MUP, *FAST, "--tolerance", "0", "--plot", str(tmp_path / "check.png"))
    assert result.exit_code == 1
    assert "not ok: embedding" in result.stdout
    assert mup.HINTS["embedding"] in result.stdout
    assert (tmp_path / "check.png").read_bytes().startswith(b"\x89PNG")


def test_every_part_has_a_hint_and_a_colour() -> None:
    from modelzoo.mup.coordinates import parts
    from modelzoo.mup.plot import COLOURS

    kinds = {name.split(" ", 2)[-1] if name.startswith("block ") else name for name in parts(1)}
    assert kinds == mup.HINTS.keys() == COLOURS.keys()


def test_json_with_both_parametrisations(tmp_path) -> None:
    options = ("--standard", "--json", "--tolerance", "2", "--plot", str(tmp_path / "a.png"))
    result = invoke(*WITH_MUP, *FAST, *options)
    checks = json.loads(result.stdout)["checks"]
    assert [check["parametrisation"] for check in checks] == ["muP", "standard"]
    assert checks[0]["ok"] is True
    assert checks[0]["settings"]["steps"] == 1
    part = checks[0]["parts"][0]
    assert (part["name"], part["judged"], part["verdict"]) == ("embedding", "level", "ok")
    assert part["widths"].keys() == {"32", "64"}
    assert part["widths"]["32"]["change"] > 0


def test_without_the_section_it_says_how_to_add_one_or_measures_as_it_is(tmp_path) -> None:
    with pytest.raises(UserError, match=r"no section model.mup.*mup: \{base_hidden_size: 192, base_ffn_size: 768\}"):
        mup.run("gptj_tiny", [])
    result = invoke("gptj_tiny", *FAST, "--standard", "--tolerance", "0", "--plot", str(tmp_path / "a.png"))
    assert result.exit_code == 1
    assert result.stdout.count("standard parametrisation:") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": "64"}, "two widths or more, like 64,128"),
        ({"widths": "64,wide"}, "--widths 64,wide: expected hidden sizes"),
        ({"widths": "64,100"}, "width 100: no multiple of 32"),
        ({"growth": "depth"}, "--growth depth: expected heads or head_dim"),
        ({"plot": "a.txt"}, "ends in .png, .svg or .pdf"),
        ({"plot": "missing/a.png"}, "there is no directory"),
    ],
)
def test_what_it_refuses(options, message, tmp_path, monkeypatch) -> None:
    from pathlib import Path

    monkeypatch.chdir(tmp_path)
    if "plot" in options:
        options = {"plot": Path(options["plot"])}
    with pytest.raises(UserError, match=message):
        mup.run(*([WITH_MUP[0], WITH_MUP[1:]]), **options)
    assert not list(tmp_path.iterdir())
