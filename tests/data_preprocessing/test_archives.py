import bz2
import gzip
import io
import json
import lzma
import tarfile

import pytest
import zstandard

from data_preprocessing.archives import is_tar, unpacked
from data_preprocessing.readers import HARMLESS
from modelzoo.base_config import UserError
from tests.data_preprocessing.reading import Dribble, read, read_files, summary, texts

PACKERS = {
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}
ALL = pytest.mark.parametrize("suffix", PACKERS)


def lines(start, stop):
    """JSON Lines that do not pack too well."""
    return "".join(
        json.dumps({"text": f"{i} {i * i} {hash((i, 'x')[0]) ** 3}"}) + "\n" for i in range(start, stop)
    ).encode()


CONTENT = lines(0, 5000)
TEXTS = [json.loads(line)["text"] for line in CONTENT.splitlines()]


@ALL
def test_compressed(suffix):
    for stream in (PACKERS[suffix](CONTENT), Dribble(PACKERS[suffix](CONTENT), 100)):
        assert texts(read(stream, "a.jsonl" + suffix, kind="jsonl")) == TEXTS
    assert summary(read(PACKERS[suffix](b""), "a.jsonl" + suffix, kind="jsonl")) == [("a.jsonl" + suffix, "[empty]")]
    assert summary(read(b"", "a.jsonl" + suffix, kind="jsonl")) == [("a.jsonl" + suffix, "[empty]")]


