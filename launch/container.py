"""The container in which ranks run, by pyxis."""

import re
from dataclasses import dataclass
from pathlib import Path

from launch.environment import SOURCE, Environment

# pyxis writes mounts into a file that a shell reads, a line each
UNMOUNTABLE = re.compile(r"[\s\"$`\\]")
SEPARATOR = re.compile(r"[,:]")


@dataclass(frozen=True)
class Container:
    """The image in which ranks run, by pyxis; of the host they see source, study and working directory as they are."""

    image: str
    mounts: str | None
    study_dir: Path

    def __post_init__(self) -> None:
        for folder in self.folders:
            if UNMOUNTABLE.search(str(folder)) or SEPARATOR.search(str(folder)):
                raise ValueError(
                    f"launcher.container_image={self.image}: {folder} cannot be mounted; "
                    "its path must be without spaces, quotes, $, \\, commas and colons"
                )
        if UNMOUNTABLE.search(self.mounts or ""):
            raise ValueError(
                f"launcher.container_mounts={self.mounts}: must be host:container paths, separated by commas, "
                "without spaces, quotes, $ and \\"
            )

    @property
    def folders(self) -> list[Path]:
        """What ranks need of the host, at the same paths."""
        here, own = Path.cwd(), [SOURCE, self.study_dir]
        return own if any(here.is_relative_to(folder) for folder in own) else [*own, here]

    def options(self, environment: Environment) -> list[str]:
        """srun's words for it. Variables that are named win over the image's own, others yield to them."""
        mounts = [*(f"{folder}:{folder}" for folder in self.folders), *([self.mounts] if self.mounts else [])]
        words = [
            f"--container-image={self.image}",
            f"--container-mounts={','.join(mounts)}",
            f"--container-workdir={Path.cwd()}",
        ]
        names = {**environment.effective, **environment.added, **environment.requested}
        return [*words, f"--container-env={','.join(sorted(names))}"]


def container(image: str | None, mounts: str | None, study_dir: Path) -> Container | None:
    """What a study's ranks run in, by the fields of harness.config.Launcher; None for the host itself."""
    return Container(image, mounts, study_dir) if image else None
