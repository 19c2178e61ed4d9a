import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from huggingface_hub import constants

from hut_jax import HUT, Adapter, Head, UserError, load_adapter, load_pretrained, push_adapter, save_adapter
from hut_jax.adapters.files import check_base
from hut_jax.adapters.hub.card import MARK
from tests.hub import READ_TOKEN, TOKEN, Repository, close_sessions, point

# What huggingface_hub 2 does by itself where large files go as with Git LFS.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

FILES = ["adapter_config.json", "adapter_model.safetensors"]


def equal(given, wanted):
    jax.tree.map(np.testing.assert_array_equal, given, wanted)


def offline(hub, monkeypatch):
    close_sessions()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def unreachable(hub, monkeypatch):
    point(monkeypatch, "http://127.0.0.1:9")


def as_user(token):
    def log_in(hub, monkeypatch):
        monkeypatch.setenv("HF_TOKEN", token)

    return log_in


def there(name, **files):
    def make(hub, monkeypatch):
        hub.repositories[name] = Repository(commits=[{path: text.encode() for path, text in files.items()}])

    return make


def gated(hub, monkeypatch):
    hub.repositories["user/x"] = Repository(gated=True, commits=[dict.fromkeys(FILES, b"{}")])


def both(*parts):
    return lambda *given: [part(*given) for part in parts]


