"""Several processes on this machine train as one does."""

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from hut_jax.core.errors import UserError
from hut_jax.parallel import processes
from hut_jax.training.log import read_metrics

ROOT = Path(__file__).parents[2]


def arguments(*argv):
    parser = argparse.ArgumentParser()
    processes.add_arguments(parser)
    return parser.parse_args(argv)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--coordinator=localhost:1"], "go together; one of them is missing"),
        (["--processes=2", "--process=0"], "go together; one of them is missing"),
        (["--coordinator=localhost:1", "--processes=2", "--process=2"], "--process is 2; it must be .* below .* 2"),
        (["--distributed", "--process=0"], "--distributed finds .* itself; give it alone, or only these three"),
    ],
)
def test_arguments_that_do_not_go_together_are_one_line(argv, message):
    with pytest.raises(UserError, match=message):
        processes.join(arguments(*argv))


def test_alone_nothing_is_joined_and_everything_is_first():
    processes.join(arguments())
    assert processes.is_first()
    assert not processes.several()
    called = []
    processes.on_first(lambda: called.append(1))
    with processes.first_alone("something"):
        called.append(2)
    assert called == [1, 2]


def start(config_file, workdir, count, *options, devices=1, last=()):
    """As many processes of one run, each with so many devices; the last one has further options."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "hut_jax.train", f"--config={config_file}", f"--workdir={workdir}", *options]
    join = [f"--coordinator=localhost:{port}", f"--processes={count}"] if count > 1 else []
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("device_count=8", f"device_count={devices}"),
    }
    return [
        subprocess.Popen(
            [*command, *join, *([f"--process={i}"] if join else []), *(last if i == count - 1 else ())],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for i in range(count)
    ]


def end(run, timeout=240):
    """Each process's exit code, stdout and stderr."""
    try:
        said = [process.communicate(timeout=timeout) for process in run]
    finally:
        for process in run:
            process.kill()
            with process:  # closes its pipes, where communicate has not come to it
                pass
    return [(process.returncode, *texts) for process, texts in zip(run, said, strict=True)]


def finish(*args, **kwargs):
    ended = end(start(*args, **kwargs))
    assert [code for code, _, _ in ended] == [0] * len(ended), ended
    return ended


def flip_a_byte(folder):
    file = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def losses(workdir):
    return [line["loss"] for line in read_metrics(workdir)]


def wait_for_training(run, workdir):
    log = workdir / "metrics.jsonl"
    while all(process.poll() is None for process in run) and not (log.exists() and '"train"' in log.read_text()):
        time.sleep(0.02)


MESH = ["--config.mesh.data=-1", "--config.mesh.fsdp=2", "--config.log.every=1"]


@pytest.mark.full
def test_several_processes_give_one_processs_losses_though_stopped_and_of_another_number(config_file, tmp_path):
    """A signal to one of two processes stops both. Four resume the run, and pass over a damaged checkpoint together."""
    options = [*MESH, "--config.train.steps=30", "--config.eval.every=30", "--config.checkpoint.every=5"]
    finish(config_file, tmp_path / "one", 1, *options, devices=4)
    run = start(config_file, tmp_path / "several", 2, *options, devices=2)
    wait_for_training(run, tmp_path / "several")
    run[1].send_signal(signal.SIGTERM)
    for code, _, error in end(run):
        assert code == 143
        assert "SIGTERM: stopped after step" in error
    newest = max((tmp_path / "several/checkpoints").iterdir(), key=lambda path: int(path.name.split("_")[1]))
    flip_a_byte(newest / "state/d")
    ended = finish(config_file, tmp_path / "several", 4, *options)
    assert f"the checkpoint of step {newest.name.split('_')[1]} is damaged" in ended[0][1]
    assert "done: validation" in ended[0][1]
    assert all(out == "" and "step/s" not in error for _, out, error in ended[1:])
    found = losses(tmp_path / "several")
    np.testing.assert_allclose(found, losses(tmp_path / "one"), atol=1e-4)
    np.testing.assert_allclose(found[:12], losses(tmp_path / "one")[:12], atol=1e-5)
    one, more = (load_file(tmp_path / name / "adapter/adapter_model.safetensors") for name in ("one", "several"))
    for name in one:
        np.testing.assert_allclose(more[name], one[name], atol=1e-4)


@pytest.mark.full
@pytest.mark.parametrize("killed", [0, 1])
def test_where_one_process_is_killed_the_others_end_within_a_minute(killed, config_file, tmp_path):
    run = start(
        config_file,
        tmp_path / "run",
        2,
        "--config.mesh.data=-1",
        "--config.train.steps=100000",
        "--config.train.epochs=1e5",
    )
    wait_for_training(run, tmp_path / "run")
    run[killed].kill()
    began = time.monotonic()
    code, _, error = end(run, timeout=60)[1 - killed]
    assert time.monotonic() - began < 60
    assert code not in (0, None)
    assert "another process of this run has ended" in error or "distributed service" in error


@pytest.mark.full
def test_a_mistake_is_one_line_in_each_process(config_file, tmp_path):
    for code, _, error in end(
        start(config_file, tmp_path / "run", 2, "--config.mesh.data=-1", "--config.adapter.rank=3")
    ):
        assert code == 2
        assert "error: " in error
        assert "rank 3 does not divide" in error
        assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


@pytest.mark.full
def test_a_mistake_in_one_process_alone_ends_the_others_too(config_file, tmp_path):
    last = [f"--config.data.dir={tmp_path / 'nowhere'}"]
    run = start(config_file, tmp_path / "run", 2, "--config.mesh.data=-1", last=last)
    (first, _, said), (last, _, told) = end(run, timeout=120)
    assert re.search(r"error: .*nowhere", told)
    assert not {first, last} & {0, None}
    assert "another process of this run has ended" in said or "distributed service" in said
