"""The report's numbers and words, from the files of a run."""

import copy
import json
import math

import pytest

from modelzoo.base_config import UserError
from modelzoo.report.continuation import write_report
from tests.report.runs import BYTES_PER_TOKEN, CONFIG, ENDS, SAMPLES, STEPS, evaluations, metrics, write_run


def report(folder, **contents):
    return write_report(write_run(folder, **contents))


def by_name(found):
    return {domain["name"]: domain for domain in found["domains"]}


def steps(found):
    return " ".join(step["do"] for step in found["advice"])


def with_ends(**ends):
    return {"evaluations": evaluations(ENDS | ends)}


def test_the_numbers_are_those_of_the_losses(tmp_path):
    found = report(tmp_path)
    domain = by_name(found)["newswire"]
    lines = [line for line in evaluations() if line["set"] == "newswire"]
    nats = [sum(line["loss_sums"]) / sum(line["num_tokens"]) for line in (lines[0], lines[-1])]
    assert domain["before"] == pytest.approx(nats[0] / math.log(2) / BYTES_PER_TOKEN)
    assert domain["after"] == pytest.approx(nats[1] / math.log(2) / BYTES_PER_TOKEN)
    assert domain["change"] == pytest.approx(nats[1] / nats[0] - 1)
    assert domain["interval"][0] < domain["change"] < domain["interval"][1]
    assert domain["curve"][-1]["interval"] == domain["interval"]
    assert [point["step"] for point in domain["curve"]] == list(range(0, STEPS + 1, 40))
    assert domain["blocks_better"] == 120
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(json.dumps(found))


def test_a_base_that_was_given_another_tokenizer_is_not_the_old_model(tmp_path):
    """Its step 0 has lost already, so that nothing more is lost says little."""
    run = write_run(tmp_path)
    assert write_report(run)["answer"]["verdict"] == "yes"
    (run / "base_check.json").write_text(json.dumps({"had_another_tokenizer": "runs/before"}))
    found = write_report(run)["answer"]
    assert found["verdict"] == "open"
    assert any("The model before is runs/before: modelzoo evaluate" in sentence for sentence in found["sentences"])


def test_what_was_trained_on_most_is_new(tmp_path):
    roles = {name: domain["role"] for name, domain in by_name(report(tmp_path)).items()}
    assert roles == {"newswire": "new", "prose": "old", "code": "old"}


def with_weights(newswire, prose, **base):
    config = copy.deepcopy(CONFIG)
    sources = config["data"]["train"]["sources"]
    sources["newswire"]["weight"], sources["prose"]["weight"] = newswire, prose
    seen = {"tokens_seen/newswire": newswire, "tokens_seen/prose": prose}
    return {"config": config, "metrics": [{"step": STEPS, "tokens": 100, **seen}]}


def test_replay_of_half_is_told_from_what_is_new(tmp_path):
    """By the base's own data, where that is known; else the report says that it guesses."""
    halves = with_weights(0.5, 0.5)
    guessed = report(tmp_path / "a", **halves)
    assert {name for name, domain in by_name(guessed).items() if domain["role"] == "new"} == {"newswire", "prose"}
    assert "guessed from the shares of the training tokens (newswire, prose)" in guessed["missing"][0]
    run = write_run(tmp_path / "b", **halves)
    (run / "base_check.json").write_text(json.dumps({"trained_on": ["data/books", "./data/prose"]}))
    known = write_report(run)
    assert [domain["name"] for domain in known["domains"] if domain["role"] == "new"] == ["newswire"]
    assert not known["missing"]
    assert not any("guessed" in line for line in write_report(tmp_path / "a", ["newswire"])["missing"])
    (run / "base_check.json").write_text(json.dumps({"trained_on": ["data/newswire", "data/prose"]}))
    halves["config"]["data"]["train"]["sources"]["prose"] = {"path": "data/prose", "share": 0.5}
    assert by_name(report(tmp_path / "c", **halves))["prose"]["role"] == "old"
    again = write_report(run)  # nothing that the base does not know: both are to become better
    assert {name for name, domain in by_name(again).items() if domain["role"] == "new"} == {"newswire", "prose"}


