"""What `make gpu` measures beside the tests: the cases, each a function that returns the cells of its row."""

import copy
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, partialmethod
from itertools import islice
from pathlib import Path
from statistics import median

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lifting import lifter
from lifting.geometry.h36m import TEST_SUBJECTS, TRAIN_SUBJECTS
from lifting.prediction import Batch
from lifting.training import ranks
from lifting.training.adam import Adam
from lifting.training.engine import stepping
from tests.benchmarks.bench_feeding import endless
from tests.gpu.setting import NETWORKS, ROOT, Row, Setting, made, sets
from tests.studies.growth import write_tiled

WARM, STEPS = 5, 5  # steps of a training before it is watched (its recording is among them), and while it is
TESTS_S = 240.0  # seconds that the tests may take
TRAINED = ("FC + RLE", "SRNet + RLE", "ResNet-50 + RLE")
# How a step is taken: its name, whether it is compiled, whether it is recorded.
WAYS = (("plain", False, False), ("recorded", False, True), ("compiled", True, False), ("both", True, True))
EPOCHS = 10  # of the large set
FEW = ("FC + RLE", "FC + RLE, compiled")  # what a short run is content with


@dataclass(frozen=True)
class Case:
    """A row of the page.

    Attributes:
        part: the table it belongs to, one of `PARTS`.
        name: what it is called there.
        run: returns its cells.
        always: also in a short run.
    """

    part: str
    name: str
    run: Callable[[Setting], Row]
    always: bool = True


# -- the cases --------------------------------------------------------------------------------------------------------


def machine(setting: Setting) -> Row:
    """What the page says on top of it."""
    device = torch.device(setting.device)
    row = {"device": str(device), "CPU": f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}"}
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        row["device"] = f"{found.name}, {found.total_memory / 2**30:.0f} GiB, capability {found.major}.{found.minor}"
        row["how many"] = str(torch.cuda.device_count())
        row["CUDA or ROCm"] = str(torch.version.cuda or torch.version.hip)
    row["bfloat16 units"] = str(ranks.has_bf16_units(device))
    return row | {"torch": torch.__version__, "python": platform.python_version(), "commit": _commit()}


