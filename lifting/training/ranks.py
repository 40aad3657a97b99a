"""Devices, ranks and seeds. Without ``torchrun`` there is one rank and the functions that communicate do nothing."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from einops import rearrange
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from lifting.command import InputError, RunError

_shared: list[Tensor] = []  # the states of the generators from which all ranks draw the same, see `shared_draws`
_starts = 0  # calls of `start` that joined the other ranks


def start(device: str) -> torch.device:
    """Joins the other ranks if ``torchrun`` started this process, and returns the device of this rank.

    Args:
        device: ``auto`` (a GPU if there is one), or a name that `torch.device` takes.

    Raises:
        InputError: the device cannot be used.
    """
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        chosen = torch.device(name)
        if "RANK" in os.environ and chosen.type == "cuda":
            chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(chosen)
        torch.empty(0, device=chosen).cpu()  # which one without memory, "meta", cannot
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device: cannot use {device!r}: {str(error).splitlines()[0]}") from None
    if "RANK" in os.environ and not dist.is_initialized():
        global _starts
        _starts += 1
        store, number, of = next(rendezvous("env://"))
        # torchrun keeps its store when it starts the processes again, and while they train several networks in turn.
        # With names of their own, these do not find the addresses of those that ended.
        restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        attempt = PrefixStore(f"attempt {restarts}, start {_starts}", store)
        backend = "nccl" if chosen.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=attempt, rank=number, world_size=of)
    return chosen


def stop() -> bool:
    """Leaves the process group, if there is one; returns whether this was rank 0, the only one to print and write."""
    first = rank() == 0
    if dist.is_initialized():
        dist.destroy_process_group()
    return first


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def first_rank_first() -> Iterator[None]:
    """Runs the block on rank 0 first, and then on the others, which find the files that rank 0 made on first use."""
    with losses_in_one_line():
        if rank() > 0:
            wait()
    yield
    with losses_in_one_line():
        if rank() == 0:
            wait()


def gather_rows(rows: Tensor, total: int, batch: int) -> Tensor:
    """Collects on every rank what the ranks computed: (n, ...) -> (total, ...).

    Rank r computed the batches r, r + world, ... of the whole, ``batch`` rows each. Whole batches, because the last
    bits of a product depend on how many rows it has: the ranks compute what one process computes.
    """
    if world() == 1:
        return rows
    turns = -(-total // (batch * world()))
    padded = rows.new_zeros((turns * batch, *rows.shape[1:]))
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in range(world())]
    dist.all_gather(parts, padded.contiguous())
    return rearrange(parts, "rank (turn row) ... -> (turn rank row) ...", row=batch)[:total]


def average(values: Tensor) -> None:
    """Replaces ``values`` by their mean over the ranks."""
    if world() > 1:
        dist.all_reduce(values)
        values /= world()


def largest(values: Sequence[float]) -> list[float]:
    """The largest of each value over the ranks."""
    if world() == 1:
        return list(values)
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    found = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    numbers: list[float] = found.tolist()
    return numbers


def all_have(value: object) -> bool:
    """Whether all ranks call this with an equal value."""
    return len(set(_gathered(value))) == 1


@contextmanager
def losses_in_one_line() -> Iterator[None]:
    """Turns the error of a broken connection into a `RunError`: another rank has failed, and says why itself."""
    try:
        yield
    except RuntimeError as error:
        if world() == 1 or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        reason = str(error).strip().splitlines()[0][:200]
        hint = "train --resume goes on from what was saved"
        raise RunError(f"rank {rank()}: another rank failed ({reason}); {hint}") from None


def wait() -> None:
    """Waits for the other ranks."""
    if world() > 1:
        dist.barrier()


def _gathered(value: Any) -> list[Any]:
    if world() == 1:
        return [value]
    values = [None] * world()
    dist.all_gather_object(values, value)
    return values


def pooled(mean: Tensor, count: Tensor | int) -> Tensor:
    """The mean over the values of all ranks, from this rank's mean of so many."""
    if world() == 1:
        return mean
    both = torch.stack([mean * count, torch.as_tensor(count).to(mean)])
    average(both)
    return both[0] / both[1].clamp(min=torch.finfo(both.dtype).tiny)


def seed_everything(seed: int, epoch: int, step: int = 0) -> None:
    """Seeds torch on one rank, for one epoch or for its rest from ``step`` on.

    Stopping and resuming a run therefore does not change its numbers.
    """
    for number in (0, rank()):
        mixed = torch.Generator().manual_seed(seed * 100_003 + epoch * 1_009 + number + step * 1_000_003)
        torch.manual_seed(int(torch.randint(2**62, (), generator=mixed)))
        if not number and world() > 1:
            _shared[:] = _states(torch.device("cuda" if dist.get_backend() == "nccl" else "cpu"))


@contextmanager
def shared_draws(device: torch.device) -> Iterator[None]:
    """Random numbers that are drawn in this block are the same on every rank, as if one process drew them."""
    if world() == 1:
        yield
        return
    own = _states(device)
    _set_states(_shared, device)
    yield
    _shared[:] = _states(device)
    _set_states(own, device)


def generators(device: torch.device) -> list[list[Tensor]]:
    """The states of torch's generators on every rank: of the CPU, of a GPU, and those of `shared_draws`."""
    return _gathered([*_states(device), *_shared] if world() > 1 else _states(device))


def set_generators(states: list[list[Tensor]], device: torch.device) -> bool:
    """Sets this rank's generators as `generators` returned them; does nothing and returns False if they do not fit."""
    own = len(_states(device))
    if len(states) != world() or len(states[rank()]) != (own if world() == 1 else 2 * own):
        return False
    _set_states(states[rank()][:own], device)
    _shared[:] = states[rank()][own:]
    return True


def _states(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _set_states(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)


def has_bf16_units(device: torch.device) -> bool:
    """Whether this device has units for bfloat16 products: a recent GPU, or a CPU with AMX or AVX-512 BF16."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
    return False