def test_what_was_pushed_is_loaded_by_its_name(hub, saved, params, tmp_path):
    _, adapter, factors = saved
    save_adapter(tmp_path / "new", adapter, factors, params, push_to="user/small", scores={"f1": 0.75})
    repository = hub.repositories["user/small"]
    assert len(repository.commits) == 2  # all files in one
    assert sorted(repository.files) == [".gitattributes", "README.md", *FILES]
    assert all(repository.files[name] == (tmp_path / "new" / name).read_bytes() for name in FILES)
    assert list(hub.large.values()) == [repository.files["adapter_model.safetensors"]]
    assert b"| f1 | 0.75 |" in repository.files["README.md"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == FILES

    hub.requests.clear()
    other, loaded = load_adapter("user/small", params)
    assert other == adapter
    equal(loaded, factors)
    assert not any("README" in request for request in hub.requests)
    check_base("user/small", params, name="it")
    with pytest.raises(UserError, match=r"the adapter in user/small was trained on None \(\w+\), and 'it' has other"):
        load_adapter("user/small", jax.tree.map(lambda leaf: leaf + 1, params), name="it")


def test_what_was_loaded_once_loads_offline(hub, saved, monkeypatch):
    folder, _, factors = saved
    push_adapter(folder, "user/small")
    load_adapter("user/small")
    offline(hub, monkeypatch)
    equal(load_adapter("user/small")[1], factors)


def test_a_private_adapter_is_loaded_by_its_owner_alone(hub, saved, monkeypatch):
    assert push_adapter(saved[0], "user/mine", private=True) == f"{hub.endpoint}/user/mine"
    assert hub.repositories["user/mine"].private
    push_adapter(saved[0], "user/mine", private=True)
    assert load_adapter("user/mine")[0] == saved[1]
    monkeypatch.delenv("HF_TOKEN")
    shutil.rmtree(constants.HF_HUB_CACHE)
    with pytest.raises(UserError, match=r"no such adapter on the hub, or no right to read it; if it is private, log"):
        load_adapter("user/mine")


def test_the_card_is_written_anew_until_somebody_changes_it(hub, saved):
    folder = saved[0]
    there("user/small", **{"README.md": "---\nlicense: mit\n---\n"})(hub, None)
    repository = hub.repositories["user/small"]
    push_adapter(folder, "user/small", scores={"f1": 0.5})
    push_adapter(folder, "user/small", scores={"f1": 0.75})
    card = repository.files["README.md"].decode()
    assert "license: mit" in card
    assert "0.75" in card
    assert "0.5 " not in card
    repository.files["README.md"] = changed = card.replace(MARK, "Mine.").encode()
    push_adapter(folder, "user/small", scores={"f1": 1})
    assert repository.files["README.md"] == changed


def merged_by_the_card(hub, name, small, adapter, head=None):
    """The parameters of a base on the hub, and those that the lines of the card of an adapter of it give."""
    hub.repositories["user/base"] = Repository(commits=[{path.name: path.read_bytes() for path in small.iterdir()}])
    _, base = load_pretrained("user/base", head=head, draw=False)
    shapes = jax.eval_shape(adapter.init, jax.random.key(0), base)
    random = np.random.default_rng(1)
    factors = jax.tree.map(lambda leaf: random.standard_normal(leaf.shape).astype(leaf.dtype), shapes)
    folder = Path(constants.HF_HUB_CACHE) / "made"
    save_adapter(folder, adapter, factors, base, base_name="user/base", push_to=name)
    (code,) = re.findall(r"```python\n(.*?)```", hub.repositories[name].files["README.md"].decode(), re.DOTALL)
    names = {}
    exec(code, names)
    equal(names["factors"], factors)
    equal(names["params"], adapter.merge(base, factors))
    return base, names["params"]


@pytest.mark.full
def test_the_lines_of_the_card_load_the_adapter(hub, small_model):
    adapter = Adapter(HUT(rank=2), "layer_0/attention/query$")
    base, merged = merged_by_the_card(hub, "user/small", small_model, adapter)
    kernel, other = (tree["layer_0"]["attention"]["query"]["kernel"] for tree in (base, merged))
    assert np.abs(kernel - other).max() > 0


@pytest.mark.full
def test_the_lines_of_the_card_load_an_adapter_with_a_head(hub, small_encoder):
    adapter = Adapter(HUT(rank=2), "layer_0/attention/query$", also_train="^classifier")
    _, merged = merged_by_the_card(hub, "user/small", small_encoder, adapter, Head("classification", num_labels=3))
    assert all(np.abs(leaf).max() for leaf in jax.tree.leaves(merged["classifier"]))


@pytest.mark.parametrize(
    ("name", "before", "message"),
    [
        (
            "user/x",
            lambda hub, patch: patch.delenv("HF_TOKEN"),
            r"you are not logged in to the hub; log in with `hf",
        ),
        ("user/x", as_user("hf_old"), r"the hub refuses your token; log in with `hf auth login`, or set HF_TOKEN to"),
        ("user/x", as_user(READ_TOKEN), r"you may not write there; give a name of your own"),
        ("other/x", lambda *_: None, r"you may not write there"),
        ("other/x", there("other/x"), r"you may not write there"),
        ("user/x", offline, r"HF_HUB_OFFLINE is set; unset it and push again"),
        ("user/x", unreachable, r"the hub cannot be reached \(.*\); push again when it can"),
    ],
    ids=["no token", "bad token", "reads", "no rights", "of another", "offline", "unreachable"],
)
def test_what_the_hub_refuses_is_one_line(hub, saved, tmp_path, monkeypatch, name, before, message):
    before(hub, monkeypatch)
    with pytest.raises(UserError, match=rf"new was not pushed to '{name}': {message}") as caught:
        save_adapter(tmp_path / "new", *saved[1:], push_to=name)
    assert "\n" not in str(caught.value)
    equal(load_adapter(tmp_path / "new")[1], saved[2])
    assert not any("README.md" in repository.files for repository in hub.repositories.values())


def test_a_public_repository_takes_no_private_adapter(hub, saved):
    there("user/x")(hub, None)
    with pytest.raises(UserError, match=r"it is there and public; make it private on its page, or give another name"):
        push_adapter(saved[0], "user/x", private=True)
    assert len(hub.repositories["user/x"].commits) == 1


@pytest.mark.parametrize("name", ["small", "two words/x", "a/b/c", "", "user/x.git"])
def test_a_name_that_is_none_is_not_sent(hub, saved, name):
    with pytest.raises(UserError, match=rf"'{name}' is no repository of the hub; give 'user/name'"):
        push_adapter(saved[0], name)
    assert hub.requests == []


def test_what_is_no_adapter_of_ours_is_not_pushed(hub, saved, tmp_path):
    with pytest.raises(UserError, match="no adapter in"):
        push_adapter(tmp_path, "user/x")
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(UserError, match=r"an adapter of Hugging Face PEFT; push it with `hf upload user/x /"):
        push_adapter(tmp_path, "user/x")
    with pytest.raises(UserError, match=r"scores= and private= are for push_to="):
        save_adapter(tmp_path / "new", *saved[1:], scores={"f1": 1.0})
    with pytest.raises(UserError, match=r"scores\['f1'\] is 'good'; give a finite number"):
        push_adapter(saved[0], "user/x", scores={"f1": "good"})
    assert hub.requests == []


@pytest.mark.parametrize(
    ("before", "message"),
    [
        (lambda *_: None, r"no folder 'user/x' here and no such adapter on the hub, or no right to read it; if it is"),
        (lambda hub, patch: patch.delenv("HF_TOKEN"), r"no such adapter on the hub, or no right to read it"),
        (both(there("user/x"), as_user("hf_old")), r"the hub refuses your token; log in with `hf auth login`"),
        (
            both(there("user/x"), offline),
            r"no folder 'user/x' here, the hub cannot be reached and its cache has no copy",
        ),
        (both(there("user/x"), unreachable), r"no folder 'user/x' here, the hub cannot be reached"),
        (gated, r"the owner of 'user/x' wants to be asked first: ask on its page, and log in with `hf auth login`"),
        (there("user/x", **{"model.bin": "no"}), r"no adapter in user/x: it has no adapter_config.json"),
        (there("user/x", **{FILES[0]: '{"peft_type": "LORA"}'}), r"user/x holds an adapter of Hugging Face PEFT; read"),
        (there("user/x", **{FILES[0]: "{}"}), r"has no adapter_model.safetensors"),
    ],
    ids=[
        "missing",
        "missing, no token",
        "bad token",
        "offline",
        "unreachable",
        "gated",
        "no adapter",
        "PEFT's",
        "half",
    ],
)
def test_what_cannot_be_loaded_is_one_line(hub, monkeypatch, before, message):
    before(hub, monkeypatch)
    with pytest.raises(UserError, match=message) as caught:
        load_adapter("user/x")
    assert "\n" not in str(caught.value)


def test_a_revision_is_read_as_it_was(hub, saved, params, tmp_path):
    _, adapter, factors = saved
    save_adapter(tmp_path / "new", adapter, factors, params, push_to="user/small")
    first = hub.repositories["user/small"].sha(-1)
    more = jax.tree.map(lambda leaf: leaf + 1, factors)
    save_adapter(tmp_path / "new", adapter, more, params, push_to="user/small")
    equal(load_adapter("user/small")[1], more)
    equal(load_adapter(f"user/small@{first}")[1], factors)
    with pytest.raises(UserError, match="'user/small' has no revision 'v2' on the hub; give a branch"):
        load_adapter("user/small@v2")


@pytest.mark.parametrize("name", ["adaptr", "a/b/c", "./adaptr", Path("user/x"), "user/x/"], ids=repr)
def test_what_is_no_name_of_the_hub_is_not_asked_for(hub, name):
    there("user/x", **dict.fromkeys(FILES, "{}"))(hub, None)
    with pytest.raises(UserError, match=r"no adapter in|no such folder"):
        load_adapter(name)
    assert hub.requests == []


def test_a_folder_may_have_an_at_sign(hub, saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(saved[0], tmp_path / "user/x@")
    assert load_adapter("user/x@")[0] == saved[1]
    assert hub.requests == []


def test_a_folder_of_the_name_comes_first(hub, saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(saved[0], tmp_path / "user/x")
    assert load_adapter("user/x")[0] == saved[1]
    assert hub.requests == []


@pytest.mark.full
def test_the_environment_names_the_hub(hub, saved, tmp_path):
    """HF_ENDPOINT is all that sends a program elsewhere."""
    code = (
        "import hut_jax\n"
        f"print(hut_jax.push_adapter({str(saved[0])!r}, 'user/small'))\n"
        "print(hut_jax.load_adapter('user/small')[0].transform)\n"
    )
    settings = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{hub.endpoint}/user/small", str(saved[1].transform)]