def new_ones(run):
    return [domain["name"] for domain in write_report(run)["domains"] if domain["role"] == "new"]


def with_base(folder, contents, trained_on, **record):
    run = write_run(folder, **contents)
    (run / "base_check.json").write_text(json.dumps({"trained_on": trained_on, **record}))
    return run


def test_what_taught_the_base_decides_before_any_share(tmp_path):
    """The new text by `share`, the old by `weight`."""
    contents = with_weights(0.3, 0.7)
    sources = contents["config"]["data"]["train"]["sources"]
    sources["newswire"] = {"path": "data/newswire", "split": "train", "share": 0.3}
    assert new_ones(with_base(tmp_path / "a", contents, ["data/prose"])) == ["newswire"]
    assert new_ones(with_base(tmp_path / "b", contents, ["data/prose", "data/newswire"])) == ["prose"]  # tells nothing
    assert new_ones(write_run(tmp_path / "c", **contents)) == ["prose"]


def test_a_base_that_was_trained_on_no_source_leaves_the_roles_a_guess(tmp_path):
    halves = with_weights(0.5, 0.5)
    found = write_report(with_base(tmp_path, halves, ["data/books"]))
    assert any("guessed from the shares" in line for line in found["missing"])


def test_datasets_are_known_by_their_fingerprints_and_else_by_their_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    halves = with_weights(0.5, 0.5)
    own = {"sources": {"newswire": "n", "prose": "p"}}
    moved = [{"path": "elsewhere/prose", "fingerprint": "p"}]
    assert new_ones(with_base(tmp_path / "moved", halves, moved, **own)) == ["newswire"]
    anew = [{"path": "data/newswire", "fingerprint": "before"}, *moved]
    assert new_ones(with_base(tmp_path / "written_anew", halves, anew, **own)) == ["newswire"]
    absolute = [{"path": str(tmp_path / "data" / "prose"), "fingerprint": None}]
    assert new_ones(with_base(tmp_path / "absolute", halves, absolute, **own)) == ["newswire"]
    halves["config"]["data"]["validation"]["sources"]["prose"]["path"] = str(tmp_path / "data" / "prose")
    halves["config"]["data"]["train"]["sources"]["old"] = halves["config"]["data"]["train"]["sources"].pop("prose")
    halves["metrics"][0]["tokens_seen/old"] = halves["metrics"][0].pop("tokens_seen/prose")
    found = by_name(write_report(with_base(tmp_path / "validation", halves, absolute)))
    assert found["prose"]["share_of_training_tokens"] == 0.5
    assert (found["prose"]["role"], found["newswire"]["role"]) == ("old", "new")


def test_what_is_evaluated_alone_is_old_and_whose_it_is_is_told(tmp_path):
    contents = with_weights(0.95, 0.05)
    for folder, trained_on, of_base, words in (
        ("a", ["data/prose", "data/code"], True, "old, not replayed"),
        ("b", ["data/prose"], False, "old, not trained on"),
        ("c", [], None, "old, not trained on"),
    ):
        run = with_base(tmp_path / folder, contents, trained_on)
        code = by_name(write_report(run))["code"]
        assert (code["role"], code["of_base"]) == ("old", of_base)
        assert words in (run / "report.html").read_text(encoding="utf-8")


