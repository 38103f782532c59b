"""From the file that NIST hands out to the report, with the shipped configs, on text written for the test."""

import json
import random
import shutil

import pytest

from modelzoo.base_config import UserError
from modelzoo.cli import preprocess
from modelzoo.cli.check import command as check
from modelzoo.cli.check import data_notes
from modelzoo.cli.train import run as train
from modelzoo.run_config import load_run_config
from modelzoo.tokenizer import Tokenizer
from tests.samples import small_tokenizer

TRC2 = "continuous_pretraining/params_gptj_6B_TRC2"
STORY = """<DOC>
<DOCNO>TRC2-2008-01-{day:02}-{number:04}</DOCNO>
<BLOGS08DAY>-13</BLOGS08DAY>
<CONTENT>
2008-01-{day:02} 00:00:03 {headline} TRC2-2008-01-{day:02}-{number:04}
CHICAGO, Jan {day} (Reuters) - {body}
(Click on the Z{number} code for
more of these stories)
</CONTENT>
</DOC>
"""
SMALL = [
    "continue_from=base",
    *("model.num_layers=2", "model.hidden_size=32", "model.num_heads=4", "model.position.fraction=0.5"),
    *("model.vocab_size=300", "model.max_seq_len=64", "data.seq_len=32", "accelerator=fp32", "accelerator.device=cpu"),
    *("trainer.max_steps=10", "trainer.global_batch_size=20", "trainer.log_every_steps=1"),
    *("trainer.micro_batch_size=20", "optimizer.lr=3e-3"),
    *("schedule.warmup_steps=2", "schedule.decay_steps=8", "schedule.may_outlast_run=false"),
    *("callbacks.evaluate.every_steps=5", "callbacks.checkpoint.every_steps=5", "callbacks.samples.max_new_tokens=4"),
    *("callbacks.progress.every_seconds=0", "callbacks.tensorboard=null", "callbacks.loss_plot=null"),
]
"""What makes 6 billion parameters a few thousand, and 25,000 steps ten."""


def sentences(draw, words, count):
    return " ".join(draw.choice(words) for _ in range(count))


def write_corpora(folder):
    draw = random.Random(0)
    market = ["wheat", "rises", "by", "cents", "on", "the", "news", "shares", "fell", "in", "Chicago", "trade"]
    home = ["the", "cat", "and", "the", "dog", "saw", "a", "bird", "on", "the", "mat", "while", "it", "sang"]
    stories = [
        STORY.format(day=1 + i % 28, number=i, headline=sentences(draw, market, 5), body=sentences(draw, market, 40))
        for i in range(150)
    ]
    (folder / "data/raw/pile").mkdir(parents=True)
    (folder / "data/raw/TRC2-headlines-docs-TRECBLOG.v2").write_text("".join(stories))
    lines = [json.dumps({"text": sentences(draw, home, 40), "meta": {}}) for _ in range(150)]
    (folder / "data/raw/pile/00.jsonl").write_text("\n".join(lines) + "\n")


def write_base(folder):
    """What the release is, small: transformers' GPT-J, whose tokenizer has names for the rows that text never uses."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.GPTJConfig(
        n_layer=2, n_head=4, n_embd=32, n_positions=64, vocab_size=300, rotary_dim=4, bos_token_id=0, eos_token_id=0
    )
    transformers.GPTJForCausalLM(config).save_pretrained(folder)
    tokenizer = small_tokenizer()
    tokenizer.backend.add_tokens([f"<|extratoken_{number}|>" for number in range(1, 26)])
    tokenizer.save(folder / "tokenizer.json")


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """A folder in which the README's commands have been typed, up to the training."""
    folder = tmp_path_factory.mktemp("road")
    write_corpora(folder)
    write_base(folder / "base")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("preprocess/trc2_gpt2", "preprocess/pile_gpt2"):
            preprocess.run(name, ["tokenizer=base", "validation_fraction=0.2", "workers=1"])
    return folder


