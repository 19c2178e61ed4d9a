"""The benchmarks run, and their reports hold what they say; how fast anything is, is not tested."""

import json
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import inference
from benchmarks.inference import make_turns


def printed(script, *options):
    command = [sys.executable, "-m", f"benchmarks.{script}", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def report_of(script, *options):
    return json.loads(printed(script, *options).splitlines()[-1])


@pytest.mark.full
def test_training_counts_what_each_method_trains_and_costs():
    rows = report_of("training", "--model=gpt2-tiny", "--ranks=8", "--methods=hut,lora", "--repeats=1")["rows"]
    assert rows.keys() == {"frozen", "lora:rank=8", "hut:rank=8"}
    # Query and value of two layers, 64 wide: two factors each, and HUT's scale and shift.
    assert rows["lora:rank=8"]["trained"] == 4 * 2 * 8 * 64
    assert rows["hut:rank=8"]["trained"] == 4 * (2 * 8 * 64 + 2 * 64)
    assert rows["frozen"]["flops"] < rows["lora:rank=8"]["flops"] < rows["hut:rank=8"]["flops"]


@pytest.mark.full
def test_training_knows_a_decoder():
    options = ("--ranks=8", "--methods=hut,lora", "--targets=all", "--scan-layers", "--repeats=1")
    rows = report_of("training", "--model=smollm2-tiny", *options)["rows"]
    inputs = 4 * 64 + 2 * 64 + 96  # of query, key, value and out, of gate and up, and of down
    outputs = (64 + 32 + 32 + 64) + 2 * 96 + 64
    assert rows["lora:rank=8"]["trained"] == 2 * 8 * (inputs + outputs)
    assert rows["hut:rank=8"]["trained"] == 2 * (8 * (inputs + outputs) + outputs)  # no biases, so no shifts
    assert rows["frozen"]["trained"] == 2 * 64


@pytest.mark.full
def test_the_table_of_the_methods_has_a_row_for_each(tmp_path):
    """In processes of their own: a measurement has a compilation cache of its own, which ends with it."""
    output = f"--output={tmp_path / 'methods.json'}"
    measured = printed("methods", output, "--model=gpt2-tiny", "--repeats=1")
    head, _, *rows = [line for line in measured.splitlines() if line.startswith("|")]
    assert head == "| method | trainable | ms per step | MB |"
    names = ["LoRA, r = 8", "HUT, r = 1", "HUT, r = 8", "HiRA, r = 8", "DoRA, r = 8", "IA3", "SSF", "BitFit",
             "full fine-tuning"]  # fmt: skip
    assert [row.split(" | ")[0] for row in rows] == [f"| {name}" for name in names]
    assert f"| HUT, r = 8 | {4 * (2 * 8 * 64 + 2 * 64):,} |" in measured
    assert measured.endswith(printed("methods", output, "--show"))


@pytest.mark.full
def test_inference_compares_forms_that_compute_the_same(monkeypatch, capsys):
    made = []
    monkeypatch.setattr(inference, "make_turns", lambda *args: made.append(make_turns(*args)) or made[0])
    monkeypatch.setattr(sys, "argv", ["inference", "--model=gpt2-tiny", "--batch=4", "--length=8", "--repeats=3"])
    inference.main()
    ((turns, peers),) = made
    outputs = {name: np.asarray(turn()) for name, turn in turns.items()}
    base = outputs["base"]
    for rank in (1, 8):
        merged, unmerged = outputs[f"merged, r = {rank}"], outputs[f"unmerged, r = {rank}"]
        np.testing.assert_allclose(unmerged, merged, rtol=1e-4, atol=1e-4)
        assert np.abs(merged - base).max() > 0.05
    # The last of the rows' adapters is the one that is compared with; the others are weaker.
    many, one = outputs["4 adapters, r = 1"], outputs["unmerged, r = 1"]
    np.testing.assert_allclose(many[-1], one[-1], rtol=1e-4, atol=1e-4)
    assert (np.abs(many[:-1] - one[:-1]).max(axis=(1, 2)) > 0.05).all()
    others = {f"{form}, r = {rank}": "base" for form in ("merged", "unmerged") for rank in (1, 8)}
    assert peers == {"base": "base"} | others | {"4 adapters, r = 1": "unmerged, r = 1"}

    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["ratios"].keys() == report["seconds"].keys() == outputs.keys()
    for name, ratios in report["ratios"].items():
        assert (len(ratios), len(report["seconds"][name])) == (3, 3)
        assert 0 < ratios[0] <= ratios[1] <= ratios[2]


@pytest.mark.peers
def test_generation_writes_what_transformers_writes():
    pytest.importorskip("torch", reason="`make peers` installs PyTorch and transformers")
    report = report_of("generation", "--size=tiny", "--batch-sizes=2", "--new-tokens=8", "--repeats=1")
    assert [(row["batch"], row["same"]) for row in report["rows"]] == [(2, 1)]


@pytest.mark.peers
@pytest.mark.parametrize("size", ["tiny", "smollm2-tiny"])
def test_peft_trains_the_same_model_on_the_same_batches(size, real_data):
    """The benchmark ends if the two losses before training are not the same."""
    pytest.importorskip("torch", reason="`make peers` installs PyTorch and transformers")
    files = (f"--data={real_data / 'e2e'}", f"--tokenizer={real_data / 'tokenizers/gpt2'}")
    short = ("--batch-size=2", "--steps=2", "--repeats=1", "--targets=all", "--pack=256")
    report = report_of("against_peft", f"--size={size}", *files, *short)
    trained = report["trained"]
    assert (trained["ours"] == trained["theirs"]) == (size == "smollm2-tiny")
    assert report["rows"]["as used"]["filled"]["ours"] > report["rows"]["same batches"]["filled"]["ours"]


@pytest.mark.full
def test_attention_has_a_line_for_each_shape():
    _, *lines = printed("attention", "--shapes=2x5x4x2,1x64x2x2", "--turns=1").splitlines()  # after the machine
    assert [line.split(": ours ")[0] for line in lines] == ["2x5x4x2", "1x64x2x2"]


@pytest.mark.peers
def test_products_has_a_line_for_each_kernel_and_direction():
    pytest.importorskip("torch", reason="`make peers` installs PyTorch and transformers")
    _, *lines = printed("products", "--rows=4", "--kernels=8x6,6x8", "--turns=1").splitlines()  # after the machine
    directions = ("8x6 forward", "8x6 backward", "6x8 forward", "6x8 backward")
    assert [line.split(": JAX ")[0] for line in lines] == list(directions)
    assert not any("plain" in line for line in lines)
    _, *lines = printed("products", "--rows=4", "--kernels=8x6", "--turns=1", "--dtype=bfloat16").splitlines()
    assert [line.split(": JAX ")[0] for line in lines] == list(directions[:2])
    assert all("; plain " in line for line in lines)
