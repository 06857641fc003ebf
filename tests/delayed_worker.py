"""The real worker with data and pauses that take known time, and a witness of its own of what it did.

`python -m delayed_worker RUN_DIR --attempt=K --device=cpu`, started by torchrun in the place of harness.worker. DELAYS
is JSON: `data` (step → seconds before its batch is there) and `pauses` (step → seconds for which something else than
training goes on after it). Rank 0's witness is attempts/K/witness.jsonl: what it did, when, and the seconds that took.
"""

import json
import os
import sys
import time
from pathlib import Path

from harness import worker

DELAYS = json.loads(os.environ.get("DELAYS", "{}"))
SCHEDULED = {
    name: {int(step): seconds for step, seconds in DELAYS.get(name, {}).items()} for name in ("data", "pauses")
}
RUN, TRAIN = worker.run, worker.train_point


class Witness:
    """Lines that are in the file before anything else happens."""

    def __init__(self) -> None:
        number = next(word.removeprefix("--attempt=") for word in sys.argv if word.startswith("--attempt="))
        path = Path(sys.argv[1]) / "attempts" / number / "witness.jsonl"
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if os.environ["RANK"] == "0" else None

    def saw(self, what: str, **more: float) -> None:
        if self.file is not None:
            os.write(self.file, (json.dumps({"what": what, "time": time.time(), **more}) + "\n").encode())


class SlowData:
    """A source whose batches are late."""

    def __init__(self, data, witness):
        self.data, self.witness = data, witness

    def batch(self, step):
        if step in SCHEDULED["data"]:
            begin = time.perf_counter()
            time.sleep(SCHEDULED["data"][step])
            self.witness.saw("data", step=step, seconds=time.perf_counter() - begin)
        return self.data.batch(step)


class Pausing:
    """An observer that pauses between steps as a checkpoint would."""

    def __init__(self, recorder, witness):
        self.recorder, self.witness = recorder, witness

    def __getattr__(self, name):
        return getattr(self.recorder, name)

    def step_done(self, step, *rest):
        self.witness.saw("step", step=step)
        self.recorder.step_done(step, *rest)
        if step in SCHEDULED["pauses"]:
            begin = time.perf_counter()
            with self.recorder.pause("checkpoint_stall"):
                time.sleep(SCHEDULED["pauses"][step])
            self.witness.saw("pause", step=step, seconds=time.perf_counter() - begin)


def main() -> None:
    witness = Witness()

    def run(*arguments):
        witness.saw("run")
        RUN(*arguments)

    def train(config, trained, data, recorder, between):
        TRAIN(config, trained, SlowData(data, witness), Pausing(recorder, witness), between)

    worker.run, worker.train_point = run, train
    worker.main()


if __name__ == "__main__":
    main()
