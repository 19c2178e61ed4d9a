r"""Fine-tune a language model on instructions or conversations with HUT.

    python -m hut_jax.train --config=configs/chat.py --config.model=FOLDER --config.data.file=chat.jsonl \
        --workdir=runs/chat

Each line of the file is a JSON object with 'messages', with 'prompt' and 'completion', or with 'text'. Messages need a
chat template: the tokenizer's, or a file named in `config.data.template`. docs/chat.md says what is learned of a line.
"""

from ml_collections import ConfigDict

from hut_jax.config import default_config, set_transform


def get_config() -> ConfigDict:
    """The config."""
    config = default_config("chat")
    config.model = "gpt2"  # a hub name or a folder
    config.tokenizer = ""  # empty: the model's own
    config.dtype = "float32"  # of the base and its computation; "bfloat16" halves the memory. Factors are float32
    config.seed = 0

    config.data.file = ""  # JSONL; read as it is needed, so it may be of any size
    config.data.validation = ""  # another file; empty: the end of the first
    config.data.holdout = 200  # the most examples for validation
    config.data.template = ""  # a file with a chat template, in Jinja; empty: the tokenizer's
    config.data.max_length = 1024  # tokens; longer examples are cut
    config.data.row = 0  # tokens of a row of several examples, which do not see each other; 0: max_length
    config.data.length_multiple = 256  # few shapes of validation batches to compile

    set_transform(config, "hut", rank=8)
    config.adapter.targets = ()  # the transformation's own

    config.train.batch_size = 4  # rows
    config.train.epochs = 1.0
    config.train.warmup = 0.03  # a share of the steps
    config.train.decay = "linear"
    config.train.scan_layers = True  # one compiled layer

    config.eval.every = 200
    config.eval.batch_size = 4
    config.checkpoint.every = 200

    config.decode.method = "greedy"
    config.decode.max_new_tokens = 256
    config.decode.no_repeat_ngram = 0
    return config
