"""A web to test the miner on: WARC files with the truth about each page, the same for a seed.

It has mathematical hosts in the style of the seed; mathematical hosts in other styles and
languages, on which a third of the pages also holds text in the seed's style, so that a first
iteration finds some of each such host and its annotation the rest; hosts with mathematical and
other paths; and hosts on cooking, sports, programming and more, with numbers, tables and code.
There are mirrors, near-duplicates, pages crawled twice, and pages that hold benchmark problems.
"""

from __future__ import annotations

import datetime
import json
import pathlib
import random
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dsmath_jax.mining.generated_web_hosts import HOSTS, REPOSTS, Group, Host
from dsmath_jax.mining.generated_web_items import Item, make_items
from dsmath_jax.mining.generated_web_pages import (
    STYLES,
    Theme,
    Writer,
    change,
    is_math,
    is_mixed,
    page_html,
    plant,
)
from dsmath_jax.mining.generated_web_text import SEED_STYLES

NEAR_SHARE = 0.03  # near-duplicates among all pages
AGAIN_SHARE = 0.01  # pages crawled a second time
SEED_SHARE = 1 / 6  # pages of the seed for each page of the web
ITEMS = 100


@dataclass(frozen=True)
class Truth:
    """The files of a generated web.

    Attributes:
      archives: WARC files.
      truth: JSONL, a row for each page: file, url, label ("math" or "other"), language, host, group
        (host and path), style, mixed (has text in the seed's style besides its own), form and
        formulas (LaTeX), duplicate_of, mirror_of, again (the URL is in another file too), planted
        (ids of benchmark items).
      seed: JSONL of url and text: mathematical pages in English, half of them also in the web.
      benchmarks: JSONL of id, question, answer, planted.
      pages: how many the archives hold.
    """

    archives: tuple[str, ...]
    truth: str
    seed: str
    benchmarks: tuple[str, ...]
    pages: int


@dataclass(frozen=True, slots=True)
class _Place:
    """One page of the web to be written."""

    host: Host
    group: Group
    index: int
    kind: str = ""  # "near" or "again" for copies

    @property
    def key(self) -> str:
        return f"{self.host.mirror_of or self.host.name}{self.group.prefix}"

    def url(self, mirror: bool = True) -> str:
        name = self.host.name if mirror else self.host.mirror_of
        path = self.group.path.replace("{i}", str(100 + 3 * self.index))
        return f"{self.host.scheme}://{name}{path}"


def write_web(
    folder: str | pathlib.Path,
    *,
    seed: int = 0,
    pages: int = 3000,
    files: int = 4,
    benchmark_items: Sequence[str] = (),
) -> Truth:
    """Writes a web, its truth, a seed and benchmarks; the same bytes on any machine.

    The gzip members are stored without compression, as compressed bytes depend on zlib's version.

    Args:
      folder: is made; files in it are overwritten.
      pages: about how many in all; each of the 40 or so hosts has its share.
      benchmark_items: more texts to plant, each in one or two pages; "given-0" and so on.
    """
    folder = pathlib.Path(folder)
    (folder / "benchmarks").mkdir(parents=True, exist_ok=True)
    rng = random.Random(f"web-{seed}")
    writer = Writer(seed)
    places = _places(rng, pages)
    items = make_items(rng, ITEMS)
    given = [Item(f"given-{i}", "", text, "", True) for i, text in enumerate(benchmark_items)]
    planted = _choose_pages(rng, places, items + given)

    # ---- Archives and truth ---------------------------------------------------------------------
    themes: dict[tuple[str, str], Theme] = {}
    names = [f"part-{i:05d}.warc.gz" for i in range(files)]
    with (folder / "truth.jsonl").open("w", encoding="utf-8", newline="\n") as truth:
        for file_number, name in enumerate(names):
            chosen = places[file_number::files]
            with (folder / name).open("wb") as archive:
                archive.write(_member(_warcinfo(name)))
                for number, place in enumerate(chosen):
                    row, body, host = _page(writer, place, planted, themes)
                    truth.write(json.dumps({"file": name} | row, ensure_ascii=False) + "\n")
                    archive.write(_member(_response(row["url"], body, host, number)))
                    if number % 50 == 7:
                        archive.write(_member(_no_page(place, number)))

    # ---- Seed and benchmarks --------------------------------------------------------------------
    with (folder / "seed.jsonl").open("w", encoding="utf-8", newline="\n") as file:
        for url, text in _seed_pages(rng, writer, places, int(pages * SEED_SHARE)):
            file.write(json.dumps({"url": url, "text": text}, ensure_ascii=False) + "\n")
    benchmarks = []
    for name, rows in (
        ("english", [i for i in items if i.language == "en"]),
        ("chinese", [i for i in items if i.language == "zh"]),
        ("given", given),
    ):
        if rows:
            path = folder / "benchmarks" / f"{name}.jsonl"
            lines = [json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in rows]
            path.write_text("".join(lines), encoding="utf-8", newline="\n")
            benchmarks.append(str(path))
    return Truth(
        tuple(str(folder / name) for name in names),
        str(folder / "truth.jsonl"),
        str(folder / "seed.jsonl"),
        tuple(benchmarks),
        len(places),
    )


