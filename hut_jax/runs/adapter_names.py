"""Adapters named by one word, such as `hut:rank=8:spread=cyclic`."""

from hut_jax.config import RunConfig, freeze, set_transform, thaw
from hut_jax.core.errors import UserError
from hut_jax.runs import config_files
from hut_jax.transforms import TRANSFORMS


def with_adapter(config: RunConfig, text: str) -> RunConfig:
    """The config with the adapter that the text names, and its learning rates.

    Settings that the text leaves out are the config's if the transformation is the same; otherwise the defaults.

    Raises:
        UserError: there is no such transformation or setting, or a value is not of its type.
    """
    name, *settings = text.split(":")
    copy = thaw(config)
    if name != config.adapter.name:
        set_transform(copy, name)
        whole_leaves = any(TRANSFORMS[one].whole_leaves for one in (name, config.adapter.name))
        if whole_leaves:  # patterns of layers match no parameters, and the other way round
            copy.adapter.update({field: () for field in ("targets", "exclude", "layout")})
        if whole_leaves or "rank" not in copy.adapter:
            copy.adapter.ranks = ()
    for setting in settings:
        if "=" not in setting:
            raise UserError(f"--adapters: {setting!r} in {text!r} is no setting; write it as in hut:rank=8")
        if setting.startswith("name="):
            raise UserError(f"--adapters: {text!r} names a second transformation; write it in front, as in hut:rank=8")
    config_files.override(copy, [f"--config.adapter.{setting}" for setting in settings])
    return freeze(copy)
