"""WARC records for tests, written byte by byte."""

import gzip

HTML = "Content-Type: text/html; charset=UTF-8\r\n"


def record(block, *, kind="response", url="http://a.example/", length=None, more=""):
    """One record; `block` is what follows the WARC headers."""
    content_type = "application/http" if kind == "response" else "text/plain"
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\n"
        f"WARC-Date: 2024-05-01T10:00:00Z\r\nContent-Type: {content_type}\r\n{more}"
        f"Content-Length: {len(block) if length is None else length}\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"


def response(body, *, headers=HTML, status="200 OK", **options):
    block = f"HTTP/1.1 {status}\r\n{headers}\r\n".encode() + body
    return record(block, **options)


def page(number, size=0):
    """The record of a page whose URL ends in a number; about `size` bytes or more."""
    body = f"<html><p>Page {number}.</p>{'<p>filler</p>' * (size // 13)}</html>".encode()
    return response(body, url=f"http://a.example/{number}")


def members(records):
    return b"".join(gzip.compress(r, mtime=0) for r in records)
