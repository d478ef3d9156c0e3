"""The same pages by resiliparse and trafilatura. A script for the Python of an environment that
holds both: it imports nothing of this project.

Reads a line {"peer", "file"}, the file being a JSON list of pages as text, and writes a line
{"version", "seconds", "texts"}. The time is of the process's CPU.
"""

import importlib.metadata
import json
import os
import sys
import time


def extractor(peer):
    if peer == "resiliparse":
        from resiliparse.extract.html2text import extract_plain_text

        return lambda page: extract_plain_text(page, main_content=True)
    import trafilatura

    return lambda page: trafilatura.extract(page) or ""


def main():
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        for line in sys.stdin:
            request = json.loads(line)
            extract = extractor(request["peer"])
            with open(request["file"], encoding="utf-8") as file:
                pages = json.load(file)
            extract(pages[0])
            start = time.process_time()
            texts = [extract(page) for page in pages]
            seconds = time.process_time() - start
            version = importlib.metadata.version(request["peer"])
            answer = {"version": version, "seconds": seconds, "texts": texts}
            print(json.dumps(answer), file=answers, flush=True)


main()
