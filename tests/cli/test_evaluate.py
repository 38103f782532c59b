"""`modelzoo evaluate` on datasets and on raw text: the numbers, and what is refused."""

import gzip
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
import zstandard

from modelzoo.cli.evaluate_data import Evaluation
from modelzoo.cli.main import main
from modelzoo.evaluate import task_files
from modelzoo.evaluate.totals import Totals
from modelzoo.launch import open_split
from modelzoo.model.gpt import GPT
from modelzoo.run_config import dump_yaml
from modelzoo.saved_models import load_model
from modelzoo.tokenizer import Tokenizer
from modelzoo.trainer.checkpoint import write_checkpoint
from modelzoo.trainer.evaluation import evaluate_loss
from tests.data.datasets import build
from tests.data.test_modelzoo_files import examples, write, write_parameters
from tests.evaluate.references import scorer
from tests.model.families import redraw
from tests.runs import small_config
from tests.samples import TRICKY, small_tokenizer

TEXTS = [text for text in TRICKY if text] + ["the cat and the dog " * 20, "x"]


@pytest.fixture(scope="module")
def checkpoint(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's checkpoint, its weights drawn."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints" / "step_00000001"
    config = small_config(dataset, folder.parent)
    model = GPT(config.model)
    redraw(model, seed=0)
    texts = {
        "config.yaml": dump_yaml(config),
        "tokenizer.json": small_tokenizer().backend.to_str(),
        "state.json": "{}",
    }
    write_checkpoint(folder, {"model": model.state_dict()}, texts)
    return folder


@pytest.fixture
def run(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs `modelzoo evaluate CHECKPOINT …` in an empty folder: (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def evaluate(*arguments: Any, model: Path = checkpoint) -> tuple[int, str, str]:
        given = [str(argument) for argument in arguments]
        monkeypatch.setattr(sys, "argv", ["modelzoo", "evaluate", str(model), "--device", "cpu", *given])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return int(ended.value.code or 0), captured.out, captured.err

    return evaluate


@pytest.fixture
def numbers(run: Any) -> Any:
    def evaluate(*arguments: Any, **options: Any) -> dict[str, Any]:
        code, out, err = run(*arguments, "--json", **options)
        assert code == 0, err
        return dict(json.loads(out))

    return evaluate


def refused(result: tuple[int, str, str], message: str) -> None:
    code, out, err = result
    assert code == 2
    assert message in err
    assert not out


def write_jsonl(path: Path, texts: list[str], key: str = "text") -> Path:
    path.write_text("".join(json.dumps({key: text}) + "\n" for text in texts), encoding="utf-8")
    return path


def test_text_in_any_form_gives_the_same_numbers(numbers: Any, tmp_path: Path) -> None:
    plain = write_jsonl(tmp_path / "a.jsonl", TEXTS)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(plain.read_bytes()))
    (tmp_path / "a.json").write_text(json.dumps([{"text": text} for text in TEXTS]))
    write_jsonl(tmp_path / "b.jsonl", TEXTS, key="body")
    for number, text in enumerate(TEXTS):
        (tmp_path / "texts" / f"{number // 4}").mkdir(parents=True, exist_ok=True)
        (tmp_path / "texts" / f"{number // 4}" / f"{number}.txt").write_text(text, encoding="utf-8", newline="")
    (tmp_path / "texts" / "picture.png").write_bytes(b"\x89PNG")
    wanted = numbers("--data", "a.jsonl")
    assert wanted["documents"] == len(TEXTS)
    assert wanted["bytes"] == sum(len(text.encode()) for text in TEXTS)
    assert wanted["characters"] == sum(map(len, TEXTS))
    assert wanted["bits_per_character"] > wanted["bits_per_byte"]  # not all of it is ASCII
    assert (wanted["seq_len"], wanted["stride"]) == (24, 12)
    for data in ("a.jsonl.gz", "a.jsonl.zst", "a.json", "texts", "a.json?"):
        found = numbers("--data", data)
        for key in ("documents", "tokens", "bytes", "characters"):
            assert found[key] == wanted[key], data
        for key in ("loss", "perplexity", "bits_per_byte", "bits_per_character"):
            assert found[key] == pytest.approx(wanted[key], rel=1e-6), data
    assert numbers("--data", "b.jsonl", "--text-key", "body")["loss"] == wanted["loss"]


def test_parquet(numbers: Any, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="the extra parquet")
    pq = pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"text": TEXTS, "other": list(range(len(TEXTS)))}), tmp_path / "a.parquet")
    write_jsonl(tmp_path / "a.jsonl", TEXTS)
    assert numbers("--data", "a.parquet")["loss"] == numbers("--data", "a.jsonl")["loss"]


