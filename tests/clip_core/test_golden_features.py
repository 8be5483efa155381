import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import clip_core
from formula import MODELS, Sizes, image_inputs, token_inputs, weights_of
from make import golden_features


def published_precision(weights: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Matrices in fp16 and the rest in fp32, as the published archives hold them."""
    tensors = {name: torch.from_numpy(value) for name, value in weights.items()}
    is_matrix = re.compile(r".*(proj|conv|c_fc|downsample\.0).*").fullmatch
    return {n: t if is_matrix(n) else t.float() for n, t in tensors.items()}


def save_scripted(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Saves a TorchScript archive of modules that are named as the tensors are."""
    root = nn.Module()
    for name, tensor in tensors.items():
        module, (*parts, last) = root, name.split(".")
        for part in parts:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module._modules[part]
        module.register_buffer(last, tensor)
    torch.jit.script(root).save(path)


def describe(sizes: Sizes, folder: Path) -> None:
    """Writes down what a state dict does not tell: the activation, and heads of rare widths."""
    vision, stages = {"image_size": sizes.image_size}, sizes.vision_layers
    vision |= {"layers": stages, "width": sizes.vision_width, "patch_size": sizes.patch or None}
    text = {"width": sizes.text_width, "heads": sizes.text_width // 64, "layers": sizes.text_layers}
    model = {"embed_dim": sizes.embed_dim, "vision_cfg": vision, "text_cfg": text}
    content = json.dumps({"model_cfg": model | {"quick_gelu": True}})
    (folder / "open_clip_config.json").write_text(content)


# An archive of TorchScript is known to be one of OpenAI's; a bare state dict does not tell.
FORMS = {"archive": save_scripted, "state dict": torch.save}


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("form", FORMS)
def test_features_and_logits_equal_the_golden_ones(golden, tmp_path, name, form):
    expected = np.load(golden / "features.npz")
    FORMS[form](published_precision(weights_of(MODELS[name])), tmp_path / "model.pt")
    if form == "state dict":
        describe(MODELS[name], tmp_path)
    model = clip_core.load(tmp_path / "model.pt")
    pixels, tokens = map(torch.from_numpy, (image_inputs(MODELS[name]), token_inputs()))
    per_image, per_text = model(pixels, tokens)
    found = {
        "image_features": model.encode_image(pixels),
        "text_features": model.encode_text(tokens),
        "logits_per_image": per_image,
    }
    assert torch.equal(per_text, per_image.T)
    for key, value in found.items():
        wanted = expected[f"{name}/{key}"]
        assert np.abs(value.numpy() - wanted).max() < 1e-5 * np.abs(wanted).max(), key


def test_golden_features_are_what_the_plain_model_computes(golden):
    expected, found = np.load(golden / "features.npz"), golden_features()
    assert sorted(expected) == sorted(found)
    for key, value in found.items():
        assert np.abs(value - expected[key]).max() < 1e-6 * np.abs(value).max(), key
