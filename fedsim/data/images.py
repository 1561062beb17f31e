"""Images by Pillow, converted to one mode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from fedsim.errors import Refused

if TYPE_CHECKING:
    from PIL.Image import Image

BYTES = {
    "1",
    "L",
    "LA",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBX",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
}  # 8 bits a channel, or fewer


def same_mode(images: Sequence[Image], where: str) -> Iterator[Image]:
    """Yield images in the least of L, LA, RGB and RGBA that keeps all their colours and transparency.

    Images of one mode with more than 8 bits a channel (16-bit grey, 32-bit integers and floats) stay as they are.

    Raises:
        Refused: Some have more than 8 bits a channel and others have another mode.
    """
    modes = {image.mode for image in images}
    if len(modes) == 1 and not modes <= BYTES:
        return iter(images)
    if not modes <= BYTES:
        raise Refused(
            f"{where}: holds images of the modes {', '.join(sorted(modes))}; one bit depth is needed"
        )
    alpha = any(
        image.mode in ("LA", "PA", "RGBA") or (image.mode == "P" and "transparency" in image.info)
        for image in images
    )
    mode = ("L" if modes <= {"1", "L", "LA"} else "RGB") + "A" * alpha
    return (image if image.mode == mode else image.convert(mode) for image in images)