@pytest.mark.parametrize(
    "options",
    [
        [],
        pytest.param(["--seq-len", 9], marks=pytest.mark.long),
        pytest.param(["--stride", 24], marks=pytest.mark.long),
        ["--seq-len", 10, "--stride", 1],
    ],
)
def test_text_against_a_pass_over_each_window(numbers: Any, checkpoint: Path, tmp_path: Path, options: Any) -> None:
    write_jsonl(tmp_path / "a.jsonl", TEXTS)
    found = numbers("--data", "a.jsonl", *options, "--batch-size", 3, "--per-document", "sums.jsonl")
    model, tokenizer = load_model(checkpoint), small_tokenizer()
    total, count = [], 0
    lines = list(map(json.loads, Path("sums.jsonl").read_text().splitlines()))
    assert [line["document"] for line in lines] == list(range(len(TEXTS)))
    for text, line in zip(TEXTS, lines, strict=True):
        stream = [0, *tokenizer.encode(text), 0]
        losses = []
        for place in range(1, len(stream)):
            start = 0
            while start + found["seq_len"] < place:
                start += found["stride"]
            with torch.no_grad():
                logits = model(torch.tensor([stream[start:place]]))[0, -1].double()
            losses.append(-float(logits.log_softmax(-1)[stream[place]]))
        total += losses
        count += len(stream) - 1
        assert line["loss_sum"] == pytest.approx(math.fsum(losses), rel=1e-6)
        assert (line["tokens"], line["bytes"], line["characters"]) == (len(losses), len(text.encode()), len(text))
    assert found["tokens"] == count
    assert found["loss"] == pytest.approx(math.fsum(total) / count, rel=1e-6)
    assert math.fsum(line["loss_sum"] for line in lines) / count == pytest.approx(found["loss"], rel=1e-12)
    assert found["bits_per_byte"] == pytest.approx(math.fsum(total) / math.log(2) / found["bytes"], rel=1e-6)
    ends = math.fsum(line["end_loss"] for line in lines)
    without = found["without_ends"]
    assert without["loss"] == pytest.approx((math.fsum(total) - ends) / (count - len(TEXTS)), rel=1e-6)


def test_a_dataset_read_by_document_is_its_text(numbers: Any, dataset: Path, tmp_path: Path) -> None:
    """The same documents from the dataset and as text; the split is a part, so the sums of both splits add up."""
    (tmp_path / "lines").mkdir()
    for number, line in enumerate((dataset.parent / "corpus.txt").read_text().splitlines()):
        (tmp_path / "lines" / f"{number:03d}.txt").write_text(line)
    text = numbers("--data", "lines", "--stride", 7)
    parts = [numbers("--data", dataset, "--split", split, "--stride", 7) for split in ("train", "validation")]
    for key in ("tokens", "bytes", "characters", "documents"):
        assert sum(part[key] for part in parts) == text[key]
    assert sum(part["loss"] * part["tokens"] for part in parts) / text["tokens"] == pytest.approx(
        text["loss"], rel=1e-6
    )
    assert numbers("--stride", 7)["loss"] == parts[1]["loss"]


def test_rows_of_a_dataset_as_the_trainer_sees_them(numbers: Any, checkpoint: Path, dataset: Path) -> None:
    found = numbers()
    config = small_config(dataset, Path("runs"))
    assert config.data.validation is not None
    data = open_split(config.data.validation, config)
    total = evaluate_loss(
        load_model(checkpoint), data.evaluation_batches(16), scorer(load_model(checkpoint)).accelerator
    )
    assert total is not None
    loss_sum, num_tokens = sum(batch.loss_sum for batch in total), sum(batch.num_tokens for batch in total)
    assert found["loss"] == pytest.approx(loss_sum / num_tokens, rel=1e-6)
    assert found["bits_per_byte"] == pytest.approx(found["loss"] / math.log(2) / data.bytes_per_token, rel=1e-9)
    assert found["bits_per_character"] == found["bits_per_byte"]  # ASCII
    for batch_size in (1, 5, 7, 1000):
        assert numbers("--batch-size", batch_size)["loss"] == pytest.approx(found["loss"], rel=1e-6)
    assert numbers("--max-batches", 1, "--batch-size", 2)["tokens"] == 48


