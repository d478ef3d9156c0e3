"""What WAT files say about pages."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from dsmath_jax.mining.pages import Rejected
from dsmath_jax.mining.warc import Record


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a WAT file says of one page; "" where it says nothing."""

    url: str
    title: str
    charset: str
    language: str
    content_type: str
    status: str
    date: str


def metadata_of(record: Record, source: str) -> Metadata | Rejected | str:
    reason = record.error or ("" if record.whole else "too large")
    if not reason and record.type != "metadata":
        return "not metadata"
    try:
        envelope = _at(json.loads(record.data[record.block :]), "Envelope") if not reason else {}
    except (ValueError, RecursionError):
        reason = "bad metadata"
    if reason:
        return Rejected(source, record.offset, record.url, reason)
    header = _at(envelope, "WARC-Header-Metadata")
    if header.get("WARC-Type") != "response":
        return "not a response"
    response = _at(envelope, "Payload-Metadata", "HTTP-Response-Metadata")
    sent = {k.lower(): v for k, v in _at(response, "Headers").items() if isinstance(v, str)}
    page = _at(response, "HTML-Metadata", "Head")
    content_type, language = sent.get("content-type", ""), sent.get("content-language", "")
    charset = _charset(content_type)
    metas = page.get("Metas")
    for meta in metas if isinstance(metas, list) else []:
        if not isinstance(meta, dict):
            continue
        charset = charset or str(meta.get("charset", ""))
        name = str(meta.get("http-equiv", meta.get("name", ""))).lower()
        if name == "content-type":
            charset = charset or _charset(str(meta.get("content", "")))
        if name in ("content-language", "language"):
            language = language or str(meta.get("content", ""))
    return Metadata(
        url=str(header.get("WARC-Target-URI", "")),
        title=" ".join(str(page.get("Title", "")).split()),
        charset=charset.lower(),
        language=language,
        content_type=content_type.split(";")[0].strip().lower(),
        status=str(_at(response, "Response-Message").get("Status", "")),
        date=str(header.get("WARC-Date", "")),
    )


def _at(value: Any, *names: str) -> dict[str, Any]:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def _charset(content_type: str) -> str:
    found = re.search(r"charset\s*=\s*[\"']?([\w.:-]+)", content_type, re.I)
    return found.group(1) if found else ""
