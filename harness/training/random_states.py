"""Where a rank's random generators stand, in plain values and tensors."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch


def taken(device: torch.device) -> dict[str, Any]:
    """Where Python's, NumPy's and torch's generators stand, the device's among them."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, torch.tensor(words), gauss],
        "numpy": [kind, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def restore(path: Path, device: torch.device) -> None:
    """Set the generators as a file says. A rank that the ranks who wrote did not have keeps its own."""
    if not path.exists():
        return
    states = torch.load(path, map_location="cpu", weights_only=True)
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if device.type == "cuda" and states["cuda"] is not None:
        torch.cuda.set_rng_state(states["cuda"], device)
