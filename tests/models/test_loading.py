"""Models and tokenizers from folders: complete ones load, incomplete ones are refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny import tiny_gpt2, tiny_tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BloomConfig,
    BloomForCausalLM,
    ElectraConfig,
    ElectraModel,
    LlamaModel,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    RobertaConfig,
    RobertaForCausalLM,
)

from lmrl.models import (
    check_scoring_forward,
    context_length,
    disable_dropout,
    load_backbone_and_head,
    load_model,
    load_policy,
    load_tokenizer,
    show_special_tokens,
    write_merged,
)
from lmrl.precision import check_attention
from lmrl.supervised import load_trainable_classifier

IDS = torch.tensor([[6, 7, 8, 9, 10, 11]])


@pytest.fixture(scope="module")
def adapter_path(gpt2_path: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Returns the folder of a LoRA adapter that changes the model, and the tokenizer."""
    folder = tmp_path_factory.mktemp("adapter")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = get_peft_model(
            AutoModelForCausalLM.from_pretrained(gpt2_path),
            LoraConfig(
                r=4, target_modules=["c_attn"], task_type="CAUSAL_LM", init_lora_weights=False, fan_in_fan_out=True
            ),
        )
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def test_a_tokenizer_pads_and_cuts_on_the_left(gpt2_path: str, tmp_path: Path) -> None:
    right = tiny_tokenizer()
    right.padding_side = right.truncation_side = "right"
    right.save_pretrained(tmp_path)
    for folder in (gpt2_path, str(tmp_path), tmp_path):
        tokenizer = load_tokenizer(folder)
        assert (tokenizer.padding_side, tokenizer.truncation_side, tokenizer.pad_token) == ("left", "left", "<pad>")


