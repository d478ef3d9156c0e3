"""Pages of the generated web: their text, and the HTML around it."""

from __future__ import annotations

import html
import random
from dataclasses import dataclass

from dsmath_jax.mining.generated_web_chinese import CHINESE
from dsmath_jax.mining.generated_web_english import ENGLISH
from dsmath_jax.mining.generated_web_formulas import Formula, random_formula, render
from dsmath_jax.mining.generated_web_hosts import Host
from dsmath_jax.mining.generated_web_text import NEW_STYLES, SEED_STYLES, Sentence, Style

STYLES: dict[str, Style] = ENGLISH | CHINESE
MIXED_EVERY = 3  # of the pages in other styles, one in so many shares the seed's words
POOL = 500  # formulas of each kind in a web


def is_math(style: str) -> bool:
    return style in SEED_STYLES or style in NEW_STYLES


def is_mixed(style: str, index: int) -> bool:
    return style in NEW_STYLES and index % MIXED_EVERY == 0


@dataclass
class Content:
    """What a page says: its title, and blocks of (kind, sentences), the kind an HTML element.

    The text of sentences is escaped for HTML, but that of "pre".
    """

    title: str
    language: str
    blocks: list[tuple[str, list[Sentence]]]

    def formulas(self) -> list[str]:
        """LaTeX of each formula, in order."""
        return [
            part.latex
            for _, sentences in self.blocks
            for sentence in sentences
            for part in sentence
            if isinstance(part, Formula)
        ]

    def text(self) -> str:
        """Title and text, with formulas between dollar signs."""
        gap = "" if self.language == "zh" else " "
        lines = [self.title]
        for _, sentences in self.blocks:
            lines.append(
                gap.join(
                    "".join(p if isinstance(p, str) else f"${p.latex}$" for p in sentence)
                    for sentence in sentences
                )
            )
        return html.unescape("\n".join(lines))


class Writer:
    """Writes the content of pages; the same for the same seed, style and index."""

    def __init__(self, seed: int):
        self.seed = seed
        rng = random.Random(f"{seed}-formulas")
        self.pool = {
            kind: [random_formula(rng, kind) for _ in range(POOL)]
            for kind in ("algebra", "arithmetic")
        }

    def content(self, key: str, style: str, index: int) -> Content:
        """The content of page `index` of a group.

        Args:
          key: names the group; the page is the same wherever it is shown.
        """
        rng = random.Random(f"{self.seed}-{key}-{index}")
        about = STYLES[style]
        formulas = self._some(about.formulas, rng)
        blocks: list[tuple[str, list[Sentence]]] = []
        for i in range(4 + int(rng.random() * 7)):
            if i % 4 == 3:
                blocks.append(("h2", [[about.title(rng)]]))
            length = 2 + int(rng.random() * 4)
            blocks.append(("p", [about.sentence(rng, formulas) for _ in range(length)]))
            if about.formulas == "algebra" and rng.random() < 0.3:
                blocks.append(("div", [[formulas[int(rng.random() * len(formulas))]]]))
        if is_mixed(style, index):
            lecture, algebra = STYLES["lecture"], self._some("algebra", rng)
            del blocks[3:]
            blocks.append(("h2", [[lecture.title(rng)]]))
            for _ in range(6 + int(rng.random() * 5)):
                length = 3 + int(rng.random() * 3)
                blocks.append(("p", [lecture.sentence(rng, algebra) for _ in range(length)]))
        if about.extra and rng.random() < 0.7:
            rows = 3 + int(rng.random() * 6)
            if about.extra == "code":
                blocks.insert(2, ("pre", [[_code(rng, about)] for _ in range(rows)]))
            elif about.extra == "table":
                blocks.insert(2, ("table", [[_cells(rng, about)] for _ in range(rows)]))
            else:
                blocks.insert(2, ("ul", [about.sentence(rng, formulas) for _ in range(rows)]))
        return Content(about.title(rng).capitalize(), about.language, blocks)

    def _some(self, kind: str, rng: random.Random) -> list[Formula]:
        return rng.sample(self.pool[kind], 8) if kind else []


def _code(rng: random.Random, style: Style) -> str:
    names = style.words["name"]
    a, b = (names[int(rng.random() * len(names))] for _ in range(2))
    n = int(rng.random() * 100)
    lines = (
        f"if {a}({n}) > 0: return {b}",
        f"{a} = {b}(x, retries={n})",
        f"-- {a} : {n}",
        f"    by {a}; {b} [{n}]",
        f"for i in range({n}): {a}(i)",
    )
    return lines[int(rng.random() * len(lines))]


def _cells(rng: random.Random, style: Style) -> str:
    names = next(iter(style.words.values()))
    numbers = "\t".join(str(int(rng.random() * 1000)) for _ in range(4))
    return f"{names[int(rng.random() * len(names))]}\t{numbers}"