def test_what_is_replayed_by_its_share_is_old_and_its_share_is_told(tmp_path):
    config = copy.deepcopy(CONFIG)
    sources = config["data"]["train"]["sources"]
    sources["newswire"]["weight"] = 1
    sources["prose"] = {"path": "data/prose", "split": "train", "share": 0.05}
    found = by_name(report(tmp_path, config=config))
    assert {name: domain["role"] for name, domain in found.items()} == {
        "newswire": "new",
        "prose": "old",
        "code": "old",
    }
    assert found["prose"]["share_of_training_tokens"] == pytest.approx(0.05)
    config["callbacks"]["end"] = {"kind": "report", "new": ["newswire"]}
    assert by_name(report(tmp_path, config=config)) == found


def test_the_callback_says_otherwise_and_the_command_has_the_last_word(tmp_path):
    config = copy.deepcopy(CONFIG)
    config["callbacks"]["end"] = {"kind": "report", "new": ["code"]}
    run = write_run(tmp_path, config=config)
    assert by_name(write_report(run))["code"]["role"] == "new"
    assert by_name(write_report(run))["newswire"]["role"] == "old"
    assert by_name(write_report(run, ["newswire", "prose"]))["code"]["role"] == "old"
    with pytest.raises(UserError, match="no set of the name novels; there are: newswire, prose, code"):
        write_report(run, ["novels"])


@pytest.mark.parametrize(
    ("contents", "verdict", "headline"),
    [
        ({}, "yes", "Yes: better on newswire, with prose and code kept."),
        (with_ends(prose=(1.04, 0.03)), "no", "No: it has forgotten. prose +2"),
        (with_ends(prose=(1.04, 0.0099)), "open", "Not shown: prose may have lost more than 1"),
        (with_ends(newswire=(1.28, 0.02)), "no", "No: it became worse even where it was to learn. newswire +"),
        (with_ends(newswire=(1.28, 0.0)), "no", "No: no gain is shown on newswire."),
        ({"evaluations": evaluations({"newswire": (1.28, -0.1)})}, "open", "Not yet known: it is better on newswire"),
        ({"evaluations": evaluations({"prose": (1.04, 0.0)})}, "open", "It cannot be said: no new domain"),
        ({"evaluations": None}, "open", "It cannot be said: nothing was measured before"),
        ({"evaluations": evaluations(num_blocks=5)}, "open", "It cannot be said: there is no interval for newswire"),
        ({"config": {**CONFIG, "continue_from": None}}, "open", "There is no old model"),
    ],
)  # fmt: skip
def test_the_answer(tmp_path, contents, verdict, headline):
    answer = report(tmp_path, **contents)["answer"]
    assert answer["verdict"] == verdict, answer
    assert answer["headline"].startswith(headline)


@pytest.mark.parametrize(
    ("contents", "advice"),
    [
        (with_ends(prose=(1.04, 0.03)), "from 5.0\u202f% to 25.0\u202f%"),
        (with_ends(prose=(1.04, 0.03)), "Lower the peak learning rate, from 0.0002983 to 0.0001492"),
        (with_ends(newswire=(1.28, 0.02)), "to a third of it"),
        (with_ends(newswire=(1.28, 0.0)), "Train on more tokens, or raise the peak"),
        (with_ends(prose=(1.04, 0.0089)), "Evaluate prose on about"),
        ({}, "Spread the re-warming"),
        ({"evaluations": evaluations({"newswire": (1.28, -0.3)})}, "Train on more tokens. Plan a longer run"),
        ({"evaluations": evaluations({"newswire": (1.28, -0.1)})}, "of what the old model was trained on"),
        ({"evaluations": evaluations({"prose": (1.04, 0.0)})}, "held-out split of the new corpus"),
        ({"evaluations": evaluations(num_blocks=5)}, "in at least ten blocks"),
        ({"evaluations": None}, "Evaluate every domain at step 0"),
        ({"metrics": [*metrics(), {"step": STEPS, "tokens": 6_553_600, "epochs/newswire": 6.5}]}, "or end sooner"),
    ],
)
def test_what_to_try_next(tmp_path, contents, advice):
    assert advice in steps(report(tmp_path, **contents))