def test_eos_is_the_filler_of_a_tokenizer_without_a_pad_token(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert (loaded.pad_token, loaded.pad_token_id, loaded.eos_token_id) == ("<eos>", 1, 1)
    assert loaded(["a b", "a"], padding=True)["input_ids"] == [[3, 4], [1, 3]]


def test_a_tokenizer_without_an_end_is_refused(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"must have an EOS token, .*\. Set `tokenizer.eos_token`"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("model", ["gpt2_path", "llama_path"])
def test_a_model_without_its_tokenizer_is_refused(model: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(request.getfixturevalue(model)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"no tokenizer could be loaded .*tokenizer\.save_pretrained\(folder\)"):
        load_tokenizer(tmp_path)


def test_a_merge_or_a_classifier_without_a_tokenizer_is_refused_before_weights_are_loaded(
    gpt2_path: str, adapter_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, source in (("model", gpt2_path), ("adapter", adapter_path)):
        shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("tokenizer*", "chat_template*"))
    monkeypatch.setattr("lmrl.models.loading.load_model", pytest.fail)
    refused = r"no tokenizer could be loaded .*tokenizer\.save_pretrained\(folder\)"
    with pytest.raises(ValueError, match=refused):
        write_merged(tmp_path / "adapter", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    with pytest.raises(ValueError, match=refused):
        load_trainable_classifier(str(tmp_path / "model"), ["reward"], [])


def test_the_adapter_of_a_classifier_with_a_head_of_two_layers_is_merged(tmp_path: Path) -> None:
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    ElectraModel(ElectraConfig(embedding_size=16, num_attention_heads=4, **sizes)).save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    model, tokenizer = load_trainable_classifier(str(tmp_path / "base"), ["x", "y", "z"], [], with_adapter=True)
    lora = LoraConfig(
        task_type="SEQ_CLS", target_modules="all-linear", exclude_modules="classifier.*", init_lora_weights=False
    )
    adapter = get_peft_model(model, lora).eval()
    adapter.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    merged = AutoModelForSequenceClassification.from_pretrained(write_merged(tmp_path / "adapter")).eval()
    assert torch.allclose(merged(IDS).logits, adapter(IDS).logits, atol=1e-5)


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
@pytest.mark.parametrize("name", ["./nowhere", "a/b/c", "~/nowhere", Path("nowhere")])
def test_a_path_that_does_not_exist_is_not_looked_for_on_the_hub(load: object, name: str | Path) -> None:
    with pytest.raises(ValueError, match=r"must be a hub id or an existing folder, got .*\. Check the name"):
        load(name)


def test_a_model_that_the_hub_does_not_give_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be a hub id, .*, got 'no/such', from which no causal language model"):
        load_model("no/such")


def test_a_model_without_a_head_is_refused(llama_path: str, tmp_path: Path) -> None:
    LlamaModel.from_pretrained(llama_path).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"got .* without 'lm_head.weight' \(1 are missing, and would be random"):
        load_model(tmp_path)


def test_a_head_that_is_tied_is_not_missing(gpt2_path: str, tmp_path: Path) -> None:
    own = AutoModelForCausalLM.from_pretrained(gpt2_path)
    own.transformer.save_pretrained(tmp_path)
    assert torch.equal(load_model(tmp_path).eval()(IDS).logits, own.eval()(IDS).logits)


@pytest.mark.parametrize("head", [AutoModelForSequenceClassification, AutoModelForTokenClassification])
@pytest.mark.parametrize(
    ("tied", "message"), [(True, "', a LlamaFor(Sequence|Token)Class"), (False, "without 'lm_head")]
)
def test_a_model_with_another_head_is_no_policy(
    llama_path: str, tmp_path: Path, head: type, tied: bool, message: str
) -> None:
    head.from_pretrained(llama_path, num_labels=1, tie_word_embeddings=tied).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"must be a causal language model.*, got .*{message}"):
        load_model(tmp_path)


def test_weights_are_float32_by_default(gpt2_path: str, tmp_path: Path) -> None:
    half = AutoModelForCausalLM.from_pretrained(gpt2_path, dtype=torch.bfloat16)
    half.save_pretrained(tmp_path)
    assert load_model(tmp_path).dtype == torch.float32
    assert load_model(tmp_path, dtype="auto").dtype == load_model(tmp_path, dtype="bfloat16").dtype == torch.bfloat16


def test_an_adapter_is_merged_into_its_base(gpt2_path: str, adapter_path: str) -> None:
    merged = load_model(adapter_path)
    assert isinstance(merged, PreTrainedModel)
    assert not any("lora" in name for name, _ in merged.named_parameters())
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(gpt2_path), adapter_path)
    assert torch.allclose(merged.eval()(IDS).logits, adapted.eval()(IDS).logits, atol=1e-5)
    assert not torch.allclose(merged(IDS).logits, load_model(gpt2_path).eval()(IDS).logits, atol=1e-2)


def test_an_adapter_can_be_trained_further(adapter_path: str) -> None:
    model = load_model(adapter_path, trainable=True)
    assert isinstance(model, PeftModel)
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == {
        f"base_model.model.transformer.h.{layer}.attn.c_attn.lora_{part}.default.weight"
        for layer in (0, 1)
        for part in "AB"
    }
    assert load_tokenizer(adapter_path).eos_token == "<eos>"


def test_an_adapter_without_its_base_is_refused(tmp_path: Path) -> None:
    base = tiny_gpt2(tmp_path / "base")
    config = LoraConfig(r=4, target_modules=["c_attn"], task_type="CAUSAL_LM", fan_in_fan_out=True)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(tmp_path / "adapter")
    (tmp_path / "base").rename(tmp_path / "moved")
    named = r"got .*adapter', from which no .* could be loaded \(its base '.*base', which .*; move the base there, or"
    with pytest.raises(ValueError, match=named):
        load_model(tmp_path / "adapter")


def test_a_base_beside_its_adapter_is_found_from_every_folder(
    gpt2_path: str, adapter_path: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(gpt2_path, tmp_path / "models" / "base")
    shutil.copytree(adapter_path, tmp_path / "runs" / "adapter")
    config = tmp_path / "runs" / "adapter" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": "models/base"}))
    expected = load_model(adapter_path).eval()(IDS).logits
    for folder, name in ((tmp_path, "runs/adapter"), (tmp_path / "runs", "adapter"), (Path("/"), config.parent)):
        monkeypatch.chdir(folder)
        assert torch.equal(load_model(name).eval()(IDS).logits, expected)


@pytest.mark.parametrize("task", ["CAUSAL_LM", "SEQ_CLS"])
def test_the_backbone_of_an_adapter_has_it_merged_and_can_be_trained(
    task: str, gpt2_path: str, tmp_path: Path
) -> None:
    auto = AutoModelForCausalLM if task == "CAUSAL_LM" else AutoModelForSequenceClassification
    options = {"r": 4, "target_modules": ["c_attn"], "init_lora_weights": False, "fan_in_fan_out": True}
    model = get_peft_model(auto.from_pretrained(gpt2_path), LoraConfig(task_type=task, **options)).eval()
    model.save_pretrained(tmp_path)
    backbone = load_backbone_and_head(tmp_path)[0].eval()
    expected = model.get_base_model().transformer(IDS).last_hidden_state
    assert torch.allclose(backbone(IDS).last_hidden_state, expected, atol=1e-5)
    assert all(weight.requires_grad for weight in backbone.parameters())
    assert not any("lora" in name for name, _ in backbone.named_parameters())
    with pytest.raises(ValueError, match=r"name_or_path` must be a complete model, got an adapter, .*: lmrl merge "):
        load_trainable_classifier(str(tmp_path), ["reward"], [])


def test_a_base_gets_no_rows_for_tokens_that_its_adapter_does_not_have(adapter_path: str, tmp_path: Path) -> None:
    shutil.copytree(adapter_path, tmp_path, dirs_exist_ok=True)
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["kettle"])
    tokenizer.save_pretrained(tmp_path)
    assert torch.equal(load_model(tmp_path).eval()(IDS).logits, load_model(adapter_path).eval()(IDS).logits)


@pytest.mark.parametrize("folder", ["gpt2_path", "llama_path"])
def test_without_dropout_training_is_evaluation(folder: str, request: pytest.FixtureRequest) -> None:
    model = load_model(request.getfixturevalue(folder), attn_implementation="eager").train()
    with torch.no_grad():
        assert not torch.equal(model(IDS).logits, model(IDS).logits)
        config = model.config.to_dict()
        disable_dropout(model)
        first, second = model(IDS).logits, model(IDS).logits
        assert torch.equal(first, second)
        assert torch.allclose(first, model.eval()(IDS).logits, atol=1e-6)
    assert model.config.to_dict() == config


@pytest.mark.parametrize("attention", ["flash_attention_2", "kernels-community/flash-attn3"])
def test_flash_attention_is_refused_for_weights_in_float32(attention: str, gpt2_path: str) -> None:
    reason = f"must be 'sdpa' or 'eager' for weights in float32, got '{attention}'. .* give `dtype` bfloat16"
    for dtype in ("float32", torch.float32):
        with pytest.raises(ValueError, match=reason):
            load_model(gpt2_path, dtype=dtype, attn_implementation=attention)
    model = load_model(gpt2_path)
    model.config._attn_implementation = attention
    with pytest.raises(ValueError, match=reason):
        check_scoring_forward(model, 1.0)
    check_attention(attention, "bfloat16")


def test_the_dropout_of_an_adapter_is_turned_off_too(gpt2_path: str) -> None:
    config = LoraConfig(r=4, lora_dropout=0.5, target_modules=["c_attn"], init_lora_weights=False, fan_in_fan_out=True)
    model = get_peft_model(load_model(gpt2_path), config).train()
    disable_dropout(model)
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, model(IDS).logits)


