"""Hugging Face's description of a model: config.json."""

from __future__ import annotations

from typing import Any

from clip_core.checkpoints.descriptions.image_processor import PREPROCESSOR, pixel_settings
from clip_core.checkpoints.descriptions.settings import (
    Json,
    check_settings,
    described_in,
    side_of,
    width_of,
    words,
)
from clip_core.checkpoints.lazy_tensor import CheckpointError
from clip_core.config import ClipConfig, TextConfig, VitConfig

HF_CONFIG = "config.json"
# Defaults of Hugging Face's CLIPTextConfig and CLIPVisionConfig; a config.json may omit any.
_TEXT = {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "vocab_size": 49408,
    "eos_token_id": 49407,
}
_VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
}
_ARGMAX_POOLING = 2  # the `eos_token_id` of old files, which means: pool at the largest id
_TOWER: dict[str, tuple[Any, ...]] = {
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "is_encoder_decoder": (False,),
    "layer_norm_eps": (1e-5,),
    "num_channels": (3,),
    "pruned_heads": (None,),
}
_ACTIVATIONS = {"quick_gelu", "gelu"}
_KINDS = {"text": "clip_text_model", "vision": "clip_vision_model"}
# Of training, of saving and of generating text, which older releases write into every file.
_WITHOUT_EFFECT = words(
    """
    _attn_implementation _attn_implementation_autoset _commit_hash _flash_attn_2_enabled
    _name_or_path architectures attention_dropout attention_probs_dropout_prob attn_implementation
    bad_words_ids begin_suppress_tokens bos_token_id chunk_size_feed_forward
    cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample dropout dtype
    early_stopping encoder_no_repeat_ngram_size exponential_decay_length_penalty finetuning_task
    forced_bos_token_id forced_eos_token_id gradient_checkpointing hidden_dropout
    hidden_dropout_prob id2label initializer_factor initializer_range label2id length_penalty
    logit_scale_init_value max_length min_length no_repeat_ngram_size num_beam_groups num_beams
    num_labels num_return_sequences output_attentions output_hidden_states output_scores
    pad_token_id prefix problem_type projection_dim remove_invalid_values repetition_penalty
    return_dict return_dict_in_generate sep_token_id suppress_tokens task_specific_params
    temperature tf_legacy_loss tie_encoder_decoder tie_word_embeddings tokenizer_class top_k top_p
    torch_dtype torchscript transformers.js_config transformers_version typical_p use_bfloat16
    use_cache
    """
)
_TOP = words("eos_token_id text_config text_config_dict vision_config vision_config_dict")


def config_from_hugging_face(
    document: Json, processor: Json, processor_name: str = PREPROCESSOR
) -> ClipConfig:
    """Reads a config.json.

    Args:
        processor: settings of the image processor, empty where there are none.
        processor_name: the file that they are from.

    Raises:
        CheckpointError: if it is not a CLIP, or a setting is beyond the original's design.
    """
    kind = document.get("model_type", "clip")
    if kind != "clip":
        raise CheckpointError(f"expected a model of type 'clip', got {kind!r}; it is not supported")
    with described_in(HF_CONFIG):
        check_settings(HF_CONFIG, document, {"model_type": ("clip",)}, _WITHOUT_EFFECT | _TOP)
        text = _TEXT | _tower(document, "text")
        vision = _VISION | _tower(document, "vision")
        _refuse_pooling(text)
        size = side_of(vision, "image_size")
        return ClipConfig(
            embed_dim=document.get("projection_dim", 512),
            vision=VitConfig(size, side_of(vision, "patch_size"), *_sizes(vision)),
            text=TextConfig(text["max_position_embeddings"], text["vocab_size"], *_sizes(text)),
            activation=_activation(text, vision),
            **pixel_settings(processor_name, processor, size),
        )


def _tower(document: Json, name: str) -> dict[str, Any]:
    """Returns a tower's settings; a legacy `*_config_dict` wins where there is one."""
    found: dict[str, Any] = {}
    known = _WITHOUT_EFFECT | {"eos_token_id", "hidden_act", *(_TEXT | _VISION)}
    plain = _TOWER | {"model_type": (_KINDS[name],)}
    for section in (f"{name}_config", f"{name}_config_dict"):
        settings = document.get(section)
        if settings is not None:
            found = dict(settings)
            check_settings(f"{HF_CONFIG}, {section},", found, plain, known)
    return found


def _sizes(tower: Json) -> tuple[Any, Any, Any, float]:
    width = width_of(tower, "hidden_size")
    layers, heads = tower["num_hidden_layers"], tower["num_attention_heads"]
    return width, layers, heads, tower["intermediate_size"] / width


def _refuse_pooling(text: Json) -> None:
    """Refuses another end token than the last id, at which the model pools here."""
    end, last = text["eos_token_id"], text["vocab_size"] - 1
    if end not in (None, _ARGMAX_POOLING, last):
        raise CheckpointError(
            f"{HF_CONFIG} has eos_token_id {end!r}, and Hugging Face pools a text at its first "
            f"token of this id, which is not supported; expected {last}, the last of the vocabulary"
        )


def _activation(text: Json, vision: Json) -> str:
    names = {tower.get("hidden_act") or "quick_gelu" for tower in (text, vision)}
    if len(names) > 1 or not names <= _ACTIVATIONS:
        raise CheckpointError(
            f"expected one `hidden_act` of quick_gelu and gelu in both towers, got {sorted(names)}"
        )
    found: str = names.pop()
    return found