# ---- Which pages there are ---------------------------------------------------------------------


def _places(rng: random.Random, pages: int) -> list[_Place]:
    total = sum(group.weight for host in HOSTS for group in host.groups)
    scale = pages * (1 - NEAR_SHARE - AGAIN_SHARE) / total
    places: list[_Place] = []
    for host in HOSTS:
        for group in host.groups:
            count = max(1, round(group.weight * scale))
            places += [_Place(host, group, index) for index in range(count)]
    originals = [p for p in places if not p.host.mirror_of]
    for kind, share in (("near", NEAR_SHARE), ("again", AGAIN_SHARE)):
        count = min(round(pages * share), len(originals))
        for place in rng.sample(originals, count):
            places.append(_Place(place.host, place.group, place.index, kind))
    rng.shuffle(places)
    return places


def _choose_pages(
    rng: random.Random, places: list[_Place], items: list[Item]
) -> dict[tuple[str, int], list[tuple[Item, bool]]]:
    """Which items each page holds, and whether inside a paragraph: only mathematical pages do."""
    original = [p for p in places if not p.kind and not p.host.mirror_of]
    pages = {
        language: [
            p
            for p in original
            if is_math(p.group.style) and language in ("", STYLES[p.group.style].language)
        ]
        for language in ("en", "zh", "")
    }
    chosen: dict[tuple[str, int], list[tuple[Item, bool]]] = {}
    for number, item in enumerate(items):
        if item.planted:
            found = pages[item.language]
            for place in rng.sample(found, min(1 + number % 2, len(found))):
                inside = rng.random() < 0.5
                chosen.setdefault((place.key, place.index), []).append((item, inside))
    return chosen


def _page(
    writer: Writer,
    place: _Place,
    planted: dict[tuple[str, int], list[tuple[Item, bool]]],
    themes: dict[tuple[str, str], Theme],
) -> tuple[dict[str, Any], str, Host]:
    """The truth about a page, its HTML, and the host that serves it."""
    host, group, index = place.host, place.group, place.index
    content = writer.content(place.key, group.style, index)
    label = "math" if is_math(group.style) else "other"
    if place.kind == "near":
        change(content, random.Random(f"{place.key}-{index}-near"))
    items = planted.get((place.key, index), [])
    for number, (item, inside) in enumerate(items):
        plant(content, item.question, random.Random(f"{place.key}-{index}-{number}"), inside)
    url, path = place.url(), group.prefix
    if place.kind == "near":
        host = REPOSTS
        path = REPOSTS.groups[0 if label == "math" else 1].prefix
        url = f"{host.scheme}://{host.name}{path}{zlib.crc32(url.encode())}"
    formulas = list(dict.fromkeys(content.formulas()))
    form = (group.form or "markup") if formulas else ""
    key = (host.name, content.language + form)
    if key not in themes:
        number = zlib.crc32(host.name.encode())
        themes[key] = Theme(host, number, content.language, form)
    row = {
        "url": url,
        "label": label,
        "language": content.language,
        "host": host.name,
        "group": host.name + path,
        "style": group.style,
        "mixed": is_mixed(group.style, index),
        "form": form,
        "formulas": formulas,
        "duplicate_of": place.url() if place.kind == "near" else "",
        "mirror_of": place.url(mirror=False) if host.mirror_of else "",
        "again": place.kind == "again",
        "planted": [item.id for item, _ in items],
    }
    return row, page_html(content, themes[key], group.form), host


