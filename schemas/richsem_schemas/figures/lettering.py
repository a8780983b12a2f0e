"""Text on pictures, in every script: Pillow's own font for plain ASCII, Noto's fonts for all else, piece by piece.

Pillow shapes them with raqm, from right to left where a script runs so, and takes FriBidi for that from the system;
where that is missing letters are turned round at least. Pieces follow each other from left to right.
"""

import math
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.resources import files
from pathlib import Path

from PIL import ImageDraw, ImageFont

from richsem_schemas.io.words import JOINERS

_KANA = range(0x3040, 0x3100)
_JAPANESE, _CHINESE = 0, 2
"""Faces of the CJK collection, for the forms of Chinese characters."""

_REGULAR = 400


@dataclass(frozen=True)
class Face:
    """One face of a font file."""

    path: Path
    index: int = 0


@dataclass(frozen=True)
class Lettering:
    """Letters of one size, pixels an em."""

    points: float

    @cached_property
    def ascii(self) -> ImageFont.FreeTypeFont:
        """Pillow's own font."""
        font = ImageFont.load_default(self.points)
        assert isinstance(font, ImageFont.FreeTypeFont), "Pillow has FreeType"
        return font

    def getlength(self, text: str) -> float:
        """Width of a line, pixels."""
        return sum(font.getlength(piece) for font, piece in self._pieces(text))

    def height(self) -> int:
        """Height of a line, pixels; the same for all texts, so that labels line up whatever their letters."""
        return math.ceil(self.ascii.getbbox("Ag|(")[3])

    def draw(self, draw: ImageDraw.ImageDraw, xy: tuple[float, float], text: str, fill: tuple[int, int, int]) -> None:
        """Draw a line whose upper left corner is `xy`."""
        x, baseline = xy[0], xy[1] + self.ascii.getmetrics()[0]
        for font, piece in self._pieces(text):
            draw.text((x, baseline), piece, fill=fill, font=font, anchor="ls")
            x += font.getlength(piece)

    def _pieces(self, text: str) -> list[tuple[ImageFont.FreeTypeFont, str]]:
        if text.isascii():
            return [(self.ascii, text)]
        fonts = [(_font(face, self.points), piece) for face, piece in split_by_face(text)]
        return [
            (font, piece if font.layout_engine == ImageFont.Layout.RAQM else turned(piece)) for font, piece in fonts
        ]


def can_be_drawn(text: str) -> bool:
    """Whether some font has each of a text's letters."""
    return text.isascii() or all(_has_face(letter) for letter in one_line(text))


def turned(piece: str) -> str:
    """A piece as it looks, for fonts without shaping: what runs from right to left is turned, marks behind letters."""
    if not any(unicodedata.bidirectional(letter) in {"R", "AL"} for letter in piece):
        return piece
    letters: list[str] = []
    for letter in piece:
        if letters and unicodedata.combining(letter):
            letters[-1] += letter
        else:
            letters.append(letter)
    return "".join(reversed(letters))


def one_line(text: str) -> str:
    """A text on one line: composed, without what is invisible but for joiners."""
    kept = "".join(letter for letter in unicodedata.normalize("NFC", text) if _is_visible(letter))
    return " ".join(kept.split())


def _is_visible(letter: str) -> bool:
    return letter.isspace() or letter in JOINERS or unicodedata.category(letter) not in {"Cc", "Cf"}


def split_by_face(text: str) -> list[tuple[Face, str]]:
    """Cut a line into pieces of one face each; blanks between pieces belong to Latin."""
    chinese = _JAPANESE if any(ord(letter) in _KANA for letter in text) else _CHINESE
    faces = list(_faces_of_letters(text, chinese))
    latin = _faces(chinese)[0]
    for place, letter in enumerate(text):
        if letter == " ":
            before = faces[place - 1] if place else latin
            after = next((face for face in faces[place + 1 :] if face is not None), latin)
            faces[place] = before if before == after else latin
    pieces: list[tuple[Face, str]] = []
    for face, letter in zip(faces, text, strict=True):
        assert face is not None, "blanks have been given one"
        if pieces and pieces[-1][0] == face:
            pieces[-1] = (face, pieces[-1][1] + letter)
        else:
            pieces.append((face, letter))
    return pieces


def _faces_of_letters(text: str, chinese: int) -> Iterator[Face | None]:
    """None for blanks."""
    face = latin = _faces(chinese)[0]
    for letter in text:
        if letter == " ":
            yield None
            continue
        # Marks belong to the letter before.
        if not (letter in JOINERS or unicodedata.combining(letter)) or not _has(face, letter):
            # What no font has is drawn as Latin's box.
            face = next((each for each in _faces(chinese) if _has(each, letter)), latin)
        yield face


def _has_face(letter: str) -> bool:
    return letter == " " or letter in JOINERS or any(_has(face, letter) for face in _faces(_CHINESE))


@lru_cache
def _faces(chinese: int) -> tuple[Face, ...]:
    """All faces, in the order in which letters are looked for."""
    folder = Path(str(files("manimgx_fonts")))
    latin, italic = folder / "NotoSans[wght].ttf", folder / "NotoSans-Italic[wght].ttf"
    last = [folder / "NotoSansSymbols[wght].ttf", folder / "NotoEmoji[wght].ttf"]
    scripts = sorted(set(folder.glob("*.ttf")) - {latin, italic, *last})
    cjk = Face(Path(str(files("manimgx_fonts_cjk"))) / "NotoSansCJK-VF.otf.ttc", chinese)
    return (Face(latin), *map(Face, scripts), cjk, *map(Face, last))


def font_files() -> list[Path]:
    """All fonts, in the order in which letters are looked for."""
    return [face.path for face in _faces(_CHINESE)]


def _has(face: Face, letter: str) -> bool:
    return ord(letter) in _letters(face.path)


@lru_cache
def _letters(path: Path) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font  # noqa: PLC0415 - only names beyond ASCII need it

    return frozenset(FT2Font(str(path)).get_charmap())


@lru_cache(maxsize=256)
def _font(face: Face, points: float) -> ImageFont.FreeTypeFont:
    font = ImageFont.truetype(face.path, points, index=face.index)
    # The CJK file begins at its thinnest.
    if font.get_variation_axes()[0]["default"] != _REGULAR:
        font.set_variation_by_axes([_REGULAR])
    return font
