"""The command line as a user meets it: exit codes, messages, and the main job from text to text."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from modelzoo.base_config import UserError
from modelzoo.cli.main import app
from tests.runs import small_overrides

MODELZOO = [sys.executable, "-c", "from modelzoo.cli.main import main; main()"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80"}


def modelzoo(*arguments, cwd, code=0, **options):
    """Run a command in a folder of its own, and expect its exit code and no traceback."""
    done = subprocess.run(
        [*MODELZOO, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, env=ENVIRONMENT, **options
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with a corpus, from which tokenizer, dataset and a run have been made by commands."""
    folder = tmp_path_factory.mktemp("workplace")
    lines = [f"the {a} saw the {b} on the {c}" for a in ("cat", "dog") for b in ("bird", "mat") for c in ("sea", "sun")]
    corpus = [{"text": line + " and so on" * (i % 5)} for i, line in enumerate(lines * 20)]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, corpus)) + "\n")
    reader = "reader:\n  kind: jsonl\n  paths: corpus.jsonl\n"
    (folder / "bpe.yaml").write_text(f"name: bpe\n{reader}output: bpe/tokenizer.json\nvocab_size: 275\nstyle: gpt2\n")
    (folder / "text.yaml").write_text(
        f"name: text\n{reader}tokenizer: bpe/tokenizer.json\noutput: dataset\nvalidation_fraction: 0.4\n"
    )
    (folder / "mine.yaml").write_text("defaults:\n  - gptj_tiny\n  - _self_\nname: mine\n")
    modelzoo("tokenizer", "train", "bpe.yaml", cwd=folder)
    modelzoo("preprocess", "text.yaml", cwd=folder)
    modelzoo("train", "mine.yaml", *small_overrides(Path("dataset"), Path("runs")), cwd=folder)
    return folder


def test_the_main_job_leaves_what_it_promises(workplace):
    run = workplace / "runs" / "mine"
    assert {"config.yaml", "metrics.jsonl", "checkpoints"} <= {p.name for p in run.iterdir()}
    newest = sorted((run / "checkpoints").iterdir())[-1]
    assert newest.name == "step_00000012"
    assert {p.name for p in newest.iterdir()} == {
        "model.safetensors", "optimizer.safetensors", "random.safetensors", "state.json", "config.yaml",
        "tokenizer.json", "manifest.json",
    }  # fmt: skip


def test_doing_it_again_does_nothing(workplace):
    assert "already done" in modelzoo("preprocess", "text.yaml", cwd=workplace).stderr
    arguments = ["mine.yaml", *small_overrides(Path("dataset"), Path("runs"))]
    assert "already complete" in modelzoo("train", *arguments, cwd=workplace).stderr


def in_process(*arguments, code=0):
    """The output of a command that need not pay for a start of its own."""
    done = CliRunner().invoke(app, list(arguments))
    assert (2 if isinstance(done.exception, UserError) else done.exit_code) == code, done.output
    return done.stdout


