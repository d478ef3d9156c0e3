"""Stages that tests of the shard runner run in other processes."""

import os
import pathlib
import signal
import time


def count_lines(shard, folder, settings, progress):
    """Copies the lines of a file, upper case where the settings say so."""
    lines = pathlib.Path(shard.inputs[0]).read_text().splitlines()
    kept = []
    for n, line in enumerate(lines):
        if progress(f"{shard.inputs[0]}:{n}"):
            continue
        if line == "hang":
            time.sleep(1000)
        if line == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if line == "grow":
            bytearray(1 << 34)
        if line == "wrong":
            raise ValueError(f"{shard.name}: line {n} is wrong")
        kept.append(line.upper() if settings.get("upper") else line)
    (folder / "lines.txt").write_text("\n".join(kept))
    log = settings.get("log")
    if log:
        with open(log, "a") as file:
            file.write(shard.name + "\n")
    time.sleep(settings.get("seconds", 0.0))
    return {"pages": len(kept)}


def read_slowly(shard, folder, settings, progress):
    """Its two pages take no time; to read them does."""
    for page in progress.each(_slow_pages()):
        progress(page)
    return {"pages": 2}


def _slow_pages():
    for page in ("first", "second"):
        time.sleep(1.5)
        yield page
    time.sleep(1.5)


def without_progress(shard, folder, settings, progress):
    time.sleep(2.5)
    return {"pages": 0}


def score_slowly(shard, folder, settings, progress):
    """`score.score`, which first notes that it begins, and whether the shard was done already."""
    from dsmath_jax.mining import score

    settings = dict(settings)
    done = (folder.parent / shard.name / "done.json").exists()
    with open(settings.pop("log"), "a") as file:
        file.write(f"{shard.name} {'again' if done else 'new'} {os.getpid()}\n")
    time.sleep(settings.pop("seconds"))
    return score.score(shard, folder, settings, progress)


def score_with_hostile_pages(shard, folder, settings, progress):
    """`score.score` in a process that hangs, dies or runs out of memory at pages that say so."""
    from dsmath_jax.mining import score

    text_of = score.text_of

    def hostile(page):
        if b"hang here" in page.body:
            time.sleep(1000)
        if b"die here" in page.body:
            os.kill(os.getpid(), signal.SIGSEGV)
        if b"grow here" in page.body:
            bytearray(1 << 40)
        return text_of(page)

    score.text_of = hostile
    return score.score(shard, folder, settings, progress)
