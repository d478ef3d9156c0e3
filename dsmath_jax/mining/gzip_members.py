"""Gzip files of many members, read a piece at a time; after damage, from the next member on."""

from __future__ import annotations

import zlib
from collections import deque
from dataclasses import dataclass
from typing import Protocol

READ = 256 << 10  # bytes of the file at a time
PIECE = 1 << 20  # bytes decompressed at a time
LOOK_BACK = 16 << 20  # bytes of a damaged member in which the next one is looked for
MAGIC = b"\x1f\x8b\x08"


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


@dataclass(slots=True)
class Piece:
    """Decompressed bytes of one member.

    `error` says what is wrong with the member after them; it is then its last piece.
    """

    data: bytes
    offset: int  # of the member in the file
    first: bool
    last: bool
    end: int  # of the compressed bytes read so far
    error: str = ""


class Plain:
    """The pieces of a file that is not compressed."""

    def __init__(self, file: Readable):
        self.file = file
        self.at = 0

    def next(self) -> Piece | None:
        data = self.file.read(PIECE)
        if not data:
            return None
        piece = Piece(data, 0, self.at == 0, False, self.at + len(data))
        self.at = piece.end
        return piece

    def leave_member(self) -> None:
        """There are no members."""


class Members:
    """The pieces of a gzip file.

    Args:
      start: the bytes with which the content of a member that follows damage must begin.
    """

    def __init__(self, file: Readable, start: bytes = b""):
        self.file = file
        self.start = start
        self.ahead = b""  # compressed bytes not yet decompressed
        self.at = 0  # where they are in the file
        self.back: deque[bytes] = deque()  # read already, but to be read again
        self.inflate: zlib._Decompress | None = None
        self.member = 0  # offset of the current member
        self.seen: list[bytes] = []  # its compressed bytes, for the search after damage
        self.seen_from = 0
        self.seen_bytes = 0
        self.first = True
        self.pending = False  # more may come out without more compressed bytes

    def next(self) -> Piece | None:
        """The next piece, or None at the end of the file."""
        if self.inflate is None and not self._begin():
            return None
        assert self.inflate is not None
        data = b""
        while True:
            if not self.ahead and not self.pending:
                self.ahead = self._read()
                self._note(self.ahead)
                if not self.ahead:
                    # It may be cut in the middle of the file, and the rest taken for its own.
                    return self._damaged(data, "cut short")
            before = len(self.ahead)
            try:
                out = self.inflate.decompress(self.ahead, PIECE)
            except zlib.error:
                return self._damaged(data, "damaged gzip")
            self.pending = len(out) == PIECE
            done = self.inflate.eof
            rest = self.inflate.unused_data if done else self.inflate.unconsumed_tail
            self.at += before - len(rest)
            self.ahead = rest
            data = data + out if data else out
            # A first piece is long enough to be told from the middle of a record.
            if done or len(data) > 16 or (data and not self.first):
                piece = Piece(data, self.member, self.first, done, self.at)
                self.first = False
                if done:
                    self.inflate = None
                return piece

    def leave_member(self) -> None:
        """Goes on at the next member without decompressing the rest of this one."""
        if self.inflate is not None:
            self._resume(self.at)

    def _damaged(self, data: bytes, error: str) -> Piece:
        piece = Piece(data, self.member, self.first, True, self.at, error)
        self._resume(self.member + 1)
        return piece

    def _read(self) -> bytes:
        return self.back.popleft() if self.back else self.file.read(READ)

    def _note(self, data: bytes) -> None:
        self.seen.append(data)
        self.seen_bytes += len(data)
        while self.seen_bytes > LOOK_BACK and len(self.seen) > 1:
            dropped = len(self.seen.pop(0))
            self.seen_from += dropped
            self.seen_bytes -= dropped

    def _begin(self) -> bool:
        while True:  # some writers fill up with zeros
            if not self.ahead:
                self.ahead = self._read()
                if not self.ahead:
                    return False
            kept = self.ahead.lstrip(b"\0")
            self.at += len(self.ahead) - len(kept)
            self.ahead = kept
            if kept:
                break
        self.inflate = zlib.decompressobj(31)
        self.member = self.seen_from = self.at
        self.seen, self.seen_bytes = [], 0
        self._note(self.ahead)
        self.first, self.pending = True, False
        return True

    def _resume(self, start: int) -> None:
        """Sets the reader to the next member at or after an offset, or to the end of the file."""
        data = b"".join(self.seen)
        at = self.seen_from
        skip = max(0, start - at)
        self.inflate = None
        while True:
            found = data.find(MAGIC, skip)
            if found < 0:
                keep = max(len(data) - len(MAGIC) + 1, 0)
            else:
                if len(data) - found < 1024:
                    data += self._read()
                if self._is_member(data[found : found + 4096]):
                    self.at = at + found
                    starts = range(found, len(data), READ)
                    self.ahead, *rest = (data[start : start + READ] for start in starts)
                    self.back.extendleft(reversed(rest))
                    return
                skip = found + 1
                continue
            at, data, skip = at + keep, data[keep:], 0
            more = self._read()
            if not more:
                self.ahead, self.at = b"", at + len(data)
                return
            data += more

    def _is_member(self, data: bytes) -> bool:
        try:
            return zlib.decompressobj(31).decompress(data, 64).startswith(self.start)
        except zlib.error:
            return False
