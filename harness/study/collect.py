"""From the words of a command line to resolved configurations: the only place that knows Hydra.

Hydra composes and splits sweeps; its job runner, output folders and logging are not used. Keys and group options are
checked before it composes, so that most mistakes are named in our own words.
"""

import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.config import GROUPS, Config
from harness.fields import describe, nearest, walk
from harness.study.conf import CONF, options
from launch.environment import KEY

CHOSEN = (*GROUPS, "experiment")
VARIABLES = "nccl.env"
NAN = re.compile(r"(?<=[=,])nan(?=,|$)")
"""The one name of an option that Hydra would take for a number."""
FIELDS = {key: item for key, item in walk() if key != "repeat"}


def doubled(limit: int) -> str:
    """1, 2, 4 … and the limit itself, as a sweep."""
    powers = itertools.takewhile(lambda count: count < limit, (2**n for n in itertools.count()))
    return ",".join(str(count) for count in (*powers, limit))


def collect(arguments: list[str], multirun: bool, visible_gpus: Callable[[], int]) -> list[Config]:
    """Every configuration that the arguments ask for, in the order of the sweep; repeats are not yet spread.

    `visible_gpus` is asked only by an experiment that doubles up to what is there.
    """
    ConfigStore.instance().store(name="schema", node=Config)
    OmegaConf.register_new_resolver("doubling", lambda: doubled(visible_gpus() or 2), replace=True)
    with initialize_config_dir(str(CONF), job_name="harness", version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        words = [checked(loader, word) for word in arguments]
        try:
            return list(compose(loader, words, multirun))
        except (HydraException, OmegaConfBaseException) as error:
            raise ValueError(sentence(error)) from error


def compose(loader: ConfigLoader, words: list[str], multirun: bool) -> Iterator[Config]:
    """Compose one configuration, or one for each point of the sweep."""
    config = loader.load_configuration("config", words, RunMode.MULTIRUN if multirun else RunMode.RUN)
    sweep = dict(config.hydra.sweeper.params or {})
    if not multirun:
        if sweep:
            raise ValueError(f"experiment={config.hydra.runtime.choices.experiment}: a sweep; run it with -m")
        yield resolved(config)
        return
    overrides = OverridesParser.create(loader).parse_overrides(
        [f"{key}={value}" for key, value in sweep.items()] + words
    )
    [points] = BasicSweeper.split_arguments(overrides, max_batch_size=None)
    for point in points:
        yield resolved(loader.load_sweep_config(config, point))


def resolved(config: DictConfig) -> Config:
    """The dataclasses of a composed configuration, with Hydra's own node left out."""
    OmegaConf.set_struct(config, False)
    config.pop("hydra")
    found = OmegaConf.to_object(config)
    assert isinstance(found, Config)
    return found


def checked(loader: ConfigLoader, word: str) -> str:
    """The word as Hydra takes it, once its key and its group option are known to exist."""
    name, sign, value = word.partition("=")
    if KEY.search(word):
        raise ValueError(f"{name if sign else '…'}: holds what looks like a key or a password, and would be recorded")
    if "${" in value:
        raise ValueError(f"{word}: refers to another value, or to the environment; write the value itself")
    if not sign and not word.startswith("~"):
        raise ValueError(f"{word}: write key=value")
    try:
        override = OverridesParser.create(loader).parse_overrides([word])[0]
    except HydraException as error:
        raise ValueError(f"{word}: not readable; quote the value, twice for the shell: '{name}=\"{value}\"'") from error
    key = override.key_or_group
    if key in CHOSEN:
        check_choice(override)
        word = NAN.sub('"nan"', word)
    elif key == VARIABLES or key.startswith(f"{VARIABLES}."):
        return word if override.type is OverrideType.DEL else f"++{word.lstrip('+')}"
    elif key == "repeat":
        raise ValueError(f"{word}: set by the controller; ask for repeats=N")
    elif key not in FIELDS:
        raise ValueError(f"{word}: no key '{key}'{nearest(key, [*CHOSEN, *FIELDS])}")
    if override.type is OverrideType.DEL:
        raise ValueError(f"{word}: a key cannot be removed; give it another value")
    return word.lstrip("+")


def check_choice(override: Override) -> None:
    """Raise ValueError for an option that a group does not have."""
    group, known = override.key_or_group, options(override.key_or_group)
    values: Any = override.sweep_iterator() if override.is_sweep_override() else [override.value()]
    for value in values:
        if str(value) not in known:
            raise ValueError(f"{group}={value}: choose one of {', '.join(known)}{nearest(str(value), known)}")


def sentence(error: Exception) -> str:
    """One sentence for what Hydra or OmegaConf refuses: field, value, and what would be right."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    text = " ".join(str(cause).split("full_key:")[0].split())
    key = getattr(cause, "full_key", None) or ""
    if "Ambiguous value for argument" in text:
        word = text.split("'")[1]
        return f"{word}: several values; add -m to sweep over them, or quote them to make them one"
    if key in FIELDS:
        return f"{key}: {text.rstrip('.')}; it takes {describe(FIELDS[key])}"
    return f"{key}: {text}" if key else text
