"""Contact sheets: a query beside what it found, as one picture."""

import io
import textwrap
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

import numpy as np
from PIL import Image, ImageDraw, ImageFont

RIGHT, WRONG, NEUTRAL = "#1a9641", "#d7301f", "#b8bec6"
_INK, _PAPER = "#24292f", "#ffffff"
_GAP, _FRAME, _LINE = 6, 4, 13


def contact_sheet(
    query: Image.Image,
    results: Sequence[Image.Image],
    captions: Sequence[str],
    right: Sequence[bool] | None = None,
    title: str = "",
    side: int = 96,
    columns: int = 5,
) -> Image.Image:
    """The query, larger, on the left; the results beside it in reading order, best first.

    Args:
        captions: one short line under each result; cut where it does not fit.
        right: frames each result green with a tick or red with a cross; grey frames without it.
        title: a line over the query.
        side: of a result's square in pixels; images keep their proportions inside it.
        columns: results in a row.
    """
    cell = side + 2 * _FRAME
    rows = max(1, -(-len(results) // columns))
    step = cell + _LINE + _GAP
    tile = min(2 * cell, rows * step - _LINE - _GAP) if rows > 1 else cell
    width = _GAP + tile + 3 * _GAP + columns * (cell + _GAP)
    sheet = Image.new("RGB", (width, _GAP + _LINE + rows * step), _PAPER)
    draw = ImageDraw.Draw(sheet)
    top = _GAP + _LINE
    draw.text((_GAP, _GAP // 2), _fitted(draw, title, width - 2 * _GAP), _INK, _font())
    _place(sheet, draw, query, (_GAP, top), tile - 2 * _FRAME, _INK)
    for place, (result, caption) in enumerate(zip(results, captions, strict=True)):
        row, column = divmod(place, columns)
        corner = (_GAP + tile + 3 * _GAP + column * (cell + _GAP), top + row * step)
        verdict = None if right is None else right[place]
        _place(sheet, draw, result, corner, side, NEUTRAL if verdict is None else RIGHT if verdict else WRONG)
        if verdict is not None:
            _badge(draw, (corner[0] + cell, corner[1]), verdict)
        draw.text((corner[0], corner[1] + cell), _fitted(draw, caption, cell), _INK, _font())
    return sheet


def grid(
    pictures: np.ndarray, rows: Sequence[str], columns: Sequence[str], side: int = 64, title: str = ""
) -> Image.Image:
    """Pictures in a table.

    Args:
        pictures: (R, C, 3, S, S) uint8.
        rows, columns: R and C headings.
        side: of a picture in pixels; enlarged ones keep their sharp edges.
    """
    wide, high = 84, _GAP + 2 * _LINE + _GAP
    step = side + _GAP // 2
    sheet = Image.new("RGB", (wide + step * len(columns) + _GAP, high + step * len(rows) + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, _GAP // 2), _fitted(draw, title, sheet.width - 2 * _GAP), _INK, _font())
    for column, heading in enumerate(columns):
        draw.text((wide + column * step, _GAP + _LINE), _fitted(draw, heading, side), _INK, _font())
    for row, heading in enumerate(rows):
        draw.text(
            (_GAP, high + row * step + side // 2 - _LINE // 2),
            _fitted(draw, heading, wide - _GAP),
            _INK,
            _font(),
        )
        for column in range(len(columns)):
            image = Image.fromarray(np.ascontiguousarray(pictures[row, column].transpose(1, 2, 0)))
            nearest = side >= image.width
            image = image.resize(
                (side, side), Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
            )
            sheet.paste(image, (wide + column * step, high + row * step))
    return sheet


def card(text: str, side: int = 96) -> Image.Image:
    """Words as a picture, as many as fit."""
    image = Image.new("RGB", (side, side), _PAPER)
    draw = ImageDraw.Draw(image)
    lines = textwrap.wrap(text, max(1, int(side / draw.textlength("n", _font()))))[: side // _LINE]
    for number, line in enumerate(lines):
        draw.text((2, 2 + number * _LINE), _fitted(draw, line, side - 4), _INK, _font())
    return image


def png(image: Image.Image) -> bytes:
    """The image as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def stack(sheets: Sequence[Image.Image]) -> Image.Image:
    """Several sheets, one below the other; at least one."""
    width = max(sheet.width for sheet in sheets)
    whole = Image.new("RGB", (width, sum(sheet.height for sheet in sheets)), _PAPER)
    top = 0
    for sheet in sheets:
        whole.paste(sheet, (0, top))
        top += sheet.height
    return whole


def _place(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    image: Image.Image,
    corner: tuple[int, int],
    side: int,
    colour: str,
) -> None:
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    fitted = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    left, top = corner
    draw.rectangle(
        (left, top, left + side + 2 * _FRAME - 1, top + side + 2 * _FRAME - 1), "#f4f5f7", colour, _FRAME
    )
    sheet.paste(fitted, (left + _FRAME + (side - size[0]) // 2, top + _FRAME + (side - size[1]) // 2))


def _badge(draw: ImageDraw.ImageDraw, corner: tuple[int, int], verdict: bool) -> None:
    """A tick or a cross in the upper right corner: colour alone does not reach everybody."""
    right, top = corner
    draw.rectangle((right - 17, top, right - 1, top + 16), RIGHT if verdict else WRONG)
    lines = [(-14, 8, -10, 12), (-10, 12, -4, 4)] if verdict else [(-13, 4, -5, 12), (-13, 12, -5, 4)]
    for x0, y0, x1, y1 in lines:
        draw.line((right + x0, top + y0, right + x1, top + y1), _PAPER, 2)


def _fitted(draw: ImageDraw.ImageDraw, text: str, width: int) -> str:
    if draw.textlength(text, _font()) <= width:
        return text
    while text and draw.textlength(text + "…", _font()) > width:
        text = text[:-1]
    return text + "…"


@cache
def _font() -> ImageFont.FreeTypeFont:
    """The font that comes with matplotlib: it has arrows and accents, and a sheet looks alike everywhere."""
    file = files("matplotlib") / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(io.BytesIO(file.read_bytes()), 10)
