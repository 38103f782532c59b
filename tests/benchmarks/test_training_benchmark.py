"""The benchmark of the training step runs in processes of its own, names who is absent, and stops at another loss."""

import json
import os
import statistics
import sys
from pathlib import Path

import pytest

from benchmarks import training
from benchmarks.training_case import Case, batches
from benchmarks.training_figures import Row, comparison, ratio
from benchmarks.training_ours import weights_of
from benchmarks.training_process import build

OPTIONS = ["--size", "tiny", "--family", "gpt2", "--precision", "fp32", "--rounds", "2", "--compared", "5"]


def run(monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    monkeypatch.setattr(sys, "argv", ["training", *OPTIONS, *options])
    training.main()


def test_measures_under_two_allocators_and_compares(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2]), *sys.path]))
    run(monkeypatch, "--only", "ours", "--allocator", "shipped", "keep", "--json", str(tmp_path / "figures.json"))
    [case] = json.loads((tmp_path / "figures.json").read_text())
    arms = {(row["name"], row["allocator"]): row for row in case["arms"]}
    assert set(arms) == {(name, a) for name in ("transformers", "ours", "GEMM") for a in ("shipped", "keep")}
    for key, row in arms.items():
        assert len(row["losses"]) >= training.WARMUP + 2
        assert row["step_seconds"], key
        assert row["warm_up_seconds"] >= row["first_seconds"] > 0
    losses = [row["losses"][:5] for (name, _), row in arms.items() if name != "GEMM"]
    assert losses[0][4] < losses[0][0]  # of the same batch
    for each in losses:
        assert each == pytest.approx(losses[0], rel=1e-5)
    assert case["absent"] == ["nanoGPT is absent (--nanogpt DIR, a checkout of karpathy/nanoGPT)"]
    told = capsys.readouterr()
    assert case["absent"][0] in told.out
    for name in ("ours [keep]", "ours [shipped]"):
        assert f"{name}: 3 steps to warm up took " in told.err
        assert f"\n{name}, same allocator: " in told.out
    gemm = (
        statistics.median(arms["GEMM", "keep"]["step_seconds"]),
        statistics.median(arms["GEMM", "shipped"]["step_seconds"]),
    )
    rates = [arms["ours", allocator]["gemm_flops_per_second"] for allocator in ("keep", "shipped")]
    assert rates == pytest.approx([2 * 2048**3 / seconds for seconds in gemm])
    ratios = [arms[name, "keep"]["step_seconds"] for name in ("transformers", "ours")]
    found = arms["ours", "keep"]["ratio_to"]["transformers"]["of_medians"]
    assert found == pytest.approx(statistics.median(ratios[0]) / statistics.median(ratios[1]))


def test_a_peer_that_lacks_a_package_is_named_and_the_others_run(tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "litgpt").mkdir()
    (tmp_path / "litgpt" / "__init__.py").write_text("import a_package_that_is_nowhere\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2]), *sys.path]))
    run(monkeypatch, "--family", "gpt_neox", "--only", "litgpt", "ours", "--allocator", "keep")
    told = capsys.readouterr()
    lines = {line.split(" [")[0]: line for line in told.out.splitlines() if " [keep] " in line}
    assert lines["litgpt"].endswith("absent: No module named 'a_package_that_is_nowhere'")
    for name in ("transformers", "ours"):
        assert lines[name].split()[2].replace(",", "").isdigit(), lines[name]
    assert "litgpt" not in told.err
    assert "2 arms within 0.0001" in told.out


@pytest.mark.parametrize("family", ["gptj", "gpt_neox", "gpt2"])
def test_every_family_has_equal_arms(family: str) -> None:
    case = Case(family, "tiny", "fp32", extra={"ours, fused": {"fused_projections": family == "gptj"}})
    data, weights = batches(case), weights_of(case)
    names = ["transformers", *(name for name in case.ours if "compiled" not in name)]
    steps = {name: build(name, case, data, weights) for name in names}
    losses = {name: [step(index) for index in range(4)] for name, step in steps.items()}
    for name in names:
        assert losses[name] == pytest.approx(losses["transformers"], rel=1e-5), name
    other = {name: value * 1.01 for name, value in weights.items()}
    assert build("ours", case, data, other)(0) != pytest.approx(losses["ours"][0], rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "--only ours litgtp",
            "--only 'litgtp': choose from 'transformers', 'transformers, compiled', 'ours', 'ours, c",
        ),
        ("--family gptj --only litgpt", "--only 'litgpt': choose from"),
        ("--only nanoGPT", "nanoGPT is absent (--nanogpt DIR, a checkout of karpathy/nanoGPT)"),
        ("--ours compile", "--ours compile: expected KEY=VALUE, KEY one of compile, fused_projections, activation_ch"),
        ("--ours fused=true", "--ours fused=true: expected KEY=VALUE, KEY one of compile"),
        ("--ours compile=yes", "accelerator.compile = 'yes'"),
        ("--ours fused_projections=true", "gpt2: accelerator.fused_projections"),
        ("--size medium", "--size medium: choose from tiny, small, base"),
        ("--size 8x512", "--size 8x512: choose from tiny, small, base, 125M, 1.3B, 6B, or say layers x hidden size"),
        ("--size 2x33x4", "--size 2x33x4: "),
        ("--size 0x32x4", "--size 0x32x4: "),
        ("--family gpt3", "--family gpt3: choose from gptj, gpt_neox, gpt2"),
        ("--nanogpt nowhere", "--nanogpt nowhere: has no model.py"),
        ("--family gptj --nanogpt nowhere", "--nanogpt: nanoGPT knows GPT-2 alone"),
        ("--json nowhere/figures.json", "--json nowhere/figures.json: there is no such folder"),
        ("--compared 0", "argument --compared"),
        ("--device cuda --alone", "--alone is of a CPU"),
        ("--device cuda --cpu-time", "--cpu-time is of a CPU"),
        ("--device cuda --allocator shipped", "--allocator is of a CPU"),
    ],
)
def test_what_cannot_be_honoured_is_refused(options: str, message: str, monkeypatch, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, *options.split(" "))
    printed = capsys.readouterr()
    assert message in " ".join(printed.err.split())
    assert not printed.out  # nothing had begun


