"""Several hosts, by plain `jax.distributed`: how they meet, and what is said when one is lost."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
from typing import Any

from dsmath_jax.data.errors import InputError
from dsmath_jax.training.errors import TrainingError

_PARENT = "DSMATH_JAX_PARENT"
_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_AGAIN = "start the same command again on every host, it goes on from the last checkpoint"


def is_worker() -> bool:
    """Whether this is the process that `supervise` started."""
    return _PARENT in os.environ


def supervise() -> int:
    """Runs this command once more in a process of its own; gives the exit status.

    When contact with another host is lost, JAX aborts the process from a thread in C++, and leaves
    no way to say in it what happened. This one says it. Signals are passed on, and the two end
    together.
    """
    command = [sys.executable, *sys.orig_argv[1:]]
    environment = os.environ | {_PARENT: str(os.getpid())}
    worker = subprocess.Popen(command, env=environment, process_group=0)
    signals = 0

    def pass_on(number: int, frame: Any) -> None:
        nonlocal signals
        signals += 1
        worker.send_signal(number if signals < 3 else signal.SIGKILL)  # the third means it

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    status = worker.wait()
    if status >= 0:
        return status
    name = signal.Signals(-status).name
    why = f"the training process on this host was ended by {name}"
    if -status == signal.SIGABRT:
        why = "another host ended or cannot be reached (above is how JAX reports it)"
    if -status == signal.SIGKILL:
        why += " (is the host out of memory?)"
    print(f"error: {why}; {_AGAIN}", file=sys.stderr, flush=True)
    return 1


def join(timeout: int) -> None:
    """Meets the other processes of the run.

    Where JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID are
    set, they say who is who; without them JAX asks the TPU pod, Slurm, MPI or Kubernetes.

    Args:
      timeout: seconds without a sign of life after which a process counts as lost.

    Raises:
      InputError: no cluster is found, or the variables are wrong.
    """
    _end_with(int(os.environ.pop(_PARENT)))
    import jax

    # JAX's own use of SIGTERM would take it from the training loop.
    jax.config.update("jax_enable_preemption_service", False)
    address = os.environ.get(_VARIABLES[0])
    count, index = (_number(name) for name in _VARIABLES[1:])
    check_variables(address, count, index)
    try:
        jax.distributed.initialize(
            num_processes=count, process_id=index, heartbeat_timeout_seconds=timeout
        )
    except ValueError as e:
        raise InputError(no_cluster(e, address, count, index)) from None
    except RuntimeError as e:
        raise TrainingError(f"the processes of this run did not meet: {_first_line(e)}") from None


def check_variables(address: str | None, count: int | None, index: int | None) -> None:
    """Refuses values of the three variables that cannot be right (what is not set, the cluster may
    say).

    Raises:
      InputError: names the variable.
    """
    if address and not re.search(r":\d+$", address):
        raise InputError(f"JAX_COORDINATOR_ADDRESS={address}: it must be HOST:PORT of process 0")
    if count is not None and index is not None and index >= count:
        raise InputError(
            f"JAX_PROCESS_ID={index}: with JAX_NUM_PROCESSES={count} it is 0 to {count - 1}"
        )


def no_cluster(error: ValueError, address: str | None, count: int | None, index: int | None) -> str:
    """The sentence for what JAX says when it does not know who is who."""
    values = dict(zip(_VARIABLES, (address, count, index), strict=True))
    missing = [name for name, value in values.items() if value in (None, "")]
    if len(missing) < len(values):
        return (
            f"{', '.join(missing) or ', '.join(values)}: JAX cannot tell the processes apart "
            f"({error}); where no cluster says it, set all of {', '.join(values)}"
        )
    return (
        f"config.distributed=True, but JAX finds no cluster here ({error}): on one machine add "
        "--config.distributed=False, and for a trial :smoke after the file's name; on several, "
        "see docs/clusters.md"
    )


def joined() -> bool:
    """Whether this process is one of several."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


def lost_host(error: BaseException | None) -> str:
    """One sentence where the error is that another process of this run is gone, else ""."""
    if not joined():
        return ""
    import jax

    while error is not None:
        if isinstance(error, jax.errors.JaxRuntimeError | TimeoutError) and _CONTACT.search(
            str(error)
        ):
            return f"another host ended or cannot be reached ({_first_line(error)}); {_AGAIN}"
        error = error.__cause__ or error.__context__
    return ""


_CONTACT = re.compile(r"gloo|connection|unavailable|deadline|barrier|heartbeat|coordination", re.I)


def _number(name: str) -> int | None:
    value = os.environ.get(name, "")
    if value and not value.isdecimal():
        raise InputError(f"{name}={value}: it must be a whole number")
    return int(value) if value else None


def _end_with(parent: int) -> None:
    """When `supervise` is killed, this process goes too (Linux)."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:300]
