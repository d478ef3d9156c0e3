"""Reading archives: real files as by a second reader, encodings, pages by their place."""

import gzip
import hashlib
import json
import zlib

import brotli
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dsmath_jax.data.errors import InputError
from dsmath_jax.mining.archives import (
    Metadata,
    read_metadata,
    read_page_at,
    read_pages,
    read_pages_at,
)
from dsmath_jax.mining.pages import Counts, Limits, Page, Rejected
from tests.mining.peak_memory import watch_memory
from tests.mining.warc_files import HTML, members, page, record, response

# Records, HTML pages, and a digest over the sorted SHA-1 digests of their decoded bodies, all three
# as warcio 1.7 gives them (of the clipped file it gives what there is, this project nothing).
REAL = {
    "archives/aut__example.warc.gz": (822, 94, "744fcc46808d"),
    "archives/chatnoir-resiliparse__clueweb-quirk.warc.gz": (30, 29, "0bd1c0731e0d"),
    "archives/chatnoir-resiliparse__warcfile.warc.gz": (50, 16, "e81a11f7e32b"),
    "archives/dolma__sample-0000.warc.gz": (48, 22, "9ab9ccc4370e"),
    "archives/dolma__sample-0001.warc.gz": (34, 15, "996143e7dfd2"),
    "archives/whirlwind-python__whirlwind.warc.gz": (4, 1, "e85a5930f0ae"),
    "archives/whirlwind-python__whirlwind.warc.wat.gz": (2, 0, "da39a3ee5e6b"),
    "archives/whirlwind-python__whirlwind.warc.wet.gz": (2, 0, "da39a3ee5e6b"),
    "part-00000.warc.gz": (190, 190, "8a66e7c401b3"),
    "part-00001.warc.gz": (190, 190, "1ae73f3bdcbe"),
    "part-00002.warc.gz": (189, 189, "01e2b268e29d"),
    "part-00003.warc.gz": (189, 189, "b94f227c47a2"),
}


def read(path, limits=None, counts=None):
    return list(read_pages(str(path), limits or Limits(), counts))