def test_other_sizes_and_batches_are_measured_too() -> None:
    case = Case("gptj", "3x40x5", "fp32", rows=2, seq_len=8)
    assert (case.model.num_layers, case.model.hidden_size, case.model.num_heads) == (3, 40, 5)
    assert case.model.max_seq_len == 8
    assert batches(case)[0]["labels"].shape == (2, 8)
    assert Case("gptj", "3x40x5", "fp32").shape == (8, 256)


def arm(name: str, losses: list[float]) -> dict[str, object]:
    return {"name": name, "allocator": "", "losses": losses}


FOUND = {"precision": "fp32", "family": "gptj", "size": "tiny"}


def test_another_loss_is_told() -> None:
    arms = [arm("transformers", [5.0, 4.0]), arm("ours", [5.0, 4.0003]), arm("litgpt", [5.0, 4.01])]
    told, [line] = comparison(FOUND | {"arms": arms}, 2)
    assert line.startswith("gptj tiny fp32: after 2 steps the loss of litgpt is 4.01")
    assert told == "losses after 1 and 2 steps of this run: arms differ"
    arms = [arm("transformers", [5.0, 4.0]), arm("ours", [5.0, float("nan")])]
    assert len(comparison(FOUND | {"arms": arms}, 2)[1]) == 1
    arms = [arm("transformers", [5.0, 4.0]), arm("ours", [5.1, 4.0])]
    assert "after 1 steps the loss of ours is 5.1" in comparison(FOUND | {"arms": arms}, 2)[1][0]


def test_what_the_losses_were_compared_to_is_told() -> None:
    arms = [arm("transformers", [5.0] * 20), arm("ours", [5.0] * 20), arm("GEMM", [0.0] * 20), arm("litgpt", [5.0])]
    assert comparison(FOUND | {"arms": arms}, 20) == (
        "losses after 1 and 20 steps of this run: 2 arms within 0.0001, relative, of transformers",
        [],
    )
    assert comparison(FOUND | {"arms": arms}, 21)[0] == (
        "losses after 1 and 21 steps: compared with nothing, one arm has them"
    )
    assert comparison(FOUND | {"arms": arms}, 1)[0].startswith("losses after 1 step of this run: 3 arms")


def test_losses_are_compared_after_20_steps_however_few_the_rounds_and_another_ends_the_program(
    monkeypatch, capsys
) -> None:
    class Holder:
        """Its second arm goes astray at the 20th step."""

        def __init__(self, *arguments: object) -> None:
            self.machine = {"threads": 1, "gemm_flops": 1, "peak_flops": None}

        def step(self, index: int, names: list[str]) -> dict[str, tuple[float, float, float]]:
            return {name: (1.0, 0.0, 5.0 + (index == last and name == "ours")) for name in names}

        def close(self) -> None:
            pass

    monkeypatch.setattr(training, "Process", Holder)
    options = "training --size tiny --family gpt2 --precision fp32 --rounds 1 --only ours"
    monkeypatch.setattr(sys, "argv", options.split(" "))
    last = 99
    training.main()
    assert "losses after 1 and 20 steps of this run: 2 arms within" in capsys.readouterr().out
    last = 19
    with pytest.raises(SystemExit, match="1"):
        training.main()
    assert "after 20 steps the loss of ours [keep] is 6.0" in capsys.readouterr().out


def test_noisy_steps_are_dropped_and_ratios_are_of_speed() -> None:
    unit, row = Row("transformers", ""), Row("ours", "")
    for index in range(training.WARMUP + 10):
        unit.add(2.0, 0.0, 1.0)
        row.add(9.0 if index % 5 == 4 else 1.0, 0.5 if index % 5 == 4 else 0.0, 1.0)
    assert len(row.kept(10)) == 8
    found = ratio(unit, row, 10)
    assert found is not None
    assert (found["of_medians"], found["of_lower_quartiles"], found["interval"]) == (2.0, 2.0, [2.0, 2.0])
    assert len(row.kept(20)) == 10  # too few were quiet
