"""The formats that manifests have. One that is added is one file and one line here."""

from __future__ import annotations

from pipelines.manifests.image_folder import IMAGES
from pipelines.manifests.parquet.reader import LEDGER, PARQUET
from pipelines.manifests.request import ManifestFormat
from pipelines.manifests.tars.webdataset import WEBDATASET
from pipelines.manifests.text.reader import TEXT_FORMATS
from pipelines.storage.compression import SUFFIXES
from schemas.manifest import ManifestError

_OWN = (PARQUET, *TEXT_FORMATS, WEBDATASET, IMAGES, LEDGER)
_FORMATS = {form.name: form for form in _OWN}


def register_format(form: ManifestFormat) -> None:
    """Adds a format from outside, in this process; jobs take it to their workers.

    Raises:
        ValueError: if its name, or a suffix, is another format's.
    """
    known = _FORMATS.get(form.name, form)
    if known != form:
        raise ValueError(f"there is a format {form.name!r} already; give the new one another name")
    for suffix in form.suffixes:
        other = suffixes().get(suffix, form.name)
        if other != form.name:
            raise ValueError(f"files in {suffix!r} are of the format {other!r} already")
    _FORMATS[form.name] = form


def registered_formats() -> tuple[ManifestFormat, ...]:
    """Returns the formats that were added from outside."""
    return tuple(form for form in _FORMATS.values() if form not in _OWN)


def format_called(name: str) -> ManifestFormat:
    """Returns a format.

    Raises:
        ManifestError: if there is none of that name.
    """
    if name not in _FORMATS:
        raise ManifestError(f"expected a format among {', '.join(_FORMATS)}, got {name!r}")
    return _FORMATS[name]


def format_names() -> tuple[str, ...]:
    """Returns the formats that a whole manifest can have."""
    return tuple(name for name, form in _FORMATS.items() if form is not LEDGER)


def suffixes() -> dict[str, str]:
    """Returns the endings of file names, and the format that each shows."""
    return {suffix: form.name for form in _FORMATS.values() for suffix in form.suffixes}


def format_of(uri: str) -> str | None:
    """Returns the format that a file's name shows, compressed or not; or None."""
    name = uri.lower()
    plain = name
    for suffix in SUFFIXES:
        plain = plain.removesuffix(suffix)
    known = suffixes().items()
    found = (kind for file in (name, plain) for ending, kind in known if file.endswith(ending))
    return next(found, None)