@ALL
def test_members_one_after_the_other_are_one_file(suffix):
    pack = PACKERS[suffix]
    middle = CONTENT.index(b"\n", len(CONTENT) // 2) - 5
    packed = pack(CONTENT[:middle]) + pack(b"") + pack(CONTENT[middle:])
    assert texts(read(packed, "a.jsonl" + suffix, kind="jsonl")) == TEXTS


def test_zeros_after_the_last_member_are_padding():
    for suffix in (".gz", ".xz"):
        packed = PACKERS[suffix](CONTENT) + bytes(512)
        assert texts(read(packed, "a.jsonl" + suffix, kind="jsonl")) == TEXTS


def test_zstd_frames_that_are_to_be_skipped_are_skipped():
    skippable = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"abcd"
    packed = skippable + PACKERS[".zst"](CONTENT) + skippable
    assert texts(read(packed, "a.jsonl.zst", kind="jsonl")) == TEXTS


@ALL
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_file_cut_short_keeps_what_can_be_read(suffix, share):
    packed = PACKERS[suffix](CONTENT)
    packed = packed[: int(len(packed) * share)]
    items = read(packed, "a.jsonl" + suffix, kind="jsonl")
    *whole, damage = items
    assert texts(whole) == TEXTS[: len(whole)]
    assert (damage.reason, damage.place.number) == ("damaged archive", len(whole) + 1)
    unpacked_bytes = len(as_far_as_it_goes(suffix, packed))
    assert damage.num_bytes == unpacked_bytes - sum(len(line) for line in CONTENT.splitlines(True)[: len(whole)])
    if suffix in (".gz", ".xz"):  # the others unpack by blocks
        assert unpacked_bytes > share * 0.9 * len(CONTENT)


def as_far_as_it_goes(suffix, packed):
    if suffix == ".gz":
        return __import__("zlib").decompressobj(31).decompress(packed)
    if suffix == ".zst":
        return zstandard.ZstdDecompressor().decompressobj().decompress(packed)
    return (lzma.LZMADecompressor() if suffix == ".xz" else bz2.BZ2Decompressor()).decompress(packed)


@ALL
def test_damage_in_the_middle_is_reported_once(suffix):
    packed = bytearray(PACKERS[suffix](CONTENT))
    packed[len(packed) // 2 : len(packed) // 2 + 40] = b"\xff" * 40
    items = read(bytes(packed), "a.txt" + suffix, kind="text", separator="\n", max_document_bytes=10**6)
    assert [item.reason for item in items[-1:]] == ["damaged archive"]
    assert sum(getattr(item, "reason", "") == "damaged archive" for item in items) == 1
    if suffix == ".gz":
        assert items[1000].text == CONTENT.decode().split("\n")[1000]


def test_gzip_gives_every_byte_before_an_error():
    packed = gzip.compress(CONTENT)
    wrong_sum = packed[:-8] + bytes(4) + packed[-4:]
    *whole, damage = read(wrong_sum, "a.jsonl.gz", kind="jsonl")
    assert texts(whole) == TEXTS
    assert "incorrect data check" in damage.detail
    assert (damage.place.number, damage.num_bytes) == (5001, 0)


@ALL
def test_what_follows_the_last_member_is_damage(suffix):
    *whole, damage = read(PACKERS[suffix](CONTENT) + b"garbage", "a.jsonl" + suffix, kind="jsonl")
    assert texts(whole) == TEXTS
    assert damage.reason == "damaged archive"
    (damage,) = read(b"not packed", "a.jsonl" + suffix, kind="jsonl")
    assert damage.reason == "damaged archive"
    assert "nothing after this place can be read" in damage.detail


@ALL
def test_a_little_that_unpacks_to_much_comes_in_pieces(suffix):
    num_bytes, limit = (300_000_000, 2**27) if suffix == ".zst" else (30_000_000, 2**20)
    stream = unpacked(io.BytesIO(PACKERS[suffix](bytes(num_bytes))), "a" + suffix)
    total = 0
    while data := stream.read(2**18):
        assert len(data) <= 2**18
        assert len(stream._output) <= limit
        total += len(data)
    assert total == num_bytes


def tar(members, mode="w", pax=tarfile.PAX_FORMAT):
    """A tar of {name: bytes, or a TarInfo type for what is no file}."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, format=pax) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes) and len(content) != 1:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content, "a.jsonl"
                archive.addfile(info)
    return out.getvalue()


A, B = b'{"text": "a1"}\n{"text": "a2"}\n', b'{"text": "b1"}'


@pytest.mark.parametrize("suffix", ["", *PACKERS])
def test_tar(suffix):
    members = {
        "x": tarfile.DIRTYPE,
        "x/a.jsonl": A,
        "x/b.jsonl.gz": gzip.compress(B),
        "é" * 150 + ".jsonl": A,
        "e.json": b"",
    }
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        packed = PACKERS.get(suffix, bytes)(tar(members, pax=form))
        name = "t.tar" + suffix
        for stream in (packed, Dribble(packed, 700)):
            assert summary(read(stream, name, kind="jsonl")) == [
                (f"{name}/x/a.jsonl:1", "a1"),
                (f"{name}/x/a.jsonl:2", "a2"),
                (f"{name}/x/b.jsonl.gz:1", "b1"),
                (f"{name}/{'é' * 150}.jsonl:1", "a1"),
                (f"{name}/{'é' * 150}.jsonl:2", "a2"),
                (f"{name}/e.json", "[empty]"),
            ]


def test_short_names_of_compressed_tars():
    assert texts(read(gzip.compress(tar({"a.jsonl": A})), "t.tgz", kind="jsonl")) == ["a1", "a2"]
    assert texts(read(lzma.compress(tar({"a.jsonl": A})), "t.txz", kind="jsonl")) == ["a1", "a2"]
    assert not any(map(is_tar, ("a.jsonl", "tar", "a.tar.jsonl", "https://host/a.tar/b.gz")))
    assert is_tar("https://host/a.tgz?download=1")


def test_what_a_tar_holds_besides_is_counted():
    members = {
        "README": b"read me",
        "../out.jsonl": A,
        "/etc/a.jsonl": A,
        "sub/../../a.jsonl": A,
        "link.jsonl": tarfile.SYMTYPE,
        "hard.jsonl": tarfile.LNKTYPE,
        "device.jsonl": tarfile.CHRTYPE,
        "a.jsonl": A,
        "inner.json.tar": tar({"a.jsonl": A}),
    }
    items = read(tar(members), "t.tar", kind="jsonl")
    assert summary(items) == [
        ("t.tar/README", "[not wanted]"),
        ("t.tar/../out.jsonl", "[unsafe member name]"),
        ("t.tar//etc/a.jsonl", "[unsafe member name]"),
        ("t.tar/sub/../../a.jsonl", "[unsafe member name]"),
        ("t.tar/link.jsonl", "[not a regular file]"),
        ("t.tar/hard.jsonl", "[not a regular file]"),
        ("t.tar/device.jsonl", "[not a regular file]"),
        ("t.tar/a.jsonl:1", "a1"),
        ("t.tar/a.jsonl:2", "a2"),
        ("t.tar/inner.json.tar", "[an archive within an archive]"),
    ]
    assert [item.num_bytes for item in items[:3]] == [7, len(A), len(A)]
    assert items[0].reason in HARMLESS
    assert items[1].reason not in HARMLESS
    wanted = read(tar(members), "t.tar", kind="text", members="*READ*")
    assert (wanted[0].text, wanted[0].place.file) == ("read me", "t.tar/README")


def test_a_tar_cut_short():
    content = tar({"a.jsonl": A, "b.jsonl": CONTENT, "c.jsonl": A})
    whole = summary(read(content, "t.tar", kind="jsonl"))
    for end in (
        100,
        512,
        700,
        1024,
        1500,
        2048,
        10_000,
        len(content) - 10240,
        content.rindex(b"c.jsonl"),
        content.rindex(A) + 512,
    ):
        items = read(content[:end], "t.tar", kind="jsonl")
        assert [getattr(item, "reason", "") for item in items].count("damaged archive") == 1, end
        assert items[-1].reason == "damaged archive"
        assert summary(items[:-1]) == whole[: len(items) - 1]
    packed = gzip.compress(content)
    items = read(packed[: len(packed) // 2], "t.tar.gz", kind="jsonl")
    assert [getattr(item, "reason", "") for item in items].count("damaged archive") == 1
    assert len(items) > 1000


def test_a_tar_with_damage():
    content = bytearray(tar({"a.jsonl": A, "b.jsonl": A, "c.jsonl": A}))
    content[content.index(b"b.jsonl") + 150] ^= 1
    items = read(bytes(content), "t.tar", kind="jsonl")
    assert summary(items)[2:] == [("t.tar/a.jsonl", "[damaged archive]")]
    two = tar({"a.jsonl": A}) + tar({"b.jsonl": A})
    assert summary(read(two, "t.tar", kind="jsonl"))[2:] == [("t.tar", "[damaged archive]")]
    assert summary(read(b"no tar", "t.tar", kind="jsonl")) == [("t.tar", "[damaged archive]")]
    assert summary(read(b"", "t.tar", kind="jsonl")) == [("t.tar", "[empty]")]


def test_a_damaged_member_does_not_hide_the_next():
    content = tar({"a.jsonl.gz": gzip.compress(A)[:-12], "b.jsonl": B})
    assert summary(read(content, "t.tar", kind="jsonl"))[-2:] == [
        ("t.tar/a.jsonl.gz:2", "[damaged archive]"),
        ("t.tar/b.jsonl:1", "b1"),
    ]


def test_from_files(tmp_path):
    (tmp_path / "t.tar.zst").write_bytes(PACKERS[".zst"](tar({"n": b"no", "a.jsonl": A})))
    (tmp_path / "z.jsonl.bz2").write_bytes(bz2.compress(B))
    items = read_files(tmp_path, kind="jsonl", paths="*.*")
    assert summary(items)[1:] == [("t.tar.zst/a.jsonl:1", "a1"), ("t.tar.zst/a.jsonl:2", "a2"), ("z.jsonl.bz2:1", "b1")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.tar.zst", "z.jsonl.bz2"]
    for suffix in (".zip", ".7z", ".rar"):
        (tmp_path / f"x{suffix}").write_bytes(b"x")
        with pytest.raises(UserError, match=rf"x\{suffix}: \{suffix} files are not read; unpack it first with"):
            read_files(tmp_path, kind="jsonl", paths=f"x{suffix}")
