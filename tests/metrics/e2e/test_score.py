import csv
import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hut_jax.core.errors import UserError
from hut_jax.metrics.e2e import java
from hut_jax.metrics.e2e.__main__ import main
from hut_jax.metrics.e2e.score import METRICS, evaluate

OUTPUTS = ["Alba is a cheap pub near the river.", "Bo serves Thai food.", "It isn't family-friendly."]
REFERENCES = [
    ["Alba is a cheap pub by the river.", "A cheap pub near the river is Alba."],
    ["Thai food is served by Bo."],
    ["Cy isn't family-friendly.", "It is not family-friendly, Cy.", "Cy is for adults."],
]
MADE = ["test-made", "dev-made"]
REAL = ["test-chen", "test-slug", "test-tgen", "test-tr2", "test-zhang", "dev-ukp-seed1", "dev-ukp-seed2"]
QUICK = "dev-ukp-seed1"  # the others take a second or two each


def published(folder, system):
    with open(folder / "scores.tsv", encoding="utf-8") as file:
        (scores,) = [row for row in csv.DictReader(file, delimiter="\t") if row["set-system"] == system]
    scores["NIST"] = scores["NIST_perl"]
    return {name: scores[name] for name in METRICS}


def four_decimals(scores):
    return {name: None if score is None else f"{score:.4f}" for name, score in scores.items()}


@pytest.mark.parametrize(
    "system", [*MADE, QUICK, *(pytest.param(s, marks=pytest.mark.full) for s in REAL if s != QUICK)]
)
def test_a_systems_scores_are_the_challenges_even_without_java(systems, outputs_of, system):
    evaluation = evaluate(*outputs_of(system), use_java=False)
    assert evaluation.tokenizer == "python"
    assert four_decimals(evaluation.scores()) == {**published(systems(system)[0], system), "METEOR": None}


def test_the_made_up_systems_have_no_score_in_common(systems):
    test, dev = (published(systems(system)[0], system) for system in MADE)
    assert all(test[name] != dev[name] for name in METRICS)


def in_one_call(ask, groups):
    """A function's answers for each group of items, asked for all of them at once."""
    answers = iter(ask([item for group in groups for item in group]))
    return [[next(answers) for _ in group] for group in groups]


@pytest.mark.peers
@pytest.mark.parametrize("names", [MADE, REAL], ids=["made", "real"])
def test_systems_five_scores_are_the_challenges(systems, outputs_of, names, monkeypatch):
    """Both programs are started once for all systems: METEOR reads its tables for longer than it scores."""
    pairs = [outputs_of(name) for name in names]
    texts = [tuple(part) for outputs, groups in pairs for part in (outputs, itertools.chain(*groups))]
    texts = list(dict.fromkeys(texts))  # systems share their references
    real_statistics = java.meteor_statistics
    try:
        tokens = dict(zip(texts, in_one_call(java.tokenize, texts), strict=True))
        words = [tokens[tuple(outputs)] for outputs, _ in pairs]
        wanted = []
        for _, groups in pairs:
            rest = iter(tokens[tuple(itertools.chain(*groups))])
            wanted.append([[next(rest) for _ in group] for group in groups])
        both = [list(zip(*pair, strict=True)) for pair in zip(words, wanted, strict=True)]
        rows = in_one_call(lambda items: real_statistics(*zip(*items, strict=True)), both)
    except java.Unavailable as unavailable:
        pytest.skip(str(unavailable))
    monkeypatch.setattr(java, "tokenize", lambda texts: tokens[tuple(texts)])
    for name, (outputs, groups), own in zip(names, pairs, rows, strict=True):
        monkeypatch.setattr("hut_jax.metrics.e2e.meteor.meteor_statistics", lambda *_, own=own: own)
        evaluation = evaluate(outputs, groups)
        assert (evaluation.tokenizer, evaluation.reasons) == ("java", {})
        assert four_decimals(evaluation.scores()) == published(systems(name)[0], name), name


@pytest.mark.peers
def test_java_is_asked_for_the_scores(systems, outputs_of):
    evaluation = evaluate(*outputs_of("test-made"))
    if evaluation.reasons:
        pytest.skip(evaluation.reasons["METEOR"])
    assert evaluation.tokenizer == "java"
    assert four_decimals(evaluation.scores()) == published(systems("test-made")[0], "test-made")


@pytest.fixture
def no_java(monkeypatch):
    monkeypatch.setenv("PATH", "")