def _commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + (" with changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown: no git repository"


def tests(setting: Setting) -> Row:
    """The tests that are marked ``gpu``, of this kind of device; a short run takes a few of them."""
    chosen = torch.device(setting.device).type + (" and (alignment or dropout)" if setting.short else "")
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-k", chosen, str(Path(__file__).parent)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TESTS_S, check=False)
    lines = done.stdout.strip().splitlines() or [f"no output, exit code {done.returncode}"]
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
        failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
        raise RuntimeError("; ".join([lines[-1], *failed]))
    return {"result": lines[-1].strip("= ")}


def waits(setting: Setting, network: str) -> Row:
    """Steps of a training, after the first ones, in which nothing may wait for the device."""
    objective, batches, config = made(setting, network)
    device = torch.device(setting.device)
    step, epoch = stepping(objective, Adam(objective.parameters(), fused=True), config.train), endless(batches)
    for batch in islice(epoch, WARM):
        step(batch)
    losses = []
    with device_may_not_wait(device):
        for _ in range(STEPS):
            losses.append(step(next(epoch))[0])
    seen = torch.stack(losses).tolist()
    if not all(map(math.isfinite, seen)):
        raise RuntimeError(f"expected finite losses, got {seen}")
    return {"steps": str(STEPS), "loss": f"{seen[-1]:.3f}", **peak(device)}


def speed(setting: Setting, network: str) -> Row:
    """Samples a second: of training steps fed by the batches of a run, on one resident batch, of the batches alone."""
    objective, batches, config = made(setting, network)
    device = torch.device(setting.device)
    step = stepping(objective, Adam(objective.parameters(), fused=True), config.train)

    def rate(step: Callable[[], Batch]) -> float:
        seconds, steps = timed(step, device, 0.1 if setting.short else 5.0)
        return len(resident.input) * steps / seconds

    def trained(batch: Batch) -> Batch:
        step(batch)
        return batch

    feed = endless(batches)
    resident = next(feed)
    fed, model = rate(lambda: trained(next(feed))), rate(lambda: trained(resident))
    memory, alone = peak(device), rate(lambda: next(feed))
    return {
        "batch": str(len(resident.input)),
        "fed, a second": f"{fed:,.0f}",
        "model alone": f"{model:,.0f}",
        "fed to alone": f"{fed / model:.2f}",
        "batches alone": f"{alone:,.0f}",
        **memory,
    }


def steps(setting: Setting, network: str) -> Row:
    """Milliseconds of a step on one resident batch: one operation after the other, recorded, compiled, both.

    A compiled ResNet takes longer to make than this command has.
    """
    objective, batches, config = made(setting, network)
    device = torch.device(setting.device)
    batch, row, best = next(batches.epoch(0)), {}, math.inf
    for name, compiled, recorded in WAYS[: 2 if setting.short or network.startswith("ResNet") else 4]:
        train = config.train.model_copy(update={"compile": compiled, "cuda_graph": recorded})
        mine = copy.deepcopy(objective)
        step = stepping(mine, Adam(mine.parameters(), fused=True), train)
        seconds, count = timed(lambda: step(batch), device, 0.1 if setting.short else 3.0)  # noqa: B023
        row[name] = f"{1000 * seconds / count:.2f}"
        best = min(best, seconds / count)
    with FlopCounterMode(display=False) as counter:
        objective(batch)[0].backward()
    return {"batch": str(len(batch.input)), **row, "best, TFLOP/s": f"{counter.get_total_flops() / best / 1e12:.1f}"}


def large(setting: Setting) -> Row:
    """Epochs of FC + RLE on as many poses as Human3.6M has, as a person starts them, each with its evaluation."""
    frames = (400, 200) if setting.short else (389_938, 135_836)
    paths = [setting.folder / f"{name}.h5" for name in ("large", "large_test")]
    for path, count, subjects in zip(paths, frames, (TRAIN_SUBJECTS, TEST_SUBJECTS), strict=True):
        write_tiled(path, count, subjects)
    count = 2 if setting.short else EPOCHS
    config = setting.config("FC + RLE", f"data.path={paths[0]}", f"data.test_path={paths[1]}", f"train.epochs={count}",
                            *([] if setting.short else ["data.stride=1", "data.test_stride=1"]))  # fmt: skip
    started = time.monotonic()
    lifter.load_poses(config, train=True)
    lifter.load_poses(config, train=False)
    loading = time.monotonic() - started
    started = time.monotonic()
    lifter.train(config, setting.folder / "large")
    whole = time.monotonic() - started
    rows = [json.loads(line) for line in (setting.folder / "large" / "metrics.jsonl").read_text().splitlines()]
    seconds = [row["seconds"] for row in rows]
    return {
        "epochs": str(len(rows)),
        "loading": f"{loading:.1f} s",
        "loading, epochs, evaluations": f"{whole:.1f} s",
        "first epoch": f"{seconds[0]:.2f} s",
        "median epoch": f"{median(seconds):.2f} s",
        "80 epochs, reckoned": f"{80 * (whole - loading) / len(rows):.0f} s",
        "loss": f"{rows[-1]['loss']:.3f}",
        "MPJPE over actions": f"{rows[-1]['mpjpe_mm']:.1f} mm",
        **peak(torch.device(setting.device)),
    }


def epochs(setting: Setting, network: str, *, compiled: bool) -> Row:
    """Two epochs of a run as a person starts it, with its evaluation; the first one compiles."""
    if compiled and setting.short:  # all but the generation of code, which takes a minute
        nn.Module.compile = partialmethod(nn.Module.compile, backend="eager")  # type: ignore[method-assign, assignment]
    config = setting.config(network, "train.epochs=2", f"train.compile={str(compiled).lower()}")
    folder = setting.folder / f"{network} {compiled}"
    NETWORKS[network].track.train(config, folder)
    first, second = (json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())
    return {
        "first epoch": f"{first['seconds']:.1f} s",
        "second": f"{second['seconds']:.1f} s",
        "loss": f"{second['loss']:.3f}",
        "MPJPE over actions": f"{second['mpjpe_mm']:.1f} mm",
        **peak(torch.device(setting.device)),
    }


PARTS: dict[str, str] = {
    "sets": "What the rest trains on.",
    "tests": "`pytest -m gpu`, the tests that a device can break.",
    "waits": f"{STEPS} training steps with real batches, in which nothing may wait for the device: on CUDA under "
    "`torch.cuda.set_sync_debug_mode('error')`; a CPU has nothing to wait for, and only the losses are checked.",
    "speed": "Samples a second: training steps fed by the run's own batches, on one resident batch (the model alone), "
    "and the batches without a model.",
    "steps": "Milliseconds of a training step on one resident batch: operation by operation, recorded as a CUDA graph "
    "(the default), compiled (`train.compile`), and both. TFLOP/s leave out what the kernels of the flow compute.",
    "large": f"{EPOCHS} epochs of FC + RLE on 1.56 million training poses, each with its evaluation on 543,000 and its "
    "checkpoints.",
    "epochs": "Two epochs of a run, with and without `train.compile`; a compiled run generates its code in the first. "
    "Seconds are those of training.",
}
CASES = [
    Case("sets", "sets", sets),
    Case("tests", "pytest", tests),
    *(Case("waits", name, partial(waits, network=name), name in (*FEW, "ResNet-50 + RLE")) for name in NETWORKS),
    *(Case("speed", name, partial(speed, network=name), name in FEW) for name in TRAINED),
    *(Case("steps", name, partial(steps, network=name), name in FEW) for name in TRAINED),
    Case("large", "FC + RLE", large),
    *(
        Case("epochs", name + suffix, partial(epochs, network=name, compiled=bool(suffix)), name + suffix in FEW)
        for name in TRAINED
        for suffix in ("", ", compiled")
    ),
]


# -- what they share --------------------------------------------------------------------------------------------------


@contextmanager
def device_may_not_wait(device: torch.device) -> Iterator[None]:
    """Inside, what makes the CPU wait for CUDA raises."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def timed(step: Callable[[], object], device: torch.device, seconds: float) -> tuple[float, int]:
    """Takes steps for so many seconds, after the first ones; how long they took, and how many they were."""
    for _ in range(WARM):
        step()
    synchronize(device)
    count, started = 0, time.perf_counter()
    while time.perf_counter() < started + seconds:
        step()
        count += 1
    synchronize(device)
    return time.perf_counter() - started, count


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak(device: torch.device) -> Row:
    """The most memory that this process has held on a GPU."""
    if device.type != "cuda":
        return {}
    return {"peak memory": f"{torch.cuda.max_memory_allocated(device) / 2**20:,.0f} MiB"}
