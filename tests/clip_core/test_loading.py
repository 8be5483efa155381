import json
import shutil
import subprocess
import sys
from dataclasses import replace

import fsspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import clip_core
from clip_core.checkpoints import published
from clip_core.checkpoints.lazy_tensor import CheckpointError
from clip_core.checkpoints.saving import save_model_directory
from clip_core.checkpoints.vocabulary import VocabularyError
from clip_core.config import VitConfig
from clip_core.loading import describe
from clip_core.training.initialization import new_model
from making import make_image, random_clip

WEIGHTS = "open_clip_model.safetensors"


def test_loading_imports_no_compiler():
    code = (
        "import sys, clip_core; clip_core.load('tiny'); assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def inputs(tokenizer):
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return pixels, torch.from_numpy(tokenizer.tokenize(["a red circle", "a large blue star"]))


def same(model, other, inputs, tolerance=1e-6) -> bool:
    pixels, tokens = inputs
    return torch.allclose(
        model.encode_image(pixels), other.encode_image(pixels), atol=tolerance
    ) and torch.allclose(model.encode_text(tokens), other.encode_text(tokens), atol=tolerance)


def copy_of(directory, tmp_path):
    return shutil.copytree(directory, tmp_path / "copy")


def test_python_api_returns_the_documented_shapes(model_dir):
    model = clip_core.load(str(model_dir))
    pixels, tokens = model.preprocess(make_image()), model.tokenize(["a red circle", "a star"])
    assert pixels.shape == (3, 64, 64) and pixels.dtype == torch.float32
    assert tokens.shape == (2, 32) and tokens.dtype == torch.int64
    assert model.encode_image(pixels[None]).shape == (1, 128)
    norms = model.encode_text(tokens, normalize=True).norm(dim=-1)
    assert torch.allclose(norms, torch.ones(2), atol=1e-6)
    per_image, per_text = model(pixels[None], tokens)
    assert per_image.shape == (1, 2) and per_text.shape == (2, 1)


def test_public_names_are_those_of_the_package():
    assert sorted(clip_core.__all__) == ["ClipModel", "available_models", "load"]
    assert clip_core.available_models()[:2] == ["tiny", "RN50"]
    with pytest.raises(AttributeError, match="no attribute 'tokenize'"):
        _ = clip_core.tokenize


@pytest.mark.parametrize("variant", ["tiny-rn", "tiny-vit"])
def test_saved_directory_loads_with_equal_features(tmp_path, tokenizer, inputs, variant):
    clip = random_clip(variant, tokenizer, seed=5)
    save_model_directory(tmp_path, clip, tokenizer)
    model = clip_core.load(str(tmp_path))
    pixels, tokens = inputs
    assert torch.allclose(model.encode_image(pixels), clip.encode_image(pixels), atol=1e-6)
    assert torch.allclose(model.encode_text(tokens), clip.encode_text(tokens), atol=1e-6)


def test_hugging_face_form_of_a_vit_loads_with_equal_features(vit_dir, tmp_path, inputs):
    copy = copy_of(vit_dir, tmp_path)
    (copy / "open_clip_config.json").unlink()
    assert same(clip_core.load(str(vit_dir)), clip_core.load(str(copy)), inputs)


def test_hugging_face_itself_computes_the_same_features(vit_dir, inputs):
    import transformers  # slow, and for two tests

    theirs = transformers.CLIPModel.from_pretrained(str(vit_dir)).eval()
    ours = clip_core.load(str(vit_dir))
    pixels, tokens = inputs
    with torch.inference_mode():
        image = theirs.get_image_features(pixels).pooler_output
        text = theirs.get_text_features(tokens).pooler_output
    assert torch.allclose(ours.encode_image(pixels), image, atol=1e-5)
    assert torch.allclose(ours.encode_text(tokens), text, atol=1e-5)


def test_full_size_vit_of_hugging_face_gives_equal_embeddings(tmp_path):
    import transformers  # slow, and for two tests

    torch.manual_seed(0)
    theirs = transformers.CLIPModel(transformers.CLIPConfig()).eval()  # the sizes of ViT-B/32
    theirs.save_pretrained(tmp_path)
    ours = clip_core.load(str(tmp_path))
    assert ours.fingerprint["architecture"] == "ViT-B/32"
    pixels = torch.randn(1, 3, 224, 224)
    tokens = ours.tokenize(["a diagram", "a photo of a dog, " * 30], truncate=True)
    with torch.inference_mode():
        image = theirs.get_image_features(pixels).pooler_output
        text = theirs.get_text_features(tokens).pooler_output
    assert torch.allclose(ours.encode_image(pixels), image, atol=1e-4)
    assert torch.allclose(ours.encode_text(tokens), text, atol=1e-4)


def test_sharded_hugging_face_directory_loads(vit_dir, tmp_path, inputs):
    copy = copy_of(vit_dir, tmp_path)
    (copy / "open_clip_config.json").unlink()
    tensors = load_file(copy / "model.safetensors")
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, inside in shards.items():
        save_file({name: tensors[name] for name in inside}, copy / shard)
    weight_map = {name: shard for shard, inside in shards.items() for name in inside}
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (copy / "model.safetensors").unlink()
    assert same(clip_core.load(str(vit_dir)), clip_core.load(str(copy)), inputs)
    (copy / "b.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"names \['b.safetensors'\], which are not there"):
        clip_core.load(str(copy))


@pytest.mark.parametrize("wrapper", ["", "module.", "state_dict.module."])
def test_wrapped_state_dicts_load(model_dir, tmp_path, inputs, wrapper):
    state = load_file(model_dir / WEIGHTS)
    state = {f"{wrapper.removeprefix('state_dict.')}{name}": t for name, t in state.items()}
    torch.save({"state_dict": state} if wrapper.startswith("state") else state, tmp_path / "w.pt")
    model = clip_core.load(
        str(tmp_path / "w.pt"), activation="quick_gelu", vocab=str(model_dir / "merges.txt")
    )
    assert same(clip_core.load(str(model_dir)), model, inputs)


def test_custom_text_names_and_sizes_beside_the_weights_are_understood(vit_dir, tmp_path, inputs):
    state = load_file(vit_dir / WEIGHTS)
    towers = ("visual.", "logit_scale")
    state = {n if n.startswith(towers) else f"text.{n}": t for n, t in state.items()}
    state |= {"input_resolution": torch.tensor(64), "context_length": torch.tensor(32)}
    torch.save(state, tmp_path / "w.pt")
    model = clip_core.load(
        str(tmp_path / "w.pt"), activation="quick_gelu", vocab=str(vit_dir / "merges.txt")
    )
    assert same(clip_core.load(str(vit_dir)), model, inputs)


def test_differences_are_listed_sorted(model_dir, tmp_path):
    copy = copy_of(model_dir, tmp_path)
    state = load_file(copy / WEIGHTS)
    del state["ln_final.bias"]
    state["extra"] = torch.ones(1)
    state["text_projection"] = torch.ones(3, 3)
    save_file(state, copy / WEIGHTS)
    with pytest.raises(CheckpointError) as error:
        clip_core.load(str(copy))
    assert str(error.value).splitlines()[1:] == [
        "+ unexpected extra",
        "- missing ln_final.bias",
        "~ text_projection has shape (3, 3), expected (128, 128)",
    ]


def test_missing_batch_counters_are_no_difference(model_dir, tmp_path):
    copy = copy_of(model_dir, tmp_path)
    state = load_file(copy / WEIGHTS)
    save_file({n: t for n, t in state.items() if "num_batches" not in n}, copy / WEIGHTS)
    clip_core.load(str(copy))


def test_large_weights_are_numbers(model_dir, tmp_path):
    """Their sum is infinite."""
    copy = copy_of(model_dir, tmp_path)
    state = load_file(copy / WEIGHTS)
    state["text_projection"][:] = 3e38
    save_file(state, copy / WEIGHTS)
    clip_core.load(str(copy))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("directory", ["model_dir", "vit_dir"])
def test_low_precision_stays_close_to_fp32(request, directory, precision, inputs):
    path = str(request.getfixturevalue(directory))
    exact, model = clip_core.load(path), clip_core.load(path, precision=precision)
    pixels, tokens = inputs
    for low, high in (
        (model.encode_image(pixels, normalize=True), exact.encode_image(pixels, normalize=True)),
        (model.encode_text(tokens, normalize=True), exact.encode_text(tokens, normalize=True)),
    ):
        assert (low * high).sum(dim=-1).min() > 1 - 2e-3
    assert model.clip.ln_final.weight.dtype == torch.float32
    assert model.fingerprint["precision"] == precision


def test_remote_directory_is_read_through_fsspec(model_dir, inputs):
    memory = fsspec.filesystem("memory")
    memory.put(str(model_dir), "/models/random", recursive=True)
    model = clip_core.load("memory://models/random")
    assert same(clip_core.load(str(model_dir)), model, inputs)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-B/23", "there is no model 'ViT-B/23'.*did you mean 'ViT-B/32'"),
        ("/no/such/file.pt", "there is no model '/no/such/file.pt'"),
        ("nosuch://x/y", "could not fetch nosuch://x/y"),
        ("memory://nothing/here", "could not fetch memory://nothing/here"),
    ],
)
def test_absent_model_is_refused(name, message):
    with pytest.raises(CheckpointError, match=message):
        clip_core.load(name)


