import pytest

from hut_jax.core.errors import UserError
from hut_jax.metrics.e2e.files import Outputs, References, align, in_order_of, read_outputs, read_references, unanswered


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


MRS = ["name[Alba], food[Thai]", "name[Bo]"]
TEXTS = ["Alba's food, Thai.", "Bo."]
TABLES = {
    "bare.tsv": "MR\toutput\nname[Alba], food[Thai]\tAlba's food, Thai.\nname[Bo]\tBo.\n",
    "quoted.tsv": 'MR\toutput\r\n"name[Alba], food[Thai]"\t"Alba\'s food, Thai."\r\nname[Bo]\t Bo. \r\n\r\n',
    "comma.csv": '\ufeffmr,ref\n"name[Alba], food[Thai]","Alba\'s food, Thai."\nname[Bo],Bo.\n',
    "single.tsv": "MR\toutput\n'name[Alba], food[Thai]'\t'Alba's food, Thai.'\n'name[Bo]'\t'Bo.'\n",
    "single.csv": "'mr','output'\n'name[Alba], food[Thai]','Alba's food, Thai.'\n'name[Bo]','Bo.'\n",
    "texts-single.tsv": "MR\toutput\n\"name[Alba], food[Thai]\"\t'Alba's food, Thai.'\nname[Bo]\t'Bo.'\n",
    "headless.tsv": "name[Alba], food[Thai]\tAlba's food, Thai.\nname[Bo]\tBo.\n",
    "columns.csv": (
        'system output,id,meaning_representation\n"Alba\'s food, Thai.",1,"name[Alba], food[Thai]"\nBo.,2,name[Bo]\n'
    ),
}


@pytest.mark.parametrize(("name", "content"), TABLES.items())
def test_a_table_in_any_of_its_forms(write, name, content):
    assert read_outputs(write(name, content)) == Outputs(MRS, TEXTS)


def test_quotations_are_no_quotes_around_a_field(write):
    rows = ["'Aromi' is near 'Zizzi'", "Bo's", "'", "'Near 'Zizzi' is Aromi.'", "'The Cricketers' food.'", "''"]
    path = write("x.tsv", "MR\toutput\n" + "".join(f"m{i}\t{row}\n" for i, row in enumerate(rows)))
    assert read_outputs(path).texts == [*rows[:3], "Near 'Zizzi' is Aromi.", "The Cricketers' food.", ""]


def test_tables_with_a_broken_pound_sign_or_accent_are_repaired(write):
    content = "MR\toutput\nprice[Ł20]\tCafÃ© for Â£20, Ł5, cafã©\n"
    assert read_outputs(write("x.tsv", content)) == Outputs(["price[£20]"], ["Café for £20, £5, café"])
    assert read_outputs(write("x.txt", "Ł5")).texts == ["Ł5"]


def test_plain_text_has_a_line_an_output(write):
    assert read_outputs(write("x.txt", " Alba, \"Thai\".\r\n\r\n'Bo'\n")) == Outputs(
        None, ['Alba, "Thai".', "", "'Bo'"]
    )


def test_references_in_a_table_are_grouped_while_the_mr_stays(write):
    path = write("x.csv", "mr,ref\nm1,a\nm1,b\nm2,c\nm1,d\n")
    assert read_references(path) == References(["m1", "m2", "m1"], [["a", "b"], ["c"], ["d"]])


def test_references_in_plain_text_are_grouped_by_empty_lines(write):
    assert read_references(write("x.txt", "a\nb\n\nc\n\n\n")) == References(None, [["a", "b"], ["c"]])
    assert read_references(write("x.txt", "a\nb\nc\n")) == References(None, [["a"], ["b"], ["c"]])
    with pytest.raises(UserError, match=r"x\.txt, line 3: an MR without references"):
        read_references(write("x.txt", "a\n\n\nb\n"))


def test_outputs_with_mrs_take_their_own_references_in_their_own_order():
    references = References(["m1", "m2", "m1"], [["a", "b"], ["c"], ["d"]])
    assert align(Outputs(["m2", "m1"], ["x", "y"]), references) == (["x", "y"], [["c"], ["a", "b", "d"]])


@pytest.mark.parametrize(("outputs", "references"), [(None, None), (None, ["n1", "n2"]), (["m1", "m2"], None)])
def test_where_one_has_no_mrs_the_order_is_that_of_the_files(outputs, references):
    aligned = align(Outputs(outputs, ["x", "y"]), References(references, [["a"], ["b"]]))
    assert aligned == (["x", "y"], [["a"], ["b"]])


def test_columns_are_told_by_how_their_names_begin(write):
    assert read_outputs(write("x.tsv", "mr_id\toutput_text\nm1\tx\n")) == Outputs(["m1"], ["x"])
    assert read_outputs(write("x.tsv", "mr\toutput\tdataset\nm1\tx\ttest\n")) == Outputs(["m1"], ["x"])
    assert read_outputs(write("x.tsv", "name[A]\tOut of town, A\n")) == Outputs(["name[A]"], ["Out of town, A"])
    assert read_outputs(write("x.tsv", "MR [meaning]\toutput\nm1\tx\n")) == Outputs(["m1"], ["x"])


