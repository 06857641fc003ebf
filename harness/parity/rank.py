"""A process of a parity check: one rank of a point, or with --bare the bare module alone.

Started by torchrun: `torchrun --nproc-per-node=4 -m harness.parity.rank FOLDER`; reads FOLDER/config.yaml and writes
FOLDER/told.json.
"""

import argparse
import dataclasses
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import record

from harness.config import Config
from harness.models.attention import attention_kernels
from harness.models.initialize import initialize
from harness.models.transformer import Transformer
from harness.parallel.mesh import Mesh
from harness.parity.bare import train_bare
from harness.parity.compare import Told
from harness.place import join, leave
from harness.plan.batch import tokens_per_step
from harness.stored import stored_config
from harness.training.data import source
from harness.training.point import arranged, build, open_data
from harness.worker import here


@record
def main() -> None:
    parser = argparse.ArgumentParser(prog="harness.parity.rank", description="One process of a parity check.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bare", action="store_true")
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    arguments = parser.parse_args()
    config = stored_config(arguments.folder)
    place = here(arguments.device)[0]
    # no TF32: its products differ in the fourth digit with their shapes
    torch.set_float32_matmul_precision("highest")
    if arguments.bare:
        alone(config, place.device).write(arguments.folder / "told.json")
        return
    join(place)
    told = together(config, place.device)
    if place.rank == 0:
        told.write(arguments.folder / "told.json")
    leave()


def together(config: Config, device: torch.device) -> Told:
    """Train the point with its strategy; losses are means over ranks."""
    trained = build(config, Mesh(device.type, arranged(config)), device)
    data = open_data(config, trained, device)
    told = Told([], [])
    with attention_kernels(config.attention):
        for step in range(1, config.steps + 1):
            loss = trained.forward_backward(data.batch(step))
            norm = trained.update(config.optimizer.lr)
            total = loss.double()
            dist.all_reduce(total)
            told.losses.append(total.item() / dist.get_world_size())
            told.norms.append(norm.item())
    return told


def alone(config: Config, device: torch.device) -> Told:
    """Train the point's model on the point's data, all of a step's sequences at once."""
    shape = dataclasses.asdict(config.model)
    shape.pop("name")
    model = Transformer(**shape).to(device)
    initialize(model, config.model.layers, config.seed, device)
    data = source(
        config.data.kind,
        path=config.data.path,
        dtype=config.data.dtype,
        vocab_size=config.model.vocab_size,
        device=device,
        rank=0,
        ranks=1,
        local_batch=tokens_per_step(config) // config.seq_len,
        accumulation=1,
        seq=config.seq_len,
        seed=config.seed,
    )
    optimizer = config.optimizer
    return train_bare(
        model,
        data,
        steps=config.steps,
        lr=optimizer.lr,
        betas=(optimizer.beta1, optimizer.beta2),
        weight_decay=optimizer.weight_decay,
        grad_clip=optimizer.grad_clip,
    )


if __name__ == "__main__":
    main()
