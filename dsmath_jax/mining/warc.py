"""Records of WARC files as they are stored, damaged ones included.

A file that is damaged somewhere is read on at the next record: at the next gzip member, or at the
next line that begins a record.
"""

from __future__ import annotations

import functools
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from dsmath_jax.mining.gzip_members import Members, Piece, Plain, Readable

MAX_HEADER = 64 << 10
PREFIX = 64 << 10  # bytes kept of a block that is too large

_START = re.compile(rb"WARC/\d+\.\d+[ \t]*\r?\n")
_NEXT = re.compile(rb"WARC/\d+\.\d+[ \t]*\r?\n(?=[A-Za-z-]+:)")
_BLANK = re.compile(rb"\r?\n\r?\n")
_SPACE = re.compile(rb"[\r\n\0]*")
_LENGTH = re.compile(rb"^content-length[ \t]*:[ \t]*(\d{1,18})[ \t]*\r?$", re.I | re.M)
_TYPE = re.compile(rb"^warc-type[ \t]*:[ \t]*([\w-]+)", re.I | re.M)


@functools.cache
def _header(name: bytes) -> re.Pattern[bytes]:
    return re.compile(rb"^%s[ \t]*:[ \t]*([^\r\n]*)" % re.escape(name), re.I | re.M)


@dataclass(slots=True)
class Record:
    """WARC headers and block of one record.

    `offset` and `length` are as in `Page`. `whole` is false where the block is over the limit; then
    `data` ends early. A record that is no use has an `error`, and its data are what was read.
    """

    offset: int
    length: int
    data: bytes
    block: int  # where the block begins in `data`
    type: str
    whole: bool = True
    error: str = ""

    def header(self, name: bytes) -> str:
        """A WARC header by its name in lower case, or ""."""
        found = _header(name).search(self.data, 0, self.block or MAX_HEADER)
        return found.group(1).decode("utf-8", "replace").strip() if found else ""

    @property
    def url(self) -> str:
        return self.header(b"warc-target-uri").strip("<>")  # in brackets in old files of wget


def read_records(
    file: Readable, *, compressed: bool, max_bytes: int, max_skipped_bytes: int = 1 << 30
) -> Iterator[Record]:
    """Yields every record of a file, and one with an `error` for each damaged place.

    Args:
      compressed: whether the file is gzip, of whatever members; else it is plain.
      max_bytes: of a block; a larger one is not kept.
      max_skipped_bytes: as in `Limits`.
    """
    ahead = _Ahead(Members(file, b"WARC/") if compressed else Plain(file))
    number = 0
    while True:
        ahead.skip_blank()
        if not ahead.buffer:
            if ahead.error:
                yield Record(ahead.offset, -1, b"", 0, "", error=ahead.take_error())
                number += 1
            elif not ahead.cross():
                return
            continue
        record = _next_record(ahead, max_bytes, max_skipped_bytes)
        if record.length < 0 and record.whole and not record.error:
            record.offset = number
        number += 1
        yield record


def _next_record(ahead: _Ahead, max_bytes: int, max_skipped_bytes: int) -> Record:
    begin, place = ahead.at, ahead.offset
    buffer = ahead.buffer

    def bad(reason: str, search_from: int, block: int = 0, kind: str = "") -> Record:
        data = bytes(buffer[: block or min(len(buffer), MAX_HEADER)])
        error = ahead.take_error() or reason
        ahead.resynchronise(search_from, max_skipped_bytes)
        return Record(place, -1, data, block, kind, error=error)

    # ---- Headers --------------------------------------------------------------------------------
    while (
        not (blank := _BLANK.search(buffer, 0, MAX_HEADER))
        and len(buffer) < MAX_HEADER
        and ahead.more()
    ):
        pass
    if not _START.match(buffer):
        return bad("not a WARC record", 1)
    if not blank:
        return bad("cut short" if len(buffer) < MAX_HEADER else "long header", 1)
    block = blank.end()
    named = _TYPE.search(buffer, 0, block)
    kind = named.group(1).decode("ascii", "replace").lower() if named else ""
    declared = _LENGTH.search(buffer, 0, block)
    if not declared:
        return bad("no length", block, block, kind)
    length = int(declared.group(1))

    # ---- Block ----------------------------------------------------------------------------------
    if length > max_bytes:
        while len(buffer) < block + PREFIX and ahead.more():
            pass
        record = Record(place, -1, bytes(buffer[: block + PREFIX]), block, kind, whole=False)
        ahead.resynchronise(block, max_skipped_bytes)
        return record
    end = block + length
    while len(buffer) < end and ahead.more():
        pass
    if len(buffer) < end:
        return bad("cut short", block, block, kind)

    # ---- What follows must be the next record, or the end ---------------------------------------
    space = _SPACE.match(buffer, end)
    while space and len(buffer) - space.end() < 5 and ahead.more():
        space = _SPACE.match(buffer, end)
    after = space.end() if space else end
    right = (
        after == len(buffer)
        or buffer.startswith(b"WARC/", after)
        or buffer.startswith(b"\r\n\r\n", end)  # it is the next record that is damaged
    )
    if ahead.error or not right:
        return bad("wrong length", block, block, kind)
    with memoryview(buffer) as view:
        data = bytes(view[:end])
    stored = ahead.stored_bytes(begin, end, after)
    ahead.drop(after)
    return Record(place, stored, data, block, kind)