def test_absent_device_and_precision_are_refused(model_dir):
    with pytest.raises(CheckpointError, match="`precision` must be one of fp32, bf16, fp16"):
        clip_core.load(str(model_dir), precision="fp8")
    with pytest.raises(CheckpointError, match="device 'warp' cannot be used|device warp cannot"):
        clip_core.load(str(model_dir), device="warp")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_by_name(model_dir, tmp_path, value, dtype):
    copy = copy_of(model_dir, tmp_path)
    state = {name: tensor.to(dtype) for name, tensor in load_file(copy / WEIGHTS).items()}
    for name in ("visual.conv1.weight", "visual.bn1.running_var", "logit_scale"):
        state[name].view(-1)[-1] = value
    save_file(state, copy / WEIGHTS)
    with pytest.raises(CheckpointError, match="3 of .* hold NaN or infinity") as error:
        clip_core.load(str(copy))
    for name in ("visual.conv1.weight", "visual.bn1.running_var", "logit_scale"):
        assert name in str(error.value)


def test_message_names_some_of_many_broken_weights_and_step_counts_do_not_matter(
    model_dir, tmp_path
):
    copy = copy_of(model_dir, tmp_path)
    good = load_file(copy / WEIGHTS)
    counts = {name: torch.tensor(torch.inf) for name in good if "num_batches" in name}
    save_file(good | counts, copy / WEIGHTS)
    clip_core.load(str(copy))
    save_file({name: tensor * torch.nan for name, tensor in good.items()}, copy / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"\([\w.]+, [\w.]+, [\w.]+, \.\.\.\)") as error:
        clip_core.load(str(copy))
    assert len(str(error.value)) < 300 and "\n" not in str(error.value)


