"""Hugging Face's description of the pixels: processor_config.json or preprocessor_config.json."""

from __future__ import annotations

import logging
from math import isclose
from pathlib import Path
from typing import Any

from clip_core.checkpoints.descriptions.settings import (
    Json,
    check_settings,
    described_in,
    read_json,
    three_of,
    words,
)
from clip_core.config import OPENAI_MEAN, OPENAI_STD

PROCESSOR = "processor_config.json"  # of transformers 5: of the image processor and of others
PREPROCESSOR = "preprocessor_config.json"  # of transformers 4, and of this program

_LOG = logging.getLogger(__name__)
_TYPES = ("CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPImageProcessorPil",
          "CLIPFeatureExtractor")  # fmt: skip
# What changes the pixels; whether images become RGB first is the user's choice, by `image_policy`.
_PLAIN = {
    "do_center_crop": (True,),
    "do_normalize": (True,),
    "do_pad": (False,),
    "do_rescale": (True,),
    "do_resize": (True,),
    "feature_extractor_type": _TYPES,
    "image_processor_type": _TYPES,
    "resample": (3,),  # Pillow's bicubic
    "use_square_size": (False,),
}
_WITHOUT_EFFECT = words(
    """
    _valid_processor_keys crop_size data_format default_to_square device disable_grouping
    do_convert_rgb image_mean image_std input_data_format pad_size processor_class rescale_factor
    return_tensors size use_fast
    """
)


def read_image_processor(directory: Path) -> tuple[Json, str]:
    """Returns what a directory says of its model's pixels and the file that says it.

    As in transformers 5, processor_config.json wins where both are there. Where neither is, nothing
    is returned, and a line in the log says what is taken.
    """
    if (directory / PROCESSOR).exists():
        whole = read_json(directory / PROCESSOR)
        if "image_processor" in whole:
            check_settings(PROCESSOR, whole, {}, ("image_processor", "processor_class"))
            return whole["image_processor"], PROCESSOR
    if (directory / PREPROCESSOR).exists():
        return read_json(directory / PREPROCESSOR), PREPROCESSOR
    _LOG.warning(
        "%s has neither %s nor %s; its images are standardised with OpenAI's mean %s and std %s",
        directory.name, PROCESSOR, PREPROCESSOR, OPENAI_MEAN, OPENAI_STD,
    )  # fmt: skip
    return {}, PREPROCESSOR


def pixel_settings(where: str, settings: Json, image_size: Any) -> dict[str, Any]:
    """Returns mean and std that an image processor has, all else of which must be CLIP's.

    Raises:
        CheckpointError: names what is not.
    """
    with described_in(where):
        check_settings(where, settings, _PLAIN, _WITHOUT_EFFECT)
        _check_sizes(where, settings, image_size)
        factor = settings.get("rescale_factor")
        if factor is not None and not isclose(factor, 1 / 255, rel_tol=1e-6):
            check_settings(where, {"rescale_factor": factor}, {"rescale_factor": (1 / 255,)}, ())
        return {
            "mean": three_of(settings.get("image_mean"), OPENAI_MEAN),
            "std": three_of(settings.get("image_std"), OPENAI_STD),
        }


def _check_sizes(where: str, settings: Json, image_size: Any) -> None:
    """Refuses all but: the shortest edge resized to the model's size, then the middle cut out."""
    shortest_edge = {"shortest_edge": image_size}
    square = {"height": image_size, "width": image_size}
    for name, forms in {
        "size": (shortest_edge,),  # a square would stretch the image
        "crop_size": (square, shortest_edge),
    }.items():
        found = settings.get(name)
        if isinstance(found, dict):
            found = {key: value for key, value in found.items() if value is not None}
        is_stretched = name == "size" and settings.get("default_to_square")
        plain = forms if is_stretched else (*forms, image_size)
        if found is not None and found not in plain:
            check_settings(where, {name: settings[name]}, {name: plain}, ())
