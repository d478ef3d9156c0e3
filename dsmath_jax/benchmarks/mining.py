"""Pages/s of the miner's stages on one core, beside datatrove's pipeline on the same file."""

from __future__ import annotations

import contextlib
import gzip
import os
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from dsmath_jax.benchmarks.side import PeerSide, Side, module_command, spread
from dsmath_jax.data.errors import InputError
from dsmath_jax.mining import classifier, score, storage
from dsmath_jax.mining.archives import read_pages
from dsmath_jax.mining.encoding import decode
from dsmath_jax.mining.extract import extract
from dsmath_jax.mining.generated_web import write_web
from dsmath_jax.mining.html_text import visible_text
from dsmath_jax.mining.normalize import for_classifier
from dsmath_jax.mining.pages import Page

FILES = {"score": "pages", "score_wet": "wet", "extract": "formulas", "datatrove": "pages"}


def run(config: ConfigDict) -> dict[str, Any]:
    """Numbers of `config.measure.rounds` rounds; in each, every side reads its file once."""
    if config.measure.rounds < 1:
        raise InputError("config.measure.rounds must be at least 1")
    settings = {"core": _core(config.measure.core), "max_page_bytes": config.max_page_bytes}
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        about = write_inputs(config, pathlib.Path(name))
        settings |= {"folder": name, "classifier": f"{name}/model_collapsed.bin"}
        sides: dict[str, Side] = {}
        for stage in ("score", "score_wet", "extract"):
            command = module_command("dsmath_jax.benchmarks.mining_side")
            given = settings | {"stage": stage, "archive": f"{name}/{FILES[stage]}.warc.gz"}
            sides[stage] = stack.enter_context(Side(stage, command, given))
        if python := config.measure.datatrove:
            given = settings | {"archive": f"{name}/{FILES['datatrove']}.warc.gz"}
            peer = PeerSide("datatrove", python, "datatrove_side.py", given, "docs/mining_speed.md")
            sides["datatrove"] = stack.enter_context(peer)
        answers: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
        for number in range(config.measure.rounds + 1):  # the first is not counted
            for name, side in sides.items():
                answers[name].append(side.ask({}))
            speeds = (
                f"{name} {_speeds(a, about[FILES[name]])[-1]:,.0f}" for name, a in answers.items()
            )
            print(f"round {number}, pages/s: {', '.join(speeds)}", file=sys.stderr, flush=True)
        numbers: dict[str, Any] = {"input": about}
        for name, side in sides.items():
            numbers[name] = side_numbers(answers[name][1:], about[FILES[name]], side)
    if "datatrove" in sides:
        ours, theirs = (_speeds(answers[n][1:], about["pages"]) for n in ("score", "datatrove"))
        numbers["datatrove"] |= spread(
            "ours_over_theirs", [x / y for x, y in zip(ours, theirs, strict=True)]
        )
    return numbers


def side_numbers(
    answers: list[dict[str, Any]], about: dict[str, Any], side: Side
) -> dict[str, Any]:
    pages = about["pages"]
    return {
        **spread("pages_per_s", _speeds(answers, about)),
        "pages_per_cpu_s": statistics.median(pages / a["cpu_seconds"] for a in answers),
        "bytes_written_per_page": answers[-1]["bytes_written"] / pages,
        "peak_memory_gb": answers[-1].get("peak_memory_gb") or side.peak_memory(),
    }


def _speeds(answers: list[dict[str, Any]], about: dict[str, Any]) -> list[float]:
    return [about["pages"] / a["seconds"] for a in answers]


def _core(wanted: int) -> int:
    """The processor to run on; -1 where a process cannot be kept on one (macOS)."""
    if not hasattr(os, "sched_getaffinity"):
        return -1
    cores = sorted(os.sched_getaffinity(0))
    if wanted >= 0 and wanted not in cores:
        raise InputError(f"config.measure.core={wanted}: choose one of {cores}")
    return wanted if wanted >= 0 else cores[-1]


# ---- Inputs -------------------------------------------------------------------------------------
def write_inputs(config: ConfigDict, folder: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Writes pages.warc.gz, formulas.warc.gz (pages with many formulas), wet.warc.gz (texts) and a
    classifier, which learns to tell the two kinds of page apart; returns what is in the files."""
    found = {
        name: {"pages": 0, "bytes_stored": 0, "bytes": 0} for name in ("pages", "formulas", "wet")
    }
    texts: dict[bool, list[str]] = {True: [], False: []}
    with contextlib.ExitStack() as stack:
        files = {
            name: stack.enter_context((folder / f"{name}.warc.gz").open("wb")) for name in found
        }

        def add(name: str, record: bytes, size: int) -> None:
            member = gzip.compress(record, 6, mtime=0)
            files[name].write(member)
            for key, value in (("pages", 1), ("bytes_stored", len(member)), ("bytes", size)):
                found[name][key] += value

        for page in _pages(config, folder):
            html = decode(page.body, page.charset)
            has_formulas = extract(html).formulas >= config.measure.formulas
            texts[has_formulas].append(for_classifier(score.text_of(page) or ""))
            add("pages", _response(page), len(page.body))
            if has_formulas:
                add("formulas", _response(page), len(page.body))
            text = visible_text(html).encode("utf-8", "replace")
            add("wet", _record(page, "conversion", "text/plain", text), len(text))
    if not texts[True] or not texts[False]:
        raise InputError(
            f"{config.data.path or 'the generated web'}: {len(texts[True])} of "
            f"{found['pages']['pages']} pages have config.measure.formulas="
            f"{config.measure.formulas} or more: there must be such pages, and others"
        )
    options = config.classifier.to_dict()
    del options["path"]
    classifier.train(texts[True], texts[False], folder / "model.bin", **options)
    (folder / "model.bin").unlink()
    return found


def _pages(config: ConfigDict, folder: pathlib.Path) -> Iterator[Page]:
    if config.data.path:
        archives = list(storage.list([config.data.path]))
    else:
        made = config.generated
        web = write_web(folder / "web", seed=made.seed, pages=made.pages, files=1)
        archives = list(web.archives)
    for path in archives:
        for page in read_pages(path):
            if isinstance(page, Page) and page.kind == "html":
                yield page


def _response(page: Page) -> bytes:
    charset = f"; charset={page.charset}" if page.charset else ""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html{charset}\r\n\r\n"
    kind = "application/http; msgtype=response"
    return _record(page, "response", kind, head.encode() + page.body)


def _record(page: Page, kind: str, content_type: str, block: bytes) -> bytes:
    payload = "text/html" if kind == "response" else "text/plain"
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {page.url}\r\n"
        f"WARC-Date: {page.date or '2024-03-01T00:00:00Z'}\r\n"
        f"WARC-Record-ID: <urn:page:{page.offset}>\r\n"
        f"WARC-Identified-Payload-Type: {payload}\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(block)}\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"
