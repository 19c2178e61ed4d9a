import sys

import pytest

from hut_jax.metrics.e2e import java

METEOR = "pycocoevalcap/meteor/meteor-1.5.jar"
TOKENIZER = "pycocoevalcap/tokenizer/stanford-corenlp-3.4.1.jar"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with nothing on its PATH, to which a `java` and the package's files may be added."""

    def add(script=None, files=()):
        if script is not None:
            path = tmp_path / "bin" / "java"
            path.write_text(f"#!/bin/sh\n{script}\n")
            path.chmod(0o755)
        for file in files:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).touch()

    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *(p for p in sys.path if "site-packages" not in p)])
    monkeypatch.delitem(sys.modules, "pycocoevalcap", raising=False)
    return add


def reason(call, *arguments):
    with pytest.raises(java.Unavailable) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_without_java_or_the_package_the_reason_says_which(machine):
    assert "no java on the PATH" in reason(java.tokenize, ["a"])
    machine(script="exit 0")
    assert "pip install --no-deps pycocoevalcap" in reason(java.meteor_statistics, ["a"], [["a"]])


def test_a_program_that_fails_is_told_by_its_last_line(machine):
    machine(script="echo starting >&2; echo '  no memory' >&2; exit 3", files=[METEOR])
    assert reason(java.meteor_statistics, ["a"], [["a"]]) == "java ended with 3: no memory"


def test_a_program_that_says_nothing_or_cannot_be_started_is_told(machine, tmp_path):
    machine(script="exit 3", files=[METEOR])
    assert reason(java.meteor_statistics, ["a"], [["a"]]) == "java ended with 3: no message"
    (tmp_path / "bin/java").write_text("#!/no/shell\n")
    assert reason(java.meteor_statistics, ["a"], [["a"]]) == "java cannot be started: No such file or directory"


def test_both_programs_must_be_there(machine):
    assert not java.is_there()
    machine(script="exit 0", files=[METEOR])
    assert not java.is_there()
    machine(files=[TOKENIZER])
    assert java.is_there()


def test_the_programs_are_started_in_utf_8_and_meteor_in_its_own_folder(machine, tmp_path):
    machine(script=f'echo "$PWD" "$@" >> {tmp_path}/started; exit 1', files=[METEOR, TOKENIZER])
    reason(java.meteor_statistics, ["a"], [["a"]])
    reason(java.tokenize, ["a"])
    meteor, tokenizer = (tmp_path / "started").read_text().splitlines()
    options = "-Dfile.encoding=UTF-8 -Duser.language=en -Duser.country=US"
    jar = tmp_path / METEOR
    assert meteor == f"{jar.parent} {options} -Xmx2G -jar {jar} - - -stdio -l en -norm"
    assert tokenizer.partition(" ")[2] == (
        f"{options} -cp {tmp_path / TOKENIZER} edu.stanford.nlp.process.PTBTokenizer -preserveLines -lowerCase"
    )


def test_answers_that_do_not_fit_are_told(machine):
    machine(script="echo 1 2 3", files=[METEOR, TOKENIZER])
    assert reason(java.meteor_statistics, ["a"], [["a"]]) == "METEOR gave 3 numbers for an output, not 23"
    assert reason(java.meteor_statistics, ["a"] * 3, [["a"]] * 3) == "METEOR answered 2 of 3 outputs"
    assert "PTBTokenizer made 2 lines of 3" in reason(java.tokenize, ["a", "b", "c"])
    machine(script="printf '\\351'")
    assert "something other than UTF-8" in reason(java.tokenize, ["a"])
    machine(script="echo what")
    assert "something other than numbers" in reason(java.meteor_statistics, ["a"], [["a"]])


def test_meteor_is_asked_a_line_an_output_and_the_bars_separate(machine, tmp_path):
    numbers = " ".join(["1.0"] * 23)
    machine(script=f'while read -r line; do echo "$line" >> {tmp_path}/asked; echo {numbers}; done', files=[METEOR])
    assert java.meteor_statistics(["a ||| b  c", ""], [["d", "e é"], ["f"]]) == [[1.0] * 23] * 2
    asked = (tmp_path / "asked").read_text(encoding="utf-8").splitlines()
    assert asked == ["SCORE ||| d ||| e é ||| a b c", "SCORE ||| f |||"]


def test_the_tokenizers_lines_lose_their_punctuation(machine):
    machine(script='printf "it \'s good .\\n\\n-lrb- é -rrb- !\\n"', files=[TOKENIZER])
    assert java.tokenize(["It's good.", "", "(é)!"]) == ["it 's good", "", "-lrb- é -rrb-"]
