"""`tell fit` with FSDP on CPUs: what accelerate does for GPUs alone, it is made to do here too.

Run by torchrun, with accelerate's own environment variables. Nothing of telltune is replaced, and
FSDP itself is torch's, over gloo.
"""

from __future__ import annotations

import os

import torch
from accelerate.state import DistributedType, PartialState

if __name__ == "__main__":
    torch.distributed.init_process_group("gloo")
    # Of the kinds that may be FSDP there is none for CPUs; the device is a CPU all the same.
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    PartialState._prepare_backend = lambda *_: ("gloo", DistributedType.MULTI_GPU)
    from telltune.cli import main

    main()
