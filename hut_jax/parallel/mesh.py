"""The mesh of devices, and how parameters and batches are split over it.

The mesh has three axes. `data` and `fsdp` split every batch. `fsdp` also splits every parameter, which is gathered when
it is used (ZeRO's third stage, Rajbhandari et al., arXiv 1910.02054, 2019). `tensor` splits the products themselves, by
attention heads and by the inner width of the feed-forward layers (Shoeybi et al., "Megatron-LM", arXiv 1909.08053,
2019, section 3). XLA derives the communication from how the arrays are split.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from hut_jax.core.errors import UserError
from hut_jax.core.trees import Path, flatten, show, unflatten
from hut_jax.parallel.activations import AXES, BATCH, batch_parts
from hut_jax.parallel.config import check_sizes
from hut_jax.parallel.processes import ALL, Share, put

Rules = Sequence[tuple[str, PartitionSpec]]
"""Pairs of a pattern of '/'-joined paths, and the way to split the last axes of a parameter that it matches."""

TRANSFORMER: Rules = (
    (r"attention/(query|key|value)/kernel$", PartitionSpec("fsdp", "tensor")),
    (r"attention/out/kernel$", PartitionSpec("tensor", "fsdp")),
    (r"mlp/(gate|up)/kernel$", PartitionSpec("fsdp", "tensor")),
    (r"mlp/down/kernel$", PartitionSpec("tensor", "fsdp")),
    # Not along the vocabulary, whose size is rarely a multiple of the number of devices.
    (r"embedding$", PartitionSpec(None, "fsdp")),
    (r"lm_head/kernel$", PartitionSpec("fsdp", None)),
    (r"", PartitionSpec()),  # biases, norms and heads are small: every device has them whole
)
"""The rules of this library's models."""


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of the first devices.

    Args:
        data: the number of devices that split batches; -1: as many as the others leave.
        fsdp: the number of devices that split batches and parameters; or -1.
        tensor: the number of devices that split the products; or -1.
        devices: default: all devices.

    Raises:
        UserError: a size is neither -1 nor 1 or more, several are -1, there are too few devices, or not all devices of
            several processes are used.
    """
    devices = jax.devices() if devices is None else devices
    sizes = dict(zip(AXES, (data, fsdp, tensor), strict=True))
    check_sizes(sizes)
    free = [axis for axis, size in sizes.items() if size == -1]
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if fixed > len(devices) or (free and len(devices) % fixed):
        named = " x ".join(f"{axis} {size}" for axis, size in sizes.items() if size != -1)
        fits = ", ".join(str(n) for n in range(1, len(devices) + 1) if len(devices) % n == 0)
        which = (
            f"is more than the {len(devices)} devices" if fixed > len(devices) else f"does not divide {len(devices)}"
        )
        raise UserError(f"config.mesh: {named} is {fixed}, which {which}; sizes that fit: {fits}")
    sizes.update({axis: len(devices) // fixed for axis in free})
    shape = tuple(sizes.values())
    if math.prod(shape) < len(devices) and jax.process_count() > 1:
        raise UserError(
            f"config.mesh takes {math.prod(shape)} of the {len(devices)} devices, but each of several processes needs "
            "its own in the mesh; set one axis to -1"
        )
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices[: math.prod(shape)])


def param_specs(shapes: Mapping[str, Any], rules: Rules | None, mesh: Mesh) -> dict[Path, PartitionSpec]:
    """How each parameter is split, by path.

    Args:
        shapes: the parameters, or their shapes.
        rules: the first rule that matches decides how the last axes are split. Axes before them, such as that of
            stacked layers, are not split. None, for a model without rules: `fsdp` splits the largest axis that it
            divides.
        mesh: the mesh whose axes the rules name.

    Raises:
        UserError: no rule matches a parameter, or an axis of the mesh does not divide one of a parameter.
    """
    specs = {}
    for path, leaf in flatten(shapes).items():
        if rules is None:
            specs[path] = _largest_axis(leaf.shape, mesh.shape["fsdp"])
            continue
        rule = next((spec for pattern, spec in rules if re.search(pattern, show(path))), None)
        if rule is None:
            raise UserError(f"no rule says how {show(path)} is split; end the rules with ('', PartitionSpec())")
        specs[path] = PartitionSpec(*(None,) * (len(leaf.shape) - len(rule)), *rule) if rule else PartitionSpec()
        _check_divides(path, leaf.shape, specs[path], mesh)
    return specs


def check_batch(name: str, size: int, mesh: Mesh) -> None:
    """Check that a batch can be split over the devices.

    Raises:
        UserError: it cannot.
    """
    parts = batch_parts(mesh)
    if size % parts:
        raise UserError(
            f"{name} is {size}, and config.mesh splits it over data x fsdp = {parts} devices; "
            f"give a multiple of {parts}, such as {-(-size // parts) * parts}, or another config.mesh"
        )


def check_heads(heads: int, mesh: Mesh) -> None:
    """Check that attention's heads can be split over the devices.

    Raises:
        UserError: they cannot.
    """
    if heads % mesh.shape["tensor"]:
        valid = ", ".join(str(n) for n in range(1, mesh.size + 1) if heads % n == 0)
        raise UserError(
            f"config.mesh.tensor={mesh.shape['tensor']} does not divide the model's {heads} heads; "
            f"sizes that do: {valid}"
        )


def shardings(mesh: Mesh, specs: Mapping[Path, PartitionSpec]) -> PyTree[NamedSharding]:
    """The specs as shardings on this mesh, as a tree."""
    return unflatten({path: NamedSharding(mesh, spec) for path, spec in specs.items()})


def own_share(mesh: Mesh) -> Share:
    """The share of each batch on this process's devices. If its parts are not consecutive, it is the whole batch."""
    parts = batch_parts(mesh)
    where = NamedSharding(mesh, PartitionSpec(BATCH)).addressable_devices_indices_map((parts,))
    own = sorted({part for index in where.values() if index for part in range(parts)[index[0]]})
    return Share(own[0], own[-1] + 1, parts) if len(own) == own[-1] + 1 - own[0] < parts else ALL


