"""`python -m bench.device_name`: the name under which results of this machine are filed, "cpu" or the GPU's."""

from __future__ import annotations

import re

import torch


def device_name() -> str:
    if not torch.cuda.is_available():
        return "cpu"
    return re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")


if __name__ == "__main__":
    print(device_name())