def test_directory_in_place_of_a_vocabulary_is_refused(model_dir):
    with pytest.raises(VocabularyError, match="expected `vocab` to name a file"):
        clip_core.load(str(model_dir), vocab=str(model_dir))


def test_vocabulary_of_another_model_is_refused(model_dir, tmp_path):
    copy = copy_of(model_dir, tmp_path)
    merges = (copy / "merges.txt").read_text().splitlines()
    (copy / "merges.txt").write_text("\n".join(merges[:-1]))
    with pytest.raises(CheckpointError, match="token ids, its vocabulary"):
        clip_core.load(str(copy))
    (copy / "merges.txt").unlink()
    with pytest.raises(VocabularyError, match="name a file with `vocab`"):
        clip_core.load(str(copy))


def test_published_name_offline_says_what_to_fetch_and_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.setenv(published.CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(published, "_ADDRESS", "http://127.0.0.1:9/{sha256}/{file}")
    with pytest.raises(
        CheckpointError, match=rf"fetch http.*RN50.pt elsewhere.*{tmp_path}/RN50.pt"
    ):
        clip_core.load("RN50")


def test_fingerprint_names_everything_that_decides_values(model_dir):
    fingerprint = clip_core.load(str(model_dir)).fingerprint
    assert set(fingerprint) == {
        "checkpoint_sha256", "architecture", "activation", "preprocessing", "tokenizer",
        "precision",
    }  # fmt: skip
    assert fingerprint["checkpoint_sha256"] == published.file_sha256(model_dir / WEIGHTS)


def test_description_tells_architectures_apart(tokenizer):
    config = random_clip("tiny-vit", tokenizer).config
    wider = replace(config, vision=VitConfig(64, 8, 192, 4, 3))
    assert describe(config) != describe(wider)


def test_loading_keeps_statistics_of_the_checkpoint(tmp_path, tokenizer):
    base = random_clip("tiny-vit", tokenizer)
    config = replace(base.config, mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 0.5), activation="gelu")
    save_model_directory(tmp_path, new_model(config, 0), tokenizer, dtype="fp16")
    for _ in range(2):
        model = clip_core.load(str(tmp_path))
        assert model.config.mean == (0.5, 0.5, 0.5)
        assert model.config.activation == "gelu"
        assert np.allclose(model.clip.std.flatten(), [0.25, 0.5, 0.5])
        (tmp_path / "open_clip_config.json").unlink(missing_ok=True)  # then as Hugging Face's


