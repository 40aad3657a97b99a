"""Devices, ranks and seeds. Without ``torchrun`` there is one rank and the functions that communicate do nothing."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from einops import rearrange
from torch import Tensor

from lifting.command import InputError


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
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device: cannot use {device!r}: {str(error).splitlines()[0]}") from None
    if "RANK" in os.environ and not dist.is_initialized():
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
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
    if world() > 1 and rank() > 0:
        dist.barrier()
    yield
    if world() > 1 and rank() == 0:
        dist.barrier()


def gather_rows(rows: Tensor, total: int) -> Tensor:
    """Collects on every rank what the ranks computed: (n, ...) -> (total, ...).

    Rank r computed the rows r, r + world, r + 2 world, ...
    """
    if world() == 1:
        return rows
    padded = rows.new_zeros((-(-total // world()), *rows.shape[1:]))
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in range(world())]
    dist.all_gather(parts, padded.contiguous())
    return rearrange(parts, "rank n ... -> (n rank) ...")[:total]


def average(values: Tensor) -> None:
    """Replaces ``values`` by their mean over the ranks."""
    if world() > 1:
        dist.all_reduce(values)
        values /= world()


def seed_everything(seed: int, epoch: int) -> None:
    """Seeds torch for one epoch of one rank, so that stopping and resuming a run does not change its numbers."""
    mixed = torch.Generator().manual_seed(seed * 100_003 + epoch * 1_009 + rank())
    torch.manual_seed(int(torch.randint(2**62, (), generator=mixed)))


def has_bf16_units(device: torch.device) -> bool:
    """Whether this device has units for bfloat16 products: a recent GPU, or a CPU with AMX or AVX-512 BF16."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
    return False
