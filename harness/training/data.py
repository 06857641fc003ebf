"""Token ids for every step: text as bytes, a file of ids, or ids drawn on the device.

Which sequences of text or of a file a step trains on depends on the seed and the step alone; ranks share them
out. The same global batch is therefore the same data at every scale and with every strategy.
"""

import hashlib
import sysconfig
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.parallel.strategy import Microbatch

HASHED_BYTES = 1 << 30
"""Files above this size are not hashed: reading them would delay the first step by minutes."""


class Source(ABC):
    """Microbatches for one data rank: `accumulation` pairs (tokens, targets), each [local batch, seq]."""

    def __init__(
        self, *, device: torch.device, rank: int, ranks: int, local_batch: int, accumulation: int, seq: int, seed: int
    ) -> None:
        self.device, self.seq, self.seed = device, seq, seed
        self.rank, self.ranks, self.local_batch, self.accumulation = rank, ranks, local_batch, accumulation

    def batch(self, step: int) -> list[Microbatch]:
        """The microbatches of a step (from 1), on the device; the host does not wait for the copy."""
        sequences = self.sequences(step).view(self.accumulation, self.local_batch, self.seq + 1)
        return [(sequence[:, :-1], sequence[:, 1:]) for sequence in sequences]

    @abstractmethod
    def sequences(self, step: int) -> Tensor:
        """This rank's sequences of a step: [accumulation × local batch, seq + 1] int64 on the device.

        Raises ValueError where an id does not fit the vocabulary.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What identifies the data: name, sha256, tokens."""


class Synthetic(Source):
    """Ids drawn uniformly on the device: no reading and no copying."""

    def __init__(self, *, vocab_size: int, **place: Any) -> None:
        super().__init__(**place)
        self.vocab_size = vocab_size
        self.generator = torch.Generator(self.device)

    def sequences(self, step: int) -> Tensor:
        draw = hashlib.sha256(f"{self.seed}/{step}/{self.rank}".encode()).digest()
        self.generator.manual_seed(int.from_bytes(draw[:7], "big"))
        shape = (self.accumulation * self.local_batch, self.seq + 1)
        return torch.randint(self.vocab_size, shape, device=self.device, generator=self.generator)

    def describe(self) -> dict[str, Any]:
        return {"name": "synthetic", "sha256": None, "tokens": None}


class Corpus(Source):
    """Sequences cut at random from one long row of ids."""

    def __init__(self, ids: "np.ndarray[Any, Any]", name: str, vocab_size: int, **place: Any) -> None:
        super().__init__(**place)
        self.ids, self.name, self.vocab_size = ids, name, vocab_size

    def sequences(self, step: int) -> Tensor:
        share = self.accumulation * self.local_batch
        draw = np.random.Generator(np.random.Philox(key=[self.seed, step]))
        starts = draw.integers(len(self.ids) - self.seq, size=share * self.ranks)
        mine = starts[self.rank * share : (self.rank + 1) * share]
        rows = np.stack([self.ids[start : start + self.seq + 1] for start in mine]).astype(np.int64)
        if (largest := rows.max()) >= self.vocab_size:
            raise ValueError(
                f"data={self.name}: holds the token id {largest}, and the model knows {self.vocab_size}; "
                f"choose a model with model.vocab_size above {largest}"
            )
        host = torch.from_numpy(rows)
        if self.device.type == "cuda":
            host = host.pin_memory()
        return host.to(self.device, non_blocking=True)

    def describe(self) -> dict[str, Any]:
        digest = hashlib.sha256(self.ids.data).hexdigest() if self.ids.nbytes <= HASHED_BYTES else None
        return {"name": self.name, "sha256": digest, "tokens": len(self.ids)}


def library_text() -> "np.ndarray[Any, Any]":
    """The source text of the standard library's top-level modules as bytes: real text that is always there."""
    folder = Path(sysconfig.get_path("stdlib"))
    text = b"".join(path.read_bytes() for path in sorted(folder.glob("*.py")))
    return np.frombuffer(text, dtype=np.uint8)


def source(kind: str, *, path: str | None, dtype: str, vocab_size: int, **place: Any) -> Source:
    """The source of a kind: `bytes`, `tokens` (a memory-mapped file of `dtype` ids) or `synthetic`."""
    if kind == "synthetic":
        return Synthetic(vocab_size=vocab_size, **place)
    if kind == "bytes":
        ids = library_text()
    else:
        assert path is not None
        ids = np.memmap(path, dtype=np.dtype(dtype).newbyteorder("<"), mode="r")
    return Corpus(ids, kind, vocab_size, **place)