def test_evaluate_gives_numbers_to_programs_and_lines_to_people(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    numbers = json.loads(modelzoo("evaluate", "runs/mine", "--json", "--compressors", cwd=workplace).stdout)
    assert numbers["bits_per_byte"] == pytest.approx(numbers["loss"] / 0.6931472 / numbers["bytes_per_token"], rel=1e-5)
    assert numbers["gzip_bits_per_byte"] > 1
    train = json.loads(in_process("evaluate", "runs/mine", "--json", "--split", "train"))
    assert train["tokens"] > numbers["tokens"]
    in_process("evaluate", "runs/mine", "--split", "nope", code=2)
    in_process("evaluate", "runs/mine", "--compressors", "--max-batches", "1", code=2)
    text = in_process("evaluate", "runs/mine", "--data", "dataset", "--split", "train")
    assert "bits per byte" in text
    assert "train" in text


def test_generate_is_reproducible_and_greedy_at_temperature_zero(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    common = ["generate", "runs/mine", "--prompt", "the cat", "--max-new-tokens", "12"]

    def text(*options):
        return json.loads(in_process(*common, "--json", *options))["text"]

    assert text("--seed", "1") == text("--seed", "1")
    assert text("--temperature", "0") == text("--temperature", "0", "--seed", "5")
    streamed = modelzoo(*common, "--temperature", "0", cwd=workplace).stdout
    assert streamed == "the cat" + text("--temperature", "0") + "\n"


def test_list_show_diff_check_work_from_any_directory(tmp_path):
    rows = json.loads(modelzoo("list", "--json", cwd=tmp_path).stdout)
    assert {r["config"]: r["parameters"] for r in rows}["params_gptj_6B"] == 6_050_882_784
    assert max(map(len, modelzoo("list", cwd=tmp_path).stdout.splitlines())) < 152
    shown = modelzoo("show", "gpt2_124M", cwd=tmp_path).stdout
    assert "124,439,808" in shown
    facts = json.loads(modelzoo("show", "gpt2_124M", "--json", cwd=tmp_path).stdout)
    assert facts["bytes"] == {"weights": 497_759_232, "gradients": 497_759_232, "optimizer": 995_518_464}
    assert "model.tied_norm" in modelzoo("diff", "gptj_125M", "gpt_neox_125M", cwd=tmp_path).stdout
    assert "gptj_tiny: ok" in modelzoo("check", "gptj_tiny", "gpt2_tiny", "seed=3", cwd=tmp_path).stdout


def test_show_prints_yaml_that_loads_to_the_same_config(tmp_path):
    (tmp_path / "again.yaml").write_text(modelzoo("show", "params_gptj_6B_muP", cwd=tmp_path).stdout)
    assert "no difference" in modelzoo("diff", "params_gptj_6B_muP", "again.yaml", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "gptj_tinny"], "did you mean gptj_tiny?"),
        (["train", "gptj_tiny", "model.hiden_size=3"], "did you mean hidden_size?"),
        (["train", "gptj_tiny"], "data/python_stdlib: no such directory (no manifest.json)"),
        (["evaluate", "nowhere"], "nowhere: no checkpoint to be used"),
        (["generate", "nowhere", "--prompt", "x"], "nowhere: no checkpoint to be used"),
        (["preprocess", "preprocess/python_stdlib"], "tokenizers/python_stdlib/tokenizer.json: no such file"),
        (["tokenizer", "train", "tokenizer/python_stdlib", "reader.paths=[gone]"], "no such directory"),
        (["check", "gone.yaml"], "there is no such file"),
        (["check", "seed=3"], "no config is named"),
        (["check", "gptj_tiny", "callbacks={}"], "changes nothing"),
    ],
)
def test_wrong_input_ends_with_a_message_and_exit_code_2(tmp_path, arguments, message):
    assert message in modelzoo(*arguments, cwd=tmp_path, code=2).stderr
    assert list(tmp_path.iterdir()) == []


def test_check_looks_at_data_that_is_there(workplace):
    overrides = small_overrides(Path("dataset"), Path("runs"))
    modelzoo("check", "mine.yaml", *overrides, cwd=workplace)
    done = modelzoo("check", "mine.yaml", *overrides, "model.vocab_size=200", cwd=workplace, code=2)
    assert "use model.vocab_size=275" in done.stderr


@pytest.mark.parametrize("option", [["--seq-len", "1000"], ["--device", "gpu"], ["--precision", "fp8"]])
def test_options_out_of_range_are_refused(workplace, option):
    modelzoo("evaluate", "runs/mine", *option, cwd=workplace, code=2)


def test_interrupted_training_saves_exits_3_and_goes_on(workplace):
    arguments = ["train", "mine.yaml", *small_overrides(Path("dataset"), Path("runs")), "name=long"]
    arguments += ["trainer.max_steps=100000", "callbacks.checkpoint.every_steps=null", "~callbacks.evaluate"]
    process = subprocess.Popen(
        [*MODELZOO, *arguments], cwd=workplace, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )
    metrics = workplace / "runs" / "long" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.is_file() and metrics.stat().st_size > 500) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 3, error
    assert "the same command goes on from there" in error
    assert "Traceback" not in error
    saved = sorted((workplace / "runs" / "long" / "checkpoints").iterdir())
    assert len(saved) == 1
    step = int(saved[0].name.removeprefix("step_"))
    assert metrics.read_text().count('"loss"') == step  # and one of how long the end took
    limit = f"trainer.max_steps={step + 2}"
    done = modelzoo(*[a for a in arguments if "max_steps" not in a], limit, cwd=workplace)
    assert f"resuming from runs/long/checkpoints/{saved[0].name}" in done.stderr
    assert metrics.read_text().count('"loss"') == step + 2


def test_a_reader_that_stops_early_is_no_error(tmp_path):
    program = f"{sys.executable} -c 'from modelzoo.cli.main import main; main()' list | head -1"
    done = subprocess.run(program, shell=True, cwd=tmp_path, capture_output=True, text=True, env=ENVIRONMENT)
    assert "Traceback" not in done.stderr


def test_an_override_may_be_named_like_a_group(workplace):
    shown = modelzoo("show", "preprocess/python_stdlib", "tokenizer=bpe", cwd=workplace).stdout
    assert "tokenizer: bpe" in shown


def test_a_path_that_cannot_be_written_is_named(workplace):
    (workplace / "a_file").write_text("")
    arguments = ["mine.yaml", *small_overrides(Path("dataset"), Path("a_file/below"))]
    assert "a_file" in modelzoo("train", *arguments, cwd=workplace, code=2).stderr
