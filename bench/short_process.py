"""What a process that records once and ends pays, against one that imports msgspec and ends.

    python bench/short_process.py [--runs 25]

Target: at most 15 ms more. The two take turns.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

BASE = "import msgspec"
ONCE = """
import sys
from skillmeter import create_analytics_client
client = create_analytics_client(runtime_dir=sys.argv[1] + "/run", spool_dir=sys.argv[1] + "/spool")
client.record_skill_execution("parse_json", True, 1.5, "u1", "o1")
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=25)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        pairs = [(seconds(ONCE, folder), seconds(BASE, folder)) for _ in range(runs + 2)][2:]
        left = len(os.listdir(f"{folder}/spool"))
    once, base = (statistics.median(side) * 1000 for side in zip(*pairs, strict=True))
    more = statistics.median(ours - theirs for ours, theirs in pairs) * 1000
    print(f"records once {once:.1f} ms   imports msgspec {base:.1f} ms   difference {more:.1f} ms   ({left} journals)")


def seconds(code: str, folder: str) -> float:
    """Wall time of one process, with bytecode cached as it is where a package is installed."""
    env = {**os.environ, "PYTHONPYCACHEPREFIX": f"{folder}/bytecode"}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code, folder], check=True, env=env)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