def test_the_context_is_that_of_the_config(gpt2_path: str, llama_path: str) -> None:
    assert context_length(load_model(gpt2_path)) == context_length(load_model(llama_path)) == 64
    endless = BloomForCausalLM(BloomConfig(vocab_size=64, hidden_size=8, n_layer=1, n_head=2))
    assert context_length(endless) is None


def test_the_context_of_longrope_ends_where_other_factors_begin(caplog: pytest.LogCaptureFixture) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    positions = {"max_position_embeddings": 64, "original_max_position_embeddings": 16}

    def with_long_factor(factor: float) -> Phi3ForCausalLM:
        rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [factor] * 4}
        config = Phi3Config(
            vocab_size=64, pad_token_id=0, rope_parameters=rope, initializer_range=0.2, **sizes, **positions
        )
        return Phi3ForCausalLM(config).eval()

    model = with_long_factor(4.0)
    assert context_length(model) == 16
    assert context_length(with_long_factor(1.0)) == 64
    ids = torch.arange(2, 34).view(2, 16)
    longer = torch.cat([ids, ids.flip(0)], dim=1)
    for long, differs in ((ids, False), (longer, True)):
        assert torch.equal(model(long).logits[:, :16], model(ids).logits) is not differs


def test_positions_that_begin_behind_those_of_padding_are_fewer() -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = RobertaConfig(vocab_size=64, max_position_embeddings=34, is_decoder=True, **sizes)
    model = RobertaForCausalLM(config).eval()
    assert context_length(model) == 32
    ids = torch.full((1, 33), 7)
    assert model(ids[:, :32]).logits.shape == (1, 32, 64)
    with pytest.raises((IndexError, RuntimeError), match="out of"):
        model(ids)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_file_that_was_cut_off_is_refused(name: str, share: float, gpt2_path: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(gpt2_path, folder)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(share * len(content))])
    load = load_tokenizer if name == "tokenizer.json" else load_model
    with pytest.raises(ValueError, match=r"got '.*model', from which no \w.* could be loaded"):
        load(folder)