def test_a_domain_that_has_passed_its_best_is_told(tmp_path):
    lines = evaluations()
    for line in lines:
        if line["set"] == "newswire" and line["step"] == 200:
            line["loss_sums"] = [0.8 * value for value in line["loss_sums"]]
    assert "Stop after 3.28\u202fM tokens" in steps(report(tmp_path, evaluations=lines))


def test_without_replay_the_advice_is_to_begin_with_it(tmp_path):
    config = copy.deepcopy(CONFIG)
    del config["data"]["train"]["sources"]["prose"]
    unmixed = [{k: v for k, v in r.items() if "/" not in k} for r in metrics()]
    found = report(tmp_path, config=config, metrics=unmixed, **with_ends(prose=(1.04, 0.03)))
    assert "Replay some of the old distribution: 5 %" in steps(found)


def test_a_run_that_is_as_it_should_be_gets_no_advice(tmp_path):
    flat = [line for line in evaluations({"newswire": (1.28, -0.1), "prose": (1.04, -0.001)}) if line["step"] != 40]
    assert report(tmp_path, evaluations=flat)["advice"] == []


def test_metrics_alone_give_a_report_without_intervals(tmp_path):
    records = metrics()[:40]
    for step, value in ((0, 1.2), (20, 1.1), (40, 1.05)):
        records.append({"step": step, "tokens": step * 16_384, "validation_bits_per_byte/newswire": value,
                        "validation_loss/newswire": 3.0})  # fmt: skip
    found = report(tmp_path, metrics=records, evaluations=None)
    (domain,) = found["domains"]
    assert (domain["name"], domain["role"], domain["unit"]) == ("newswire", "new", "bits per byte")
    assert (domain["before"], domain["after"], domain["interval"]) == (1.2, 1.05, None)
    assert domain["change"] == pytest.approx(-0.125)
    assert domain["verdict"] == "no interval"
    assert any("No interval for newswire" in sentence for sentence in found["missing"])


def test_other_blocks_at_the_end_are_not_compared(tmp_path):
    lines = evaluations()
    for line in lines:
        if line["set"] == "prose" and line["step"] == STEPS:
            line["num_tokens"] = [n + 1 for n in line["num_tokens"]]
    domain = by_name(report(tmp_path, evaluations=lines))["prose"]
    assert domain["change"] is None
    assert domain["verdict"] == "not measured"
    assert domain["after"] > 0


@pytest.mark.parametrize("changed", [{"dataset": "b"}, {"split": "train"}])
def test_another_validation_set_after_a_resume_is_not_compared(tmp_path, changed):
    """Its rows may have as many tokens."""
    lines = [line | {"dataset": "a", "split": "validation"} for line in evaluations()]
    resumed = [line | changed if line["set"] == "prose" and line["step"] >= 200 else line for line in lines]
    found = report(tmp_path / "a", evaluations=resumed)
    domain = by_name(found)["prose"]
    assert (domain["change"], domain["verdict"]) == (None, "not measured")
    assert [point["step"] for point in domain["curve"] if point["change"] is not None] == [0, 40, 80, 120, 160]
    assert "The validation set changed during the run (prose)" in found["missing"][-1]
    assert by_name(found)["code"]["change"] is not None
    of_old = [line if line["step"] else evaluations()[number] for number, line in enumerate(lines)]
    assert (
        by_name(report(tmp_path / "b", evaluations=of_old))["prose"]["change"] is not None
    )  # an older line: as it was
    assert by_name(report(tmp_path / "c"))["prose"]["change"] is not None


def test_other_rows_after_a_resume_are_a_reason_to_tell(tmp_path):
    lines = [line | {"dataset": "a", "split": "validation"} for line in evaluations()]
    for line in lines:
        if line["step"] >= 200:
            line |= {key: line[key][:60] for key in ("loss_sums", "num_tokens")}
    found = report(tmp_path, evaluations=lines)
    assert all(domain["interval"] is None for domain in found["domains"])
    assert "other rows than the first (newswire, prose, code), as where max_batches" in found["missing"][-1]
    assert found["answer"]["headline"].startswith("It cannot be said: the newest evaluation is not of the text")