class _Ahead:
    """The decompressed bytes from the next record on, as far as they have been read.

    A gzip member that begins with a record ends the record before it, whatever length that one
    declares: `more` does not read past it, `cross` does.
    """

    def __init__(self, pieces: Members | Plain):
        self.pieces = pieces
        self.plain = isinstance(pieces, Plain)
        self.buffer = bytearray()
        self.at = 0  # of the buffer's first byte in the decompressed stream
        self.members: deque[tuple[int, int]] = deque([(0, 0)])  # (begin in the stream, in the file)
        self.waiting: Piece | None = None
        self.end = 0  # of the compressed bytes in the buffer
        self.error = ""

    @property
    def offset(self) -> int:
        """Where the record at the front is in the file, or the member that holds it."""
        if self.plain:
            return self.at
        while len(self.members) > 1 and self.members[1][0] <= self.at:
            self.members.popleft()
        return self.members[0][1]

    def stored_bytes(self, begin: int, end: int, after: int) -> int:
        """Bytes in the file of the record that is `end` long, or -1 if it shares its member.

        Args:
          begin: of the record in the stream.
          end, after: in the buffer, without and with the blank lines that follow.
        """
        if self.plain:
            return end
        member_begin, member = self.members[0]
        alone = member_begin == begin and len(self.members) == 1 and after == len(self.buffer)
        return self.end - member if alone and self._member_ended else -1

    def more(self) -> bool:
        """Reads on within the member, or into the next if that one continues the record."""
        if self.error:
            return False
        if self.waiting is None:
            self.waiting = self.pieces.next()
        piece = self.waiting
        if piece is None or (piece.first and self.at + len(self.buffer) and self._begins(piece)):
            return False
        self._take(piece)
        return True

    def cross(self) -> bool:
        """Reads the next piece, whatever it is. False at the end of the file."""
        piece = self.waiting or self.pieces.next()
        if piece is not None:
            self._take(piece)
        return piece is not None

    def take_error(self) -> str:
        error, self.error = self.error, ""
        return error

    def drop(self, count: int) -> None:
        del self.buffer[:count]
        self.at += count

    def skip_blank(self) -> None:
        space = _SPACE.match(self.buffer)
        if space and space.end():
            self.drop(space.end())

    def resynchronise(self, start: int, max_skipped_bytes: int) -> None:
        """Drops what comes before the next record, from a place in the buffer on."""
        skipped = 0
        while True:
            found = _NEXT.search(self.buffer, start)
            if found:
                self.drop(found.start())
                return
            gone = max(len(self.buffer) - 64, 0)  # what is kept may begin a record
            self.drop(gone)
            start = 0  # of what is left
            skipped += gone
            if skipped > max_skipped_bytes:
                self.pieces.leave_member()
                self.waiting = None if self._leaves(self.waiting) else self.waiting
            if not self.more():
                self.drop(len(self.buffer))
                return

    @property
    def _member_ended(self) -> bool:
        if self.waiting is None:
            self.waiting = self.pieces.next()
        return self.waiting is None or self.waiting.first

    @staticmethod
    def _leaves(piece: Piece | None) -> bool:
        return piece is not None and not piece.first

    @staticmethod
    def _begins(piece: Piece) -> bool:
        return piece.data.startswith(b"WARC/") or (not piece.data and bool(piece.error))

    def _take(self, piece: Piece) -> None:
        self.waiting = None
        if piece.first and not self.plain:
            self.members.append((self.at + len(self.buffer), piece.offset))
        self.buffer += piece.data
        self.end = piece.end
        self.error = piece.error
