"""What a user is told before tuning a model on a dataset: each finding with its number, and silence without."""

import json

import pytest

from data_preprocessing import pipeline
from data_preprocessing.config import PreprocessConfig
from modelzoo.data.schema import read_manifest
from tests.samples import small_tokenizer


def advice(folder, examples, *, parts=("prompt", "completion"), **settings):
    """Of prompts with completions, or of a text file's content."""
    small_tokenizer().save(folder / "tokenizer.json")
    if isinstance(examples, str):
        (folder / "examples.txt").write_text(examples, encoding="utf-8")
        reader = {"kind": "text", "paths": "examples.txt", "separator": "<|endoftext|>"}
    else:
        lines = (json.dumps(dict(zip(parts, example, strict=True))) for example in examples)
        (folder / "examples.jsonl").write_text("\n".join(lines), encoding="utf-8")
        reader = {"kind": "jsonl", "paths": "examples.jsonl", "text_key": list(parts)}
    fields = {"name": "examples", "reader": reader, "tokenizer": "tokenizer.json", "output": "out"}
    settings = {"mode": {"kind": "prompt_completion"}, "validation_fraction": 0.3, **settings}
    summary = pipeline.run(PreprocessConfig.model_validate(fields | settings), folder)
    assert read_manifest(summary.output) == summary.manifest
    return list(summary.manifest.advice)


def pairs(count):
    return [(f"what is {i}?\n\n###\n\n", f" the {i} cat") for i in range(count)]


def test_good_examples_need_no_advice(tmp_path):
    assert advice(tmp_path, pairs(200)) == []


@pytest.mark.parametrize(
    ("examples", "said"),
    [
        (pairs(60), ["examples to train on: with fewer than 100"]),
        ([*pairs(200), ("long\n\n###\n\n", "the cat " * 3000)], ["1 of 201 examples are longer than 2,048 tokens"]),
        ([*pairs(200), *pairs(7)], ["7 of 207 examples are copies of another one"]),
        ([(p.strip("\n#") + " " * (i % 3), c) for i, (p, c) in enumerate(pairs(200))], ["the prompts end in"]),
        ([(p, c + f" {n}") for p, c in pairs(80) for n in range(3)], ["validation examples are trained on too"]),
    ],
    ids=["few", "long", "copies", "endings", "leak"],
)
def test_a_finding_comes_with_its_number(tmp_path, examples, said):
    found = advice(tmp_path, examples)
    assert len(found) == len(said), found
    for line, expected in zip(found, said, strict=True):
        assert expected in line


def test_the_number_of_leaked_prompts_is_exact(tmp_path):
    import h5py
    import numpy as np

    (line,) = advice(tmp_path, [(p, c + f" {n}") for p, c in pairs(80) for n in range(3)])
    prompts = {}
    for split in ("train", "validation"):
        with h5py.File(tmp_path / "out" / split / "00000.h5") as file:
            documents = np.split(file["tokens"][:], file["document_offsets"][1:-1])
            masks = np.split(file["loss_mask"][:], file["document_offsets"][1:-1])
            prompts[split] = [tuple(d[m == 0]) for d, m in zip(documents, masks, strict=True)]
    leaked = sum(prompt in set(prompts["train"]) for prompt in prompts["validation"])
    assert f"the prompts of {leaked:,} of {len(prompts['validation']):,} validation" in line


def test_separators_that_are_not_there_are_named(tmp_path):
    found = advice(tmp_path, "one example and no end of it", mode={"kind": "lm"}, validation_fraction=0)
    assert found == [
        "1 documents in 1 files: '<|endoftext|>' never stands between two; put it there, or set reader.separator to "
        "what does"
    ]
    text = "<|endoftext|>".join([f"prompt {i} ### => the {i}" for i in range(150)] + ["nothing to split"] * 3)
    (tmp_path / "more").mkdir()
    mode = {"kind": "prompt_completion", "separator": " => "}
    found = advice(tmp_path / "more", text, mode=mode, validation_fraction=0, on_error="reject")
    assert found == [
        "3 of 153 examples have no ' => ' and are left out; end their prompts with it, or set mode.separator to what "
        "does"
    ]


def test_templates_end_all_prompts_alike(tmp_path):
    records = [(f"name {i}", "", f" {i}") for i in range(200)]
    assert advice(tmp_path, records, parts=("instruction", "input", "output"), mode={"kind": "instruction"}) == []
