"""A sample of every transformation, for the tests that each of them must pass. One that is added is added here."""

from hut_jax.transforms import (
    HUT,
    IA3,
    SSF,
    BitFit,
    DoRA,
    Full,
    HiRA,
    LayerNorm,
    LoHa,
    LoRA,
    LoRAPlus,
)

SAMPLES = {
    "hut": HUT(rank=2),
    "hut-cyclic": HUT(rank=4, spread="cyclic"),
    "hut-kronecker": HUT(rank=4, spread="kronecker"),
    "hut-sum": HUT(rank=3, spread="sum"),
    "hut-product": HUT(rank=3, spread="product"),
    "hut-rank1": HUT(rank=1),
    "lora": LoRA(rank=3, alpha=6.0),
    "lora-rs": LoRA(rank=3, rs=True),
    "lora_plus": LoRAPlus(rank=2, ratio=4.0),
    "dora": DoRA(rank=3, alpha=2.0),
    "hira": HiRA(rank=3),
    "loha": LoHa(rank=2),
    "ia3": IA3(feedforward="join$"),
    "ssf": SSF(),
    "bitfit": BitFit(),
    "layernorm": LayerNorm(),
    "full": Full(),
}
