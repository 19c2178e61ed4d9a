"""The benchmarks run, and their reports hold what they say; how fast anything is, is not tested."""

import json
import subprocess
import sys

import pytest


def report_of(script, *options):
    command = [sys.executable, "-m", f"benchmarks.{script}", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.full
def test_training_counts_what_each_method_trains_and_costs():
    rows = report_of("training", "--model=gpt2-tiny", "--ranks=8", "--methods=hut,lora", "--repeats=1")["rows"]
    assert rows.keys() == {"frozen", "lora:rank=8", "hut:rank=8"}
    # Query and value of two layers, 64 wide: two factors each, and HUT's scale and shift.
    assert rows["lora:rank=8"]["trained"] == 4 * 2 * 8 * 64
    assert rows["hut:rank=8"]["trained"] == 4 * (2 * 8 * 64 + 2 * 64)
    assert rows["frozen"]["flops"] < rows["lora:rank=8"]["flops"] < rows["hut:rank=8"]["flops"]


@pytest.mark.full
def test_inference_compares_with_the_base_and_adapters_with_one():
    report = report_of("inference", "--model=gpt2-tiny", "--batch=4", "--repeats=3")
    assert report["ratios"].keys() == {
        "base", "merged, r = 1", "unmerged, r = 1", "merged, r = 8", "unmerged, r = 8", "4 adapters, r = 1",
    }  # fmt: skip
    assert report["ratios"]["base"] == [1, 1, 1]
    assert report["ratios"]["4 adapters, r = 1"] == sorted(
        a / b for a, b in zip(report["seconds"]["4 adapters, r = 1"], report["seconds"]["unmerged, r = 1"], strict=True)
    )


@pytest.mark.peers
def test_generation_writes_what_transformers_writes():
    pytest.importorskip("torch", reason="`make peers` installs PyTorch and transformers")
    report = report_of("generation", "--size=tiny", "--batch-sizes=2", "--new-tokens=8", "--repeats=1")
    assert [(row["batch"], row["same"]) for row in report["rows"]] == [(2, 1)]
