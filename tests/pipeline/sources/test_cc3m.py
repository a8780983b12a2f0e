import json
import os
import zlib

import pytest

from richsem_prep.sources.captions import MAX_CAPTION_BYTES
from richsem_prep.sources.cc3m import list_cc3m
from richsem_prep.sources.entry import read_entry
from richsem_schemas.errors import SourceError
from tests.pipeline.sources.img2dataset_tree import sample, write_shard, write_tar
from tests.pipeline.sources.listings import split


def listing(root, *, with_captions=True):
    return split(list_cc3m(root, with_captions=with_captions))


# The TSV and the folder of the download script


def link(number):
    return f"http://example.com/{number}.jpg?größe=1&x=%20"


def crc(number):
    return zlib.crc32(link(number).encode())


def write_tsv(root, lines, name="Train_GCC-training.tsv"):
    (root / "training").mkdir(parents=True, exist_ok=True)
    data = b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines)
    (root / name).write_bytes(data + b"\n")


def download(root, *names):
    for name in names:
        (root / "training" / str(name)).write_bytes(f"picture {name}".encode())


def test_lines_find_their_pictures_by_the_checksum_of_the_link(tmp_path):
    write_tsv(tmp_path, [f"a caption of {n} , written by <PERSON>\t{link(n)}" for n in range(5)])
    download(tmp_path, crc(0), crc(3), crc(1))
    entries, rejected = listing(tmp_path)
    assert [entry.name for entry in entries] == [f"training/{crc(n)}" for n in (0, 1, 3)]
    assert [entry.caption for entry in entries] == [f"a caption of {n} , written by <PERSON>" for n in (0, 1, 3)]
    assert {entry.category_id for entry in entries} == {0}
    assert [read_entry(tmp_path, entry) for entry in entries] == [f"picture {crc(n)}".encode() for n in (0, 1, 3)]
    assert [entry.size for entry in entries] == [len(f"picture {crc(n)}") for n in (0, 1, 3)]
    assert [name for name, _ in rejected] == ["Train_GCC-training.tsv:3", "Train_GCC-training.tsv:5"]
    assert all("not downloaded" in reason for _, reason in rejected)


def test_names_with_the_line_number_and_with_an_extension_are_known(tmp_path):
    write_tsv(tmp_path, [f"caption {n}\t{link(n)}" for n in range(3)], name="cc3m.tsv")
    download(tmp_path, f"0_{crc(0)}", f"1_{crc(1)}.jpg", f"{crc(2)}.png")
    entries, rejected = listing(tmp_path)
    assert [entry.name.removeprefix("training/") for entry in entries] == [
        f"0_{crc(0)}",
        f"1_{crc(1)}.jpg",
        f"{crc(2)}.png",
    ]
    assert rejected == []


def test_without_captions_broken_captions_do_not_matter(tmp_path):
    write_tsv(tmp_path, [f"caption\t{link(0)}", b"\xff\xfe\t" + link(1).encode(), f"\t{link(2)}"])
    download(tmp_path, *(crc(n) for n in range(3)))
    entries, rejected = listing(tmp_path, with_captions=False)
    assert [entry.caption for entry in entries] == [None] * 3
    assert rejected == []


def test_repeated_links_share_what_was_downloaded(tmp_path):
    write_tsv(tmp_path, [f"first\t{link(0)}", f"second\t{link(0)}", f"third\t{link(1)}", f"fourth\t{link(1)}"])
    download(tmp_path, crc(0), f"3_{crc(1)}", f"2_{crc(1)}")
    entries, rejected = listing(tmp_path)
    assert [(entry.name, entry.caption) for entry in entries] == [
        (f"training/{crc(0)}", "first"),
        (f"training/2_{crc(1)}", "third"),
        (f"training/3_{crc(1)}", "fourth"),
    ]
    assert [name for name, _ in rejected] == ["Train_GCC-training.tsv:2"]


def test_a_header_and_windows_line_ends_are_understood(tmp_path):
    write_tsv(tmp_path, ["caption\turl\r", f"a caption\t{link(0)}\r"])
    download(tmp_path, crc(0))
    entries, rejected = listing(tmp_path)
    assert [entry.caption for entry in entries] == ["a caption"]
    assert rejected == []


