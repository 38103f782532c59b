import json
import os

import h5py
import pytest
from typer.testing import CliRunner

from data_preprocessing.verify import verify
from modelzoo.base_config import UserError
from modelzoo.cli.main import app
from modelzoo.data.schema import file_sha256
from modelzoo.trainer.checkpoint import write_checkpoint
from tests.cli.handmade import write_dataset

SHARD = "train/00001.h5"


@pytest.fixture
def root(tmp_path):
    return write_dataset(tmp_path / "data", masked=True)


def damage(root):
    """File -> what was found, of everything that is wrong."""
    found = {}
    for one in verify(root).damage:
        found[one.file] = found.get(one.file, "") + one.found + "\n"
    return found


def run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


def flip(path, at, bit=1):
    content = bytearray(path.read_bytes())
    content[at] ^= bit
    path.write_bytes(content)


def place_of(path, name):
    with h5py.File(path) as file:
        return file[name].id.get_offset()


def edit_manifest(root, edit):
    content = json.loads((root / "manifest.json").read_text())
    edit(content)
    (root / "manifest.json").write_text(json.dumps(content))


def sign_again(root):
    """Give the manifest the hashes of the shards as they are, so that only their content can give them away."""

    def edit(content):
        for split in content["splits"].values():
            for shard in split["shards"]:
                shard["sha256"] = file_sha256(root / shard["file"])

    edit_manifest(root, edit)


@pytest.mark.parametrize("masked", [False, True])
def test_a_whole_dataset_is_ok(tmp_path, masked):
    root = write_dataset(tmp_path / "data", masked)
    heard = []
    report = verify(root, heard.append)
    assert report.damage == []
    sizes = [path.stat().st_size for path in root.rglob("*.h5")]
    assert sum(heard) == sum(sizes)
    assert report.splits["train"][:3] == (2, 7, report.splits["train"].tokens)
    done = run("verify", root)
    assert done.exit_code == 0
    assert [line.split(":")[:2] for line in done.stdout.splitlines()] == [["ok", " train"], ["ok", " validation"]]
    assert "MB/s" in done.stdout


@pytest.mark.parametrize("name", ["tokens", "document_offsets", "loss_mask"])
def test_a_flipped_byte_of_an_array_is_found(root, name):
    flip(root / SHARD, place_of(root / SHARD, name) + 2)
    assert list(damage(root)) == [SHARD]
    assert "sha256" in damage(root)[SHARD]


def test_a_flipped_byte_of_the_header_is_found(root):
    at = (root / SHARD).read_bytes().index(b"prompt_completion")
    flip(root / SHARD, at)
    assert list(damage(root)) == [SHARD]


def test_any_flipped_byte_of_tokenizer_json_is_found(root):
    path = root / "tokenizer.json"
    content = path.read_bytes()
    for at in range(0, len(content), 97):
        flip(path, at)
        assert list(damage(root)) == ["tokenizer.json"], content[at - 20 : at + 20]
        path.write_bytes(content)


NUMBERS = [
    ("documents_in", lambda m: m["ledger"], "ledger.documents_in=11"),
    ("documents_written", lambda m: m["ledger"], "ledger.documents_in=10"),
    ("bytes_written", lambda m: m["ledger"], "ledger.bytes_written="),
    ("not JSON", lambda m: m["ledger"]["rejected_by_reason"], "ledger.documents_rejected=1"),
    ("num_documents", lambda m: m["splits"]["train"], "splits.train.num_documents=8"),
    ("num_tokens", lambda m: m["splits"]["train"]["shards"][1], "splits.train.num_tokens="),
    ("num_bytes", lambda m: m["splits"]["train"]["shards"][1], "splits.train.num_bytes="),
    ("vocab_size", lambda m: m["tokenizer"], None),
    ("end_of_document_id", lambda m: m["tokenizer"], None),
    ("schema_version", lambda m: m, "schema version 3"),
]


