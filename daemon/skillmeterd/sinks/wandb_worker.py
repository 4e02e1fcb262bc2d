"""W&B worker: the process that W&B's library runs in. Reads messages from stdin and answers each on stdout.

Messages are JSON, a line each. The first says how to begin the run, each further one is a row; `{"problem": ""}` says
that it was taken. At the end of stdin, so also when the daemon is killed, the run is finished and the process ends.
"""

import json
import os
import sys
from typing import IO, Any

import wandb


def main() -> None:
    """Serve until stdin ends."""
    os.umask(0o077)  # the files that the library writes, and keeps, are their owner's alone
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the library prints is no answer
    run = None
    for line in sys.stdin:
        message = json.loads(line)
        try:
            if run is None:
                run = _begin(message)
            else:
                run.log(message)
        except Exception as error:  # the daemon decides: it tells a person, and starts this process again
            _answer(answers, f"{type(error).__name__}: {error}")
        else:
            _answer(answers, "")
    if run is not None:
        run.finish()


def _begin(message: dict[str, Any]) -> Any:
    os.makedirs(message["dir"], exist_ok=True)
    # Not what W&B adds for machine-learning jobs: the terminal's text, the machine's load, the source code.
    settings = wandb.Settings(silent=True, console="off", disable_git=True, x_disable_stats=True, x_disable_meta=True)
    return wandb.init(**message, job_type="skillmeter", save_code=False, settings=settings)


def _answer(answers: IO[str], problem: str) -> None:
    answers.write(json.dumps({"problem": problem[:500]}) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
