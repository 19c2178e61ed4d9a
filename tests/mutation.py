"""Break the package in hundreds of ways, one at a time, and say which the tests noticed. Run it by hand:

    python -m tests.mutation                 # the quick tests; stop it and start it again at will
    python -m tests.mutation --tier=full     # the full tests, on what survived the quick ones
    python -m tests.mutation --retry         # once more on what survived, after tests were mended
    python -m tests.mutation --list          # the mutants alone

Why our own: cosmic-ray starts one command for each mutant, which here imports JAX for seconds and runs all tests.
mutmut 3 changes nothing outside functions and asks which tests called a function, but a jitted function is called only
by the first test that needs its trace.

The tests first run once without a change and under coverage, to learn which test files run which lines. Then each
mutant gets a copy of the repository and a fork of this process, which has imported JAX and its kin, but neither hut_jax
nor a backend. The mirrored test file runs first, then the others that run the changed line, the nearest and shortest
first, up to the first failure. Some mutants are tried without their change, which no test may notice. Results, the map
of the lines and compiled code are kept in `runs/mutation`.
"""

import argparse
import hashlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from tests.environment import set_environment
from tests.mutants import FOLDERS, Mutant, folder_of, make_mutants, read_equivalents, sample

ROOT = Path(__file__).parent.parent
EQUIVALENTS = Path(__file__).with_name("equivalent_mutants.toml")
TIERS = {"quick": "not peers and not full", "full": "full and not peers"}
# What the tests import and takes long. None of it starts a JAX backend, which would not survive a fork.
PRELOADED = (
    "jax jax.numpy jaxtyping beartype flax.linen flax.nnx optax orbax.checkpoint grain.python tensorflow_datasets "
    "scipy.stats sklearn.metrics tensorboardX nltk sacrebleu pandas hypothesis coverage"
)


class Watch:
    """A pytest plugin: what failed, how long each test file took and, with coverage, the lines it ran."""

    def __init__(self, coverage=None):
        self.failed: list[str] = []
        self.seconds: Counter[str] = Counter()
        self._coverage = coverage
        self._file = ""
        self._users: dict[str, set[str]] = defaultdict(set)  # the test files of a session fixture

    def pytest_sessionstart(self, session):
        """Import the package, so that its import does not count as the work of the first test file."""
        for folder in FOLDERS if self._coverage else ():
            for path in sorted(Path("hut_jax", folder).rglob("[!_]*.py")):
                importlib.import_module(".".join(path.with_suffix("").parts))

    def pytest_collectstart(self, collector):
        if collector.nodeid.endswith(".py"):
            self._enter(collector.nodeid)

    def pytest_collectreport(self, report):
        self.failed += [report.nodeid] if report.failed else []

    def pytest_collection_modifyitems(self, items):
        for item in items:
            for fixture in item.fixturenames:
                self._users[f"fixture {fixture}"].add(file_of(item.nodeid))

    def pytest_runtest_logstart(self, nodeid, location):
        self._enter(file_of(nodeid))

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef, request):
        """Count what a session fixture runs for every file that uses it."""
        if not self._coverage or fixturedef.scope != "session":
            return (yield)
        self._users[f"fixture {fixturedef.argname}"].add(self._file)
        self._coverage.switch_context(f"fixture {fixturedef.argname}")
        try:
            return (yield)
        finally:
            self._coverage.switch_context(self._file)

    def pytest_runtest_logreport(self, report):
        self.seconds[file_of(report.nodeid)] += report.duration
        self.failed += [report.nodeid] if report.failed else []

    def _enter(self, file: str) -> None:
        """Start a test file: what earlier ones traced or computed is forgotten, so that this one is seen to run it."""
        if not self._coverage or file == self._file:
            return
        sys.modules["jax"].clear_caches()
        for name, module in list(sys.modules.items()):
            for value in list(vars(module).values()) if name.startswith("hut_jax") else ():
                if hasattr(value, "cache_clear"):
                    value.cache_clear()
        self._coverage.switch_context(file)
        self._file = file

    def lines(self) -> dict[str, dict[int, list[str]]]:
        """The test files that ran each line of each file."""
        data, found = self._coverage.get_data(), {}
        for path in data.measured_files():
            found[str(Path(path).relative_to(Path.cwd()))] = {
                line: sorted({file for name in names for file in self._users.get(name, {name})} - {""})
                for line, names in data.contexts_by_lineno(path).items()
            }
        return found