@pytest.mark.parametrize(("key", "section", "message"), NUMBERS, ids=[key for key, *_ in NUMBERS])
def test_a_changed_number_of_the_manifest_is_found(root, key, section, message):
    def edit(content):
        section(content)[key] += 1

    edit_manifest(root, edit)
    found = damage(root)
    if message:
        assert message in found["manifest.json"]
    else:  # the manifest stands against the tokenizer and every header
        assert {"tokenizer.json", SHARD} <= set(found)


def test_a_list_of_rejected_documents_that_is_another_is_found(root):
    path = root / "rejected.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace("11", "12"), encoding="utf-8")
    assert list(damage(root)) == ["rejected.jsonl"]
    path.unlink()
    assert list(damage(root)) == ["rejected.jsonl"]


def test_reasons_that_are_not_counted_are_found(root):
    def edit(content):
        content["ledger"]["rejected_by_reason"] = {"empty": 1}

    edit_manifest(root, edit)
    assert "{'not JSON': 1}" in damage(root)["rejected.jsonl"]


def test_other_settings_than_the_shards_are_found(root):
    edit_manifest(root, lambda content: content["settings"].update(seed=2))
    assert "source_config" in damage(root)[SHARD]


@pytest.mark.parametrize("size", [0, 100, 3000, -1])
def test_a_shard_cut_short_is_found(root, size):
    length = (root / SHARD).stat().st_size
    os.truncate(root / SHARD, size % length)
    found = damage(root)
    assert list(found) == [SHARD]
    if size:
        assert f"{size % length} bytes where the file itself speaks of {length}" in found[SHARD]


def test_files_that_are_missing_or_too_many_are_found(root):
    (root / SHARD).unlink()
    (root / "train" / "00002.h5").write_bytes(b"stray")
    (root / "notes.txt").write_text("mine")
    assert damage(root) == {SHARD: "no such file\n", "notes.txt": "a file\n", "train/00002.h5": "a file\n"}


def test_a_path_that_leaves_the_directory_is_not_followed(root):
    def edit(content):
        content["splits"]["train"]["shards"][1]["file"] = "../../etc/passwd"

    edit_manifest(root, edit)
    assert "'../../etc/passwd'" in damage(root)["manifest.json"]


def test_a_manifest_that_does_not_fit_its_schema_is_told_in_full(root):
    def edit(content):
        content["ledger"]["documents_in"] = "many"
        del content["tokenizer"]["vocab_size"]

    edit_manifest(root, edit)
    assert len(verify(root).damage) == 2
    (root / "manifest.json").write_text("{")
    assert "not valid JSON" in damage(root)["manifest.json"]


def put(root, name, index, value):
    with h5py.File(root / SHARD, "r+") as file:
        file[name][index] = value
    sign_again(root)
    return damage(root)[SHARD]


def test_an_end_of_document_id_in_the_wrong_place_is_found(root):
    with h5py.File(root / SHARD) as file:
        offsets = file["document_offsets"][:]
    last = int(offsets[2]) - 1
    assert f"no end-of-document id at the end of document 1 (token {last} " in put(root, "tokens", last, 5)


def test_an_end_of_document_id_inside_a_document_is_found(root):
    with h5py.File(root / SHARD) as file:
        inside = int(file["document_offsets"][1]) + 4
    assert f"an end-of-document id inside document 1 (token {inside} " in put(root, "tokens", inside, 0)


def test_offsets_that_do_not_increase_are_found(root):
    with h5py.File(root / SHARD) as file:
        third = int(file["document_offsets"][2])
    assert f"document_offsets[1:3]=[{third}, {third}]" in put(root, "document_offsets", 1, third)


def test_offsets_that_end_elsewhere_are_found(root):
    assert "document_offsets end at 3" in put(root, "document_offsets", -1, 3)


def test_offsets_moved_by_one_are_found(root):
    with h5py.File(root / SHARD) as file:
        second = int(file["document_offsets"][1])
    assert "document 0" in put(root, "document_offsets", 1, second - 1)


def test_ids_and_masks_out_of_range_are_found(root):
    assert "the id 60000 among its tokens" in put(root, "tokens", 1, 60_000)
    assert "loss_mask[4]=2" in put(root, "loss_mask", 4, 2)


