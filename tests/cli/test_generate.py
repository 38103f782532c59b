"""`modelzoo generate`: what it prints, in which order, and what it refuses. In this process, on a small model."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from itertools import islice

import pytest
import torch
from typer.testing import CliRunner

from modelzoo.base_config import UserError
from modelzoo.batching import Batcher
from modelzoo.cli import decoding
from modelzoo.cli.generate import in_order, prepare
from modelzoo.cli.main import app, main
from modelzoo.cli.prompts import Prompt
from modelzoo.model.decoder import Decoder
from modelzoo.saved_models import load_model
from tests.checkpoints import CONTEXT, write_small_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_small_checkpoint(tmp_path_factory.mktemp("runs") / "small")


@pytest.fixture
def generate(checkpoint):
    """Runs the command; its standard output, or the message of the UserError that it ends with."""

    def run(*options):
        done = CliRunner().invoke(app, ["generate", str(checkpoint), "--device", "cpu", *map(str, options)])
        if isinstance(done.exception, UserError):
            assert done.stdout == ""
            return str(done.exception)
        assert done.exit_code == 0, (done.output, done.exception)
        return done.stdout

    return run


def answers(output):
    return [json.loads(line) for line in output.splitlines()]


def one(output):
    """The text of the single object."""
    return json.loads(output)["text"]


def test_one_prompt_is_streamed_and_its_json_is_one_object(generate):
    streamed = generate("--prompt", "the cat", "--max-new-tokens", 12)
    found = json.loads(generate("--prompt", "the cat", "--max-new-tokens", 12, "--json"))
    assert streamed == "the cat" + found["text"] + "\n"
    assert list(found) == ["prompt", "text", "finish_reason", "new_tokens", "seed", "seconds"]
    assert (found["finish_reason"], found["new_tokens"], found["seed"]) == ("length", 12, 0)


def test_many_prompts_in_order_each_as_alone(generate, tmp_path):
    prompts = ["the cat", "a dog: é😀", "", "bird " * 5, "x"]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"id": i, "prompt": p}) + "\n" for i, p in enumerate(prompts)))
    together = answers(
        generate("--prompts", tmp_path / "p.jsonl", "--num-samples", 2, "--seed", 7, "--batch-size", 3, "--json")
    )
    assert [(a["id"], a["prompt"], a["seed"]) for a in together] == [
        (i, prompt, seed) for i, prompt in enumerate(prompts) for seed in (7, 8)
    ]
    assert len({a["text"] for a in together}) == 10
    for answer in together[2:6]:
        alone = generate("--prompt", answer["prompt"], "--seed", answer["seed"], "--json")
        assert one(alone) == answer["text"]


def test_a_text_file_and_the_text_of_several(generate, tmp_path):
    (tmp_path / "p.txt").write_bytes("\ufeffthe cat\r\na  dog \u2028x\n".encode())
    found = answers(generate("--prompts", tmp_path / "p.txt", "--max-new-tokens", 5, "--json"))
    assert [a["prompt"] for a in found] == ["the cat", "a  dog \u2028x"]
    shown = generate("--prompts", tmp_path / "p.txt", "--max-new-tokens", 5)
    assert shown == "".join(f"── {n} of 2 ──\n{a['prompt']}{a['text']}\n" for n, a in enumerate(found, 1))
    repeated = generate("--prompt", "the cat", "--prompt", "a  dog \u2028x", "--max-new-tokens", 5)
    assert repeated == shown


def test_a_file_of_one_line_gives_a_json_line(generate, tmp_path):
    (tmp_path / "p.txt").write_text("the cat")
    assert len(answers(generate("--prompts", tmp_path / "p.txt", "--max-new-tokens", 3, "--json"))) == 1


def test_stop_strings_do_not_show(generate):
    free = one(generate("--prompt", "the cat", "--max-new-tokens", 40, "--json"))
    stop = free[10:13]
    begin = free.index(stop)
    for options in (["--stop", stop], ["--stop", "nowhere", "--stop", stop]):
        arguments = ["--prompt", "the cat", "--max-new-tokens", 40, *options]
        assert generate(*arguments) == "the cat" + free[:begin] + "\n"
        found = json.loads(generate(*arguments, "--json"))
        assert (found["text"], found["finish_reason"]) == (free[:begin], "stop")


def test_each_option_reaches_the_choice(generate):
    def text(*options):
        return one(generate("--prompt", "the cat", "--max-new-tokens", 30, "--json", *options))

    greedy = text("--temperature", 0)
    assert text("--top-k", 1) == greedy == text("--min-p", 1) == text("--top-p", 1e-6)
    changed = [
        text(*options)
        for options in (
            [],
            ["--seed", 1],
            ["--temperature", 2],
            ["--top-k", 4],
            ["--top-p", 0.3],
            ["--min-p", 0.2],
            ["--repetition-penalty", 3],
        )
    ]
    assert len({greedy, *changed}) == 1 + len(changed)
    assert text("--temperature", 0, "--repetition-penalty", 3) not in (greedy, changed[-1])


def test_precisions_reach_the_weights(checkpoint):
    def first_logprob(precision):
        options = {"max_new_tokens": 1, "temperature": 0, "device": "cpu", "precision": precision}
        batcher, [completion] = prepare(checkpoint, [Prompt("the cat")], **options)
        pieces = []
        completion.num_logprobs, completion.on_piece = 0, pieces.append
        list(batcher.run([completion]))
        return pieces[0].tokens[0].token.logprob

    found = {first_logprob(precision) for precision in ("fp32", "bf16", "int8")}
    assert len(found) == 3
    assert max(found) - min(found) < 0.5


@pytest.mark.parametrize(
    ("precision", "num_samples", "room", "form"),
    [
        ("fp32", 1, 1.0, "packed"),
        ("fp32", 2, 1.0, "model"),
        ("fp32", 2, 2.0, "packed"),
        ("int8", 1, 1.0, "int8"),
        ("int8", 2, 0.7, "int8"),
        ("int8", 2, 0.75, "mixed"),
        ("bf16", 2, 0.9, "model"),
        ("bf16", 2, 1.0, "packed"),
    ],
)
def test_copies_are_made_where_they_pay_and_fit(checkpoint, monkeypatch, precision, num_samples, room, form):
    """`room` is a share of the model's own bytes."""
    found = []

    def recorded(model, *sizes, weights, **options):
        found.append(weights)
        return Decoder(model, *sizes, weights=weights, **options)

    monkeypatch.setattr("modelzoo.model.decoder.Decoder", recorded)
    model = load_model(checkpoint, "cpu", torch.bfloat16 if precision == "bf16" else torch.float32)
    monkeypatch.setattr(decoding, "COPIED_BYTES", room * sum(p.nbytes for p in model.parameters()))
    options = {"device": "cpu", "precision": precision, "num_samples": num_samples}
    prepare(checkpoint, [Prompt("the cat")], max_new_tokens=1, temperature=1.0, **options)
    assert found == [form]


