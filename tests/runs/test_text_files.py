"""Files of a text or a pair a line: what is read of them, and errors that name the line."""

import pytest

from hut_jax import UserError
from hut_jax.runs.text_files import read_texts, write_labels

ONE = [("sentence", "sentence")]
TWO = [("sentence1", "premise"), ("sentence2", "hypothesis")]
PAIR = ("A cat.", 'Its "mat\u2028')


def written(folder, name, text):
    (folder / name).write_text(text, encoding="utf-8", newline="")
    return folder / name


@pytest.mark.parametrize(
    ("name", "text", "header"),
    [
        ("pairs.tsv", 'A cat.\tIts "mat\u2028\n', False),
        ("pairs.txt", '\ufeffA cat.\tIts "mat\u2028\r\n', False),
        ("dev.tsv", 'index\tsentence2\tsentence1\tlabel\n0\tIts "mat\u2028\tA cat.\t1\n', True),
        ("pairs.tsv", 'premise\thypothesis\nA cat.\tIts "mat\u2028', True),
        ("pairs.jsonl", '{"hypothesis": "Its \\"mat\u2028", "label": 1, "premise": "A cat."}\n', False),
        ("pairs.JSONL", '{"sentence1": "A cat.", "sentence2": "Its \\"mat\\u2028"}', False),
        ("pairs.ndjson", '["A cat.", "Its \\"mat\u2028"]\n', False),
    ],
)
def test_a_pair_is_read_from_any_of_these(name, text, header, tmp_path):
    assert read_texts(written(tmp_path, name, text), TWO) == ([PAIR], header)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "a, b\n c \n"),
        ("a.tsv", "sentence\tlabel\na, b\t0\n c \t1\n"),
        ("a.jsonl", '"a, b"\n[" c "]\n'),
    ],
)
def test_a_text_is_read_from_any_of_these(name, text, tmp_path):
    assert read_texts(written(tmp_path, name, text), ONE).texts == [("a, b",), (" c ",)]


@pytest.mark.parametrize(
    ("names", "name", "text", "message"),
    [
        (ONE, "a.txt", "", "a.txt is empty"),
        (ONE, "a.txt", "a\n\nb\n", "a.txt, line 2 is empty"),
        (ONE, "a.tsv", "sentence\n", "a.tsv has a header and no texts"),
        (ONE, "a.tsv", "a\nb\tc\n", "a.tsv, line 2: 2 fields between tabs where there should be 1: 'sentence'"),
        (TWO, "a.tsv", "a\tb\na\n", "a.tsv, line 2: 1 fields .* should be 2: 'premise' and 'hypothesis'"),
        (TWO, "a.tsv", "premise\thypothesis\tx\na\tb\n", "a.tsv, line 2: 2 fields between tabs where the header has 3"),
        (TWO, "a.tsv", "premise\tx\na\tb\n", "line 1: no column 'sentence2' or 'hypothesis'; found 'premise', 'x'"),
        (TWO, "a.tsv", "a\tb\n \t\n", "a.tsv, line 2 is empty"),
        (TWO, "a.tsv", "id\tpremise\thypothesis\n1\ta\tb\n2\t\t \n", "line 3: 'premise' and 'hypothesis' are empty"),
        (ONE, "a.csv", "a\n", "a.csv: commas are part of texts; write it with tabs between the columns, or as JSONL"),
        (ONE, "a.jsonl", '"a"\n{"a"\n', "a.jsonl, line 2 is not JSON"),
        (ONE, "a.jsonl", "[" * 100_000, "a.jsonl, line 1 is not JSON"),
        (ONE, "a.jsonl", '{"text": "a"}', "a.jsonl, line 1: no field 'sentence'; found 'text'"),
        (ONE, "a.jsonl", '{"sentence": 3}', "a.jsonl, line 1: 'sentence' should be a text"),
        (TWO, "a.jsonl", '["a"]', "a.jsonl, line 1: 'premise' and 'hypothesis' should be texts"),
        (TWO, "a.jsonl", "7", "a.jsonl, line 1: 'premise' and 'hypothesis' should be texts"),
        (ONE, "a.jsonl", '"\\ud83d"', "a.jsonl, line 1: half of a surrogate pair"),
    ],
)
def test_what_is_wrong_is_one_line(names, name, text, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        read_texts(written(tmp_path, name, text), names)
    assert "\n" not in str(error.value)


def test_predictions_are_written_line_by_line(tmp_path):
    write_labels(tmp_path / "a.txt", ["positive", 1.5], header=False)
    assert (tmp_path / "a.txt").read_text() == "positive\n1.5\n"
    write_labels(tmp_path / "a.tsv", ["positive"], header=True)
    assert (tmp_path / "a.tsv").read_text() == "prediction\npositive\n"
    write_labels(tmp_path / "a.jsonl", ["positive", 1.5], header=True)
    assert (tmp_path / "a.jsonl").read_text() == '{"prediction": "positive"}\n{"prediction": 1.5}\n'
