import dataclasses
import re

import numpy as np
import pytest

from hut_jax import UserError, load_peft
from hut_jax.interop.heads import auto_mapping
from hut_jax.models.roberta import Roberta

QUERY = "roberta.encoder.layer.0.attention.self.query"
CLASSIFIER = {
    "classifier.dense.weight": (4, 4),
    "classifier.dense.bias": (4,),
    "classifier.out_proj.weight": (3, 4),
    "classifier.out_proj.bias": (3,),
}
MLM = {"lm_head.layer_norm.weight": (4,), "lm_head.layer_norm.bias": (4,)}


def files(write, whole, module=QUERY, **fields):
    shapes = {f"{module}.lora_A.weight": (2, 4), f"{module}.lora_B.weight": (4, 2)} | whole
    tensors = {name: np.full(shape, 0.5, np.float32) for name, shape in shapes.items()}
    return write({"peft_type": "LORA", "r": 2} | fields, tensors)


def with_head(roberta, with_params, head, labels=2):
    labels = tuple(map(str, range(labels)))
    return with_params(Roberta(dataclasses.replace(roberta[0].config, head=head, labels=labels)))


@pytest.mark.parametrize(
    ("whole", "module", "has", "message"),
    [
        (CLASSIFIER, QUERY, ("mlm", 2), "for head 'classification' with 3 labels, and the model has head 'mlm'"),
        (CLASSIFIER, QUERY, ("none", 2), "for head 'classification' with 3 labels, and the model has head 'none'"),
        (
            CLASSIFIER,
            QUERY,
            ("classification", 2),
            "'classification' with 3 labels, and the model has head 'classification' with 2",
        ),
        (MLM, QUERY, ("classification", 3), "for head 'mlm', and the model has head 'classification'"),
        ({}, "classifier.dense", ("mlm", 3), "for head 'classification', and the model has head 'mlm'"),
        ({}, "roberta.pooler.dense", ("classification", 3), "for head 'none', and the model has head 'classification'"),
    ],
)
def test_an_adapter_for_another_head_names_the_head_and_loads_with_it(
    roberta, with_params, write, whole, module, has, message
):
    folder = files(write, whole, module, modules_to_save=["classifier", "layer_norm"] if whole else None)
    with pytest.raises(UserError, match=message) as caught:
        load_peft(folder, *with_head(roberta, with_params, *has))
    asked = re.search(r"head=(?:hut_jax.Head\()?'(\w+)'(?:, num_labels=(\d)\))?\)$", str(caught.value))
    adapter, _ = load_peft(folder, *with_head(roberta, with_params, asked[1], int(asked[2] or 2)))
    assert len(adapter.targets) == 1


@pytest.mark.parametrize(
    ("fields", "purpose"),
    [
        ({"task_type": "TOKEN_CLS"}, "labels of tokens"),
        ({"task_type": "QUESTION_ANS"}, "answers in a text"),
        ({"task_type": "SEQ_2_SEQ_LM"}, "an encoder with a decoder"),
        ({"auto_mapping": {"base_model_class": "BertForTokenClassification"}}, "labels of tokens"),
        ({"auto_mapping": {"base_model_class": "BertForQuestionAnswering"}}, "answers in a text"),
        ({"auto_mapping": {"base_model_class": "RobertaForMultipleChoice"}}, "multiple choice"),
    ],
)
def test_an_adapter_for_a_head_that_is_not_here_is_refused(roberta, write, fields, purpose):
    (value,) = fields.values()
    field, value = ("task_type", value) if isinstance(value, str) else next(iter(value.items()))
    message = rf"for {purpose} \({field} '{value}'\), and this library has no such head$"
    with pytest.raises(UserError, match=message):
        load_peft(files(write, CLASSIFIER, modules_to_save=["classifier"], **fields), *roberta)


def test_gpt2_has_no_classifier(gpt2, write):
    folder = files(write, {"score.weight": (3, 4)}, "transformer.h.0.attn.c_proj")
    with pytest.raises(
        UserError, match=r"for GPT2ForSequenceClassification, .*; merge it in PEFT, .* in transformers$"
    ):
        load_peft(folder, *gpt2)


def test_a_tensor_that_no_head_knows_is_named(roberta, write):
    with pytest.raises(UserError, match=r"'classifier.odd' is not a tensor of this model or adapter"):
        load_peft(files(write, {"classifier.odd": (3,)}), *roberta)


def test_layers_of_the_head_that_are_the_bases_do_not_train(roberta, write):
    model, params = roberta
    out = params["classifier"]["out"]
    tensors = {name: np.zeros(shape, np.float32) for name, shape in CLASSIFIER.items()}
    tensors |= {"classifier.out_proj.weight": out["kernel"].T, "classifier.out_proj.bias": out["bias"]}
    tensors |= {f"{QUERY}.lora_A.weight": np.ones((2, 4)), f"{QUERY}.lora_B.weight": np.ones((4, 2))}
    folder = write({"peft_type": "LORA", "r": 2, "modules_to_save": ["classifier"]}, tensors)
    assert load_peft(folder, model, params)[0].also_train == ("^classifier/dense$",)


def test_the_class_of_a_model_without_a_task_is_named(gpt2, roberta):
    assert auto_mapping(gpt2[0].config) is None
    assert auto_mapping(roberta[0].config) == {
        "base_model_class": "RobertaForSequenceClassification",
        "parent_library": "transformers.models.roberta.modeling_roberta",
    }