def test_losses_of_a_part_of_the_text_are_in_nats(tmp_path):
    lines = [line | {"bytes_per_token": None} for line in evaluations()]
    domain = by_name(report(tmp_path, evaluations=lines))["code"]
    assert domain["unit"] == "nats per token"
    assert domain["before"] == pytest.approx(ENDS["code"][0] * math.log(2) * BYTES_PER_TOKEN, rel=0.1)


def test_tokens_of_each_source_are_those_that_the_run_counted(tmp_path):
    found = report(tmp_path)
    assert [(s["name"], s["tokens"], s["epochs"]) for s in found["sources"]] == [
        ("newswire", 6_225_920, 1.31), ("prose", 327_680, 0.02)
    ]  # fmt: skip
    assert sum(source["share"] for source in found["sources"]) == pytest.approx(1)


def test_time_is_that_of_the_updates(tmp_path):
    records = [{"step": s, "tokens": 1000 * s, "tokens_per_second": v, "loss": 1.0} for s, v in ((1, 100), (3, 500))]
    run = report(tmp_path, metrics=records)["run"]
    assert run["seconds"] == pytest.approx(10 + 4)
    assert run["tokens_per_second"] == pytest.approx(3000 / 14)
    assert (run["steps"], run["total_steps"], run["complete"]) == (3, STEPS, False)


def test_samples_are_paired_by_prompt_and_seed(tmp_path):
    found = report(tmp_path, samples=[*SAMPLES, {"step": 200, "prompt": "In between", "text": "x", "seed": 9}])
    assert [s["prompt"] for s in found["samples"]] == ["Shares of the bank", "Once upon a time"]
    assert found["samples"][0]["before"]["text"].startswith(" were green")
    assert found["samples"][0]["after"] == {"step": STEPS, "text": SAMPLES[1]["text"]}


def test_a_report_of_almost_nothing(tmp_path):
    """What is not there is told in the page, and nothing fails."""
    found = report(
        tmp_path, config=None, evaluations=None, samples=None, machine=None, metrics=[{"step": 1, "tokens": 8}]
    )
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert found["domains"] == found["sources"] == found["samples"] == []
    assert len(found["missing"]) == 5
    for word in ("data.validation", "tokens_seen", "callback `samples`", "callback `report`"):
        assert word in page


def test_a_line_cut_short_by_a_kill_is_passed_over(tmp_path):
    run = write_run(tmp_path)
    with (run / "evaluations.jsonl").open("a") as file:
        file.write('{"step": 440, "set": "pro')
    assert by_name(write_report(run))["prose"]["curve"][-1]["step"] == STEPS
    with (run / "metrics.jsonl").open("a") as file:
        file.write("nonsense\n{}\n")
    with pytest.raises(UserError, match=r"metrics.jsonl: line 402 is no JSON"):
        write_report(run)


def test_numbers_that_are_none_are_left_out(tmp_path):
    lines = evaluations()
    for line in lines:
        if line["set"] == "prose" and line["step"] == STEPS:
            line["loss_sums"][0] = math.nan
    bad = [{"step": 1, "tokens": 8, "loss": math.nan, "lr": math.inf}]
    found = report(tmp_path, evaluations=lines, metrics=[*bad, *metrics()])
    assert by_name(found)["prose"]["curve"][-1]["step"] == 360
    assert "NaN" not in (tmp_path / "report.json").read_text()


@pytest.mark.parametrize("there", [True, False])
def test_a_directory_without_a_run_is_an_error(tmp_path, there):
    message = "holds no metrics.jsonl" if there else "there is no such directory"
    with pytest.raises(UserError, match=message):
        write_report(tmp_path if there else tmp_path / "absent")