def test_the_context_may_be_used_up(generate):
    assert json.loads(generate("--prompt", "x", "--json", "--seed", 3))["new_tokens"] <= CONTEXT - 1
    assert json.loads(generate("--prompt", "x", "--max-new-tokens", CONTEXT - 1, "--json", "--seed", 3))["text"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give --prompt TEXT"),
        (["--prompt", "x", "--prompts", "p.txt"], "give --prompt TEXT"),
        (["--prompt", "x", "--temperature", "0", "--top-k", "3", "--min-p", "0.1"], "--top-k, --min-p: no effect"),
        (["--prompt", "x", "--temperature", "0", "--num-samples", "3"], "all alike"),
        (["--prompt", "x", "--temperature", "1e-9"], "--temperature 1e-09: expected 0 (greedy), or 0.001 … 100"),
        (["--prompt", "x", "--top-p", "0"], "--top-p 0.0: expected above 0"),
        (["--prompt", "x", "--repetition-penalty", "1e-300"], "--repetition-penalty 1e-300: expected 0.01 … 100"),
        (["--prompt", "x", "--repetition-penalty", "nan"], "--repetition-penalty nan: expected 0.01 … 100"),
        (["--prompt", "x", "--stop", ""], "--stop: is empty"),
        (["--prompt", "x", "--stop", "a", "--stop", "\udcff"], "--stop 2: is not UTF-8 text"),
        (["--prompt", "x", "--precision", "fp16"], "--precision fp16: expected one of fp32, bf16, int8"),
        (["--prompt", "x" * 99], "--prompt: has 99 tokens, and the model's context is 64; shorten it"),
        (["--prompt", "x" * 60, "--max-new-tokens", "5"], "use --max-new-tokens 4"),
        (["--prompts", "p.csv"], "expected a .txt file"),
    ],
)
def test_what_cannot_be_honoured_is_refused(generate, options, message):
    assert message in generate(*options)


