"""How a step's sequences are shared out over ranks and microbatches."""

from harness.config import Config


def shared_by(config: Config) -> int:
    """Ranks that train together on the same sequences."""
    return config.parallel.tp * config.parallel.pp * config.parallel.cp


def data_parallel(config: Config) -> int:
    """Ranks that train on different data."""
    return config.nodes * config.gpus_per_node // shared_by(config)


def accumulation(config: Config) -> int:
    """Microbatches of one rank in one step; raises ValueError where the global batch does not divide.

    Weak scaling gives every rank local_batch sequences of a step: ranks that share sequences run them one microbatch
    after another, so that at one scale every strategy trains on the same global batch.
    """
    if config.scaling == "weak":
        if config.global_batch is not None:
            raise ValueError(
                f"global_batch={config.global_batch}: fixes the work of a step, which is strong scaling; "
                "say scaling=strong, or leave global_batch out"
            )
        return shared_by(config)
    if config.global_batch is None:
        raise ValueError("global_batch=null: scaling=strong needs the number of sequences in a step over all ranks")
    together = config.local_batch * data_parallel(config)
    if config.global_batch % together:
        raise ValueError(
            f"global_batch={config.global_batch}: must be a multiple of local_batch x data-parallel ranks = "
            f"{config.local_batch} x {data_parallel(config)} = {together}"
        )
    return config.global_batch // together


def tokens(config: Config) -> int:
    """Tokens of one microbatch on a rank; ranks that share layers all have them."""
    return config.local_batch * config.seq_len // config.parallel.cp


def shards(config: Config) -> int:
    """Data ranks that share one copy of the model, where copies are sharded."""
    return data_parallel(config) // config.parallel.replicas


def tokens_per_step(config: Config) -> int:
    """Tokens of one optimizer step over all ranks."""
    return data_parallel(config) * accumulation(config) * config.local_batch * config.seq_len
