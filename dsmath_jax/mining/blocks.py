"""The blocks of text of a page's tree, in order: paragraphs, headings, items, rows of tables."""

from __future__ import annotations

import dataclasses
import re

from selectolax.lexbor import LexborNode

from dsmath_jax.mining.delimiters import Delimiters
from dsmath_jax.mining.stash import BLOCK, END, INLINE

HEADINGS = {f"h{level}": "#" * level + " " for level in range(1, 7)}
_PARAGRAPHS = (
    "address article aside blockquote body caption center dd details div dl dt fieldset figcaption "
    "figure footer form header hgroup html legend li main ol p section summary table tbody tfoot "
    "thead ul hr optgroup option"
)
PARAGRAPHS = set(_PARAGRAPHS.split())
LINE_BREAK = "\x1e"
MAX_SCRIPT = 60  # characters above or below the line
LAYOUT_CELL = 1000  # characters from which a cell is no table's
INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060-\u2064\ufeff]")
_CJK = "[\u3001-\u303f\u3040-\u30ff\u3400-\u9fff\uff01-\uffee]"
BROKEN_CJK = re.compile(f"(?<={_CJK})[ \\t\\r]*\\n\\s*(?={_CJK})")
BLOCK_MARK = re.compile(f"({BLOCK}\\d+{END})")
ORDINAL = re.compile(r"\s*(?:st|nd|rd|th|er|re|e|o|a|º|ª|TM|SM|®|™|©)\s*", re.IGNORECASE)
REFERENCE = re.compile(r"\s*\[?(?:\d{1,3}|[a-z]|note \d+|citation needed)\]?\s*", re.IGNORECASE)
SMALL_PRINT = re.compile(
    r"\s*(?:©|\(c\)|copyright\b|all rights reserved|powered by|版权所有|备案)", re.IGNORECASE
)
LINK_SHARE, LINK_LENGTH = 0.75, 300  # of a block that is links: of its text at least, at most


@dataclasses.dataclass(slots=True)
class Block:
    """`kind`: "paragraph", "heading", "item", "row" or "verbatim"."""

    kind: str
    text: str
    prefix: str = ""
    link_share: float = 0.0
    links: int = 0


@dataclasses.dataclass(slots=True)
class _Row:
    cells: list[str]
    is_layout: bool = False


def blocks_of(root: LexborNode, delimiters: Delimiters) -> list[Block]:
    """The text of a tree that has marks for its formulas and code."""
    return _Walk(delimiters).walk(root)


def join_blocks(blocks: list[Block]) -> str:
    """The text, without lists of links and small print."""
    parts: list[str] = []
    before = ""
    for block in _without_links(blocks):
        close = block.kind == before and block.kind in ("item", "row")
        if parts:
            parts.append("\n" if close else "\n\n")
        parts.append(block.prefix + block.text)
        before = block.kind
    text = "".join(parts)
    return text if text.isascii() else INVISIBLE.sub("", text)


