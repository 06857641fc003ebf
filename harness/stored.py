"""The configuration that a run directory holds."""

from pathlib import Path

from omegaconf import OmegaConf

from harness.config import Config


def stored_config(run_dir: Path) -> Config:
    """The configuration of a run directory's point, as it was resolved when it was written.

    ValueError for one that refers to other values: it would bring variables of this environment into the records.
    """
    path = run_dir / "config.yaml"
    text = path.read_text()
    if "${" in text:
        raise ValueError(
            f"{path}: refers to other values with ${{…}}; a stored configuration has the values themselves"
        )
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.create(text)))
    assert isinstance(config, Config)
    return config
