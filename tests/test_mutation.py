"""The mutation check changes what it says, draws the same mutants again, and resumes."""

import ast
import json
from collections import Counter
from pathlib import Path

import pytest

from tests.mutants import FOLDERS, folder_of, make_mutants, read_equivalents, sample
from tests.mutation import EQUIVALENTS, key_of, main, order_tests, read_results, report, unchanged

ROOT = Path(__file__).parent.parent
FILES = sorted(path for folder in FOLDERS for path in (ROOT / "hut_jax" / folder).rglob("*.py"))


def mutate(source):
    return {(mutant.operator, mutant.after) for mutant in make_mutants("hut_jax/metrics/a.py", source.encode())}


@pytest.fixture(scope="module")
def mutants():
    return [mutant for path in FILES for mutant in make_mutants(str(path.relative_to(ROOT)), path.read_bytes())]


@pytest.mark.parametrize(
    ("source", "operator", "after"),
    [
        ("y = a * b", "arithmetic", "y = (a / b)"),
        ("y = a @ b", "arithmetic", "y = (b @ a)"),
        ("y = c - (a + b)", "arithmetic", "y = c - ((a - b))"),
        ("y = a < b", "comparison", "y = (a <= b)"),
        ("y = a == b", "comparison", "y = (a != b)"),
        ("y = 0 < a <= b", "comparison", "y = (0 < a < b)"),
        ("y = a and b", "and/or", "y = (a or b)"),
        ("y = not a", "not", "y = (a)"),
        ("y = -a", "sign", "y = (a)"),
        ("if a: b = 0", "condition", "if (not (a)): b = 0"),
        ("y = [a for a in b if a]", "condition", "y = [a for a in b if (not (a))]"),
        ("y = 'ö', 3", "constant", "y = 'ö', 4"),  # columns count bytes
        ("y = 1", "constant", "y = 0"),
        ("y = f(a, deep=True)", "constant", "y = f(a, deep=False)"),
        ("def f(a=0.5): pass", "constant", "def f(a=1.5): pass"),
        ("def f(): return a", "return", "def f(): return None"),
        ("def f(): return True", "constant", "def f(): return False"),
        ("found.append(a)", "delete", "pass"),
        ("if a: raise ValueError('no')", "delete", "if a: pass"),
        ("a = f(a)", "delete", "pass"),
        ("y = jnp.max(a)", "function", "y = jnp.min(a)"),
        ("y = sorted(a)", "function", "y = list(a)"),
        ("y = f(a, b)", "arguments", "y = f(b, a)"),
        ("y = side == 'input'", "option", "y = side == 'input_other'"),
    ],
)
def test_each_operator_makes_its_change(source, operator, after):
    assert (operator, after) in mutate(source)


@pytest.mark.parametrize(
    "source",
    [
        '"""Text 1."""',
        "import a",
        "x: Array | 3",
        "def f(a: Float[Array, '2'] | None) -> 3: pass",
        "class A:\n    def __repr__(self): return a + b",
        "y = f'{a + 1}'",
        "y = 'a' + b",
        "Union = A | B",
        "zip(a, strict=True)",
    ],
)
def test_what_no_test_should_notice_is_left_alone(source):
    assert mutate(source) <= {("delete", "pass")}


def test_a_constant_that_is_returned_changes_once():
    assert mutate("def f(): return False") == {("constant", "def f(): return True")}


def test_a_message_is_not_changed():
    assert mutate("raise ValueError(a + b, 1)") == {("delete", "pass")}


def test_every_mutant_of_the_package_parses_and_has_its_own_name(mutants):
    sources = {str(path.relative_to(ROOT)): path.read_bytes() for path in FILES}
    changed = {mutant.id: mutant.apply(sources[mutant.file]) for mutant in mutants[::20]}
    for name, source in changed.items():
        assert source != sources[name.partition(":")[0]]
        ast.parse(source)
    assert len({mutant.id for mutant in mutants}) == len(mutants)