def write(tmp_path, data, name="a.warc.gz"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


def one(tmp_path, data):
    [found] = read(write(tmp_path, data, "a.warc"))
    return found


# ---- Real files --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REAL)
def test_real_files_are_read_as_by_a_second_reader(data_dir, name):
    records, html, digest = REAL[name]
    counts = Counts()
    pages = read(data_dir / "web" / name, counts=counts)
    assert not counts.rejected
    assert counts.records == records == counts.pages + counts.skipped.total()
    bodies = sorted(hashlib.sha1(p.body).hexdigest() for p in pages if p.kind == "html")
    assert len(bodies) == html
    assert hashlib.sha1("".join(bodies).encode()).hexdigest()[:12] == digest


def test_urls_of_real_pages_are_those_of_their_labels(data_dir):
    labels = [json.loads(line)["url"] for line in (data_dir / "web/labels.jsonl").open()]
    found = [p.url for f in sorted((data_dir / "web").glob("*.gz")) for p in read(f)]
    assert sorted(found) == sorted(labels)


def test_a_clipped_record_is_rejected(data_dir):
    path = data_dir / "web/archives/chatnoir-resiliparse__clipped.warc.gz"
    [found] = read(path)
    assert (found.reason, found.offset) == ("cut short", 0)
    assert found.url.startswith("http://www.houstonpress.com/music/")


def test_a_common_crawl_record_as_warc_and_wet(data_dir):
    [warc] = read(data_dir / "web/archives/whirlwind-python__whirlwind.warc.gz")
    [wet] = read(data_dir / "web/archives/whirlwind-python__whirlwind.warc.wet.gz")
    assert warc.url == wet.url == "https://an.wikipedia.org/wiki/Escopete"
    assert warc.date == wet.date == "2024-05-18T01:58:10Z"
    assert (warc.kind, warc.charset, wet.kind) == ("html", "utf-8", "text")
    assert wet.body.decode().startswith("Escopete - Biquipedia, a enciclopedia libre\n")
    # 72,848 bytes by its HTTP headers, and the offsets of the file's gzip members
    assert (len(warc.body), warc.offset, warc.length) == (72_848, 1023, 18_374 - 1023)


def test_every_real_page_is_read_again_by_its_place(data_dir):
    for name in REAL:
        path = str(data_dir / "web" / name)
        pages = read(path)
        assert all(p.length > 0 for p in pages)
        assert list(read_pages_at(path, [(p.offset, p.length) for p in reversed(pages)])) == pages


# ---- Kinds of records --------------------------------------------------------------------------


def test_what_is_no_page_is_counted_and_left_out(tmp_path):
    data = members(
        [
            record(b"software: x\r\n", kind="warcinfo"),
            record(b"GET / HTTP/1.1\r\n\r\n", kind="request"),
            response(b"<html>gone</html>", status="404 Not Found"),
            response(b"GIF89a", headers="Content-Type: image/gif\r\n"),
            response(b"  \n"),
            page(1),
            response(b"<p>sniffed?", headers=""),
            response(b"<!DOCTYPE html><p>sniffed", headers="", url="http://a.example/2"),
            response(b"plain", headers="Content-Type: text/plain\r\n", url="http://a.example/3"),
            response(b"\x00\x01\x02", headers="Content-Type: text/plain\r\n"),
            response(b"<html/>", headers="Content-Type: application/xhtml+xml\r\n", url="<x:4>"),
        ]
    )
    counts = Counts()
    pages = read(write(tmp_path, data), counts=counts)
    assert [(p.url, p.kind) for p in pages] == [
        ("http://a.example/1", "html"),
        ("http://a.example/2", "html"),
        ("http://a.example/3", "text"),
        ("x:4", "html"),
    ]
    assert counts.records == 11
    assert counts.skipped == {"not a response": 2, "status": 1, "not text": 3, "empty": 1}


CHUNKED = b"4\r\n<htm\r\n9;x=1\r\nl>chunked\r\n0\r\n\r\n"
RAW = b"<html>chunked"
# made by the zstd library: one frame with a checksum
ZSTD = bytes.fromhex("28b52ffd04586800003c68746d6c3e6368756e6b6564010000d45e2e2d")


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ("Content-Encoding: gzip\r\n", gzip.compress(RAW, mtime=0)),
        ("Content-Encoding: deflate\r\n", zlib.compress(RAW)),
        ("Content-Encoding: br\r\n", brotli.compress(RAW)),
        ("Content-Encoding: identity\r\n", RAW),
        ("Content-Encoding: zstd\r\n", ZSTD),
        ("Content-Encoding: br, gzip\r\n", gzip.compress(brotli.compress(RAW), mtime=0)),
        ("Transfer-Encoding: chunked\r\n", CHUNKED),
        (
            "Transfer-Encoding: chunked\r\nContent-Encoding: br\r\n",
            b"%x\r\n%s\r\n0\r\n\r\n" % (len(brotli.compress(RAW)), brotli.compress(RAW)),
        ),
        # the header stays where the crawler has decoded the body
        ("Content-Encoding: gzip\r\n", RAW),
        ("Content-Encoding: br\r\n", RAW),
        ("Transfer-Encoding: chunked\r\n", RAW),
        ("Transfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n", CHUNKED),
        ("Content-Encoding: none-such\r\n", RAW),
    ],
)
def test_bodies_are_decoded(tmp_path, headers, body):
    assert one(tmp_path, response(body, headers=HTML + headers)).body == RAW


def test_http_lines_that_end_with_a_newline_alone(tmp_path):
    block = b"HTTP/1.1 200 OK\nContent-Type: text/html; charset=EUC-JP\n\n<html>\r\n\r\nx"
    found = one(tmp_path, record(block))
    assert (found.body, found.charset) == (b"<html>\r\n\r\nx", "euc-jp")


