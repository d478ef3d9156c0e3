"""A side of a comparison: a process that measures when it is asked, and waits while others do."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, Self

from dsmath_jax.data.errors import InputError


class Side:
    """A process that reads JSON lines, first its settings and then requests, and answers each of
    them with a line: the settings when it is ready for requests.

    Args:
      name: of the side, for messages.
      command: what to run.
      settings: its first line.
      environment: of the process; by default this one's.

    Raises:
      InputError: the process has ended; what it wrote to stderr says why. So do requests.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        settings: dict[str, Any],
        environment: dict[str, str] | None = None,
    ):
        self.name = name
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.ask(settings)

    def ask(self, request: Any) -> Any:
        """The answer to a request, which the side measures now."""
        assert self.process.stdin and self.process.stdout
        with contextlib.suppress(BrokenPipeError):  # it has ended: then there is no answer
            print(json.dumps(request), file=self.process.stdin, flush=True)
        if not (answer := self.process.stdout.readline()):
            status = self.process.wait()
            raise InputError(f"the process of {self.name} ended with {status}: see above")
        return json.loads(answer)

    def peak_memory(self) -> float | None:
        """GB (10^9 bytes) that the process had in memory at most; None without /proc (macOS)."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status")
        if not status.exists():
            return None
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e9

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is not None:
            self.process.kill()
        assert self.process.stdin and self.process.stdout
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def module_command(name: str) -> list[str]:
    """Runs a module of this project, in this environment."""
    return [sys.executable, "-m", name]


def serve(start: Callable[[Any], Callable[[Any], Any]]) -> None:
    """The other end: `start(settings)` gives what answers requests. What libraries print goes to
    stderr."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        answer = start(json.loads(sys.stdin.readline()))
        print('"ready"', file=answers, flush=True)
        for line in sys.stdin:
            print(json.dumps(answer(json.loads(line))), file=answers, flush=True)


class PeerSide(Side):
    """A script beside this file, run by the Python of an environment that holds the peer.

    Raises:
      InputError: there is no such Python.
    """

    def __init__(self, package: str, python: str, script: str, settings: dict[str, Any], docs: str):
        check_peer(package, python, docs)
        # Packages and modules of this project's environment are not for that one.
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        path = pathlib.Path(__file__).with_name(script)
        super().__init__(package, [python, "-P", str(path)], settings, environment)


class TunixSide(PeerSide):
    """Likewise, of an environment that holds google-tunix."""

    def __init__(self, python: str, script: str, settings: dict[str, Any]):
        super().__init__("tunix", python, script, settings, "docs/speed.md")


def check_tunix(python: str) -> None:
    """As `check_peer`."""
    check_peer("tunix", python, "docs/speed.md")


def check_peer(package: str, python: str, docs: str) -> None:
    """Refuses what is not the Python of an environment that holds a package.

    Args:
      docs: the page that says how to make one.

    Raises:
      InputError: says so.
    """
    program = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
    try:
        found = subprocess.run([python, "-P", "-c", program], capture_output=True).returncode == 0
    except OSError:
        found = False
    if not found:
        raise InputError(
            f"config.measure.{package}={python}: this is not the Python of an environment that "
            f"holds {package}; {docs} says how to make one"
        )


def spread(name: str, values: Sequence[float]) -> dict[str, float]:
    """Of the rounds' values: {name: median, name_lowest, name_highest}."""
    return {
        name: statistics.median(values),
        f"{name}_lowest": min(values),
        f"{name}_highest": max(values),
    }