def test_a_split_where_only_some_shards_have_a_mask_is_found(root):
    with h5py.File(root / SHARD, "r+") as file:
        del file["loss_mask"]
    sign_again(root)
    assert "no loss_mask" in damage(root)[SHARD]


def test_files_that_keep_no_hashes_are_told_apart(tmp_path):
    with h5py.File(tmp_path / "output_chunk_0_0.h5", "w") as file:
        file["data"] = [[[1]]]
    assert "keep no hashes to check; look into them with: modelzoo inspect" in str(run("verify", tmp_path).exception)


def test_blocks_change_nothing(root, monkeypatch):
    monkeypatch.setattr("data_preprocessing.verify_shard.BLOCK", 3)
    assert damage(root) == {}
    with h5py.File(root / SHARD) as file:
        inside = int(file["document_offsets"][3]) + 9
    assert f"inside document 3 (token {inside} " in put(root, "tokens", inside, 0)


def test_everything_is_reported_at_once_with_its_remedy(root):
    flip(root / SHARD, place_of(root / SHARD, "tokens"))
    (root / "train" / "00000.h5").unlink()
    (root / "\x1b[31mstray").write_text("")
    done = run("verify", root)
    assert isinstance(done.exception, UserError)  # main() prints it and exits with 2
    message = str(done.exception)
    assert "3 things wrong" in message
    assert "train/00000.h5: no such file; expected a shard" in message
    assert "train/00001.h5: sha256" in message
    assert "␛[31mstray: a file; expected none" in message
    assert "\x1b" not in message
    assert message.count("remedy: ") == 2


def test_json_tells_programs_the_same(root):
    flip(root / SHARD, place_of(root / SHARD, "tokens"))
    told = json.loads(run("verify", root, "--json").stdout)
    assert not told["ok"]
    assert told["damage"][0]["file"] == SHARD
    assert set(told["damage"][0]) == {"file", "found", "expected", "remedy"}
    assert set(told["parts"]) == {"train", "validation"}


def test_what_is_no_dataset_is_refused(tmp_path):
    assert "no such directory" in str(run("verify", tmp_path / "nowhere").exception)
    assert "no manifest.json" in str(run("verify", tmp_path).exception)


def test_checkpoints(tmp_path):
    import torch

    run_dir = tmp_path / "run"
    for step in (1, 2):
        folder = run_dir / "checkpoints" / f"step_{step:08d}"
        write_checkpoint(folder, {"model": {"w": torch.ones(3)}}, {"state.json": "{}", "config.yaml": "a: 1\n"})
    assert run("verify", run_dir).stdout.count("ok: checkpoints/step_0000000") == 2
    assert run("verify", folder).stdout.startswith("ok: step_00000002: 4 files")
    flip(folder / "model.safetensors", -1)
    (folder / "config.yaml").unlink()
    message = str(run("verify", run_dir).exception)
    assert "2 things wrong" in message
    assert "step_00000002: model.safetensors does not match its sha256" in message
    assert "step_00000002: config.yaml is missing" in message
    assert "step_00000001" not in message
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    assert "no checkpoint yet" in str(run("verify", tmp_path / "empty").exception)


@pytest.mark.parametrize(
    "edit",
    [
        lambda content: content["splits"].update(tain=content["splits"].pop("train")),
        lambda content: content["inputs"].append({"path": "z", "size": 7, "sha256": "x"}),
        lambda content: content["settings"].update(name="other"),
    ],
)
def test_a_manifest_that_was_changed_is_noticed(root, edit):
    content = json.loads((root / "manifest.json").read_text())
    (root / "manifest.json").write_text(json.dumps(content))  # laid out otherwise
    assert not damage(root)
    edit_manifest(root, edit)
    assert "content of sha256" in damage(root)["manifest.json"]


def test_a_manifest_of_before_has_no_hash(root):
    edit_manifest(root, lambda content: content.pop("sha256"))
    assert not damage(root)
