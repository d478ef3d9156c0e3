"""Hosts of the generated web: which paths each has, what is written there and in which form."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Group:
    """Pages of one kind under one path of a host.

    Attributes:
      path: "{i}" stands for the number of the page.
      style: of the text; see generated_web_text.
      form: of the formulas; see generated_web_formulas. "" where there are none.
      weight: about how many of 1,000 pages.
    """

    path: str
    style: str
    form: str
    weight: int

    @property
    def prefix(self) -> str:
        return self.path[: self.path.rindex("/", 0, self.path.index("{i}")) + 1]


@dataclass(frozen=True)
class Host:
    name: str
    groups: tuple[Group, ...]
    scheme: str = "https"
    charset: str = "utf-8"
    declares: str = "header"  # where the charset is named: "header", "meta" or "both"
    encoding: str = ""  # "chunked" or "gzip"
    mirror_of: str = ""


HOSTS = (
    # ---- Mathematical hosts of the seed's styles ------------------------------------------------
    Host("analysis-notes.example", (Group("/notes/lec{i}.html", "lecture", "delimiters", 18),)),
    Host("www.proofwiki.example", (Group("/wiki/Entry_{i}", "encyclopedia", "wikipedia", 20),)),
    Host("ask.lemma.example", (Group("/questions/{i}/", "forum", "mathjax2", 20),)),
    Host("mathhelp.example", (Group("/t/{i}", "forum", "katex", 14),), encoding="chunked"),
    Host("topology.example", (Group("/course/unit-{i}.php", "lecture", "mathjax3", 12),)),
    Host("tex-lectures.example", (Group("/vorlesung/{i}/", "lecture", "annotated", 10),)),
    Host(
        "old-notes.example",
        (Group("/algebra/page{i}.htm", "lecture", "image", 8),),
        scheme="http",
        charset="windows-1252",
        declares="meta",
    ),
    Host("board.numbertheory.example", (Group("/viewtopic.php?t={i}", "forum", "codecogs", 8),)),
    # ---- Hosts with mathematical and other paths ------------------------------------------------
    Host(
        "www.northfield.example",
        (
            Group("/~okafor/algebra/notes{i}.html", "lecture", "asciimath", 14),
            Group("/news/2023/item-{i}.html", "news", "", 22),
            Group("/sports/report-{i}.html", "sports", "", 14),
        ),
    ),
    Host(
        "people.ridgeway.example",
        (
            Group("/~lindqvist/teaching/{i}.html", "lecture", "attribute", 10),
            Group("/~marco/recipes/{i}.html", "cooking", "", 18),
        ),
    ),
    Host(
        "pedia.example",
        (
            Group("/en/science/maths/{i}", "encyclopedia", "markup", 12),
            Group("/en/places/{i}", "travel", "", 24),
            Group("/en/computing/{i}", "programming", "", 20),
        ),
        declares="both",
    ),
    # ---- Mathematical hosts of other styles: a part of their pages shares the seed's words -------
    Host("sheets4kids.example", (Group("/sheet/{i}.html", "worksheet", "markup", 26),)),
    Host(
        "primary.oakhill.example",
        (
            Group("/class3/numbers/{i}/", "worksheet", "image", 22),
            Group("/newsletter/{i}/", "news", "", 12),
        ),
    ),
    Host("formal.purelib.example", (Group("/docs/v4/{i}.html", "formal", "", 22),)),
    Host(
        "zulip.provers.example",
        (
            Group("/archive/help/{i}.html", "formal", "", 20),
            Group("/jobs/{i}", "programming", "", 10),
        ),
    ),
    Host("aoshu.example", (Group("/ti/{i}.html", "olympiad_zh", "codecogs", 22),)),
    Host(
        "bbs.qingshan.example",
        (
            Group("/jingsai/thread-{i}-1.html", "olympiad_zh", "image", 24),
            Group("/meishi/thread-{i}-1.html", "cooking_zh", "", 14),
        ),
        charset="gb18030",
    ),
    Host("gaoshu.example", (Group("/biji/{i}/", "notes_zh", "mathml", 22),)),
    Host(
        "jiaoxue.daxue.example",
        (
            Group("/shuxue/{i}.htm", "notes_zh", "mathjax2", 20),
            Group("/xinwen/{i}", "sports_zh", "", 10),
        ),
        charset="gb18030",
        declares="meta",
    ),
    # ---- Other hosts ----------------------------------------------------------------------------
    Host("kitchen-table.example", (Group("/recipes/{i}/", "cooking", "", 45),)),
    Host("slow-food.example", (Group("/blog/{i}.html", "cooking", "", 25),), encoding="gzip"),
    Host("railtrips.example", (Group("/trip/{i}", "travel", "", 40),)),
    Host("citybreaks.example", (Group("/guide?id={i}", "travel", "", 25),)),
    Host("matchday.example", (Group("/report/{i}.html", "sports", "", 45),)),
    Host("statsleague.example", (Group("/game/{i}", "sports", "", 30),)),
    Host("devlog.example", (Group("/posts/{i}.html", "programming", "", 45),)),
    Host(
        "docs.pipeline.example", (Group("/ref/{i}.html", "programming", "", 30),), encoding="gzip"
    ),
    Host("megashop.example", (Group("/p/{i}", "shop", "", 45),)),
    Host("gearstore.example", (Group("/item/{i}.html", "shop", "", 25),), scheme="http"),
    Host("herald.example", (Group("/story/{i}", "news", "", 40),)),
    Host("valleytimes.example", (Group("/local/{i}.html", "news", "", 25),)),
    Host("chifan.example", (Group("/caipu/{i}.html", "cooking_zh", "", 30),)),
    Host("lvyou.example", (Group("/gonglue/{i}.html", "travel_zh", "", 30),), charset="gb18030"),
    Host("saishi.example", (Group("/zhanbao/{i}.html", "sports_zh", "", 25),)),
    Host("mazi.example", (Group("/jishu/{i}", "programming_zh", "", 30),)),
    Host("haohuo.example", (Group("/goods/{i}.html", "shop_zh", "", 30),)),
    # ---- Mirrors: the same pages under another name ---------------------------------------------
    Host(
        "mirror.analysis-notes.example",
        (Group("/notes/lec{i}.html", "lecture", "delimiters", 9),),
        mirror_of="analysis-notes.example",
    ),
    Host(
        "kitchen-table.mirrors.example",
        (Group("/recipes/{i}/", "cooking", "", 12),),
        mirror_of="kitchen-table.example",
    ),
    Host(
        "m.aoshu.example",
        (Group("/ti/{i}.html", "olympiad_zh", "codecogs", 8),),
        mirror_of="aoshu.example",
    ),
)

# Where near-duplicates are found: copies of pages of any host with small changes.
REPOSTS = Host("reposts.example", (Group("/study/{i}", "", "", 0), Group("/life/{i}", "", "", 0)))