def file_of(test: str) -> str:
    return test.partition("::")[0]


def run_tests(tree: Path, arguments: list[str], timeout: float, *, measure: bool = False) -> dict:
    """Run pytest in a fork of this process, in a copy of the repository.

    Returns:
        `failed`: the tests that failed, or what else went wrong; with `measure` also `seconds` and `lines`.
    """
    answer = tree.with_name("answer.json")
    answer.unlink(missing_ok=True)
    sys.stdout.flush()
    child = os.fork()
    if not child:
        try:
            os.setsid()
            _test_here(tree, arguments, answer, measure)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)  # where there is no answer
    deadline = time.monotonic() + timeout
    try:
        while not (ended := os.waitpid(child, os.WNOHANG)[0]) and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # with the commands that the tests started
    if not ended:
        os.waitpid(child, 0)
        return {"failed": [f"no end after {timeout:.0f} s"]}
    return json.loads(answer.read_text()) if answer.exists() else {"failed": ["the tests' process died"]}


def _test_here(tree: Path, arguments: list[str], answer: Path, measure: bool) -> None:
    log = os.open(tree.with_name("log.txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1), os.dup2(log, 2)
    os.chdir(tree)
    sys.path[:] = [str(tree), *(entry for entry in sys.path if Path(entry or ROOT).resolve() != ROOT)]
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]  # those of the repository, not of its copy
    coverage = None
    if measure:
        coverage = sys.modules["coverage"].Coverage(data_file=None, config_file=False, source=[str(tree / "hut_jax")])
        coverage.start()
    else:  # a process that is killed while it writes would leave broken code for the next one
        sys.modules["jax"].config.update("jax_persistent_cache_min_compile_time_secs", 1e9)
    watch = Watch(coverage)
    options = ["-q", "-p", "no:cacheprovider", "--hypothesis-seed=0", f"--basetemp={tree.with_name('tmp')}"]
    options.append("-Wignore:Module already imported:pytest.PytestAssertRewriteWarning")  # pytest's plugins, preloaded
    code = pytest.main([*options, *arguments], plugins=[watch])
    failed = watch.failed
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED) and not failed:
        failed = [f"pytest's exit code is {code!r}"]
    loaded = getattr(sys.modules.get("hut_jax"), "__file__", None)
    if loaded and Path(loaded) != tree / "hut_jax/__init__.py":
        raise RuntimeError(f"the tests ran {loaded}, not the mutant")
    lines = {"seconds": watch.seconds, "lines": watch.lines()} if measure and coverage.stop() is None else {}
    answer.write_text(json.dumps({"failed": failed} | lines))
    os._exit(0)


