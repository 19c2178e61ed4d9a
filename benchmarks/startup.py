"""The time until a training command takes its first step, on a first and a second start, and that of the import.

    python -m benchmarks.startup
    python -m benchmarks.startup --repeats=3 --config=configs/e2e.py --config.model=FOLDER --config.data.dir=FOLDER

Each pair of starts begins with an empty folder for compiled code, and each start has its own workdir. The first step
counts as done when the log has its line. So the time includes the evaluation before it, on the whole validation split.
The time of the import is what `import hut_jax` adds to `import jax, flax` in one process.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
IMPORT = "import time, jax, flax; began = time.perf_counter(); import hut_jax; print(time.perf_counter() - began)"


def main():
    """The benchmark; prints a table and at the end a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/quickstart.py", help="and any --config.field=value")
    parser.add_argument("--repeats", type=int, default=3, help="pairs of starts")
    args, overrides = parser.parse_known_args()
    first, again = zip(*(pair(args.config, overrides) for _ in range(args.repeats)), strict=True)
    imports = [float(output("-c", IMPORT)) for _ in range(2 * args.repeats + 1)][1:]  # the first reads the disk
    ratios = [b / a for a, b in zip(first, again, strict=True)]
    print("| | seconds, median | min to max |\n|---|---|---|")
    for name, values in (("first start", first), ("second start", again), ("import hut_jax", imports)):
        print(f"| {name} | {statistics.median(values):.2f} | {min(values):.2f} to {max(values):.2f} |")
    print(
        f"\n{args.config}: the second start takes {statistics.median(ratios):.2f} of the first; {os.cpu_count()} cores"
    )
    print(json.dumps({"first": first, "again": again, "import": imports, "load": os.getloadavg()}))


def pair(config, overrides):
    """Seconds to the first step: first with nothing compiled, then with the code that the first start compiled."""
    with tempfile.TemporaryDirectory() as folder:
        options = [f"--config={config}", *overrides, "--config.log.every=1", "--config.train.steps=1"]
        return [first_step(Path(folder), name, options) for name in ("first", "again")]


def first_step(folder, name, options):
    """Seconds from the start of the command to its first training line in the log."""
    workdir = folder / name
    command = [sys.executable, "-m", "hut_jax.train", f"--workdir={workdir}", *options]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("JAX_")}
    began = time.perf_counter()
    with subprocess.Popen(
        command, cwd=ROOT, env=kept | {"XDG_CACHE_HOME": str(folder)}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        while process.poll() is None and not has_trained(workdir / "metrics.jsonl"):
            time.sleep(0.02)
        took = time.perf_counter() - began
        _, error = process.communicate()
    if process.returncode:
        sys.exit(error.decode())
    return took


def has_trained(log):
    """Whether the log has a step."""
    return log.exists() and '"train"' in log.read_text()


def output(*arguments):
    """What Python prints when run with these arguments."""
    return subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True, cwd=ROOT).stdout


if __name__ == "__main__":
    main()
