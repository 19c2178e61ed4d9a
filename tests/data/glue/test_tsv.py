from pathlib import Path

import pytest

from hut_jax.core.errors import UserError
from hut_jax.data.glue.tasks import GLUE_TASKS
from hut_jax.data.glue.tsv import GlueExample, find_files, read_split

COLA, MRPC, STSB, QQP, MNLI, RTE = (GLUE_TASKS[name] for name in ("cola", "mrpc", "stsb", "qqp", "mnli", "rte"))
MADE = Path(__file__).parents[2] / "samples/glue"  # made up, in the official layout

# The official headers: of the labelled files, and of the test files.
HEADERS = {
    "cola": (None, "index\tsentence"),
    "sst2": ("sentence\tlabel", "index\tsentence"),
    "mrpc": (
        "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
        "index\t#1 ID\t#2 ID\t#1 String\t#2 String",
    ),
    "stsb": (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2",
    ),
    "qqp": ("id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "id\tquestion1\tquestion2"),
    "mnli": (
        "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\t"
        "sentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label",
        "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\t"
        "sentence2_parse\tsentence1\tsentence2",
    ),
    "qnli": ("index\tquestion\tsentence\tlabel", "index\tquestion\tsentence"),
    "rte": ("index\tsentence1\tsentence2\tlabel", "index\tsentence1\tsentence2"),
    "wnli": ("index\tsentence1\tsentence2\tlabel", "index\tsentence1\tsentence2"),
}


def row(task, header, texts, label):
    """A row under the header, with a filler in the columns that are not read."""
    if header is None:
        return f"gj04\t{label}\t*\t{texts[0]}"
    values = {**dict(zip(task.texts, texts, strict=True)), task.label: str(label), task.index: "7"}
    return "\t".join(values.get(name, "filler") for name in header.split("\t"))


def read(tmp_path, task, content, split="train"):
    path = tmp_path / "x.tsv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_split(task, split, path)


def refused(tmp_path, task, content, split="train"):
    with pytest.raises(UserError) as caught:
        read(tmp_path, task, content, split)
    assert str(caught.value).startswith(str(tmp_path / "x.tsv"))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", HEADERS)
def test_each_task_has_its_columns_and_labels(tmp_path, name):
    task = GLUE_TASKS[name]
    labelled, test = HEADERS[name]
    texts = ("One text.", "Another.")[: len(task.texts)]
    written = ["0.000", "2.5", "5"] if task.regression else list(task.labels)
    if not task.named and not task.regression:
        written = list(map(str, range(len(written))))
    lines = [*filter(None, [labelled]), *(row(task, labelled, texts, label) for label in written)]
    wanted = [0.0, 2.5, 5.0] if task.regression else list(range(len(written)))
    assert read(tmp_path, task, "\n".join(lines)).examples == [
        GlueExample(texts, label, number) for number, label in enumerate(wanted)
    ]
    tests = [test, row(task, test, texts, "")]
    split = next(split for split in task.files if split.startswith("test"))
    assert read(tmp_path, task, "\n".join(tests), split).examples == [GlueExample(texts, None, 7)]


def test_quotes_are_text_and_bom_line_ends_and_empty_lines_do_not_matter(tmp_path):
    header = HEADERS["rte"][0]
    rows = [
        '0\t"Never closed.\t""Two""\tentailment',
        '1\tIt \u2028 is " it\u0085.\t\tnot_entailment',
        "2\ta \t b\tentailment",
    ]
    wanted = [(('"Never closed.', '""Two""'), 0, 0), (('It \u2028 is " it\u0085.', ""), 1, 1), (("a ", " b"), 0, 2)]
    for end in ("\n", "\r\n", "\r"):
        content = end.join([header, "", *rows, "", ""])
        for mark in ("", "\ufeff"):
            assert read(tmp_path, RTE, mark + content) == (wanted, 0)


PAIRS = b"sentence1\tsentence2\tlabel\n"
BAD = [
    (RTE, b"", "line 1: the file is empty; a header with 'sentence1', 'sentence2', 'label' and rows are expected"),
    (RTE, b"\xef\xbb\xbf\r\n", "line 1: the file is empty"),
    (RTE, b"index\tsentence1\tsentence2\tlabel\n", "line 2: there are no rows; fields between tabs with 'sentence1'"),
    (RTE, b"\xef\xbb\xbfindex\tsentence1\tsentence2\tlabel\r\n0\ta\tb\r\n", "line 2: 3 fields between tabs"),
    (RTE, b"index\tsentence1\tlabel\n0\ta\tentailment\n", "line 1: no column 'sentence2'; found 'index', 'sentence1'"),
    (RTE, b"sentence1\tsentence1\tsentence2\tlabel\n", "line 1: more than one column 'sentence1'"),
    (RTE, b"sentence1,sentence2,label\na,b,entailment\n", "line 1: no column 'sentence1'; found 'sentence1,sent"),
    (RTE, PAIRS + b"a\tb\tentailment\na\tb\tentail\n", "line 3: label is 'entail'; did you mean 'en"),
    (RTE, b"sentence1\tsentence2\tlabel\r\na\tb\t1\r\n", "line 2: label is '1'; valid: 'entailment', 'not_entailment'"),
    (RTE, PAIRS + b"a\tentailment\n", "line 2: 2 fields between tabs where the header has 3"),
    (RTE, PAIRS + b"a\tb\tc\tentailment\n", "line 2: 4 fields between tabs where the header has 3"),
    (RTE, PAIRS + b"\n \t\tentailment\n", "line 3: sentence1 and sentence2 are empty"),
    (RTE, PAIRS + b"a\tb\tentailment\na\xff\tb\tentailment\n", "line 3: not UTF-8"),
    (COLA, b"", "line 1: there are no rows; fields between tabs with 'sentence', 'label' are expected"),
    (COLA, b"\xef\xbb\xbfgj04\t2\t*\ta\r\n", "line 1: "),
    (COLA, b"gj04\t2\t\tHe goes.\n", "line 1: label is '2'; valid: '0', '1'"),
    (COLA, b"gj04\t1\t\tHe goes.\nHe goes.\t1\n", "line 2: 2 fields between tabs where there should be 4: source, la"),
    (COLA, b"sentence\tlabel\n", "line 1: 2 fields between tabs where there should be 4"),
    (COLA, b"gj04\t1\t*\t \n", "line 1: sentence is empty"),
    (STSB, b"sentence1\tsentence2\tscore\na\tb\t5.1\n", "line 2: score is '5.1'; a number from 0 to 5 is expected"),
    (STSB, b"sentence1\tsentence2\tscore\na\tb\tnan\n", "line 2: score is 'nan'; a number from 0 to 5"),
    (STSB, b"sentence1\tsentence2\tscore\na\tb\thigh\n", "line 2: score is 'high'"),
    (QQP, b"id\tquestion1\tquestion2\tis_duplicate\n1\ta\tb\n", "line 2: none of the 1 rows is whole"),
    (QQP, b"id\tquestion1\tquestion2\tis_duplicate\n1\ta\tb\tyes\n", "line 2: is_duplicate is 'yes'"),
]


@pytest.mark.parametrize(("task", "content", "message"), BAD)
def test_a_malformed_file_gives_its_line_and_what_was_expected(tmp_path, task, content, message):
    assert message in refused(tmp_path, task, content)


def test_broken_rows_of_qqp_are_left_out_and_counted_where_there_are_labels(tmp_path):
    lines = [
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
        "1\t2\t3\tWhat?\tWhy?\t1",
        '4\t5\t6\t"Cut here,',
        'and gone on."\tWhy?\t0',
        "7\t8\t9\tWho?\tWhere?\t",
        "7\t8\t9\tWho?\t\t0\tmore",
    ]
    # The rows' numbers count those left out, as TFDS' do.
    wanted = [GlueExample(("What?", "Why?"), 1, 0), GlueExample(("Who?", ""), 0, 4)]
    assert read(tmp_path, QQP, "\n".join(lines)) == (wanted, 3)
    assert "line 2: 2 fields" in refused(tmp_path, QQP, "id\tquestion1\tquestion2\n1\tWhat?", "test")


def test_the_test_server_gets_the_numbers_that_the_file_has(tmp_path):
    content = "index\tsentence1\tsentence2\n4\ta\tb\n2\tc\td\n"
    assert [example.row for example in read(tmp_path, RTE, content, "test").examples] == [4, 2]
    message = refused(tmp_path, RTE, "index\tsentence1\tsentence2\nx\ta\tb\n", "test")
    assert "line 2: index is 'x'; the row's number is expected" in message


def make_folders(folder, *names, files=("train.tsv", "dev.tsv")):
    for name in names:
        (folder / name).mkdir()
        for file in files:
            (folder / name / file).touch()


@pytest.mark.parametrize("name", ["STS-B", "stsb", "STS_B"])
def test_a_task_is_found_by_any_of_its_folders_names(tmp_path, name):
    make_folders(tmp_path, name, "MRPC")
    for folder in (tmp_path, tmp_path / name):
        paths = find_files(STSB, folder)
        assert paths == {"train": tmp_path / name / "train.tsv", "validation": tmp_path / name / "dev.tsv"}
    (tmp_path / name / "test.tsv").touch()
    assert find_files(STSB, tmp_path)["test"] == tmp_path / name / "test.tsv"


def test_mnli_has_two_of_what_others_have_one_of(tmp_path):
    make_folders(tmp_path, "MNLI", files=MNLI.files.values())
    assert [*find_files(MNLI, tmp_path)] == [
        "train",
        "validation_matched",
        "validation_mismatched",
        "test_matched",
        "test_mismatched",
    ]
    (tmp_path / "MNLI" / "dev_mismatched.tsv").unlink()
    with pytest.raises(UserError, match=r"MNLI lacks dev_mismatched\.tsv; its TSV files: dev_matched\.tsv, test_matc"):
        find_files(MNLI, tmp_path)


def test_what_is_absent_is_told_with_what_is_there(tmp_path):
    make_folders(tmp_path, "SST-2", "CoLA", "other")
    with pytest.raises(UserError, match=r"has no folder MRPC for the task mrpc; it holds cola, sst2$"):
        find_files(MRPC, tmp_path)
    with pytest.raises(UserError, match=r"CoLA has no folder MRPC for the task mrpc; it holds cola$"):
        find_files(MRPC, tmp_path / "CoLA")
    with pytest.raises(UserError, match=r"other has no folder CoLA for the task cola; it holds no task of GLUE$"):
        find_files(COLA, tmp_path / "other")
    with pytest.raises(UserError, match=r"no folder '.*absent'; give one that holds CoLA/ as config\.data\.dir"):
        find_files(COLA, tmp_path / "absent")
    with pytest.raises(UserError, match=r"cannot read .*: No such file"):
        read_split(COLA, "train", tmp_path / "absent.tsv")


COUNTS = {
    "cola": (8551, 1043),
    "sst2": (67349, 872),
    "mrpc": (3668, 408),
    "rte": (2490, 277),
    "stsb": (5749, 1500),
    "wnli": (635, 71),
}


def check_files(name, folder, counts):
    task = GLUE_TASKS[name]
    splits = {split: read_split(task, split, path) for split, path in find_files(task, folder).items()}
    assert [len(splits[split].examples) for split in ("train", "validation")] == list(counts)
    assert not any(split.dropped for split in splits.values())
    labels = {example.label for split in splits.values() for example in split.examples}
    assert (min(labels), max(labels)) == (0, 5) if task.regression else labels == set(range(len(task.labels)))


@pytest.mark.parametrize("name", COUNTS)
def test_made_up_files_in_the_official_layout(name):
    check_files(name, MADE, (3 if name == "cola" else 2, 2))


@pytest.mark.parametrize("name", COUNTS)
def test_the_real_files(real_data, name):
    check_files(name, real_data / "glue", COUNTS[name])


def test_rows_of_the_made_up_files():
    paths = {task: find_files(task, MADE) for task in (COLA, MRPC, RTE, STSB)}
    assert read_split(MRPC, "train", paths[MRPC]["train"]).examples == [
        (("The mayor said the bridge would open in May .", '" The bridge will open in May , " the mayor said .'), 1, 0),
        (("Rain is expected on Monday .", "Monday was dry in most towns ."), 0, 1),
    ]
    assert read_split(RTE, "validation", paths[RTE]["validation"]).examples[1] == (
        ("Two of the three judges agreed.", "A judge agreed."),
        0,
        1,
    )
    assert read_split(COLA, "train", paths[COLA]["train"]).examples == [
        (("The baker sold every loaf before noon.",), 1, 0),
        (("The baker sold before every noon loaf the.",), 0, 1),
        (('Nobody who knows him "trusts" him.',), 1, 2),
    ]
    assert [example.label for example in read_split(STSB, "validation", paths[STSB]["validation"]).examples] == [
        3.2,
        0.5,
    ]


def test_the_first_real_rows(real_data):
    paths = {task: find_files(task, real_data / "glue") for task in (COLA, MRPC, RTE)}
    assert read_split(MRPC, "validation", paths[MRPC]["validation"]).examples[0].texts == (
        "He said the foodservice pie business doesn 't fit the company 's long-term growth strategy .",
        '" The foodservice pie business does not fit our long-term growth strategy .',
    )
    assert read_split(RTE, "train", paths[RTE]["train"]).examples[0] == (
        ("No Weapons of Mass Destruction Found in Iraq Yet.", "Weapons of Mass Destruction Found in Iraq."),
        1,
        0,
    )
    assert sum(example.label for example in read_split(COLA, "validation", paths[COLA]["validation"]).examples) == 721