def test_every_problem_of_a_file_with_its_line(generate, tmp_path):
    lines = [
        b'{"prompt": "fine", "id": 1}', b'{"prompt": 3}', b"", b"{", b'{"text": "x"}', b'{"prompt": "\xff"}', b"[]",
        b'{"prompt": "x", "seed": 3}',
    ]  # fmt: skip
    path = tmp_path / "p.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    told = generate("--prompts", path).splitlines()
    assert [line.split(": ")[0] for line in told] == [f"{path}:{number}" for number in range(2, 9)]
    (tmp_path / "p.txt").write_text("fine\n" + "x" * 100 + "\n\n")
    assert generate("--prompts", tmp_path / "p.txt").startswith(f"{tmp_path / 'p.txt'}:3: is empty")
    (tmp_path / "p.txt").write_text("fine\n" + ("x" * 100 + "\n") * 30)
    told = generate("--prompts", tmp_path / "p.txt").splitlines()
    assert told[0].startswith(f"{tmp_path / 'p.txt'}:2: has 100 tokens")
    assert (len(told), told[-1]) == (21, "… and 10 more")
    (tmp_path / "p.txt").write_text("")
    assert "is empty" in generate("--prompts", tmp_path / "p.txt")


def test_samples_are_bounded_and_made_as_they_are_taken(checkpoint):
    many = ["generate", str(checkpoint), "--prompt", "x", "--num-samples"]
    for number in ("1001", "1000000000", "0"):
        done = CliRunner().invoke(app, [*many, number])
        assert done.exit_code == 2
        assert "--num-samples" in done.stderr
    batcher, completions = prepare(checkpoint, [Prompt("x")] * 1000, num_samples=1000, max_new_tokens=1, device="cpu")
    first = [done.sampling.seed for done in islice(in_order(batcher, completions, 10**6), 20)]
    assert first == list(range(20))
    assert next(completions).sampling.seed < 50  # a million is not made, let alone computed


def test_a_terminal_that_lacks_a_character(checkpoint, monkeypatch):
    arguments = ["generate", str(checkpoint), "--prompt", "é😀", "--max-new-tokens", "2", "--device", "cpu"]
    written = io.BytesIO()
    monkeypatch.setattr(sys, "argv", ["modelzoo", *arguments])
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii", write_through=True))
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    assert written.getvalue().startswith(b"\\xe9\\U0001f600")


def test_ctrl_c_shows_what_is_done(checkpoint, monkeypatch, tmp_path):
    (tmp_path / "p.txt").write_text("the cat\n" * 9)
    step, num_steps = Batcher.step, 0

    def interrupted(batcher):
        nonlocal num_steps
        num_steps += 1
        if num_steps == 7:
            raise KeyboardInterrupt
        step(batcher)

    monkeypatch.setattr(Batcher, "step", interrupted)
    options = ["--prompts", str(tmp_path / "p.txt"), "--max-new-tokens", "3", "--batch-size", "1", "--json"]
    done = CliRunner().invoke(app, ["generate", str(checkpoint), "--device", "cpu", *options])
    assert done.exit_code == 3
    assert done.stderr.endswith("stopped\n")
    assert len(answers(done.stdout)) >= 2


@pytest.mark.long
def test_ctrl_c_ends_cleanly(checkpoint, tmp_path):
    (tmp_path / "p.txt").write_text("the cat\n" * 2000)
    program = [sys.executable, "-c", "from modelzoo.cli.main import main; main()", "generate", str(checkpoint)]
    process = subprocess.Popen(
        [*program, "--prompts", str(tmp_path / "p.txt"), "--json", "--device", "cpu", "--batch-size", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    first = process.stdout.readline()
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    rest, error = process.communicate(timeout=60)
    assert process.returncode == 3, error
    assert error.endswith("stopped\n")
    assert "Traceback" not in error
    assert all(answer["prompt"] == "the cat" for answer in answers(first + rest))
