"""`modelzoo compare`, from the study to its report; runs are done in this process, one after the other."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from modelzoo.base_config import UserError
from modelzoo.cli import compare, compare_job, compare_runs, train
from modelzoo.cli.check import study_notes
from tests.compare.studies import small_study


class InThisProcess:
    """Stands for a child: the run is done at the first poll."""

    def __init__(self, arguments, log):
        self.arguments, self.log, self.code = arguments, log, None

    def poll(self):
        if self.code is None:
            self.code = 0
            try:
                compare_job.run(Path(self.arguments[1]), Path(self.arguments[2]))
            except UserError as error:
                print(error, file=self.log)
                self.code = 2
        return self.code

    def send_signal(self, number):
        raise AssertionError(number)


@pytest.fixture
def children(monkeypatch):
    started = []

    def start(arguments, environment, stdout=None, stderr=None):
        started.append(arguments)
        return InThisProcess(arguments, open(stderr.name, "a"))

    monkeypatch.setattr(compare_runs, "start", start)
    return started


def test_a_study_is_carried_out_reported_and_reused(dataset, tmp_path, children, capsys):
    study = small_study(dataset, tmp_path)
    report = compare.run(study, "modelzoo compare small")
    folder = tmp_path / "compare" / "small"
    assert json.loads((folder / "report.json").read_text()) == json.loads(json.dumps(report))
    assert len(children) == 4
    assert [effect["arm"] for effect in report["effects"]] == ["neox"]
    assert report["effects"][0]["by_seed"]
    assert [check["check"] for check in report["fairness"] if check["held"] is not True] == ["same seeds"]  # two
    by_hand = []
    for run in json.loads((folder / "plan.json").read_text())["runs"]:
        held_out = json.loads((tmp_path / "compare" / "runs" / run["name"] / "held_out.json").read_text())["sets"][""]
        by_hand.append((run["arm"], sum(held_out["loss_sums"]) / sum(held_out["num_bytes"]) / 0.6931471805599453))
    for arm in report["arms"]:
        own = [bits for name, bits in by_hand if name == arm["name"]]
        assert next(iter(arm["bits_per_byte"].values())) == pytest.approx(sum(own) / 2, rel=1e-12)
    assert "4 of 4 done" in capsys.readouterr().err

    more = study.model_copy(update={"seeds": (0, 1, 2)})
    compare.run(more, "modelzoo compare small")
    assert len(children) == 6
    assert {run["reused"] for run in json.loads((folder / "plan.json").read_text())["runs"]} == {True, False}
    assert (folder / "report.html").is_file()


def test_a_config_against_itself_is_equal(dataset, tmp_path, children):
    twins = {"a": {"config": "gptj_tiny"}, "b": {"config": "gptj_tiny"}}
    report = compare.run(small_study(dataset, tmp_path, arms=twins), "modelzoo compare small")
    assert [effect["verdict"] for effect in report["effects"]] == ["equal"]
    assert len(children) == 2


def test_each_arm_has_the_best_rate_of_the_grid(dataset, tmp_path, children):
    study = small_study(dataset, tmp_path, lr_grid=[1e-5, 3e-3], seeds=[0])
    report = compare.run(study, "modelzoo compare small")
    assert {arm["lr"] for arm in report["arms"]} == {3e-3}
    assert len(children) == 4 + 2
    assert set(report["sweep"]) == {"gptj", "neox"}


def test_a_run_whose_numbers_go_wrong_is_an_outcome(dataset, tmp_path, children, monkeypatch):
    trains = train.run

    def goes_wrong(name, overrides):
        if "neox-seed_1" in name:
            raise train.TrainingFailed("step 3: the loss is nan")
        return trains(name, overrides)

    monkeypatch.setattr(train, "run", goes_wrong)
    study = small_study(dataset, tmp_path)
    compare.run(study, "modelzoo compare small")
    (path,) = (tmp_path / "compare" / "runs").glob("neox-seed_1-*/held_out.json")
    found = json.loads(path.read_text())
    assert (found["diverged"], found["sets"]) == ("step 3: the loss is nan", {})
    compare.run(study, "modelzoo compare small")
    assert len(children) == 4  # and is not tried again


def test_a_rate_at_which_a_run_goes_wrong_is_not_taken(dataset, tmp_path, children, monkeypatch):
    trains = train.run

    def goes_wrong(name, overrides):
        if "optimizer:\n  lr: 0.003" in Path(name).read_text() and "seed_1000" in name:
            raise train.TrainingFailed("step 3: the loss is nan")
        return trains(name, overrides)

    monkeypatch.setattr(train, "run", goes_wrong)
    report = compare.run(small_study(dataset, tmp_path, lr_grid=[1e-5, 3e-3], seeds=[0]), "modelzoo compare small")
    assert {arm["lr"] for arm in report["arms"]} == {1e-5}


def test_a_failed_run_is_named_with_the_end_of_its_log(dataset, tmp_path, children):
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    overrides = [*small_study(dataset, tmp_path).overrides, f"data.train.path={copy}", f"data.validation.path={copy}"]
    study = small_study(dataset, tmp_path, overrides=overrides)
    for shard in copy.rglob("*.h5"):
        shard.write_bytes(shard.read_bytes()[:-64])
    with pytest.raises(UserError) as error:
        compare.run(study, "modelzoo compare small")
    assert "sha256" in str(error.value) or "damaged" in str(error.value)


def test_options_for_runs_do_not_go_with_a_study(tmp_path, dataset):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(small_study(dataset, tmp_path).model_dump(mode="json")))
    with pytest.raises(UserError, match="--seeds: is for runs that are named here"):
        compare._study([str(path)], seeds="0,1")
    with pytest.raises(UserError, match="--seeds and --budget"):
        compare._study(["gptj_tiny", "gpt_neox_tiny"], budget="many")
    study = compare._study(["gptj_tiny", "gpt_neox_tiny"], budget="tokens=1e6", seeds="3,4")
    assert (study.budget.amount, study.seeds) == (1e6, (3, 4))
    assert compare._study([str(path), "seeds=[7]"]).seeds == (7,)


def test_the_check_of_a_study_composes_its_arms(dataset, tmp_path):
    assert any("same budget" in note for note in study_notes(small_study(dataset, tmp_path)))
    rate = {"a": {"config": "gptj_tiny"}, "b": {"builds_on": "a", "overrides": ["optimizer.lr=1e-2"]}}
    absent = [*small_study(dataset, tmp_path).overrides, "data.train.path=nowhere"]
    with pytest.raises(UserError, match=r"optimizer\.lr: 0\.01 in b"):
        study_notes(small_study(dataset, tmp_path, arms=rate, overrides=absent))
    assert study_notes(small_study(dataset, tmp_path, overrides=absent)) == ["not there yet: nowhere"]


@pytest.mark.long
def test_the_command_line_with_processes_of_its_own_and_a_launcher_of_hydras(dataset, tmp_path):
    def modelzoo(*arguments):
        return subprocess.run(
            [sys.executable, "-c", "from modelzoo.cli.main import main; main()", "compare", *arguments],
            capture_output=True, text=True, timeout=300, cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    for name, options in (("by = 'hydra', 1", ["--launcher", "basic"]), ("side by side", ["--parallel", "2"])):
        folder = tmp_path / name
        folder.mkdir()
        path = folder / "study.yaml"
        path.write_text(yaml.safe_dump(small_study(dataset, folder).model_dump(mode="json")))
        ended = modelzoo(str(path), "--json", *options)
        assert ended.returncode == 0, ended.stderr
        assert json.loads(ended.stdout)["effects"][0]["by_seed"]
        assert len(list((folder / "compare" / "runs").iterdir())) == 4


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_run_at_work_and_the_same_command_goes_on(number, dataset, tmp_path):
    path = tmp_path / "study.yaml"
    study = small_study(dataset, tmp_path)
    slow = [o for o in study.overrides if "max_steps" not in o] + ["trainer.max_steps=400"]
    path.write_text(yaml.safe_dump(study.model_copy(update={"overrides": tuple(slow)}).model_dump(mode="json")))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "from modelzoo.cli.main import main; main()", "compare", str(path)]
    process = subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    runs, deadline = tmp_path / "compare" / "runs", time.monotonic() + 120
    while not list(runs.glob("*/metrics.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 3, said
    assert "the same command goes on" in said
    assert list(runs.glob("*/checkpoints/step_*"))
    again = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert len(list(runs.glob("*/held_out.json"))) == 4