class _Walk:
    def __init__(self, delimiters: Delimiters):
        self.delimiters = delimiters
        self.blocks: list[Block] = []
        self.pieces: list[str] = []  # of the block that is being read
        self.link_depth = 0
        self.link_length = 0
        self.links = 0
        self.heading = ""
        self.lists: list[int] = []  # the number of the last item; -1 without numbers
        self.bullet = ""
        self.quotes = 0
        self.rows: list[_Row] = []

    def walk(self, root: LexborNode) -> list[Block]:
        # Of each open element: the node behind it, and what it began.
        stack: list[tuple[int, str, int]] = [(-1, "", 0)]
        limit = root.mem_id
        end = -1
        pieces = self.pieces
        for node in root.traverse(include_text=True):
            position = node.mem_id
            while position == end:
                _, tag, start = stack.pop()
                self._close(tag, start)
                end = stack[-1][0]
            tag = node.tag or ""
            if tag == "-text":
                text = node.text_content
                if text and (pieces or not text.isspace()):
                    pieces.append(text)
                    if self.link_depth:
                        self.link_length += len(text)
            elif tag in OPENED:
                start = self._open(tag, node)
                behind = node.next
                if behind is not None and position != limit:
                    end = behind.mem_id
                else:
                    end = _node_behind(node, stack[-1][0], limit)
                stack.append((end, tag, start))
            elif tag == "br":
                pieces.append(LINE_BREAK)
        while len(stack) > 1:
            _, tag, start = stack.pop()
            self._close(tag, start)
        self._flush()
        return self.blocks

    # ---- Elements -------------------------------------------------------------------------------

    def _open(self, tag: str, node: LexborNode) -> int:
        if tag == "a":
            if "href" not in node.attributes:  # a place that links lead to; often never closed
                return -1
            self.link_depth += 1
            self.links += 1
        elif tag in ("sup", "sub"):
            return len(self.pieces)
        elif tag in ("td", "th"):
            if self._in_cells():
                self.pieces.clear()
        elif tag == "tr":
            self._break()
            self.rows.append(_Row([]))
        elif tag in HEADINGS:
            self._leave_cells()
            self._flush()
            self.heading = HEADINGS[tag]
        else:
            if tag == "table":
                self._leave_cells()
            self._break()
            if tag == "li":
                self._begin_item(node)
            elif tag in ("ul", "ol"):
                number = (node.attributes.get("start") or "1") if tag == "ol" else ""
                self.lists.append(int(number) - 1 if number.isdecimal() and len(number) < 6 else -1)
                if tag == "ol" and self.lists[-1] < 0:
                    self.lists[-1] = 0
            elif tag == "blockquote":
                self.quotes += 1
        return 0

    def _close(self, tag: str, start: int) -> None:
        if tag == "a":
            self.link_depth -= start == 0
        elif tag in ("sup", "sub"):
            self._close_script(tag, start)
        elif tag in ("td", "th"):
            self._close_cell()
        elif tag == "tr":
            self._close_row()
        elif tag in HEADINGS:
            self._flush()
            self.heading = ""
        else:
            self._break()
            if tag in ("ul", "ol"):
                self.lists.pop()
                self.bullet = ""
            elif tag == "blockquote":
                self.quotes -= 1

    def _begin_item(self, node: LexborNode) -> None:
        if self.lists and self.lists[-1] >= 0:
            self.lists[-1] += 1
            self.bullet = f"{self.lists[-1]}. "
        else:
            self.bullet = "- "

    def _close_script(self, tag: str, start: int) -> None:
        """x^2 and a_{ij}; ordinals stay letters, and references are left out."""
        text = "".join(self.pieces[start:])
        if not start or self.pieces[start - 1].isspace() or len(text) > MAX_SCRIPT:
            return  # small print rather than a script
        del self.pieces[start:]
        if not text.strip():
            return
        if tag == "sup" and ORDINAL.fullmatch(text):
            self.pieces.append(text)
        elif tag == "sup" and REFERENCE.fullmatch(text) and (self.link_length or "[" in text):
            self.link_length = max(0, self.link_length - len(text))
        else:
            text = " ".join(text.split())
            mark = "^" if tag == "sup" else "_"
            alone = len(text) == 1 or (text.startswith(INLINE) and text.count(END) == 1)
            self.pieces.append(f"{mark}{text}" if alone else f"{mark}{{{text}}}")

    # ---- Tables ---------------------------------------------------------------------------------

    def _in_cells(self) -> bool:
        return bool(self.rows) and not self.rows[-1].is_layout

    def _leave_cells(self) -> None:
        """What is open is a layout made of a table: its cells are text like any other."""
        if self._in_cells():
            row = self.rows[-1]
            row.is_layout = True
            for cell in row.cells:
                self._add("paragraph", cell)
            self._flush()

    def _close_cell(self) -> None:
        if not self._in_cells():
            self._flush()
            return
        text = self._take()
        self.rows[-1].cells.append(text)
        if len(text) > LAYOUT_CELL or BLOCK in text:
            self._leave_cells()

    def _close_row(self) -> None:
        row = self.rows.pop()
        if row.is_layout:
            self._flush()
            return
        self.pieces.clear()
        cells = [cell.replace("\n", " ") for cell in row.cells]
        if any(cells):
            self._add("row" if len(cells) > 1 else "paragraph", " | ".join(cells))
        self.link_length = self.links = 0

    # ---- Text -----------------------------------------------------------------------------------

    def _break(self) -> None:
        """The end of a block; within a table's cell only a space."""
        if self._in_cells():
            self.pieces.append(" ")
        else:
            self._flush()

    def _take(self) -> str:
        """The text read since the last block, its formulas marked and its spaces made one."""
        text = "".join(self.pieces)
        self.pieces.clear()
        if not text or text.isspace():
            return ""
        text = self.delimiters.mark(text)
        if "\n" in text and not text.isascii():
            text = BROKEN_CJK.sub("", text)
        if LINE_BREAK not in text:
            return " ".join(text.split())
        lines = (" ".join(line.split()) for line in text.split(LINE_BREAK))
        return "\n".join(line for line in lines if line)

    def _flush(self) -> None:
        if self.pieces:
            text = self._take()
            if text:
                self._add("", text)
        self.link_length = self.links = 0

    def _add(self, kind: str, text: str) -> None:
        share = self.link_length / len(text) if text else 0.0
        if not kind:
            kind = "heading" if self.heading else "item" if self.lists else "paragraph"
        if kind == "heading":
            text = text.replace("\n", " ")
            self.blocks.append(Block(kind, text, self.heading, share, self.links))
            return
        quote = "> " * self.quotes
        indent = "  " * (len(self.lists) - 1)
        for part in BLOCK_MARK.split(text) if BLOCK in text else (text,):
            part = part.strip()
            if part.startswith(BLOCK):
                self.blocks.append(Block("verbatim", part))
            elif part:
                prefix = quote
                if kind == "item":
                    prefix += indent + (self.bullet or "  ")
                    self.bullet = ""
                if "\n" in part and prefix:
                    part = part.replace("\n", "\n" + quote + " " * (len(prefix) - len(quote)))
                self.blocks.append(Block(kind, part, prefix, share, self.links))