def test_lines_end_where_the_challenges_script_ends_them(write):
    text = "a\u2028b\x85c\x0cd"
    assert read_outputs(write("x.txt", f"{text}\r\ne\rf\n")).texts == [text, "e", "f"]
    assert read_outputs(write("x.tsv", f"mr\toutput\nm1\t{text}\n")).texts == [text]


def test_outputs_may_all_be_empty_and_references_not(write):
    path = write("x.txt", "\n \n")
    assert read_outputs(path) == Outputs(None, ["", ""])
    with pytest.raises(UserError, match=r"x\.txt is empty"):
        read_references(path)


def test_a_byte_order_mark_is_dropped_from_tables_alone(write):
    assert read_outputs(write("x.tsv", "\ufeff\ufeffmr\toutput\nm1\tx\n")) == Outputs(["m1"], ["x"])
    assert read_outputs(write("x.txt", "\ufeffx\n")) == Outputs(None, ["\ufeffx"])


def test_two_orders_without_references_to_go_by_are_told():
    with pytest.raises(UserError, match="another order"):
        in_order_of(
            Outputs(["m1", "m2"], ["x", "y"]), Outputs(["m2", "m1"], ["y", "x"]), References(None, [["a"], ["b"]])
        )


def test_an_mr_may_have_several_outputs_or_none_as_in_the_challenges_script():
    references = References(["m1", "m2"], [["a", "b"], ["c"]])
    several = Outputs(["m1", "m1"], ["x", "y"])
    assert align(several, references) == (["x", "y"], [["a", "b"], ["a", "b"]])
    assert unanswered(several, references) == ["m2"]
    assert unanswered(Outputs(["m2", "m1"], ["x", "y"]), references) == []
    assert unanswered(Outputs(None, ["x", "y"]), references) == []


@pytest.mark.parametrize(
    ("first", "other", "message"),
    [
        (["m1", "m2"], ["m1"], "different numbers of outputs for the MR 'm2'"),
        (["m1"], None, "different numbers of outputs for the MR 'm2'"),
        (["m1", "m1"], ["m1", "m2"], "different numbers of outputs for the MR 'm"),
        (["m1", "m2", "m1"], ["m1", "m1", "m2"], "in the same order"),
    ],
)
def test_two_systems_that_cannot_be_paired_are_told(first, other, message):
    one = Outputs(first, ["x"] * len(first))
    with pytest.raises(UserError, match=message):
        in_order_of(one, Outputs(other, ["x"] * len(other or "xy")), References(["m1", "m2"], [["a"], ["b"]]))


@pytest.mark.parametrize(("first", "other"), [(None, ["m1", "m2", "m1"]), (["m1", "m2", "m1"], None)])
def test_outputs_without_mrs_have_no_order_where_an_mrs_references_are_apart(first, other):
    references = References(["m1", "m2", "m1"], [["a"], ["b"], ["c"]])
    one, two = Outputs(first, ["x", "y", "z"]), Outputs(other, ["x", "y", "z"])
    with pytest.raises(UserError, match="an MR's references are not all consecutive"):
        in_order_of(one, two, references)


BAD = [
    (Outputs(["m1", "m2x"], ["x", "y"]), "no references for the output's MR 'm2x'; did you mean 'm2'?"),
    (Outputs(None, ["x"]), "1 outputs for the 2 MRs of the references"),
    (Outputs(None, ["x", "y", "z"]), "3 outputs for the 2 MRs of the references"),
]


@pytest.mark.parametrize(("outputs", "message"), BAD)
def test_outputs_that_do_not_fit_the_mrs_are_told(outputs, message):
    with pytest.raises(UserError) as caught:
        align(outputs, References(["m1", "m2"], [["a"], ["b"]]))
    assert message in str(caught.value)


FILES = [
    ("x.txt", b"", "x.txt is empty"),
    ("x.tsv", b"\n \n", "x.tsv is empty"),
    ("x.tsv", b"MR\toutput\n", "x.tsv has a header and no rows"),
    ("x.txt", b"a\n\xff\n", "x.txt, line 2: not UTF-8"),
    ("x.tsv", b"MR\toutput\nm1\tx\nm2\n", "x.tsv, line 3: 1 fields; 2 are expected (or is its text empty?)"),
    ("x.csv", b"m1,x,y\nm2,x,y\n", "x.csv, line 1: 3 fields; 2 are expected"),
    ("x.csv", b"mr,text\nm1,x\n", "x.csv, line 1: the columns are 'mr', 'text'; one of MRs (mr) and one of texts"),
    ("x.csv", b"input,output\nm1,x\n", "x.csv, line 1: the columns are 'input', 'output'"),
    ("x.csv", b"mr,src,output\nm1,s,x\n", "x.csv, line 1: the columns are 'mr', 'src', 'output'"),
    ("x.csv", b"mr,output,ref\nm1,x,y\n", "x.csv, line 1: the columns are 'mr', 'output', 'ref'; one of MRs"),
    ("x.csv", b"mr,output\nm1," + b"x" * 140_000, "x.csv: malformed table: field larger"),
]


@pytest.mark.parametrize(("name", "content", "message"), FILES)
def test_a_file_that_is_none_is_told(write, name, content, message):
    with pytest.raises(UserError) as caught:
        read_outputs(write(name, content))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*absent\.tsv: No such file"):
        read_references(tmp_path / "absent.tsv")