def test_a_tokenizer_that_fails_when_it_is_used_is_refused(gpt2_path: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(gpt2_path, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "model_max_length": "gpt2"}))
    with pytest.raises(ValueError, match=r"from which no tokenizer could be loaded \(TypeError: "):
        load_tokenizer(folder)


def test_a_pad_token_that_the_model_does_not_have_is_replaced_by_eos(gpt2_path: str, tmp_path: Path) -> None:
    shutil.copytree(gpt2_path, tmp_path, dirs_exist_ok=True)
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(tmp_path)
    assert (tokenizer.pad_token_id, load_tokenizer(tmp_path).pad_token_id) == (64, 64)
    assert load_policy(tmp_path)[1].pad_token_id == 1
    given = load_policy(load_model(tmp_path), load_tokenizer(tmp_path))
    assert given[1].pad_token_id == 1
    assert load_policy(gpt2_path)[1].pad_token_id == 0
    assert load_policy(load_model(gpt2_path))[1] is None


def test_special_tokens_of_the_task_are_shown_in_texts(gpt2_path: str, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(gpt2_path)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<row>", "<cell>"]})
    ids = tokenizer("d <row> e <cell>")["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "d e"
    for wrong in ("<eos>", "<nowhere>", "d"):
        with pytest.raises(ValueError, match=rf"`visible_tokens` must be one of <cell>, <row>, got '{wrong}'"):
            show_special_tokens(tokenizer, [wrong])
    model = load_model(gpt2_path)
    model.resize_token_embeddings(len(tokenizer))
    assert load_policy(model, tokenizer, visible_tokens=["<row>"]) == (model, tokenizer)
    tokenizer.save_pretrained(tmp_path)
    for shown in (tokenizer, load_tokenizer(tmp_path)):
        assert shown("d <row> e <cell>")["input_ids"] == ids
        assert shown.decode([*ids, shown.eos_token_id], skip_special_tokens=True) == "d <row> e"
    show_special_tokens(tokenizer, ["<row>"])  # once more changes nothing
    assert tokenizer.decode(ids, skip_special_tokens=True) == "d <row> e"