@pytest.mark.parametrize(
    ("charset", "encoding"),
    [("gbk", "gbk"), ("", "utf-8"), ("", "gb18030"), ("no-such", "utf-8"), ("utf-16", "utf-16")],
)
def test_plain_text_becomes_utf8(tmp_path, charset, encoding):
    headers = f'Content-Type: text/plain; charset="{charset}"\r\n'
    found = one(tmp_path, response("已知三角形的面积。".encode(encoding), headers=headers))
    assert found.body.decode() == "已知三角形的面积。"
    assert (found.kind, found.charset) == ("text", "utf-8")


def test_uncompressed_files_give_the_same_pages(tmp_path):
    records = [page(i, size=100 * i) for i in range(50)]
    plain = read(write(tmp_path, b"".join(records), "a.warc"))
    packed = read(write(tmp_path, members(records)))
    assert [(p.url, p.body) for p in plain] == [(p.url, p.body) for p in packed]
    starts = [sum(map(len, records[:i])) for i in range(50)]
    assert [(p.offset, p.length) for p in plain] == [
        (start, len(r) - 4) for start, r in zip(starts, records, strict=True)
    ]
    again = list(read_pages_at(str(tmp_path / "a.warc"), [(p.offset, p.length) for p in plain]))
    assert again == plain


def test_records_that_share_one_gzip_member_are_found_by_number(tmp_path):
    records = [record(b"x", kind="metadata"), *(page(i, size=9000) for i in range(400))]
    path = write(tmp_path, gzip.compress(b"".join(records)))
    pages = read(path)
    assert [p.url[-3:].strip("/e") for p in pages] == [str(i) for i in range(400)]
    assert [(p.offset, p.length) for p in pages] == [(i + 1, -1) for i in range(400)]
    assert list(read_pages_at(str(path), [(301, -1), (7, -1)])) == [pages[6], pages[300]]
    assert read_page_at(str(path), 0, -1) == Rejected(str(path), 0, "", "not a page")


def test_a_record_in_several_gzip_members(tmp_path):
    whole = page(1, size=5000)
    path = write(tmp_path, members([page(0), whole[:100], whole[100:3000], whole[3000:], page(2)]))
    pages = read(path)
    assert [p.url[-1] for p in pages] == ["0", "1", "2"]
    assert [p.length > 0 for p in pages] == [True, False, True]
    assert read_page_at(str(path), pages[1].offset, -1) == pages[1]


def test_a_place_without_a_page(tmp_path):
    path = write(tmp_path, members([page(0), record(b"x", kind="metadata")]))
    [found] = read(path)
    for offset, length in [(1, 20), (found.offset + found.length, 90), (10_000, 5)]:
        assert isinstance(read_page_at(str(path), offset, length), Rejected)


# ---- Rows --------------------------------------------------------------------------------------

ROWS = [
    {"url": "http://a.example/0", "text": "one", "date": "2024-01-01"},
    {"url": "http://a.example/1", "text": "二"},
    {"url": "http://a.example/2", "text": "half \ud800 a pair"},
]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_jsonl(tmp_path, name):
    lines = [json.dumps(row).encode() for row in ROWS]
    lines[1:1] = [b"{oops", b"", b"[1]", b'{"url": "x"}', b'{"url": 3, "text": "y"}', b"[" * 99_999]
    data = b"\n".join(lines)
    path = write(tmp_path, gzip.compress(data) if name.endswith("gz") else data, name)
    counts = Counts()
    found = read(path, counts=counts)
    pages = [p for p in found if isinstance(p, Page)]
    assert [(p.url, p.body.decode(), p.offset, p.length) for p in pages] == [
        ("http://a.example/0", "one", 0, -1),
        ("http://a.example/1", "二", 7, -1),
        ("http://a.example/2", "half ? a pair", 8, -1),
    ]
    assert pages[0].date == "2024-01-01"
    assert counts.rejected == {"bad row": 5}
    assert [p.offset for p in found if isinstance(p, Rejected)] == [1, 3, 4, 5, 6]
    assert list(read_pages_at(str(path), [(8, -1), (0, -1)])) == [pages[0], pages[2]]


