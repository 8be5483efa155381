"""Images that kill the process that decodes them, in every process that a test starts."""

from pathlib import Path

from PIL import PngImagePlugin

from making import encode_image, make_image

MARK = b"POISON"
CODE = """
import builtins, os, signal
from PIL import Image

whole, marker = Image.open, {marker!r}

def poisoned(file, *arguments, **settings):
    data = file.getvalue() if hasattr(file, "getvalue") else b""
    if {mark!r} in data and not (marker and os.path.exists(marker)):
        if marker:
            builtins.open(marker, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(file, *arguments, **settings)

Image.open = poisoned
"""


def poison(folder: Path, monkeypatch, once: bool = False) -> None:
    """Lets processes that are started from now on die of poisoned images.

    Args:
        once: whether only the first one dies.
    """
    folder.mkdir()
    code = CODE.format(mark=MARK, marker=str(folder / "dead") if once else "")
    (folder / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def poisoned(seed: int = 0) -> bytes:
    """Returns a PNG that kills."""
    about = PngImagePlugin.PngInfo()
    about.add_text("comment", MARK.decode())
    return encode_image(make_image(seed=seed), pnginfo=about)