def test_a_loss_mask_and_its_bytes(numbers: Any, tmp_path: Path) -> None:
    """What is left out counts neither as a token nor as bytes."""
    tokenizer = small_tokenizer()
    stream = build(tmp_path / "masked", masked=True, vocab_size=275, tokenizer_sha256=tokenizer.sha256)
    found = numbers("--data", "masked", "--split", "train")
    kept = stream[stream % 2 == 1]
    assert found["tokens"] == len(kept)
    assert found["bytes"] == len(tokenizer.decode_bytes(kept))


def test_modelzoos_files(numbers: Any, tmp_path: Path) -> None:
    data = examples(7)
    (tmp_path / "theirs").mkdir()
    write(tmp_path / "theirs" / "output_0.h5", data)
    write_parameters(tmp_path / "theirs", vocab_size=275, eos_id=0)
    found = numbers("--data", "theirs", "--seq-len", 12)
    labels = data[:, 2][data[:, 1] == 1]
    assert found["tokens"] == len(labels)
    assert found["bytes"] == len(small_tokenizer().decode_bytes(labels))
    assert found["documents"] is None
    assert found["bits_per_byte"] > 0


def test_an_imported_model_needs_no_run(
    checkpoint: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its config.yaml holds a model alone: any data is read in rows and windows of the model's max_seq_len."""
    model = load_model(checkpoint)
    saved = yaml.safe_load((checkpoint / "config.yaml").read_text())
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": saved["model"]}))
    (tmp_path / "theirs").mkdir()
    write(tmp_path / "theirs" / "output_0.h5", examples(7))
    write_jsonl(tmp_path / "a.jsonl", TEXTS)
    tokenizer = Tokenizer.load(checkpoint / "tokenizer.json")
    evaluation = Evaluation(scorer(model), tokenizer, tmp_path, None, None, None, None)
    assert evaluation.of_text(str(tmp_path / "a.jsonl"), None, "stop")["seq_len"] == model.config.max_seq_len
    assert evaluation.of_dataset(dataset, None, None, False)["seq_len"] == model.config.max_seq_len
    assert evaluation.of_dataset(tmp_path / "theirs", None, None, False)["seq_len"] == 12
    assert "--seq-len" not in capsys.readouterr().err
    longest = model.config.max_seq_len
    row = 12 * (longest // 12 + 1)  # longer than the model reads
    assert row % longest
    fits = max(length for length in range(1, longest + 1) if row % length == 0)
    (tmp_path / "long").mkdir()
    write(tmp_path / "long" / "output_0.h5", np.concatenate([examples(7)] * (row // 12), axis=2))
    assert evaluation.of_dataset(tmp_path / "long", None, None, False)["seq_len"] == fits
    note = f"rows of {row} tokens, and the model reads {longest}: --seq-len {fits} divides them"
    assert note in capsys.readouterr().err


def test_lines_for_people(run: Any, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [*TEXTS, ""])
    code, out, _ = run("--data", "a.jsonl", "--limit", 5)
    assert code == 0
    assert "5 documents" in out
    assert "bits per character" in out
    assert "windows of 24 tokens every 12" in out


def test_broken_documents_stop_or_are_counted(run: Any, numbers: Any, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", TEXTS[:4])
    whole = numbers("--data", "a.jsonl")
    with Path("a.jsonl").open("a") as file:
        file.write('{"text": "half\n\n{"body": 1}\n{"text": "\\ud800"}\n{"text": ""}\n')
    refused(run("--data", "a.jsonl", "--per-document", "sums.jsonl"), "a.jsonl:5: not JSON")
    assert not list(tmp_path.glob("sums*"))
    found = numbers("--data", "a.jsonl", "--on-error", "reject")
    assert found["left_out"] == {"not JSON": 1, "empty": 2, "missing key": 1, "unpaired surrogate": 1}
    assert found["loss"] == whole["loss"]
    (tmp_path / "b.jsonl").write_text('{"body": 1}\n')
    refused(run("--data", "b.jsonl"), "name another key with --text-key")
    (tmp_path / "c.txt").write_bytes(b"caf\xe9")
    refused(run("--data", "c.txt"), "c.txt: not UTF-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "--data nowhere: no such file or directory"),
        (["--data", "empty"], "empty: neither a dataset (no manifest.json, no *.h5) nor text"),
        (["--data", "nothing.jsonl"], "nothing.jsonl: holds no documents"),
        (["--data", "blank.txt"], "blank.txt: holds no documents"),
        (["--data", "theirs/a.h5"], "one file of a dataset; name its directory"),
        (["--data", "a.txt", "--seq-len", 10_000], "--seq-len 10000: the model's max_seq_len is"),
        (["--data", "a.txt", "--stride", 25], "--stride 25: windows of 24 tokens would leave some out"),
        (["--data", "a.txt", "--text-key", "body"], "--text-key body: a.txt is plain text"),
        (["--data", "a.txt", "--split", "train"], "--split: a.txt is raw text"),
        (["--data", "a.txt", "--max-batches", 2], "--max-batches: a.txt is raw text"),
        (["--data", "a.txt", "--compressors"], "--compressors: a.txt is raw text"),
        (["--data", "a.txt", "--on-error", "skip"], "--on-error skip: expected stop or reject"),
        (["--data", "a.txt", "--tasks-dir", "empty"], "--tasks-dir: it is for --tasks"),
        (["--data", "a.txt", "--tokenizer", "x"], "has its own; leave it out"),
        (["--text-key", "body"], "--text-key: the data is a dataset"),
        (["--stride", 4, "--max-batches", 2], "--max-batches: counts rows"),
        (["--data", "theirs", "--seq-len", 12, "--stride", 4], "do not say where documents start"),
        (["--data", "theirs", "--seq-len", 7], "--seq-len 7 does not divide them; use --seq-len 12"),
        (["--data", "theirs"], "the run's length of 24 does not divide them; use --seq-len 12"),
        (["--data", "masked", "--split", "train", "--limit", 4], "has a loss mask"),
        (["--data", "other", "--split", "train"], "was written with a tokenizer of sha256"),
        (["--tasks", "x", "--data", "a.txt"], "--data: --tasks has no use for it"),
    ],
)
def test_what_is_refused(run: Any, tmp_path: Path, arguments: list[Any], message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "nothing.jsonl").touch()
    (tmp_path / "blank.txt").touch()
    (tmp_path / "a.txt").write_text("the cat")
    (tmp_path / "theirs").mkdir()
    write(tmp_path / "theirs" / "a.h5", examples(3))
    build(tmp_path / "masked", masked=True, vocab_size=275, tokenizer_sha256=small_tokenizer().sha256)
    build(tmp_path / "other", vocab_size=275, tokenizer_sha256="0" * 64)
    refused(run(*arguments), message)


def test_a_checkpoint_without_or_with_another_tokenizer(
    run: Any, numbers: Any, checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("the cat and the dog")
    texts = {name: (checkpoint / name).read_text() for name in ("config.yaml", "state.json")}
    tensors = {"model": load_model(checkpoint).state_dict()}
    bare = tmp_path / "bare" / "step_00000001"
    write_checkpoint(bare, tensors, texts)
    refused(run("--data", "a.txt", model=bare), "holds no tokenizer.json; name the tokenizer of this model with")
    own = checkpoint / "tokenizer.json"
    assert numbers("--data", "a.txt", "--tokenizer", own, model=bare)["loss"] == numbers("--data", "a.txt")["loss"]
    large = tmp_path / "large.json"
    other = small_tokenizer()
    other.backend.add_special_tokens([f"<|{number}|>" for number in range(64)])
    other.save(large)
    refused(run("--data", "a.txt", "--tokenizer", large, model=bare), "it is the tokenizer of another model")


def test_tasks_from_the_command_line(numbers: Any, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: the extra lm_eval")
    for variable in task_files.QUIET | task_files.OFFLINE:  # what the command sets is not to outlive the test
        monkeypatch.setenv(variable, "1")
        monkeypatch.delenv(variable)
    from tests.evaluate.test_task_files import PLAIN
    from tests.evaluate.test_task_files import write as write_tasks

    write_tasks(tmp_path / "tasks", {"one.yaml": PLAIN | {"task": "one_local"}})
    found = numbers("--tasks", "one", "--tasks-dir", "tasks", "--limit", 5)
    assert found["n-samples"]["one_local"]["effective"] == 5
    assert 0 <= found["results"]["one_local"]["acc,none"] <= 1
    code, out, _ = run("--tasks", "one_local", "--tasks-dir", "tasks")
    assert code == 0
    assert "one_local" in out
    refused(run("--tasks", "one_lcal", "--tasks-dir", "tasks"), "did you mean one_local?")
    refused(run("--tasks", "one", "--tasks-dir", "tasks", "--seq-len", 10_000), "the model's max_seq_len")


def test_tasks_without_the_harness(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_files, "find_spec", lambda name: None)
    refused(run("--tasks", "x"), "pip install 'modelzoo[lm_eval]'")


def test_the_sizes_of_nothing() -> None:
    assert "bits_per_byte" not in Totals(1, num_tokens=1, num_ends=1, loss_sum=1.0).metrics()
    assert np.isfinite(Totals().metrics()["loss"])
