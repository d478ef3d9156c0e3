"""Damaged archives: what is lost is counted, what follows is read, nothing crashes or hangs."""

import functools
import gzip
import json
import random
import time
import zlib

import brotli
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dsmath_jax.mining.archives import read_pages
from dsmath_jax.mining.pages import Counts, Limits, Page
from tests.mining.peak_memory import watch_memory
from tests.mining.warc_files import HTML, members, page, record, response


def read(tmp_path, data, name="a.warc.gz", limits=None):
    """Numbers of the pages that are found, and {offset: reason} of the rest."""
    path = tmp_path / name
    path.write_bytes(data)
    counts = Counts()
    found = list(read_pages(str(path), limits or Limits(), counts))
    assert counts.records == len(found) + counts.skipped.total()
    assert counts.pages + counts.rejected.total() == len(found)
    pages = [int(p.url.rsplit("/", 1)[1]) for p in found if isinstance(p, Page)]
    return pages, {r.offset: r.reason for r in found if not isinstance(r, Page)}


def flip(data, at):
    return data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]


# ---- Gzip --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [100, 3_000_000])  # in one piece, and in several
def test_a_damaged_member_is_lost_alone(tmp_path, size):
    rng = random.Random(0)
    noise = bytes(rng.choices(b"abcdefgh", k=size))  # does not compress to nothing
    packed = [gzip.compress(response(noise, url=f"x/{i}"), 1, mtime=0) for i in range(4)]
    at = len(packed[0])
    for place in (12, len(packed[1]) // 2, len(packed[1]) - 6):  # start, middle, checksum
        data = packed[0] + flip(packed[1], place) + packed[2] + packed[3]
        assert read(tmp_path, data) == ([0, 2, 3], {at: "damaged gzip"})
    data = packed[0] + packed[1][: len(packed[1]) // 2] + packed[2] + packed[3]
    assert read(tmp_path, data) == ([0, 2, 3], {at: "damaged gzip"})
    data = packed[0] + b"\0\0garbage" + packed[1]
    assert read(tmp_path, data) == ([0, 1], {at + 2: "damaged gzip"})


def test_a_file_cut_short(tmp_path):
    packed = [gzip.compress(page(i, 5000), mtime=0) for i in range(3)]
    data = b"".join(packed)
    last = len(packed[0]) + len(packed[1])
    for end in range(last + 1, len(data), 7):
        assert read(tmp_path, data[:end]) == ([0, 1], {last: "cut short"})
    assert read(tmp_path, data[:last]) == ([0, 1], {})


def test_one_member_for_all_records_cut_short_or_damaged(tmp_path):
    rng = random.Random(0)
    whole = gzip.compress(
        b"".join(response(rng.randbytes(30_000), url=f"x/{i}") for i in range(100)), mtime=0
    )
    pages, rejected = read(tmp_path, whole[: len(whole) // 2])
    assert pages == list(range(len(pages)))
    assert 48 <= len(pages) <= 50
    assert rejected == {0: "cut short"}
    pages, rejected = read(tmp_path, flip(whole, 2_000_000) + gzip.compress(page(7)))
    # In noise the damage shows in the checksum at the end alone, and the last piece is lost.
    assert pages == [*range(len(pages) - 1), 7]
    assert len(pages) > 60
    assert rejected == {0: "damaged gzip"}


def test_zeros_between_members_are_no_damage(tmp_path):
    data = members([page(0)]) + bytes(300_000) + members([page(1)]) + bytes(9)
    assert read(tmp_path, data) == ([0, 1], {})


# ---- Lengths and headers -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz"])
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda r: r.replace(b"Length: ", b"Length: 9"), None),
        (lambda r: r.replace(b"Length: 2", b"Length: 1"), "wrong length"),
        (lambda r: r.replace(b"Length: ", b"Length: -"), "no length"),
        (lambda r: r.replace(b"Content-Length", b"Content-Longth"), "no length"),
        (lambda r: r.replace(b"WARC/1.0", b"WORC/1.0"), "not a WARC record"),
        (lambda r: r[: len(r) // 2], None),
        (lambda r: b"junk" * 9000, "not a WARC record"),
        (lambda r: r.replace(b"WARC-Date", b"X: " + b"y" * 70_000 + b"\r\nD"), "long header"),
        (lambda r: r.replace(b"Length: ", b"Length: 999999999999"), "too large"),
        (lambda r: r.replace(b"HTTP/1.1", b"HUTP/9.9"), "bad HTTP header"),
        (lambda r: r.replace(b"WARC-Target-URI", b"WARC-Target-UR"), "no URL"),
    ],
)
def test_damage_of_one_record_loses_it_alone(tmp_path, name, damage, reason):
    records = [page(i, 2000) for i in range(5)]
    assert b"Length: 20" in records[2] or b"Length: 21" in records[2]
    records[2] = damage(records[2])
    packed = name.endswith(".gz")
    data = members(records) if packed else b"".join(records)
    pages, rejected = read(tmp_path, data, name)
    assert pages == [0, 1, 3, 4]
    start = len(members(records[:2]) if packed else b"".join(records[:2]))
    expected = reason or ("cut short" if packed else "wrong length")
    if rejected != {start: "cut short"} or reason:  # a length may end at the end of the file
        assert rejected == {start: expected}


def test_a_body_cut_short_or_damaged(tmp_path):
    body = gzip.compress(bytes(random.Random(0).choices(b"<html>", k=5000)))
    chunked = b"5\r\n<html\r\n5\r\n>more\r\nzzz\r\n"
    data = members(
        [
            response(flip(body, 50), headers=HTML + "Content-Encoding: gzip\r\n", url="x/0"),
            response(chunked, headers=HTML + "Transfer-Encoding: chunked\r\n", url="x/1"),
            response(chunked[:-5], headers=HTML + "Transfer-Encoding: chunked\r\n", url="x/2"),
        ]
    )
    pages, rejected = read(tmp_path, data)
    assert pages == [2]  # crawlers cut large bodies off: what is there counts
    assert list(rejected.values()) == ["damaged body"] * 2


# ---- Size --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz"])
def test_a_page_of_200_mb_is_not_held_in_memory(tmp_path, name):
    path = tmp_path / name
    start = response(b"", url="x/1").removesuffix(b"\r\n\r\n")
    block = start[start.index(b"HTTP/") :]
    start = response(b"", length=len(block) + 200_000_000, url="x/1").removesuffix(b"\r\n\r\n")
    opened = functools.partial(gzip.open, compresslevel=1) if name.endswith(".gz") else open
    with opened(path, "wb") as out:
        out.write(page(0) + start)
        for _ in range(200):
            out.write(b"<p>a million</p>" * 62_500)
        out.write(b"\r\n\r\n" + page(2))
    grown, start = watch_memory(), time.monotonic()
    found = list(read_pages(str(path)))
    assert [getattr(f, "reason", f.url[-1]) for f in found] == ["0", "too large", "2"]
    assert grown() < 60
    assert time.monotonic() - start < 10


def test_bombs_stop_at_the_limit(tmp_path):
    zeros = bytes(1 << 20)
    squeeze = zlib.compressobj(1, zlib.DEFLATED, 31)
    bomb = b"".join(squeeze.compress(zeros) for _ in range(300)) + squeeze.flush()
    gzip_bomb = response(bomb, headers=HTML + "Content-Encoding: gzip\r\n", url="x/0")
    press = brotli.Compressor(quality=1)
    brotli_bomb = response(
        b"".join(press.process(zeros) for _ in range(300)) + press.finish(),
        headers=HTML + "Content-Encoding: br\r\n",
        url="x/1",
    )
    block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n"
    squeeze = zlib.compressobj(1, zlib.DEFLATED, 31)
    member = squeeze.compress(record(block, length=1 << 40, url="x/2").removesuffix(b"\r\n\r\n"))
    member += b"".join(squeeze.compress(zeros) for _ in range(300)) + squeeze.flush()
    data = members([gzip_bomb, brotli_bomb]) + member + members([page(3)])
    grown, start = watch_memory(), time.monotonic()
    limits = Limits(max_skipped_bytes=100 << 20)
    pages, rejected = read(tmp_path, data, limits=limits)
    assert pages == [3]
    assert list(rejected.values()) == ["too large"] * 3
    assert grown() < 60
    assert time.monotonic() - start < 5


def test_the_limit_to_the_byte(tmp_path):
    bodies = [b"<html>" + b"x" * n for n in (93, 94, 95)]
    for coding, encode in (("", bytes), ("Content-Encoding: gzip\r\n", gzip.compress)):
        records = [
            response(encode(body), headers=HTML + coding, url=f"x/{i}")
            for i, body in enumerate(bodies)
        ]
        pages, rejected = read(tmp_path, members(records), limits=Limits(max_page_bytes=100))
        assert pages == [0, 1]
        assert list(rejected.values()) == ["too large"]


def test_large_files_of_other_kinds_are_not_counted_as_damage(tmp_path):
    video = response(bytes(9 << 20), headers="Content-Type: video/mp4\r\n")
    assert read(tmp_path, members([video, page(1)])) == ([1], {})


# ---- Rows --------------------------------------------------------------------------------------


def test_damaged_and_large_rows(tmp_path):
    limits = Limits(max_page_bytes=1000)
    rows = [json.dumps({"url": f"x/{i}", "text": "t" * 500}) + "\n" for i in range(1000)]
    rows[3] = json.dumps({"url": "x/3", "text": "t" * 2000}) + "\n"
    rows[4] = json.dumps({"url": "x/4", "text": "t" * 5_000_000}) + "\n"
    data = "".join(rows).encode()
    pages, rejected = read(tmp_path, data, "a.jsonl", limits)
    assert pages == [i for i in range(1000) if i not in (3, 4)]
    assert rejected == {3: "too large", 4: "too large"}
    pages, rejected = read(tmp_path, gzip.compress(data)[:-2000], "a.jsonl.gz", limits)
    assert pages == [i for i in range(5, pages[-1] + 1)] or pages[:3] == [0, 1, 2]
    assert list(rejected.values()) == ["too large", "too large", "cut short"]


def test_damaged_parquet(tmp_path):
    path = tmp_path / "good.parquet"
    table = pa.table({"url": [f"x/{i}" for i in range(900)], "text": ["words " * 50] * 900})
    pq.write_table(table, path, row_group_size=300, use_dictionary=False)
    data = path.read_bytes()
    assert read(tmp_path, data[:-9], "a.parquet") == ([], {0: "damaged parquet"})
    group = pq.ParquetFile(path).metadata.row_group(1).column(1)
    middle = group.data_page_offset
    broken = data[:middle] + b"\xff" * 40 + data[middle + 40 :]
    pages, rejected = read(tmp_path, broken, "a.parquet")
    assert pages == [*range(300), *range(600, 900)]
    assert rejected == {300: "damaged parquet"}


# ---- Ten thousand mutations --------------------------------------------------------------------


def mutate(rng, data):
    data = bytearray(data)
    at = rng.randrange(len(data))
    kind = rng.randrange(6)
    if kind == 0:
        for _ in range(rng.randint(1, 20)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del data[at:]
    elif kind == 2:
        del data[at : at + rng.randint(1, 3000)]
    elif kind == 3:
        data[at:at] = rng.randbytes(rng.randint(1, 300))
    elif kind == 4:
        for _ in range(rng.randint(1, 10)):
            data[rng.randrange(min(len(data), 600))] = rng.randrange(256)
    else:
        found = data.find(b"Content-Length: ") + 16
        data[found : found + 1] = rng.choice([b"9", b"-", b"", b"99999999999", b"9" * 15, b"x"])
    return bytes(data)


@functools.cache
def originals():
    coded = HTML + "Content-Encoding: gzip\r\n"
    chunked = HTML + "Transfer-Encoding: chunked\r\n"
    text = "Content-Type: text/plain; charset=gbk\r\n"
    records = [page(i, size=300 * i) for i in range(12)]
    records += [
        response(gzip.compress(b"<html>" * 300), headers=coded),
        response(brotli.compress(b"<html>" * 300), headers=coded.replace("gzip", "br")),
        response(b"".join(b"64\r\n" + b"<p>xy" * 20 + b"\r\n" for _ in range(9)), headers=chunked),
        response("求证".encode("gbk") * 99, headers=text),
        record("WET text, 文字".encode() * 20, kind="conversion"),
    ]
    return records


@pytest.mark.parametrize("batch", range(5))
def test_2_000_mutated_records(tmp_path, batch):
    rng = random.Random(batch)
    slowest = 0.0
    for number in range(500):  # files of four mutated records between five good ones
        kinds = rng.choices(originals(), k=9)
        inside = batch % 2 == 0  # gzip members are damaged, or the records in them
        packed = number % 3 > 0
        parts = []
        for i, one in enumerate(kinds):
            if i % 2 == 0:
                parts.append(members([page(i)]) if packed else page(i))
            elif not packed:
                parts.append(mutate(rng, one))
            else:
                damaged = inside and mutate(rng, members([one]))
                parts.append(damaged or members([mutate(rng, one)]))
        path = tmp_path / "a.warc"
        path.write_bytes(b"".join(parts))
        counts = Counts()
        start = time.monotonic()
        found = list(read_pages(str(path), counts=counts))
        slowest = max(slowest, time.monotonic() - start)
        assert counts.records == len(found) + counts.skipped.total()
        assert counts.pages + counts.rejected.total() == len(found)
        good = [f.url for f in found if isinstance(f, Page) and f.body.startswith(b"<html><p>Page")]
        if packed and inside:
            for i in (0, 2, 4, 6, 8):  # damage does not spread to whole members
                assert f"http://a.example/{i}" in good
        # Damage may take the good record before it along, and garbage is one record or many.
        assert 3 <= counts.records <= 40
    assert slowest < 2
