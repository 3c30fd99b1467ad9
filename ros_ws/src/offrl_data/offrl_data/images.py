"""Camera images to pixels of one size: sensor_msgs/Image and CompressedImage."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from offrl_contract.reader import MalformedMessageError
from offrl_contract.robot import ImageTerm
from PIL import Image, UnidentifiedImageError

Pixels = NDArray[np.uint8]

_COLORS: dict[str, tuple[int, list[int]]] = {
    "rgb8": (3, [0, 1, 2]),
    "bgr8": (3, [2, 1, 0]),
    "8UC3": (3, [2, 1, 0]),
    "rgba8": (4, [0, 1, 2]),
    "bgra8": (4, [2, 1, 0]),
    "8UC4": (4, [2, 1, 0]),
    "mono8": (1, [0]),
    "8UC1": (1, [0]),
}
"""Channels of an encoding, and which of them are red, green, blue, or grey alone."""
_DEPTHS = {"mono16": "u2", "16UC1": "u2", "32FC1": "f4"}
"""Encodings of wide numbers, which need the term's `range`."""


def decode_image(term: ImageTerm, message: Any) -> Pixels:
    """Return the pixels (h, w, c) of a message, of the term's size and colors.

    Raises MalformedMessageError for damaged pixels and for encodings that are not known here.
    """
    if term.type.endswith("/CompressedImage"):
        image = _compressed(message)
        if image.mode.startswith("I"):  # a PNG of 16 bit, which `convert` would cut off at 255
            image = Image.fromarray(_scaled(term, np.asarray(image, np.float64)))
    else:
        image = _plain(term, message)
    height, width = term.size
    image = image.convert("RGB" if term.color == "rgb" else "L")
    smaller = width <= image.width and height <= image.height
    method = Image.Resampling.BOX if smaller else Image.Resampling.BILINEAR
    pixels = np.asarray(image.resize((width, height), method))
    return pixels.reshape(term.shape)


def _compressed(message: Any) -> Image.Image:
    """Open a JPEG or PNG, whichever its bytes say."""
    if "compressedDepth" in message.format:
        raise MalformedMessageError(f"images of format '{message.format}' cannot be read")
    try:
        image = Image.open(io.BytesIO(message.data.tobytes()), formats=("JPEG", "PNG", "WEBP"))
        image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        if isinstance(error, UnidentifiedImageError):
            raise MalformedMessageError("neither JPEG, PNG nor WebP") from error
        raise MalformedMessageError(f"the image is damaged: {error}") from error
    return image


def _plain(term: ImageTerm, message: Any) -> Image.Image:
    """Lay out the bytes of an Image message."""
    encoding, height, width = message.encoding, message.height, message.width
    if encoding in _DEPTHS:
        order = ">" if message.is_bigendian else "<"
        values = _table(message, np.dtype(order + _DEPTHS[encoding]), 1)[:, :, 0]
        return Image.fromarray(_scaled(term, values.astype(np.float64)))
    if encoding not in _COLORS:
        known = ", ".join([*_COLORS, *_DEPTHS])
        raise MalformedMessageError(f"encoding '{encoding}' is not known, but {known}")
    channels, order_ = _COLORS[encoding]
    pixels = _table(message, np.dtype("u1"), channels)[:, :, order_]
    if pixels.shape != (height, width, len(order_)):
        raise MalformedMessageError("the image has another size than it says")
    return Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if channels == 1 else pixels))


def _table(message: Any, dtype: np.dtype[Any], channels: int) -> NDArray[Any]:
    """Return pixels (h, w, channels) out of rows of `step` bytes. Raises MalformedMessageError."""
    row = message.width * channels * dtype.itemsize
    step, data = message.step, message.data
    if step < row or len(data) < step * message.height or not message.width or not message.height:
        raise MalformedMessageError(
            f"{len(data)} bytes for {message.height} rows of {row} bytes, {step} apart"
        )
    rows = np.asarray(data)[: step * message.height].reshape(message.height, step)[:, :row]
    return np.ascontiguousarray(rows).view(dtype).reshape(message.height, message.width, channels)


def _scaled(term: ImageTerm, values: NDArray[np.float64]) -> Pixels:
    """Map the term's range to 0 to 255; NaN is as far as it goes."""
    if term.range is None:
        raise MalformedMessageError(f"{term.name}: numbers wider than 8 bit need `range`")
    low, high = term.range
    scaled = (np.nan_to_num(values, nan=high) - low) / (high - low)
    pixels: Pixels = (np.clip(scaled, 0.0, 1.0) * 255.0).round().astype(np.uint8)
    return pixels
