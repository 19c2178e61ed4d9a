"""LoRA training with Hugging Face PEFT on PyTorch, for `benchmarks.against_peft`."""

import os
import time
from functools import partial

import numpy as np
import peft
import torch
import transformers
from peft.tuners.lora import LoraLayer
from torch.nn.utils.rnn import pad_sequence

from benchmarks.torch_models import DEVICE

RANK, ALPHA = 8, 16
TARGETS = {
    "attention": ("attention/(query|key|value)$", {"gpt2": ["c_attn"], "llama": ["q_proj", "k_proj", "v_proj"]}),
    "all": (
        "(attention/(query|key|value|out)|mlp/(gate|up|down))$",
        {"gpt2": ["c_attn", "c_proj", "c_fc"], "llama": "all-linear"},
    ),
}
NO_LABEL = -100


class Theirs:
    """Training with PEFT."""

    def __init__(self, config, args, folder):
        options = {"dtype": getattr(torch, args.dtype), "attn_implementation": "sdpa"}
        base = transformers.AutoModelForCausalLM.from_pretrained(folder, **options)
        family = base.config.model_type
        targets = {"target_modules": TARGETS[args.targets][1][family], "fan_in_fan_out": family == "gpt2"}
        lora = peft.LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=ALPHA, **targets)
        self.model = peft.get_peft_model(base, lora).to(DEVICE)
        self._learned = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.trained = sum(parameter.numel() for parameter in self._learned)
        self._train, self._folder = config.train, folder

    def loss(self, batch):
        """The mean loss before training, without dropout."""
        with torch.no_grad():
            return self.model.eval()(**as_tensors(batch)).loss.item()

    def loop(self, batches):
        """Take one step per batch, in a plain loop."""
        self._begin()
        train, losses, clock = self._train, [], Clock()
        betas = train.beta1, train.beta2
        optimizer = torch.optim.AdamW(self._learned, train.learning_rate, betas, train.eps, train.weight_decay)
        with clock:
            for batch in batches:
                optimizer.zero_grad()
                loss = self.model(**batch).loss
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self._learned, train.clip)
                optimizer.step()
                losses.append(loss.detach())
        return clock.record(torch.stack(losses).mean().item())

    def trainer(self, examples, collator):
        """Train one epoch with transformers' Trainer."""
        self._begin()
        train, clock = self._train, Clock()
        arguments = transformers.TrainingArguments(
            self._folder, num_train_epochs=1, per_device_train_batch_size=train.batch_size, use_cpu=DEVICE == "cpu",
            learning_rate=train.learning_rate, lr_scheduler_type="constant", weight_decay=train.weight_decay,
            adam_beta1=train.beta1, adam_beta2=train.beta2, adam_epsilon=train.eps, max_grad_norm=train.clip,
            label_names=["labels"], report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        trainer = transformers.Trainer(self.model, arguments, collator, examples, callbacks=[clock])
        trainer.remove_callback(transformers.PrinterCallback)
        return clock.record(trainer.train().training_loss)

    def _begin(self):
        """Draw new factors into the same tensors, so that nothing is compiled again."""
        for module in self.model.train().modules():
            if isinstance(module, LoraLayer):
                module.reset_lora_parameters("default", init_lora_weights=True)


class Collator:
    """Pads to the longest example of a batch, and counts tokens and positions."""

    def __init__(self):
        self.tokens = self.positions = 0

    def __call__(self, rows):
        """The batch of these examples."""
        padded = partial(pad_sequence, batch_first=True)
        mask = padded([torch.ones_like(row["input_ids"]) for row in rows])
        self.tokens, self.positions = self.tokens + int(mask.sum()), self.positions + mask.numel()
        labels = padded([row["labels"] for row in rows], padding_value=NO_LABEL)
        return {"input_ids": padded([row["input_ids"] for row in rows]), "attention_mask": mask, "labels": labels}


def as_example(examples, index):
    """An example for the Trainer; transformers shifts the labels by one itself."""
    tokens = torch.from_numpy(examples[index].astype(np.int64))
    labels = tokens.clone()
    labels[: examples.loss_start[index]] = NO_LABEL
    return {"input_ids": tokens, "labels": labels}


def as_tensors(batch):
    """A batch of ours for transformers' models; each label is already at the position that predicts it."""
    labels = np.full(batch["input_ids"].size, NO_LABEL)
    used = batch["weights"] > 0
    labels[batch["logits_at"][used]] = batch["labels"][used]
    arrays = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    arrays["labels"] = arrays["shift_labels"] = labels.reshape(batch["input_ids"].shape)
    return {name: torch.from_numpy(array.astype(np.int64)).to(DEVICE) for name, array in arrays.items()}


class Clock(transformers.TrainerCallback):
    """The elapsed and processor time of a `with` block. As a callback: that of the Trainer's loop, without set-up."""

    def __enter__(self, *_, **__):
        self._began = self._now()

    def __exit__(self, *_, **__):
        self._ended = self._now()

    on_train_begin, on_train_end = __enter__, __exit__

    def record(self, loss):
        """The record of a turn with this mean training loss."""
        seconds, cpu = (end - began for began, end in zip(self._began, self._ended, strict=True))
        return {"seconds": seconds, "cpu": cpu, "loss": loss, "load": os.getloadavg()[0]}

    def _now(self):
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()