def test_broken_lines_are_left_out_one_by_one(tmp_path):
    good = f"a caption\t{link(0)}"
    lines = ["no tab", f"two\ttabs\t{link(1)}", "no link\t", "", b"\xff\t" + link(2).encode(), f" \t{link(3)}", good]
    lines.insert(3, "x" * 10_000_000 + f"\t{link(4)}")
    lines.insert(4, "y" * (MAX_CAPTION_BYTES + 1) + f"\t{link(5)}")
    write_tsv(tmp_path, lines)
    download(tmp_path, *(crc(n) for n in (0, 2, 3, 5)))
    entries, rejected = listing(tmp_path)
    assert [entry.caption for entry in entries] == ["a caption"]
    file = "Train_GCC-training.tsv"
    reasons = dict(rejected)
    assert {reasons[f"{file}:{n}"] for n in (1, 2, 3)} == {"not a caption, a tab and a link"}
    assert "a line of more than" in reasons[f"{file}:4"]
    assert "at most 16,384" in reasons[f"training/{crc(5)}"]
    assert "no UTF-8" in reasons[f"training/{crc(2)}"]
    assert "empty" in reasons[f"training/{crc(3)}"]
    assert len(rejected) == 7


def test_a_file_without_a_line_end_is_read_to_its_end(tmp_path):
    write_tsv(tmp_path, [])
    (tmp_path / "Train_GCC-training.tsv").write_bytes(f"a\t{link(0)}\nb\t{link(1)}".encode())
    download(tmp_path, crc(0), crc(1))
    entries, _ = listing(tmp_path)
    assert [entry.caption for entry in entries] == ["a", "b"]


def test_what_is_no_download_or_no_line_names_is_rejected(tmp_path):
    write_tsv(tmp_path, [f"a\t{link(0)}"])
    download(tmp_path, crc(0), crc(1), f"7_{crc(2)}", "notes.txt", "99999999999", f"01_{crc(3)}", ".hidden")
    os.mkfifo(tmp_path / "training" / "123")
    (tmp_path / "training" / "124").symlink_to("nowhere")
    entries, rejected = listing(tmp_path)
    assert [entry.name for entry in entries] == [f"training/{crc(0)}"]
    reasons = dict(rejected)
    strangers = {f"training/{name}" for name in ("notes.txt", "99999999999", f"01_{crc(3)}")}
    assert {name for name, reason in rejected if "not called like" in reason} == strangers
    assert reasons["training/123"] == "not a regular file"
    assert reasons["training/124"] == "a broken link"
    assert {name for name, reason in rejected if "no line of" in reason} == {
        f"training/{crc(1)}",
        f"training/7_{crc(2)}",
    }


def test_the_order_is_that_of_the_lines_whatever_the_folder_says(tmp_path, monkeypatch):
    write_tsv(tmp_path, [f"{n}\t{link(n)}" for n in range(20)])
    download(tmp_path, *(f"{crc(n)}{end}" for n in range(0, 20, 2) for end in ("", ".jpg", ".png")))
    forwards = listing(tmp_path)
    scandir = os.scandir

    class Backwards:
        def __init__(self, path):
            with scandir(path) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(os, "scandir", Backwards)
    assert listing(tmp_path) == forwards
    assert [entry.name for entry in forwards[0]] == [f"training/{crc(n)}" for n in range(0, 20, 2)]


def test_pictures_that_no_line_names_are_an_error_at_the_end(tmp_path):
    write_tsv(tmp_path, [f"a\t{link(0)}"])
    download(tmp_path, "cat.jpg")
    with pytest.raises(SourceError, match=r"no picture that a line of Train_GCC-training\.tsv names.*CRC-32"):
        listing(tmp_path)


# img2dataset's tars


def test_tars_of_img2dataset_give_pictures_with_captions_and_count_dead_links(tmp_path):
    write_shard(tmp_path, 0, [(f"{n:09d}", f"größe {n}", b"picture %d" % n) for n in range(3)], [("000000003", "404")])
    write_shard(tmp_path, 1, [("000010000", "another", b"picture")])
    entries, rejected = listing(tmp_path)
    expected = [*(f"00000.tar/{n:09d}.jpg" for n in range(3)), "00001.tar/000010000.jpg"]
    assert [entry.name for entry in entries] == expected
    assert [entry.caption for entry in entries] == ["größe 0", "größe 1", "größe 2", "another"]
    assert read_entry(tmp_path, entries[1]) == b"picture 1"
    assert {entry.category_id for entry in entries} == {0}
    assert rejected == [("00000.tar/000000003", "not downloaded: 404")]


