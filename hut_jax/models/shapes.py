"""Names for the shapes of the models' inputs and activations."""

import numpy as np
from jaxtyping import Array, Bool, Float, Int

HostOrDevice = Array | np.ndarray
Tokens = Int[HostOrDevice, "batch length"]
Mask = Bool[HostOrDevice, "batch keys"] | Int[HostOrDevice, "batch keys"]
PerToken = Int[HostOrDevice, "#batch length"]
Indices = Int[HostOrDevice, " n"]
Hidden = Float[Array, "batch length width"]
Heads = Float[Array, "batch length heads head_width"]
Keys = Float[Array, "batch keys key_heads head_width"]