@pytest.fixture
def files(tmp_path):
    rows = zip(("m1", "m2", "m3"), OUTPUTS, REFERENCES, strict=True)
    with open(tmp_path / "refs.csv", "w", encoding="utf-8", newline="") as refs:
        table = csv.writer(refs)
        table.writerow(["mr", "ref"])
        for mr, output, texts in rows:
            table.writerows([mr, text] for text in texts)
            with open(tmp_path / "out.tsv", "a", encoding="utf-8") as out:
                out.write(f"{mr}\t{output}\n")
    (tmp_path / "other.txt").write_text("Alba is a pub.\nBo serves food.\nCy isn't family-friendly.\n")
    return tmp_path


def run(folder, capsys, *options):
    assert main([f"--outputs={folder / 'out.tsv'}", f"--references={folder / 'refs.csv'}", *options]) == 0
    return capsys.readouterr().out


def test_without_java_meteor_is_null_with_the_reason(files, no_java, capsys):
    result = json.loads(run(files, capsys, "--json"))
    assert result["METEOR"] is None
    assert "no java on the PATH" in result["reasons"]["METEOR"]
    assert result["tokenizer"] == "python"
    text = run(files, capsys)
    assert "METEOR  none: no java on the PATH" in text
    for name in METRICS:
        if name != "METEOR":
            low, high = result["intervals"][name]
            assert low <= result[name] <= high
            assert f"{name:<8}{result[name]:.4f}  95% {low:.4f} to {high:.4f}" in text


def test_where_meteor_is_there_it_is_scored(monkeypatch, files, capsys):
    monkeypatch.setattr(java, "tokenize", lambda texts: list(texts))
    whole = [3.0, 3.0, 0.0, 0.0, 3.0, 3.0, *[0.0] * 14, 1.0, 3.0, 3.0]
    monkeypatch.setattr(
        "hut_jax.metrics.e2e.meteor.meteor_statistics", lambda outputs, references: [whole] * len(outputs)
    )
    result = json.loads(run(files, capsys, "--json"))
    assert (result["METEOR"], result["tokenizer"], result["reasons"]) == (1.0, "java", {})

    def fails_at_the_second(outputs, references):
        monkeypatch.setattr("hut_jax.metrics.e2e.meteor.meteor_statistics", fails)
        return [whole] * len(outputs)

    def fails(outputs, references):
        raise java.Unavailable("no memory")

    monkeypatch.setattr("hut_jax.metrics.e2e.meteor.meteor_statistics", fails)
    result = json.loads(run(files, capsys, "--json"))
    assert (result["METEOR"], result["tokenizer"], result["reasons"]) == (None, "java", {"METEOR": "no memory"})
    monkeypatch.setattr("hut_jax.metrics.e2e.meteor.meteor_statistics", fails_at_the_second)
    result = json.loads(run(files, capsys, "--json", f"--against={files / 'other.txt'}", "--resamples=20"))
    assert (result["METEOR"], result["against"]["METEOR"]) == (1.0, None)
    assert result["differences"].keys() == set(METRICS) - {"METEOR"}


def test_the_command_says_how_it_resampled_and_which_mrs_have_no_output(files, no_java, capsys):
    result = json.loads(run(files, capsys, "--json"))
    assert (result["level"], result["resamples"], result["seed"]) == (0.95, 1000, 0)
    assert result.keys() == {*METRICS, "reasons", "tokenizer", "level", "resamples", "seed", "intervals"}
    (files / "out.tsv").write_text(f"m2\t{OUTPUTS[1]}\n")
    main([f"--outputs={files / 'out.tsv'}", f"--references={files / 'refs.csv'}", "--resamples=1", "--seed=0"])
    captured = capsys.readouterr()
    assert captured.err == f"note: {files / 'out.tsv'} has no output for 2 MRs, such as 'm1'\n"
    (files / "out.tsv").write_text(f"m4\t{OUTPUTS[1]}\n")
    with pytest.raises(UserError, match=r"out\.tsv: no references for the output's MR 'm4'"):
        run(files, capsys)


def test_a_text_of_several_lines_is_one():
    scores = evaluate(["Bo is\na pub.", "x"], [["Bo is a pub."], ["y"]], use_java=False).segment_scores()
    assert [segment["ROUGE_L"] for segment in scores] == [1, 0]
    assert scores[0]["CIDEr"] == pytest.approx(10)


def test_segments_are_scored_each(files, no_java, capsys):
    result = json.loads(run(files, capsys, "--json", "--segments"))
    alone = evaluate(OUTPUTS[:1], REFERENCES[:1]).scores()
    assert len(result["segments"]) == 3
    assert result["segments"][0]["BLEU"] == pytest.approx(alone["BLEU"])
    assert result["segments"][0]["ROUGE_L"] == pytest.approx(alone["ROUGE_L"])
    assert result["CIDEr"] == pytest.approx(sum(segment["CIDEr"] for segment in result["segments"]) / 3)
    lines = run(files, capsys, "--segments").splitlines()[-4:]
    assert lines[0].split("\t") == ["segment", *METRICS]
    first = [f"{score:.4f}" if score is not None else "" for score in result["segments"][0].values()]
    assert lines[1].split("\t") == ["1", *first]