def test_parquet(tmp_path):
    table = {
        "id": list(range(1000)),
        "text": [f"text {i}" if i != 5 else None for i in range(1000)],
        "url": [f"http://a.example/{i}" for i in range(1000)],
    }
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(table), path, row_group_size=300)
    found = read(path)
    assert [p.offset for p in found] == list(range(1000))
    assert found[5] == Rejected(str(path), 5, "http://a.example/5", "bad row")
    assert (found[999].url, found[999].body) == ("http://a.example/999", b"text 999")
    assert list(read_pages_at(str(path), [(999, -1), (301, -1)])) == [found[301], found[999]]


def test_parquet_without_the_fields(tmp_path):
    pq.write_table(pa.table({"content": ["x"], "url": ["y"]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r'columns content, url: "url" and "text" are needed'):
        read(tmp_path / "a.parquet")


# ---- Metadata ----------------------------------------------------------------------------------


def test_metadata_of_a_wat_file(tmp_path):
    def wat(kind, **page):
        envelope = {
            "WARC-Header-Metadata": {"WARC-Type": kind, "WARC-Target-URI": "http://a.example/"},
            "Payload-Metadata": {"HTTP-Response-Metadata": page},
        }
        return record(json.dumps({"Envelope": envelope}).encode(), kind="metadata")

    metas = [{"name": "language", "content": "zh"}, {"charset": "GBK"}, "odd"]
    full = wat(
        "response",
        **{
            "Response-Message": {"Status": "200"},
            "Headers": {"Content-type": "text/html", "Length": 3},
            "HTML-Metadata": {"Head": {"Title": " A\n title ", "Metas": metas}},
        },
    )
    bare = wat("response", Headers={"CONTENT-TYPE": "text/html;charset='UTF-8'"})
    odd = [record(b'{"Envelope": []}', kind="metadata"), record(b"{oops", kind="metadata")]
    path = write(tmp_path, members([wat("request"), full, bare, *odd]), "a.warc.wat.gz")
    counts = Counts()
    found = list(read_metadata(str(path), counts=counts))
    assert found[:2] == [
        Metadata("http://a.example/", "A title", "gbk", "zh", "text/html", "200", ""),
        Metadata("http://a.example/", "", "utf-8", "", "text/html", "", ""),
    ]
    assert counts.skipped == {"not a response": 2}
    assert counts.rejected == {"bad metadata": 1}


def test_metadata_of_a_real_wat_file(data_dir):
    counts = Counts()
    path = data_dir / "web/archives/whirlwind-python__whirlwind.warc.wat.gz"
    assert not list(read_metadata(str(path), counts=counts))  # it holds that of a request
    assert (counts.records, counts.skipped) == (2, {"not metadata": 1, "not a response": 1})


# ---- Files -------------------------------------------------------------------------------------


def test_what_kind_a_file_is_does_not_depend_on_its_name(tmp_path):
    assert len(read(write(tmp_path, members([page(0)]), "download"))) == 1
    assert len(read(write(tmp_path, b'{"url": "a", "text": "b"}', "download"))) == 1
    with pytest.raises(InputError, match="is no WARC, WET, JSONL or Parquet file"):
        read(write(tmp_path, b"\x89PNG", "a.png"))
    with pytest.raises(InputError, match="cannot be opened"):
        read(tmp_path / "missing.warc.gz")
    [empty] = read(write(tmp_path, b""))
    assert empty.reason == "empty file"


@pytest.mark.slow
def test_memory_is_flat_over_100_000_pages(tmp_path):
    data = members([page(i, size=20_000) for i in range(1000)])
    path = tmp_path / "a.warc.gz"
    with path.open("wb") as file:
        for _ in range(100):
            file.write(data)
    pages = read_pages(str(path))
    for _ in range(5000):
        next(pages)
    grown = watch_memory()
    assert sum(1 for _ in pages) == 95_000
    assert grown() < 8