def report_of(road, name):
    assert "<h1>May the new model replace the old?</h1>" in (road / "runs" / name / "report.html").read_text()
    return json.loads((road / "runs" / name / "report.json").read_text())


def test_from_nists_file_to_the_report(road, monkeypatch):
    monkeypatch.chdir(road)
    assert not any("not there" in note for note in data_notes(load_run_config(TRC2, SMALL)))
    train(TRC2, SMALL)
    report = report_of(road, "params_gptj_6B_TRC2")
    assert [(domain["name"], domain["role"]) for domain in report["domains"]] == [("trc2", "new"), ("pile", "old")]
    for domain in report["domains"]:
        assert domain["unit"] == "bits per byte"
        assert [point["step"] for point in domain["curve"]] == [0, 5, 10]
        assert domain["interval"] is not None
    assert report["domains"][0]["verdict"] == "better"
    assert {source["name"]: round(source["share"], 2) for source in report["sources"]} == {"trc2": 0.95, "pile": 0.05}
    assert all(sample["before"] and sample["after"] for sample in report["samples"])
    gate = json.loads((road / "runs/params_gptj_6B_TRC2/base_check.json").read_text())
    for losses in gate["sets"].values():
        assert losses["loss"] == pytest.approx(losses["base_loss"], abs=1e-5)
    text = Tokenizer.load(road / "data/trc2_gpt2").decode(first_tokens(road / "data/trc2_gpt2/train"))
    assert "(Reuters) - " in text
    assert not any(mark in text for mark in ("TRC2-", "Click on", "<DOC", "00:00:03"))


def test_on_trc2_alone_what_is_forgotten_is_said_to_be_unknown(road, monkeypatch):
    monkeypatch.chdir(road)
    train(TRC2, [*SMALL, "data=trc2_gpt2", "name=naive", "callbacks.samples=null"])
    report = report_of(road, "naive")
    assert [(domain["name"], domain["role"]) for domain in report["domains"]] == [("validation", "new")]
    assert "what it forgot was not measured" in report["answer"]["headline"]


MISTAKES = [
    (["continue_from=data"], "data: holds neither a checkpoint nor a config.json with weights"),
    (["model.num_layers=3"], "model.num_layers is 2 there and 3 here"),
    (["model.position.style=half"], "model.position.style is interleaved there and half here"),
    (["model.vocab_size=290"], "the 300 ids in data/trc2_gpt2; use model.vocab_size=300"),
    (["continue_from=other_base"], "other_base/tokenizer.json: is another tokenizer than the one that data/trc2_gpt2"),
    (["data.train.sources.trc2.weight={values: [1, 0]}"], "no source has a weight above 0 to take the rest"),
    (
        ["trainer.global_batch_size=2000", "data.train.sources.trc2.max_epochs=null"],
        "less than one batch takes of it: 1,900 of its 2,000",
    ),
    (["data.train.sources.pile={share: 0.5, max_epochs: 1, max_tokens: 640}"], "more often than max_epochs allows"),
    (["schedule.decay_steps=50"], "schedule.decay_steps"),
    (["schedule.warmup_steps=10"], "the learning rate never reaches its peak"),
    (["optimizer.frozen=[blocks.7]"], "matches no parameter"),
    (["+callbacks.report.new=[reuters]"], "there is no validation set reuters; there are: trc2, pile"),
]


@pytest.mark.parametrize(("overrides", "message"), MISTAKES, ids=[given[0] for given, _ in MISTAKES])
def test_mistakes_are_known_before_anything_starts(road, monkeypatch, overrides, message):
    monkeypatch.chdir(road)
    if not (road / "other_base").exists():
        shutil.copytree(road / "base", road / "other_base")
        small_tokenizer(280).save(road / "other_base" / "tokenizer.json")
    with pytest.raises(UserError) as error:
        check([TRC2, *SMALL, "name=mistaken", *overrides])
    assert message in str(error.value)
    assert not (road / "runs" / "mistaken").exists()


def first_tokens(split):
    import h5py

    with h5py.File(next(split.glob("*.h5"))) as file:
        return file["tokens"][:2000].tolist()