def test_two_outputs_are_compared(files, no_java, capsys):
    other = f"--against={files / 'other.txt'}"
    result = json.loads(run(files, capsys, "--json", other, "--resamples=200"))
    assert set(result["differences"]) == set(METRICS) - {"METEOR"}
    for name, difference in result["differences"].items():
        assert difference["difference"] == pytest.approx(result[name] - result["against"][name])
        assert difference["low"] <= difference["high"]
        assert 0 < difference["p_value"] <= 1
    assert result["differences"]["BLEU"]["difference"] > 0
    assert f"against {result['against']['BLEU']:.4f}" in run(files, capsys, other, "--resamples=200")


def test_two_outputs_are_compared_by_mr_whatever_their_order(tmp_path, no_java, capsys):
    texts = {"m1": "a cheap pub by the river", "m2": "Aromi serves wine and cheese in town", "m3": "The Eagle is cheap"}
    rows = [f"{mr}\t{text}\n" for mr, text in texts.items()]
    (tmp_path / "references.tsv").write_text("mr\tref\n" + "".join(f"{mr}\t{text} now\n" for mr, text in texts.items()))
    (tmp_path / "one.tsv").write_text("mr\toutput\n" + "".join(rows))
    (tmp_path / "other.tsv").write_text("mr\toutput\n" + "".join([rows[2], rows[0], rows[1]]))
    (tmp_path / "plain.txt").write_text("".join(f"{text}\n" for text in texts.values()))
    for ours, theirs in itertools.permutations(["one.tsv", "other.tsv", "plain.txt"], 2):
        files = [f"--{name}={tmp_path / file}" for name, file in (("outputs", ours), ("against", theirs))]
        main([*files, f"--references={tmp_path / 'references.tsv'}", "--json", "--resamples=50"])
        for difference in json.loads(capsys.readouterr().out)["differences"].values():
            assert difference == {"difference": 0.0, "low": 0.0, "high": 0.0, "p_value": 1.0}


def test_a_seed_decides_the_resamples(files, no_java, capsys):
    one, two, again = (
        json.loads(run(files, capsys, "--json", f"--seed={seed}", "--resamples=20")) for seed in (0, 1, 0)
    )
    assert one == again
    assert one["intervals"] != two["intervals"]
    assert one["BLEU"] == two["BLEU"]


@pytest.mark.parametrize(
    "options",
    [
        ["--resamples=0"],
        ["--resamples=1000001"],
        ["--seed=-1"],
        [f"--seed={2**63 + 1}"],
        ["--resamples=x"],
        ["--segment"],
        ["--against="],
    ],
)
def test_wrong_options_are_told(files, no_java, options):
    with pytest.raises(
        UserError, match=r"1 to 1,000,000 is expected|0 to .* is expected|invalid int|unknown argument|cannot read \.:"
    ):
        main([f"--outputs={files / 'out.tsv'}", f"--references={files / 'refs.csv'}", *options])


texts = st.text(alphabet="abcA .,-'é£5\n", max_size=25)
groups = st.lists(texts.filter(str.strip), min_size=1, max_size=3)


@given(st.lists(st.tuples(texts, groups), min_size=1, max_size=3))
@settings(max_examples=30, deadline=None)
def test_any_texts_have_scores_in_their_ranges(pairs):
    outputs, references = [output for output, _ in pairs], [group for _, group in pairs]
    evaluation = evaluate(outputs, references, use_java=False)
    for scores in (evaluation.scores(), *evaluation.segment_scores()):
        assert 0 <= scores["BLEU"] <= 1
        assert 0 <= scores["NIST"] < 50
        assert 0 <= scores["ROUGE_L"] <= 1
        assert 0 <= scores["CIDEr"] <= 10 + 1e-9
        assert scores["METEOR"] is None
    assert evaluation.reasons == {"METEOR": "Java was not to be used"}


def test_a_reference_as_output_has_the_best_scores():
    outputs = [group[-1] for group in REFERENCES]
    scores = evaluate(outputs, [[output] for output in outputs], use_java=False).scores()
    assert (scores["BLEU"], scores["ROUGE_L"]) == pytest.approx((1, 1))
    assert scores["CIDEr"] > 9


def test_the_metrics_themselves_import_no_jax():
    code = (
        "import sys, types; package = types.ModuleType('hut_jax'); package.__path__ = ['hut_jax']\n"
        "sys.modules['hut_jax'] = package\n"
        "from hut_jax.metrics import bootstrap\n"
        "from hut_jax.metrics.e2e import bleu, cider, files, meteor, nist, rouge\n"
        "sys.exit('jax' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[3]
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=root).returncode == 0