OPENED = PARAGRAPHS | HEADINGS.keys() | {"a", "sup", "sub", "td", "th", "tr"}


def _node_behind(node: LexborNode, outer: int, limit: int) -> int:
    """The identity of the node that follows an element without siblings behind it; `outer`, the
    node behind the enclosing element, where it is the last in there; -1 at the end of the root,
    whose identity is `limit`."""
    while node.mem_id != limit and (parent := node.parent) is not None:
        if parent.mem_id == limit:
            return -1
        if parent.tag in OPENED:  # on the stack, so nothing is between them
            return outer
        if (behind := parent.next) is not None:
            return behind.mem_id
        node = parent
    return -1


# ---- Lists of links -----------------------------------------------------------------------------


def _without_links(blocks: list[Block]) -> list[Block]:
    """Leaves out runs of three or more blocks that are links, headings with nothing left below
    them, links to the place itself, and small print."""
    kept: list[Block] = []
    run: list[Block] = []
    for block in [*blocks, Block("end", "")]:
        if block.link_share > LINK_SHARE and _is_links(block):
            run.append(block)
            continue
        if len(run) >= 3 or sum(b.links for b in run) >= 5:
            # The heading of a list of links goes with it; a page's title stays before content.
            while kept and kept[-1].kind == "heading":
                if kept[-1].prefix == "# " and block.kind != "end":
                    break
                kept.pop()
        else:
            kept += [b for b in run if any(map(str.isalnum, b.text))]
        run = []
        if len(block.text) >= 300 or not SMALL_PRINT.match(block.text):
            kept.append(block)
    return kept[:-1]


def _is_links(block: Block) -> bool:
    return (
        block.kind not in ("heading", "verbatim")
        and len(block.text) < LINK_LENGTH
        and INLINE not in block.text
    )