def change(content: Content, rng: random.Random) -> None:
    """Makes a near-duplicate: one paragraph less, two sentences in another order, a new title."""
    paragraphs = [i for i, (kind, _) in enumerate(content.blocks) if kind == "p"]
    if len(paragraphs) > 3:
        del content.blocks[paragraphs[int(rng.random() * len(paragraphs))]]
    first = next(sentences for kind, sentences in content.blocks if kind == "p")
    first.reverse()
    content.title = ("转载：" if content.language == "zh" else "Repost: ") + content.title


def plant(content: Content, text: str, rng: random.Random, inside: bool) -> None:
    """Puts a text on a page: as a paragraph of its own, or in the middle of one."""
    text = html.escape(text)
    paragraphs = [i for i, (kind, _) in enumerate(content.blocks) if kind == "p"]
    at = paragraphs[int(rng.random() * len(paragraphs))]
    if inside:
        sentences = content.blocks[at][1]
        sentences.insert(len(sentences) // 2, [text])
    else:
        content.blocks.insert(at, ("p", [[text]]))


# ---- HTML --------------------------------------------------------------------------------------

_HEADS = {
    "delimiters": '<script src="/js/mathjax@3/es5/tex-mml-chtml.js" async></script>',
    "mathjax2": '<script src="/mathjax/2.7.9/MathJax.js?config=TeX-AMS_HTML"></script>',
    "mathjax3": '<style>mjx-container[jax="CHTML"]{line-height:0}</style>',
    "katex": '<link rel="stylesheet" href="/css/katex.min.css">',
    "asciimath": '<script src="/mathjax/2.7.9/MathJax.js?config=AM_CHTML"></script>',
}
_MENUS = {
    "en": ("Home", "About", "Contact", "Archive", "Search", "Sign in", "Privacy", "Terms", "Help"),
    "zh": ("首页", "关于我们", "联系方式", "归档", "搜索", "登录", "隐私", "条款", "帮助"),
}
_ENDS = {
    "en": "Copyright 2024 {host}. All rights reserved. Subscribe to our newsletter.",
    "zh": "版权所有 2024 {host} 未经许可不得转载 扫码关注公众号",
}


class Theme:
    """The HTML that all pages of a host share, by one of four layouts."""

    def __init__(self, host: Host, number: int, language: str, form: str):
        menu = _MENUS[language]
        links = "".join(
            f'<li class="nav-item"><a href="/{i}" class="nav-link">{name}</a></li>'
            for i, name in enumerate(menu[: 4 + number % 6])
        )
        meta = f'<meta charset="{host.charset}">' if host.declares != "header" else ""
        lang = ' lang="zh-CN"' if language == "zh" else ' lang="en"' if number % 3 else ""
        doctype = "<!DOCTYPE html>\n" if number % 5 else ""
        self.head = (
            f"{doctype}<html{lang}><head>{meta}{_HEADS.get(form, '')}"
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            "<style>body{margin:0;font:16px/1.5 sans-serif}.nav-item{display:inline-block}"
            ".side{float:right;width:18em}pre{overflow:auto}</style>"
            "<script>var dataLayer=[];function tag(){dataLayer.push(arguments)}"
            f"tag('config','UA-{number}00-1');</script><title>"
        )
        opening, closing = (
            (f'<nav class="navbar"><ul>{links}</ul></nav><main><article>', "</article></main>"),
            (f'<div id="header"><ul>{links}</ul></div><div id="content">', "</div>"),
            (f'<aside class="side"><ul>{links}</ul></aside><div class="post">', "</div>"),
            (
                f'<table width="100%"><tr><td><ul>{links}</ul></td><td class="main">',
                "</td></tr></table>",
            ),
        )[number % 4]
        self.body = f"</title></head><body>{opening}"
        self.end = (
            f"{closing}<footer><p>{_ENDS[language].format(host=host.name)}</p></footer>"
            "<!-- served from cache --></body></html>\n"
        )


def page_html(content: Content, theme: Theme, form: str) -> str:
    title = html.escape(content.title)
    gap = "" if content.language == "zh" else " "
    parts = [theme.head, title, theme.body, "<h1>", title, "</h1>\n"]
    for kind, sentences in content.blocks:
        if kind == "table":
            rows = "".join(
                f"<tr><td>{str(s[0]).replace(chr(9), '</td><td>')}</td></tr>" for s in sentences
            )
            parts.append(f"<table>{rows}</table>\n")
        elif kind == "pre":
            lines = html.escape("\n".join(str(s[0]) for s in sentences))
            parts.append(f"<pre><code>{lines}</code></pre>\n")
        elif kind == "ul":
            items = "".join(f"<li>{_sentence(s, form, False)}</li>\n" for s in sentences)
            parts.append(f"<ul>{items}</ul>\n")
        else:
            inside = gap.join([_sentence(s, form, kind == "div") for s in sentences])
            parts.append(f"<{kind}>{inside}</{kind}>\n")
    parts.append(theme.end)
    return "".join(parts)


def _sentence(sentence: Sentence, form: str, display: bool) -> str:
    form = form or "markup"
    return "".join([p if isinstance(p, str) else render(p, form, display) for p in sentence])
