"""Real pages for the miner's tests."""

import dataclasses
import importlib.util
import json

import pytest

PACKAGES = ("fastwarc", "selectolax", "fasttext", "pyarrow", "fsspec")
MISSING = [name for name in PACKAGES if importlib.util.find_spec(name) is None]


def pytest_pycollect_makemodule() -> None:
    """Skips the whole folder where the miner's packages are not installed."""
    if MISSING:
        pytest.skip(f"{', '.join(MISSING)} not installed: pip install -e '.[mining]'")


@dataclasses.dataclass(frozen=True)
class WebPage:
    url: str
    label: str  # "math" or "other"
    language: str
    source: str
    html: str


@pytest.fixture(scope="session")
def web_pages(data_dir) -> list[WebPage]:
    """The saved pages of the data folder, which are UTF-8."""
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    folder = data_dir / "web"
    if not folder.is_dir():
        pytest.skip(f"real pages: no folder {folder}")
    with open(folder / "labels.jsonl", encoding="utf-8") as file:
        labels = {row["url"]: row for row in map(json.loads, file)}
    pages = []
    for path in sorted(folder.glob("part-*.warc.gz")):
        with open(path, "rb") as file:
            for record in ArchiveIterator(file, record_types=WarcRecordType.response):
                url = record.headers["WARC-Target-URI"]
                row = labels[url]
                html = record.reader.read().decode()
                pages.append(WebPage(url, row["label"], row["language"], row["source"], html))
    return pages
