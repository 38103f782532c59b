"""Samples are what the saved model generates, and what cannot be generated is refused before training."""

import json

import pytest

from modelzoo.base_config import UserError
from modelzoo.model.generate import generate
from modelzoo.model.sampling import Sampling
from modelzoo.saved_models import load_model, load_tokenizer
from modelzoo.trainer.checkpoint import checkpoints_of
from tests.runs import small_config
from tests.trainer.observing import finished, recorded


def test_samples_are_what_the_saved_model_generates(dataset, tmp_path):
    (tmp_path / "prompts.txt").write_text("the cat\n\nthe dog saw\n")
    options = f'prompts: ["", "a"], prompts_file: {tmp_path}/prompts.txt, every_steps: 4, max_new_tokens: 9, seed: 5'
    trainer = finished(small_config(dataset, tmp_path, f"+callbacks.samples={{kind: samples, {options}}}"))
    rows = [json.loads(line) for line in (trainer.run_dir / "samples.jsonl").read_text().splitlines()]
    prompts = ["", "a", "the cat", "the dog saw"]
    assert [(row["step"], row["prompt"], row["seed"]) for row in rows] == [
        (step, prompt, 5 + number) for step in (4, 8, 12) for number, prompt in enumerate(prompts)
    ]
    tokenizer = load_tokenizer(trainer.run_dir)
    ids = [tokenizer.encode(prompt) or [tokenizer.end_of_document_id] for prompt in prompts]
    for folder, own in zip(checkpoints_of(trainer.run_dir), (rows[4:8], rows[8:]), strict=True):
        stop = [tokenizer.end_of_document_id]
        found = generate(load_model(folder), ids, 9, Sampling(temperature=0.8, top_p=0.95, seed=5), stop_ids=stop)
        texts = [tokenizer.decode([i for i in one.token_ids if i not in stop]) for one in found]
        assert [row["text"] for row in own] == texts
    assert any(a["text"] != b["text"] for a, b in zip(rows[4:8], rows[8:], strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ('prompts: ["the cat"], max_new_tokens: 100000', "exceeds the model's context"),
        ("prompts_file: nowhere.txt", "nowhere.txt: cannot be read"),
    ],
)
def test_prompts_that_cannot_be_continued_are_refused_before_training(dataset, tmp_path, options, message):
    trainer = recorded(small_config(dataset, tmp_path, f"+callbacks.samples={{kind: samples, {options}}}"))
    with pytest.raises(UserError, match=message):
        trainer.train()
    assert trainer.step == 0
