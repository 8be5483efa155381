"""The processes of a pretraining that `torchrun` started, and the device of each."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist


def start_processes(device: str) -> None:
    """Joins the group that `torchrun` set up; a plain start stays alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("nccl" if device == "cuda" else "gloo")


def device_of(name: str) -> torch.device:
    """Returns the device of this process."""
    if name == "cuda":
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device(name)


def rank() -> int:
    """Returns the number of this process; 0 of one that is alone."""
    return dist.get_rank() if dist.is_initialized() else 0