def test_tars_in_a_folder_beside_the_tsv_are_found(tmp_path):
    (tmp_path / "cc3m.tsv").write_text(f"caption\turl\na\t{link(0)}\n")
    (tmp_path / "cc3m").mkdir()
    write_shard(tmp_path / "cc3m", 0, [("000000000", "a caption", b"a")])
    entries, _ = listing(tmp_path)
    assert [(entry.name, entry.caption) for entry in entries] == [("cc3m/00000.tar/000000000.jpg", "a caption")]


def test_without_captions_the_pictures_are_taken_alone(tmp_path):
    write_shard(tmp_path, 0, [("0", "a caption", b"a")])
    write_tar(tmp_path / "00001.tar", {"1.jpg": b"b"})
    entries, rejected = listing(tmp_path, with_captions=False)
    assert [(entry.name, entry.caption) for entry in entries] == [("00000.tar/0.jpg", None), ("00001.tar/1.jpg", None)]
    assert rejected == []


def test_a_caption_comes_from_the_text_or_else_from_the_facts(tmp_path):
    members = sample("0", "from the text", b"a") | sample("1", "from the facts", b"b")
    del members["1.txt"]
    members["0.json"] = b"junk"
    write_tar(tmp_path / "00000.tar", members)
    entries, rejected = listing(tmp_path)
    assert [entry.caption for entry in entries] == ["from the text", "from the facts"]
    assert rejected == []


def test_what_is_no_caption_is_rejected_with_its_reason(tmp_path):
    facts = {
        "a": b"{",
        "b": b"[" * 100_000,
        "c": b'"text"',
        "d": b"{}",
        "e": b'{"caption": 7}',
        "f": b'{"caption": "\\ud800"}',
        "g": b'{"caption": "  "}',
        "h": json.dumps({"caption": "x" * 2_000_000}).encode(),
        "i": json.dumps({"caption": "x" * 20_000}).encode(),
        "j": b"\xff\xfe",
    }
    members = {}
    for key, content in facts.items():
        members |= {f"{key}.jpg": b"a", f"{key}.json": content}
    members |= {"k.jpg": b"a", "l.jpg": b"a", "l.txt": b"y" * 5_000_000, "z.jpg": b"a", "z.txt": b"good"}
    write_tar(tmp_path / "00000.tar", members)
    entries, rejected = listing(tmp_path)
    assert [entry.caption for entry in entries] == ["good"]
    assert [name for name, _ in rejected] == [f"00000.tar/{key}.jpg" for key in "abcdefghijkl"]
    reasons = [reason for _, reason in rejected]
    assert all("no JSON" in reasons[n] for n in (0, 1, 9))
    assert all("KEY.json has none" in reasons[n] for n in (2, 3, 4))
    assert "no UTF-8" in reasons[5]
    assert "empty" in reasons[6]
    assert "KEY.json has" in reasons[7]
    assert all("at most 16,384" in reasons[n] for n in (8, 11))
    assert "neither KEY.txt nor KEY.json" in reasons[10]


def test_a_half_downloaded_tar_gives_the_samples_that_are_whole(tmp_path):
    write_shard(tmp_path, 0, [(f"{n:09d}", f"caption {n}", bytes(700)) for n in range(4)])
    whole = (tmp_path / "00000.tar").read_bytes()
    (tmp_path / "00000.tar").write_bytes(whole[: 512 * 17])
    entries, rejected = listing(tmp_path)
    assert [entry.caption for entry in entries] == ["caption 0", "caption 1"]
    assert any("cut short" in reason or "end marker" in reason for _, reason in rejected)


@pytest.mark.parametrize("content", [b"", b"PAR1 junk PAR1", b"<html>"])
def test_a_parquet_that_is_none_costs_no_picture(tmp_path, content):
    write_shard(tmp_path, 0, [("0", "a caption", b"a")])
    (tmp_path / "00000.parquet").write_bytes(content)
    entries, rejected = listing(tmp_path)
    assert len(entries) == 1
    assert rejected == [("00000.parquet", "not legible as img2dataset's; the links it calls dead are not counted")]


def test_a_root_that_is_no_cc3m_is_an_error_that_says_what_to_do(tmp_path):
    (tmp_path / "Train_GCC-training.tsv").write_text("a\tb\n")
    with pytest.raises(SourceError, match=r"found Train_GCC-training\.tsv; expected img2dataset's tars.*training/"):
        listing(tmp_path)
    write_tar(tmp_path / "00000.tar", {"a.jpg": b"a"})
    with pytest.raises(SourceError, match="cc3m-unlabeled takes them without"):
        listing(tmp_path)