def test_saving_refuses_another_tokenizer_and_dtype(tmp_path, tokenizer):
    clip = random_clip("tiny-rn", tokenizer)
    with pytest.raises(ValueError, match="`dtype` must be one of fp16, fp32, got 'int8'"):
        save_model_directory(tmp_path, clip, tokenizer, dtype="int8")
    other = type(tokenizer)(tokenizer.merges[:3], 32)
    with pytest.raises(ValueError, match="expected a tokenizer of"):
        save_model_directory(tmp_path, clip, other)


@pytest.fixture
def model(model_dir):
    return clip_core.load(model_dir)


def test_path_names_a_model_its_vocabulary_and_the_cache(model_dir, tmp_path, inputs):
    model = clip_core.load(model_dir, vocab=model_dir / "merges.txt", cache_dir=tmp_path)
    assert same(model, clip_core.load(str(model_dir)), inputs)


def test_features_can_be_changed_in_place_and_trained_on(model, inputs):
    pixels, tokens = inputs
    image, text = model.encode_image(pixels), model.encode_text(tokens, normalize=True)
    image /= image.norm(dim=-1, keepdim=True)
    logits, _ = model(pixels, tokens)
    logits += 1
    head = torch.nn.Linear(image.shape[1], 2)
    head(torch.cat([image, text])).sum().backward()
    assert head.weight.grad is not None and not image.requires_grad
    assert not any(found.is_inference() for found in (image, text, logits))


def test_model_moves_and_is_rounded_once(model_dir, model, inputs):
    assert model.to("cpu") is model and model.float() is model
    assert model.half() is model and model.to(torch.float16) is model
    assert same(model, clip_core.load(model_dir, precision="fp16"), inputs, tolerance=0)
    assert model.fingerprint["precision"] == "fp16"
    with pytest.raises(ValueError, match="rounded to fp16; load it again with `precision='fp32'`"):
        model.float()
    with pytest.raises(ValueError, match="one of fp32, bf16, fp16, got torch.float64"):
        model.to(torch.float64)
    with pytest.raises(CheckpointError, match="device warp cannot be used"):
        model.to("warp")


def test_what_only_a_module_has_is_told_where_it_is(model):
    with pytest.raises(AttributeError, match=r"the module is `\.clip`, as in `model\.clip\.eval`"):
        model.eval()
    with pytest.raises(AttributeError, match="no attribute 'encode'$"):
        _ = model.encode
    assert not hasattr(model, "__array__")


IMAGES = [np.zeros((8, 8, 3), np.uint8), [make_image()], "a.jpg", torch.zeros(3, 8, 8), None]


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: type(image).__name__)
def test_what_is_no_picture_is_refused_in_a_sentence(model, image):
    with pytest.raises(TypeError, match="expected an image as `PIL.Image.open"):
        model.preprocess(image)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((1, 3, 64, 64), np.float32), "got numpy.ndarray; stack them"),
        ([torch.zeros(3, 64, 64)], "got list; stack them"),
        (torch.zeros(3, 64, 64), r"expected pixels \[batch, 3, 64, 64\], got \[3, 64, 64\]"),
        (torch.zeros(1, 3, 32, 32), r"got \[1, 3, 32, 32\]"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.int64), "got torch.int64"),
    ],
)
def test_what_are_no_pixels_is_refused_in_a_sentence(model, inputs, pixels, message):
    for call in (model.encode_image, lambda pixels: model(pixels, inputs[1])):
        with pytest.raises((TypeError, ValueError), match=message):
            call(pixels)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["a dog"], "got list; make them with `model.tokenize"),
        ("a dog", "got str"),
        (torch.zeros(2, 90, dtype=torch.int64), r"rows \[batch, 32\] of ints, got \[2, 90\]"),
        (torch.zeros(32, dtype=torch.int64), r"got \[32\]"),
        (torch.zeros(1, 32), "of torch.float32"),
    ],
)
def test_what_are_no_tokens_is_refused_in_a_sentence(model, inputs, tokens, message):
    for call in (model.encode_text, lambda tokens: model(inputs[0], tokens)):
        with pytest.raises((TypeError, ValueError), match=message):
            call(tokens)
