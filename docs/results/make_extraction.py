"""Prints the tables of docs/extraction.md.

python docs/results/make_extraction.py --data DIR --peers PYTHON [--rounds 5]

DIR holds part-*.warc.gz and labels.jsonl; PYTHON is that of an environment with resiliparse and trafilatura:
python -m venv PEERS && PEERS/bin/pip install resiliparse trafilatura lxml_html_clean
All sides run on one core, in turns, and are timed in seconds of their process's CPU.
"""

import argparse
import json
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

from fastwarc.warc import ArchiveIterator, WarcRecordType

from dsmath_jax.mining.extract import extract
from dsmath_jax.mining.html_text import visible_text
from dsmath_jax.mining.stash import clean

HERE = pathlib.Path(__file__).resolve().parent
REPO = HERE.parents[1]
sys.path.insert(0, str(REPO / "tests" / "mining"))
from extraction_cases import CASES  # noqa: E402

PEERS = ("resiliparse", "trafilatura")
TEXT = "<p>" + "The sum of two even numbers is even, as the reader may check by hand. " * 6 + "</p>"
DELIMITERS = re.compile(r"^(?:\$\$(.*)\$\$|\$(.*)\$|\\\((.*)\\\)|\\\[(.*)\\\])$", re.DOTALL)


def read_pages(folder):
    with open(folder / "labels.jsonl", encoding="utf-8") as file:
        labels = {row["url"]: row for row in map(json.loads, file)}
    for path in sorted(folder.glob("part-*.warc.gz")):
        with open(path, "rb") as file:
            for record in ArchiveIterator(file, record_types=WarcRecordType.response):
                row = labels[record.headers["WARC-Target-URI"]]
                yield row, record.reader.read().decode()


def between(text):
    """What stands where the formula was, without delimiters and spaces."""
    found = re.search(r"Alpha(.*?)omega", " ".join((text or "").split()), re.DOTALL)
    inside = found[1].strip() if found else ""
    if match := DELIMITERS.match(inside):
        inside = next(x for x in match.groups() if x is not None)
    return inside.strip()


def same(a, b):
    """LaTeX that differs in spaces, in a display style around it, and in braces around a character."""

    def plain(latex):
        return re.sub(r"\{(\w)\}", r"\1", re.sub(r"\s", "", clean(latex)[0]))

    return plain(a) == plain(b)


def verdict(text, expected):
    inside = between(text)
    if same(inside, between(expected)):
        return "right"
    if not inside:
        return "lost"
    cell = inside if len(inside) <= 32 else inside[:30] + "…"
    return "`" + cell.replace("|", "\\|").replace("`", "'") + "`"


class Peer:
    def __init__(self, python, name):
        command = [python, "-P", str(REPO / "dsmath_jax" / "benchmarks" / "extraction_side.py")]
        self.name = name
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, pages):
        with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
            json.dump(pages, file)
            file.flush()
            request = {"peer": self.name, "file": file.name}
            print(json.dumps(request), file=self.process.stdin, flush=True)
            return json.loads(self.process.stdout.readline())


def timed(function, pages):
    start = time.process_time()
    for page in pages:
        function(page)
    return time.process_time() - start


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--peers", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    peers = {name: Peer(args.peers, name) for name in PEERS}

    # ---- Forms --------------------------------------------------------------------------------
    pages = [
        html.replace("<body>", f"<body>{TEXT}").replace("</body>", f"{TEXT}</body>")
        for html, _ in CASES.values()
    ]
    theirs = {name: peer.run(pages) for name, peer in peers.items()}
    titles = [f"{name} {answer['version']}" for name, answer in theirs.items()]
    print(f"| form | ours | {' | '.join(titles)} |\n|---|---|---|---|")
    for i, (form, (_, expected)) in enumerate(CASES.items()):
        cells = [extract(pages[i]).text, *(answer["texts"][i] for answer in theirs.values())]
        print(f"| {form} | {' | '.join(verdict(text, expected) for text in cells)} |")

    # ---- Real pages: formulas and speed -----------------------------------------------------------
    real = list(read_pages(args.data))
    math = [(row["source"], html) for row, html in real if row["label"] == "math"]
    heavy = [html for _, html in math]
    everything = [html for _, html in real]
    sample = heavy[::8]  # for trafilatura
    size = statistics.mean(len(html.encode()) for html in heavy) / 1e3
    print(
        f"\n{len(heavy)} pages of mathematics, {size:.0f} KB each on average; {len(everything)} pages in all.\n"
    )
    print("| source | pages | formulas in the source | found |\n|---|---|---|---|")
    for source in sorted({source for source, _ in math}):
        own = [html for s, html in math if s == source]
        counted = sum(source_count(html) for html in own)
        found = sum(extract(html).formulas for html in own)
        print(f"| {source} | {len(own)} | {counted} | {found} |")

    speeds = {
        name: []
        for name in (
            "extract",
            "visible_text",
            "resiliparse",
            "trafilatura",
            "extract, all",
            "visible_text, all",
        )
    }
    for _ in range(args.rounds):
        speeds["extract"].append(len(heavy) / timed(extract, heavy))
        speeds["visible_text"].append(len(heavy) / timed(visible_text, heavy))
        speeds["resiliparse"].append(len(heavy) / peers["resiliparse"].run(heavy)["seconds"])
        speeds["trafilatura"].append(len(sample) / peers["trafilatura"].run(sample)["seconds"])
        speeds["extract, all"].append(len(everything) / timed(extract, everything))
        speeds["visible_text, all"].append(len(everything) / timed(visible_text, everything))
    print("\n| pages/s, one core | median | lowest | highest |\n|---|---|---|---|")
    for name, values in speeds.items():
        print(
            f"| {name} | {statistics.median(values):.0f} | {min(values):.0f} | {max(values):.0f} |"
        )


def source_count(html):
    """Formulas in a page's source, counted without parsing it."""
    if "<mjx-container" in html:
        return html.count("<mjx-container")
    if "<main" in html:
        return len(
            re.findall(
                r'class="[^"]*process-math', html[html.index("<main") : html.rindex("</main>")]
            )
        )
    return len(re.findall(r'<(?:span|div) class="math ', html))


main()
