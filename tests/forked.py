"""Commands in processes of their own, forked from one that has imported torch and the rest already: seconds less each.

They are processes like any other, with their own exit code, signals and output. What a start itself does, its imports
or the launcher of torchrun, is for the tests that begin a whole new Python.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from lifting.command import run_command

CONTEXT = get_context("forkserver")
MODULES = ["run_lifting", "run_single_stage", "lifting.commands.lifting_verbs", "lifting.commands.single_stage_verbs",
           "lifting.drawing.pose_figures", "torch.utils.tensorboard", "torch._dynamo",
           "tests.faults.hurts", "tests.fuzz.worker"]  # fmt: skip
Before = Callable[..., None]


def main_of(script: str) -> Callable[[], None]:
    """What a script calls, such as ``run_lifting.py``."""
    main: Callable[[], None] = import_module(script.removesuffix(".py").replace("/", ".")).main
    return main


def start(command: list[str], out: Path, err: Path, before: Before | None = None, *arguments: Any) -> BaseProcess:
    """Starts a script with its arguments in a process of one thread, which first calls ``before(*arguments)``.

    What it prints goes to the files ``out`` and ``err``.
    """
    CONTEXT.set_forkserver_preload(MODULES)
    process = CONTEXT.Process(target=_run, args=(command, out, err, before, arguments))
    process.start()
    return process


def two_ranks(folder: Path, script: str, *arguments: object, seconds: float = 300.0) -> str:
    """Runs a command in two processes as torchrun would, without its launcher; returns what both wrote to stdout.

    Raises:
        AssertionError: a rank ended with an error, or both hung; with what they wrote to stderr.
    """
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    files = [(folder / f"rank{rank}.out", folder / f"rank{rank}.err") for rank in range(2)]
    command = [script, *map(str, arguments)]
    running = [start(command, *files[rank], _as_rank, rank, store.port) for rank in range(2)]
    until = time.monotonic() + seconds
    while running and all(process.exitcode in (None, 0) for process in running) and time.monotonic() < until:
        wait([process.sentinel for process in running], until - time.monotonic())
        running = [process for process in running if process.exitcode != 0]
    for process in running:  # one that failed, and the other, which would wait for it
        process.kill()
        process.join()
    out, err = ("".join(pair[index].read_text() for pair in files) for index in range(2))
    assert not running, err
    return out


def _as_rank(rank: int, port: int) -> None:
    numbers = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    store = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    os.environ.update(numbers | store)


def _run(command: list[str], out: Path, err: Path, before: Before | None, arguments: tuple[Any, ...]) -> None:
    err.parent.mkdir(parents=True, exist_ok=True)
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), number)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    torch.set_num_threads(1)
    sys.argv = command
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # `synthetic.making` may have started the server
    if before is not None:
        before(*arguments)
    run_command(main_of(command[0]))