def _seed_pages(
    rng: random.Random, writer: Writer, places: list[_Place], count: int
) -> Iterator[tuple[str, str]]:
    """Pages in the styles of the seed: half of the web, and as many that no archive holds."""
    own = [p for p in places if p.group.style in SEED_STYLES and not (p.kind or p.host.mirror_of)]
    own.sort(key=lambda p: (p.key, p.index))
    inside = rng.sample(own, min(count // 2, len(own)))
    groups = [place for place in own if place.index == 0]
    outside = [
        _Place(place.host, place.group, 10_000_000 + i)
        for i in range(count - len(inside))
        for place in [groups[i % len(groups)]]
    ]
    for place in inside + outside:
        yield place.url(), writer.content(place.key, place.group.style, place.index).text()


# ---- WARC --------------------------------------------------------------------------------------

_START = datetime.datetime(2024, 3, 1)


def _date(number: int) -> str:
    return (_START + datetime.timedelta(seconds=number)).isoformat() + "Z"


def _record(kind: str, uri: str, content_type: str, number: int, block: bytes) -> bytes:
    target = f"WARC-Target-URI: {uri}\r\n" if uri else ""
    name = f"{zlib.crc32(f'{kind} {number} {uri}'.encode()):012x}"
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Date: {_date(number)}\r\n"
        f"WARC-Record-ID: <urn:uuid:00000000-0000-4000-8000-{name}>\r\n{target}"
        f"Content-Type: {content_type}\r\nContent-Length: {len(block)}\r\n\r\n"
    )
    return b"".join((head.encode(), block, b"\r\n\r\n"))


def _warcinfo(name: str) -> bytes:
    block = f"software: dsmath-jax generated web\r\nfilename: {name}\r\n\r\n".encode()
    return _record("warcinfo", "", "application/warc-fields", 0, block)


def _response(url: str, text: str, host: Host, number: int) -> bytes:
    # Sites in small charsets write other characters as references.
    body = text.encode(host.charset, "xmlcharrefreplace")
    charset = "" if host.declares == "meta" else f"; charset={host.charset.upper()}"
    coding = ""
    if host.encoding == "gzip":
        body, coding = _member(body), "Content-Encoding: gzip\r\n"
    elif host.encoding == "chunked":
        parts = [body[i : i + 4096] for i in range(0, len(body), 4096)]
        body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
        coding = "Transfer-Encoding: chunked\r\n"
    length = "" if host.encoding == "chunked" else f"Content-Length: {len(body)}\r\n"
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html{charset}\r\n{coding}{length}\r\n"
    kind = "application/http; msgtype=response"
    return _record("response", url, kind, number, head.encode() + body)


def _no_page(place: _Place, number: int) -> bytes:
    """What crawls hold besides pages: errors, redirects and pictures."""
    url = f"{place.host.scheme}://{place.host.name}/x/{number}"
    block = (
        b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\n\r\n<html>Not found</html>",
        b"HTTP/1.1 301 Moved Permanently\r\nLocation: /\r\nContent-Type: text/html\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: image/gif\r\n\r\nGIF89a\x01\x00\x01\x00\x00\x00\x00;",
    )[number // 50 % 3]
    return _record("response", url, "application/http; msgtype=response", number, block)


def _member(data: bytes) -> bytes:
    """A gzip member that holds data as they are: the same bytes whatever zlib there is."""
    parts = [b"\x1f\x8b\x08\0\0\0\0\0\0\xff"]
    for start in range(0, len(data) or 1, 65535):
        part = data[start : start + 65535]
        last = start + 65535 >= len(data)
        parts += (struct.pack("<BHH", last, len(part), len(part) ^ 0xFFFF), part)
    parts.append(struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF))
    return b"".join(parts)
