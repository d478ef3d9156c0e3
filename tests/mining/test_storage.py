"""Remote files: retries, streams that break, one rate limit for all processes, lists of files."""

import gzip
import http.server
import multiprocessing
import random
import re
import threading
import time

import pytest

from dsmath_jax.data.errors import InputError
from dsmath_jax.mining import common_crawl, storage
from dsmath_jax.mining.archives import read_page_at, read_pages, read_pages_at
from dsmath_jax.mining.pages import Limits
from dsmath_jax.mining.rate_limit import RateLimit
from tests.mining.warc_files import members, page


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` with ranges; `fail(number)` names how the request of that number fails."""

    daemon_threads = True

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = files
        self.fail = lambda number: ""
        self.requests = []  # (time, path, first byte)
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        asked = re.match(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        start, end = (int(asked[1]), int(asked[2]) + 1) if asked else (0, None)
        with self.server.lock:
            number = len(self.server.requests)
            self.server.requests.append((time.time(), self.path, start))
        failure = self.server.fail(number)
        data = self.server.files.get(self.path)
        if failure.isdigit():
            self.send_response(int(failure))
            self.send_header("Retry-After", "0")
            self.end_headers()
            self.wfile.write(b"<Error><Code>SlowDown</Code></Error>")
        elif data is None:
            self.send_error(404)
        elif failure == "no ranges":
            self.reply(200, data, {})
        elif start >= len(data):
            self.send_error(416)
        else:
            part = data[start:end]
            sent = {"Content-Range": f"bytes {start}-{start + len(part) - 1}/{len(data)}"}
            self.reply(206, part, sent, cut=failure == "cut")

    def reply(self, status, data, headers, cut=False):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut else data)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = Server({})
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def no_waiting(monkeypatch):
    monkeypatch.setattr(storage, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(storage, "RANGE", 10_000)


# ---- Retries -----------------------------------------------------------------------------------


def test_a_file_is_whole_whatever_fails_on_the_way(server, no_waiting):
    data = random.Random(0).randbytes(300_000)
    server.files["/a"] = data
    rng = random.Random(1)
    kinds = ["", "", "", "", "503", "429", "500", "cut"]
    failures = [rng.choice(kinds) for _ in range(1000)]
    server.fail = failures.__getitem__
    with storage.open(f"{server.url}/a") as file:
        assert file.read() == data
    assert 40 < len(server.requests) < 90  # 30 ranges, half of the requests fail
    with storage.open(f"{server.url}/a") as file:
        file.seek(123_456)
        assert file.read(50_000) == data[123_456:173_456]
        file.seek(5)
        assert file.read(3) == data[5:8]
    assert storage.size(f"{server.url}/a") == 300_000
    assert storage.read_range(f"{server.url}/a", 299_990, 50) == data[-10:]
    assert storage.read_range(f"{server.url}/a", 300_000, 50) == b""


def test_pages_over_the_network_are_those_on_disk(server, no_waiting, tmp_path):
    records = [page(i, 3000) for i in range(200)]
    data = members(records)
    server.files["/a.warc.gz"] = data
    (tmp_path / "a.warc.gz").write_bytes(data)
    url = f"{server.url}/a.warc.gz"
    local = list(read_pages(str(tmp_path / "a.warc.gz")))
    server.fail = lambda number: "cut" if number % 3 else "503" if number % 2 else ""
    remote = list(read_pages(url))
    assert [(p.url, p.body, p.offset, p.length) for p in remote] == [
        (p.url, p.body, p.offset, p.length) for p in local
    ]
    assert {p.source for p in remote} == {url}
    server.fail = lambda number: ""
    server.requests.clear()
    assert read_page_at(url, remote[90].offset, remote[90].length) == remote[90]
    assert len(server.requests) == 1
    near = [remote[i] for i in (3, 4, 9)]
    assert list(read_pages_at(url, [(p.offset, p.length) for p in near])) == near
    assert len(server.requests) == 2  # one request for neighbours


def test_what_is_missing_or_forbidden_is_not_tried_again(server, no_waiting):
    with storage.open(f"{server.url}/missing") as file, pytest.raises(InputError, match="404"):
        file.read()
    server.fail = lambda number: "403"
    server.files["/a"] = b"x"
    with pytest.raises(InputError, match=r"/a cannot be read \(.*403"):
        storage.read_range(f"{server.url}/a", 0, 1)
    assert len(server.requests) == 2


def test_a_server_that_never_recovers(server, no_waiting):
    server.fail = lambda number: "503"
    with pytest.raises(storage.ReadFailed, match=r"503.*attempt 8"):
        storage.read_range(f"{server.url}/a", 0, 1)
    assert len(server.requests) == 8


def test_a_server_without_ranges_is_refused(server, no_waiting):
    server.files["/small"], server.files["/large"] = b"x" * 10, b"x" * 20_000
    server.fail = lambda number: "no ranges"
    with storage.open(f"{server.url}/small") as file:
        assert file.read() == b"x" * 10  # all of it is in the first range
    with storage.open(f"{server.url}/large") as file, pytest.raises(InputError, match="no ranges"):
        file.read(1)


def test_waits_grow_and_vary(monkeypatch):
    waits = []
    monkeypatch.setattr(storage.time, "sleep", waits.append)

    def fail():
        raise ConnectionResetError

    with pytest.raises(storage.ReadFailed):
        storage.with_retries(fail, "x")
    assert len(waits) == 7
    for i, wait in enumerate(waits):
        assert 0.5 * 2**i <= wait <= 1.5 * 2**i
    assert len({wait / 2**i for i, wait in enumerate(waits)}) == 7


def test_errors_of_our_own_are_not_retried():
    calls = []

    def fail():
        calls.append(1)
        raise TypeError("a mistake")

    with pytest.raises(storage.ReadFailed, match="a mistake, in attempt 1"):
        storage.with_retries(fail, "x")
    assert len(calls) == 1


# ---- Rate limit --------------------------------------------------------------------------------


def ask(path, count, size, queue):
    rate = RateLimit(path, requests=50, bytes=1_000_000, burst=0.1)
    for _ in range(count):
        rate.wait(size)
        queue.put(time.time())


def times(tmp_path, count, size):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    path = str(tmp_path / "rate")
    workers = [context.Process(target=ask, args=(path, count, size, queue)) for _ in range(4)]
    for worker in workers:
        worker.start()
    found = sorted(queue.get(timeout=60) for _ in range(4 * count))
    for worker in workers:
        worker.join()
    return found


def test_four_processes_share_one_limit_of_requests(tmp_path):
    found = times(tmp_path, 25, 1)
    # 100 requests at 50 a second, a burst of 5 or 6 at once: 1.9 s; a limit each would take 0.4 s.
    # The bounds leave room for a process that is stopped between its turn and the clock.
    assert found[-1] - found[0] > 1.5
    for i in range(len(found) - 60):
        assert found[i + 60] - found[i] > 0.7


def test_four_processes_share_one_limit_of_bytes(tmp_path):
    found = times(tmp_path, 5, 100_000)
    # 20 requests of 0.1 s each: 1.8 s; a limit each would take 0.4 s
    assert found[-1] - found[0] > 1.4


def test_one_process_that_is_told_to_slow_down_slows_all(server, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "FIRST_WAIT", 0.4)
    server.files["/a"] = b"x" * 100
    server.fail = lambda number: "503" if number == 0 else ""
    rate = RateLimit(str(tmp_path / "rate"), requests=1000)
    first = threading.Thread(
        target=storage.read_range, args=(f"{server.url}/a", 0, 1), kwargs={"rate": rate}
    )
    first.start()
    while not server.requests:
        time.sleep(0.001)
    time.sleep(0.1)
    storage.read_range(f"{server.url}/a", 0, 1, rate=rate)
    first.join()
    assert server.requests[1][0] - server.requests[0][0] > 0.2 - 0.02


def test_a_damaged_or_future_state_is_replaced(tmp_path):
    path = tmp_path / "rate"
    for text in ("{oops", "[]", '{"requests": 9e12, "bytes": 0, "paused": 0}'):
        path.write_text(text)
        assert RateLimit(str(path), requests=1000).wait(1) < 0.1


def test_reads_of_local_files_do_not_wait(tmp_path):
    (tmp_path / "a.warc").write_bytes(page(0))
    limits = Limits(rate=RateLimit(str(tmp_path / "none" / "rate")))
    assert len(list(read_pages(str(tmp_path / "a.warc"), limits))) == 1


def test_limits_that_make_no_sense():
    with pytest.raises(InputError, match="set requests above 0"):
        RateLimit("x", requests=0)


# ---- Lists of files ----------------------------------------------------------------------------


def test_files_globs_and_directories(tmp_path):
    names = ["b.warc.gz", "a.warc", "in/c.parquet", "in/d.jsonl.gz", "in/notes.md", "in/e.wet.gz"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")

    def found(*paths):
        given = [f"{tmp_path}/{p}" for p in paths]
        return [p.removeprefix(f"{tmp_path}/") for p in storage.list(given)]

    assert found("") == ["a.warc", "b.warc.gz", "in/c.parquet", "in/d.jsonl.gz", "in/e.wet.gz"]
    assert found("*.gz", "b.warc.gz") == ["b.warc.gz"]
    assert found("in/notes.md") == ["in/notes.md"]
    assert found("**/*.gz") == ["b.warc.gz", "in/d.jsonl.gz", "in/e.wet.gz"]
    with pytest.raises(InputError, match="names no file"):
        found("*.nothing")


def test_any_fsspec_protocol():
    import fsspec

    memory = fsspec.filesystem("memory")
    for i in range(3):
        memory.pipe(f"/crawl/{i}.warc.gz", members([page(i)]))
    assert storage.list("memory://crawl/*.gz") == [f"memory:///crawl/{i}.warc.gz" for i in range(3)]
    assert storage.list("memory://crawl") == storage.list("memory://crawl/*")
    [found] = read_pages("memory://crawl/2.warc.gz")
    assert found.url == "http://a.example/2"
    assert read_page_at("memory://crawl/2.warc.gz", found.offset, found.length) == found
    with pytest.raises(InputError, match="cannot be read"):
        list(read_pages("memory://crawl/9.warc.gz"))
    with pytest.raises(InputError, match="cannot be opened"):
        list(read_pages("nosuch://x/9.warc.gz"))


def test_parquet_over_the_network(server, no_waiting, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = {"url": [f"x/{i}" for i in range(1000)], "text": [f"text {i}" for i in range(1000)]}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet", row_group_size=100)
    server.files["/a.parquet"] = (tmp_path / "a.parquet").read_bytes()
    server.fail = lambda number: "503" if number % 2 else ""
    assert [p.body.decode() for p in read_pages(f"{server.url}/a.parquet")] == rows["text"]


def test_a_common_crawl_listing(server, tmp_path):
    text = "crawl-data/CC-MAIN-2024-22/a.warc.gz\n\ncrawl-data/CC-MAIN-2024-22/b.warc.gz\n"
    listing = tmp_path / "warc.paths.gz"
    listing.write_bytes(gzip.compress(text.encode()))
    base = "crawl-data/CC-MAIN-2024-22"
    urls = [f"https://data.commoncrawl.org/{base}/{x}.warc.gz" for x in "ab"]
    assert common_crawl.paths(str(listing)) == urls == storage.list(str(listing))
    assert common_crawl.paths(str(listing), prefix="s3://commoncrawl")[1] == (
        f"s3://commoncrawl/{base}/b.warc.gz"
    )
    server.files["/warc.paths.gz"] = listing.read_bytes()
    assert common_crawl.paths(f"{server.url}/warc.paths.gz") == urls
    plain = tmp_path / "files.txt"
    plain.write_text("/data/a.warc.gz\ns3://x/b.warc.gz\n")
    assert common_crawl.paths(str(plain)) == ["/data/a.warc.gz", "s3://x/b.warc.gz"]


def test_a_listing_that_is_damaged_or_empty(tmp_path):
    (tmp_path / "a.paths.gz").write_bytes(gzip.compress(b"x" * 999)[:-9])
    with pytest.raises(InputError, match="is damaged"):
        common_crawl.paths(str(tmp_path / "a.paths.gz"))
    (tmp_path / "a.paths").write_text("\n")
    with pytest.raises(InputError, match="names no file"):
        common_crawl.paths(str(tmp_path / "a.paths"))