def place_batch(mesh: Mesh, batch: PyTree[Any], share: Share = ALL) -> PyTree[Array]:
    """Place a batch on the devices, split by examples.

    Args:
        mesh: the devices.
        batch: this process's share of the batch.
        share: which share that is.
    """
    where = NamedSharding(mesh, PartitionSpec(BATCH))
    if share == ALL:
        return jax.tree.map(lambda leaf: put(leaf, where), batch)
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(where, leaf), batch)


def describe(mesh: Mesh, specs: Mapping[Path, PartitionSpec]) -> str:
    """One line with the mesh, and the number of parameter arrays that are split in each way."""
    counts: dict[str, int] = {}
    for spec in specs.values():
        split = ", ".join("-" if axis is None else str(axis) for axis in spec) or "whole on each"
        counts[split] = counts.get(split, 0) + 1
    sizes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    return f"mesh {sizes}; parameters: " + "; ".join(f"{count} [{split}]" for split, count in counts.items())


def _largest_axis(shape: Sequence[int], parts: int) -> PartitionSpec:
    sizes = [size if size % parts == 0 and size > parts else 0 for size in shape]
    if len(shape) < 2 or not max(sizes):
        return PartitionSpec()
    axis = sizes.index(max(sizes))
    return PartitionSpec(*(None,) * axis, "fsdp")


def _check_divides(path: Path, shape: Sequence[int], spec: PartitionSpec, mesh: Mesh) -> None:
    for number, (size, axis) in enumerate(zip(shape, spec, strict=False)):
        if axis is not None and size % mesh.shape[axis]:
            valid = [str(n) for n in range(1, mesh.size + 1) if size % n == 0]
            raise UserError(
                f"{show(path)} {list(shape)}: config.mesh.{axis}={mesh.shape[axis]} does not divide its axis {number}; "
                f"sizes that do: {', '.join(valid)}"
            )
