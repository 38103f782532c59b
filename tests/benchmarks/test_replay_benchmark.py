"""What benchmarks.replay asks of modelzoo, and what it makes of the answers."""

import json
import random
import string
import sys

import pytest
import yaml

from benchmarks import replay
from benchmarks.replay import Arm
from benchmarks.replay_report import interval, outcomes, table
from modelzoo.run_config import load_run_config


def corpus(seed):
    """Lines of words that take more than 4,096 tokens to spell."""
    draw = random.Random(seed)
    words = ["".join(draw.choices(string.ascii_lowercase, k=7)) for _ in range(3000)]
    return "".join(json.dumps({"text": " ".join(draw.choices(words, k=150))}) + "\n" for _ in range(300))


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    def parsed(*extra):
        for seed, name in enumerate(("old", "new")):
            (tmp_path / f"{name}.jsonl").write_text(corpus(seed))
        paths = ["--old", str(tmp_path / "old.jsonl"), "--new", str(tmp_path / "new.jsonl"), "--out", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", ["replay", *paths, *extra])
        return replay.parse()

    return parsed


def run(arm, seed, old, new):
    """Bits per byte of the old domain rise from 2, those of the new one fall to `new`."""
    domains = {"old": {"before": 2.0, "after": old, "change": old / 2 - 1}, "new": {"before": 3.0, "after": new}}
    return {"arm": arm, "seed": seed, "tokens": {"new": 75_000, "old": 25_000}, **domains}


def test_an_arm_is_what_its_name_says(arguments):
    assert Arm.of("naive") == Arm("naive", 0, 1, False)
    assert Arm.of("peak0.3") == Arm("peak0.3", 0, 0.3, False)
    both = Arm.of("replay0.25_peak0.3_same_new")
    assert both == Arm("replay0.25_peak0.3_same_new", 0.25, 0.3, True)
    assert (both.tokens(90_000), Arm.of("replay0.25").tokens(90_000)) == (120_000, 90_000)


@pytest.mark.parametrize(
    "name", ["", "replay", "peak0.3_replay0.25", "same_new", "peak0.3_same_new", "replay1.5", "peak0"]
)
def test_other_names_are_refused(arguments, name, capsys):
    with pytest.raises(SystemExit):
        arguments("--arms", name)
    assert "argument --arms" in capsys.readouterr().err


def test_the_rate_begins_where_the_bases_ended_and_only_what_the_base_read_is_replayed(arguments):
    parsed = arguments("--base-tokens", "81920")
    base = load_run_config(replay.written(parsed.out, replay.base_config(parsed)), [])
    last = base.optimizer.lr * base.schedule.factor(39, 40, 2048)
    for arm in [Arm.of("naive"), *parsed.arms]:
        path = replay.written(parsed.out, replay.continued_config(arm, parsed))
        config = load_run_config(path, ["continue_from=runs/base_0"])
        assert config.optimizer.lr == pytest.approx(arm.peak * base.optimizer.lr)
        assert config.optimizer.lr * config.schedule.initial_lr_ratio == pytest.approx(last, rel=0.02)
        sources = config.data.train.used_sources()
        assert set(sources) == ({"new", "old"} if arm.share else {"new"})
        if arm.share:
            assert (sources["old"].share, sources["old"].max_tokens) == (arm.share, 81920)
            assert sources["old"] == base.data.train.used_sources()["old"].model_copy(
                update={"weight": None, "share": arm.share}
            )


def test_arms_are_compared_within_their_seed():
    runs = [run("naive", 0, 2.2, 1.0), run("naive", 1, 2.4, 1.1), run("both", 0, 2.05, 1.01), run("both", 1, 2.1, 1.12)]
    found = outcomes(runs)["both"]
    assert [outcome.cut for outcome in found] == pytest.approx([0.75, 0.75])
    assert [outcome.new_loss for outcome in found] == pytest.approx([0.01, 1.12 / 1.1 - 1])
    assert table(runs)[-1] == "both: met in the mean"
    assert "both: not met" in table([*runs[:2], run("both", 0, 2.16, 1.01), run("both", 1, 2.1, 1.12)])


def test_where_the_naive_arm_forgets_nothing_there_is_nothing_to_cut():
    runs = [run("naive", 0, 1.9, 1.0), run("naive", 1, 2.4, 1.1), run("both", 0, 1.8, 1.0), run("both", 1, 2.1, 1.1)]
    lines = table(runs)
    assert lines[-1] == "both: a naive run forgot nothing, so there is nothing to cut"
    assert lines[3].split(" | ")[3] == "–"


def test_the_interval_is_students():
    low, high = interval([1.0, 2.0, 3.0])  # mean 2, standard error 1/sqrt(3), t of 2 degrees of freedom 4.303
    assert (low, high) == pytest.approx((2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5))


@pytest.mark.long
def test_the_whole_experiment_at_toy_size_and_again_from_what_is_there(arguments, capsys):
    sizes = ["--base-tokens", "8192", "--tokens", "8192", "--eval-rows", "16"]
    plot = ["--plot", str(arguments().out / "replay.png")]
    parsed = arguments("--seeds", "0", "--base-seed", "1", *sizes, *plot, "--arms", "peak0.3", "replay0.25")
    replay.main()
    first = json.loads((parsed.out / "replay.json").read_text())
    assert {each["arm"] for each in first["runs"]} == {"naive", "peak0.3", "replay0.25"}
    assert first["runs"][-1]["tokens"] == {"new": 6144, "old": 2048}
    assert (parsed.out / "replay.png").stat().st_size > 10_000
    assert yaml.safe_load((parsed.out / "naive.yaml").read_text())["trainer"]["max_tokens"] == 8192
    replay.main()
    assert json.loads((parsed.out / "replay.json").read_text()) == first
    assert "| replay0.25 |" in capsys.readouterr().out
