"""The rules for captions."""

MAX_CAPTION_BYTES = 2**14
"""More is no caption; a cache keeps them beside every picture."""


class CaptionError(ValueError):
    """Something in a caption's place is none; says what."""


def parse_caption(data: bytes) -> str:
    """Decode a caption, without white space at its ends.

    Raises:
        CaptionError: too long, no UTF-8, or empty.
    """
    if len(data) > MAX_CAPTION_BYTES:
        raise CaptionError(too_long(len(data)))
    try:
        caption = data.decode().strip()
    except UnicodeDecodeError:
        raise CaptionError("its caption is no UTF-8 text") from None
    if not caption:
        raise CaptionError("its caption is empty")
    return caption


def too_long(size: int) -> str:
    """Why so many bytes are no caption."""
    return f"its caption has {size:,} bytes; at most {MAX_CAPTION_BYTES:,} are kept"