@contextmanager
def copy_of_the_repository():
    """A copy of all files that git knows or would take, with the real data beside it as beside the repository."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    with tempfile.TemporaryDirectory(prefix="mutant_") as folder:
        tree = Path(folder).resolve() / "tree"
        for file in filter(None, files):
            if (ROOT / file).is_file():
                (tree / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / file, tree / file)
        if (ROOT.parent / "shared").is_dir():
            (tree.parent / "shared").symlink_to(ROOT.parent / "shared")
        yield tree


def map_lines(cache: Path, tier: str, tests: list[str]) -> dict:
    """Which test files run which lines, from a run of all tests of the tier, or from the cache of such a run."""
    digest = hashlib.sha256(json.dumps([tier, tests]).encode())
    for path in sorted([*(ROOT / "hut_jax").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]):
        if path != Path(__file__) and path.name != "mutants.py":
            digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    if cache.exists() and (known := json.loads(cache.read_text()))["digest"] == digest.hexdigest():
        return known
    print(f"running the {tier} tests without a mutant, to learn which lines they run", flush=True)
    with copy_of_the_repository() as tree:
        answer = run_tests(tree, ["-m", TIERS[tier], *tests], 4 * 3600, measure=True)
        if not all("::" in test for test in answer["failed"]):  # more than a test failed
            sys.exit(f"{tree.with_name('log.txt').read_text()[-4000:]}\n{answer['failed']}")
    for test in answer["failed"]:
        print(f"fails without a mutant, so it is left out: {test}")
    cache.write_text(json.dumps(answer | {"digest": digest.hexdigest()}))
    return json.loads(cache.read_text())


def order_tests(mutant: Mutant, known: dict) -> list[list[str]]:
    """The test files for a mutant in two runs: the mirrored one, then the rest, the nearest and shortest first.

    A line that runs only at import, such as a default, matters to all tests that run any line of its module. Without
    any, the mirrored folder is run, since commands that tests start are not measured.
    """
    module, first, last = Path(mutant.file).relative_to("hut_jax"), *mutant.statement
    mirrored, folder = f"tests/{module.parent}/test_{module.name}", f"tests/{module.parts[0]}/"
    lines = known["lines"].get(mutant.file, {})
    seen = [lines[str(n)] for n in range(first, last + 1) if str(n) in lines]
    files = {file for run in seen for file in run}
    if not files:
        files = {file for file in known["seconds"] if file.startswith(folder)}
        files |= {file for run in lines.values() for file in run} if seen else set()
    rest = sorted(files - {mirrored}, key=lambda file: (not file.startswith(folder), known["seconds"].get(file, 0)))
    return [run for run in ([mirrored] if mirrored in files else [], rest) if run]


def try_mutant(mutant: Mutant, tier: str, known: dict) -> dict:
    """Run the tests on a mutant. `by` is the test that noticed it, or None."""
    began, by, runs = time.monotonic(), None, order_tests(mutant, known)
    with copy_of_the_repository() as tree:
        (tree / mutant.file).write_bytes(mutant.apply((ROOT / mutant.file).read_bytes()))
        for files in runs:
            left_out = [f"--deselect={test}" for test in known["failed"]]
            timeout = max(60, 5 * sum(known["seconds"].get(file, 0) for file in files))
            failed = run_tests(tree, ["-x", "-m", TIERS[tier], *left_out, *files], timeout)["failed"]
            if failed:
                by = failed[0]
                break
    names = {"id": mutant.id, "before": mutant.before, "after": mutant.after, "tier": tier}
    return names | {"by": by, "files": sum(map(len, runs)), "seconds": round(time.monotonic() - began, 1)}


def read_results(path: Path, tier: str) -> dict[tuple[str, str, str], str | None]:
    """What noticed each mutant in this tier; the last result counts, and one for another text of the line does not."""
    lines = path.read_text().splitlines() if path.exists() else []
    records = [json.loads(line) for line in lines if line.endswith("}")]  # the last may have been cut off
    return {(r["id"], r["before"], r["after"]): r["by"] for r in records if r["tier"] == tier}


def key_of(mutant: Mutant) -> tuple[str, str, str]:
    return mutant.id, mutant.before, mutant.after


def unchanged(mutant: Mutant) -> Mutant:
    """The same without its change: no test may notice it, or the tests fail for another reason."""
    text = (ROOT / mutant.file).read_bytes()[mutant.start : mutant.end].decode()
    return replace(mutant, operator="control", text=text, after=mutant.before)


def try_all(mutants: list[Mutant], tier: str, known: dict, results: Path, workers: int) -> None:
    """Try the mutants, some at a time, each in a process of its own that appends its result."""
    running: set[int] = set()
    for i, mutant in enumerate([*mutants, *[None] * workers], start=1):  # at last, wait for each worker
        if len(running) == workers or (mutant is None and running):
            running.discard(os.wait()[0])
        if mutant is None:
            continue
        sys.stdout.flush()
        worker = os.fork()
        if worker:
            running.add(worker)
            continue
        try:
            record = try_mutant(mutant, tier, known)
            with open(results, "a") as file:
                file.write(json.dumps(record) + "\n")
            said = f"noticed by {record['by']}" if record["by"] else f"SURVIVED {record['files']} test files"
            print(f"{i}/{len(mutants)} {mutant}\n    {said}, {record['seconds']} s", flush=True)
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(0)


def report(mutants: list[Mutant], quick: dict, full: dict) -> str:
    """A table by folder, and the mutants that no test noticed."""
    rows = [f"{'folder':14}{'mutants':>9}{'quick':>8}{'':>8}{'with full':>11}{'':>8}{'survived':>10}"]
    tried = [mutant for mutant in mutants if key_of(mutant) in quick]
    survived = [mutant for mutant in tried if not quick[key_of(mutant)] and not full.get(key_of(mutant))]
    for folder in (*FOLDERS, "all"):
        own = [mutant for mutant in tried if folder in ("all", folder_of(mutant.file))]
        left = [mutant for mutant in own if mutant in survived]
        by_quick, n = sum(quick[key_of(mutant)] is not None for mutant in own), len(own)
        share = [f"{100 * part / max(n, 1):.1f} %" for part in (by_quick, n - len(left))]
        rows.append(f"{folder:14}{n:9}{by_quick:8}{share[0]:>8}{n - len(left):11}{share[1]:>8}{len(left):10}")
    if len(tried) < len(mutants):
        rows.append(f"{len(mutants) - len(tried)} mutants were not tried yet")
    return "\n".join([*rows, "", "survived:", *map(str, survived)])


def preload() -> None:
    """Import what the tests import, with the environment that they set before JAX."""
    set_environment()
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.dont_write_bytecode = True  # a mutant of the same size and second would be taken for the file before it
    for name in PRELOADED.split():
        importlib.import_module(name)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tier", choices=TIERS, default="quick")
    parser.add_argument("--count", type=int, default=250, help="mutants to draw")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--only", default="hut_jax/", help="mutants of files whose path starts so")
    parser.add_argument("--tests", nargs="*", default=["tests"], help="some of the tests; give a --folder of its own")
    parser.add_argument("--controls", type=int, default=5, help="mutants to try without their change, too")
    parser.add_argument("--workers", type=int, default=2, help="mutants at a time")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs/mutation", help="where results are kept")
    parser.add_argument("--retry", action="store_true", help="try again what survived")
    parser.add_argument("--list", action="store_true", help="show the mutants and run nothing")
    options = parser.parse_args()

    mutants, lines = [], Counter()
    for path in sorted(path for name in FOLDERS for path in (ROOT / "hut_jax" / name).rglob("*.py")):
        if (file := str(path.relative_to(ROOT))).startswith(options.only):
            mutants += make_mutants(file, path.read_bytes())
            lines[folder_of(file)] += len(path.read_bytes().splitlines())
    drawn, equivalents = sample(mutants, lines, options.count, options.seed), read_equivalents(EQUIVALENTS)
    counted = [mutant for mutant in drawn if (mutant.file, mutant.before, mutant.after) not in equivalents]
    if not counted:
        parser.error(f"no mutants in --only={options.only}; these folders of hut_jax/ have some: {', '.join(FOLDERS)}")
    every = -(-len(counted) // max(1, options.controls))
    controls = [unchanged(mutant) for mutant in counted[::every]] if options.controls else []
    print(f"{len(counted)} of {len(mutants)} mutants; {len(drawn) - len(counted)} more are listed as equivalent")
    if options.list:
        return print("\n".join(map(str, counted)))

    options.folder.mkdir(parents=True, exist_ok=True)
    results = options.folder / "results.jsonl"
    done, quick = read_results(results, options.tier), read_results(results, "quick")
    left = [mutant for mutant in controls + counted if key_of(mutant) not in done]
    if options.retry:
        left += [mutant for mutant in counted if done.get(key_of(mutant), "untried") is None]
    if options.tier == "full":
        left = [mutant for mutant in left if quick.get(key_of(mutant), "untried") is None]
    if left:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(options.folder / "jax"))
        preload()
        known = map_lines(options.folder / f"lines_{options.tier}.json", options.tier, options.tests)
        try_all(left, options.tier, known, results, options.workers)
    print(report(counted, read_results(results, "quick"), read_results(results, "full")))
    done = read_results(results, options.tier)
    print(f"\nwithout a change, and noticed nevertheless, of {len(controls)}:")
    print(
        "\n".join(f"{control}: {done[key_of(control)]}" for control in controls if done.get(key_of(control))) or "none"
    )


if __name__ == "__main__":
    main()
