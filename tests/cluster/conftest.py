import os
from collections.abc import Iterator

import pytest
from lab import Cluster, missing


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Four hosts; where they cannot be had the tests are skipped, but not where they have to be."""
    if reason := missing():
        (pytest.fail if os.environ.get("CLUSTER_TESTS") == "required" else pytest.skip)(reason)
    # Slurm's own folders have to be in one that all may enter
    folder = tmp_path_factory.mktemp("cluster")
    with Cluster(folder) as made:
        yield made