def test_the_draw_is_repeatable_and_has_forty_of_each_folder(mutants):
    lines = Counter()
    for path in FILES:
        lines[folder_of(str(path.relative_to(ROOT)))] += len(path.read_bytes().splitlines())
    drawn = sample(mutants, lines, 250, seed=0)
    assert drawn == sample(mutants[::-1], lines, 250, seed=0) != sample(mutants, lines, 250, seed=1)
    counts = Counter(folder_of(mutant.file) for mutant in drawn)
    assert counts.keys() == set(FOLDERS)
    assert min(counts.values()) >= 40
    assert 240 <= len(set(drawn)) == len(drawn) <= 275


def test_the_mutants_listed_as_equivalent_are_mutants(mutants):
    known = {(mutant.file, mutant.before, mutant.after) for mutant in mutants}
    assert read_equivalents(EQUIVALENTS).keys() <= known


def test_the_mirrored_tests_come_first_and_the_nearest_next():
    source = b"A = 1\n\n\ndef f(a):\n    return a + 1\n\n\ndef g(a):\n    return a - 1\n"
    at_import, _, in_f, in_g = (
        next(mutant for mutant in make_mutants("hut_jax/metrics/a.py", source) if mutant.line == line)
        for line in (1, 5, 5, 9)
    )
    mirrored, near, far = "tests/metrics/test_a.py", "tests/metrics/test_b.py", "tests/test_train.py"
    lines = {"1": [], "4": [], "5": [far, near, mirrored], "8": []}
    known = {"lines": {"hut_jax/metrics/a.py": lines}, "seconds": {mirrored: 9, near: 2, far: 1}}
    assert order_tests(in_f, known) == order_tests(at_import, known) == [[mirrored], [near, far]]
    assert order_tests(in_g, known) == [[mirrored], [near]]  # no test runs it


def test_a_result_counts_while_its_line_is_as_it_was(tmp_path):
    first, second = make_mutants("hut_jax/metrics/a.py", b"y = f(1)\nz = f(2)\n")
    file = tmp_path / "results.jsonl"

    def write(mutant, by, tier="quick", **changed):
        record = {"id": mutant.id, "before": mutant.before, "after": mutant.after, "tier": tier, "by": by} | changed
        with open(file, "a") as opened:
            opened.write(json.dumps(record) + "\n")

    assert read_results(file, "quick") == {}
    write(first, None)
    write(second, "tests/test_a.py::test", before="y = g(a)")
    quick = read_results(file, "quick")
    assert quick[key_of(first)] is None
    assert key_of(second) not in quick
    write(first, "tests/test_a.py::test")  # tried again
    with open(file, "a") as opened:
        opened.write('{"id": "cut o')
    assert read_results(file, "quick")[key_of(first)] == "tests/test_a.py::test"
    assert read_results(file, "full") == {}


def test_a_control_is_the_file_as_it_is(mutants):
    control = unchanged(mutants[100])
    source = (ROOT / control.file).read_bytes()
    assert control.apply(source) == source != mutants[100].apply(source)
    assert key_of(control) != key_of(mutants[100])


def test_the_report_counts_by_folder_and_lists_the_survivors():
    noticed, survived, untried = make_mutants("hut_jax/metrics/a.py", b"y = 2\ny = 3\ny = 4\n")
    text = report([noticed, survived, untried], {key_of(noticed): "a test", key_of(survived): None}, {})
    assert [line.split() for line in text.splitlines() if line.startswith("metrics")] == [
        ["metrics", "2", "1", "50.0", "%", "1", "50.0", "%", "1"]
    ]
    assert "1 mutants were not tried yet" in text
    assert text.endswith("survived:\nhut_jax/metrics/a.py:2: y = 3  ->  y = 4")
    text = report(
        [noticed, survived], {key_of(noticed): "a test", key_of(survived): None}, {key_of(survived): "a test"}
    )
    assert text.endswith("survived:")


def test_a_folder_without_mutants_is_named_and_no_controls_are_fine(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["mutation", "--list", "--only=hut_jax/models"])
    with pytest.raises(SystemExit):
        main()
    assert f"no mutants in --only=hut_jax/models; these folders of hut_jax/ have some: {FOLDERS[0]}" in (
        capsys.readouterr().err
    )
    monkeypatch.setattr("sys.argv", ["mutation", "--list", "--only=hut_jax/transforms/ssf.py", "--controls=0"])
    main()
    assert "hut_jax/transforms/ssf.py:" in capsys.readouterr().out
