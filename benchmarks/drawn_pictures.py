"""Pictures that are not images of the dataset: things that are no garments, and val images turned into photographs."""

import string
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from sklearn.datasets import load_digits, load_sample_images

from analysis.figures import mpl

FONTS = Path(mpl.get_data_path(), "fonts/ttf")
SIDE = 280  # pixels
COUNT = 400  # pictures of most kinds that are drawn at random


# --- no garments --------------------------------------------------------------------------------


def digits() -> Iterator[Image.Image]:
    """The handwritten digits of scikit-learn, dark on white."""
    for image in load_digits().images:  # (8, 8), 0–16
        dark = 255 - (image * 15.9).astype(np.uint8)
        enlarged = Image.fromarray(dark).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        picture = Image.new("L", (2 * SIDE, 2 * SIDE), 255)
        picture.paste(enlarged, (SIDE // 2, SIDE // 2))
        yield picture


def letters() -> Iterator[Image.Image]:
    """In each face of the fonts that come with Matplotlib and have the alphabet."""
    faces = sorted(FONTS.glob("DejaVuS*.ttf"))
    for path in (face for face in faces if "Display" not in face.name):
        font = ImageFont.truetype(path, SIDE)
        for letter in string.ascii_letters:
            picture = Image.new("L", (2 * SIDE, 2 * SIDE), 255)
            ImageDraw.Draw(picture).text((SIDE, SIDE), letter, 0, font, anchor="mm")
            yield picture


def sceneries(generator: np.random.Generator) -> Iterator[Image.Image]:
    """Sections of the two photographs of scikit-learn, a palace and a flower."""
    for photograph in load_sample_images().images:  # (H, W, 3)
        for _ in range(COUNT // 2):
            section = photograph[:0]
            while not section.size or np.ptp(section, axis=(0, 1)).max() < 100:  # plain sky
                side = int(generator.integers(50, 400))
                top, left = (int(generator.integers(0, n - side)) for n in photograph.shape[:2])
                section = photograph[top : top + side, left : left + side]
            yield Image.fromarray(section)


def noise(generator: np.random.Generator) -> Iterator[Image.Image]:
    for _ in range(COUNT):
        yield Image.fromarray(generator.integers(0, 256, (SIDE, SIDE, 3), np.uint8))


def shapes(generator: np.random.Generator) -> Iterator[Image.Image]:
    """Ellipses, rectangles and lines of one colour on white."""
    for number in range(COUNT):
        picture = Image.new("RGB", (SIDE, SIDE), "white")
        draw = ImageDraw.Draw(picture)
        left, top = (int(each) for each in generator.integers(10, 120, 2))
        right, bottom = (int(each) for each in generator.integers(160, 270, 2))
        colour = tuple(int(each) for each in generator.integers(0, 200, 3))
        if number % 3 == 0:
            draw.ellipse((left, top, right, bottom), colour)
        elif number % 3 == 1:
            draw.rectangle((left, top, right, bottom), colour)
        else:
            draw.line((left, top, right, bottom), colour, width=30)
        yield picture


def write(
    draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], ink: int | str, draws: np.random.Generator
) -> None:
    """Fills a box with lines of words that mean nothing."""
    font = ImageFont.truetype(FONTS / "DejaVuSans.ttf", 12)
    left, top, right, bottom = box
    for y in range(top, bottom - 15, 16):
        letters = "".join(draws.choice([*string.ascii_lowercase, " ", " ", " ", " "], 100))
        line = next((letters[:n] for n in range(100, 0, -1) if draw.textlength(letters[:n], font) < right - left), "")
        draw.text((left, y), line, ink, font)


def pages(generator: np.random.Generator) -> Iterator[Image.Image]:
    """Text, dark on white."""
    for _ in range(COUNT // 2):
        picture = Image.new("L", (300, 420), 255)
        margin, bottom = (int(generator.integers(*bounds)) for bounds in ((15, 60), (150, 420)))
        write(ImageDraw.Draw(picture), (margin, margin, 300 - margin, bottom), 40, generator)
        yield picture


def screens(generator: np.random.Generator) -> Iterator[Image.Image]:
    """Like screenshots, light and dark, wide and tall: a bar, a column, and boxes with text."""
    for number in range(COUNT // 2):
        width, height = (480, 300) if number % 2 else (240, 460)
        paper, panel, ink = ("#fbfbfb", "#e7e9ec", "#222222") if number % 4 < 2 else ("#1e1f22", "#2e3036", "#dddddd")
        picture = Image.new("RGB", (width, height), paper)
        draw = ImageDraw.Draw(picture)
        column = int(generator.integers(0, width // 3))
        colours = ["#{:02x}{:02x}{:02x}".format(*colour) for colour in generator.integers(0, 256, (6, 3))]
        draw.rectangle((0, 0, width, int(generator.integers(16, 40))), colours[0])
        draw.rectangle((0, 40, column, height), panel)
        for colour in colours[1 : int(generator.integers(3, 7))]:
            left, top = int(generator.integers(column, width - 60)), int(generator.integers(45, height - 40))
            right, bottom = int(generator.integers(left + 40, width)), int(generator.integers(top + 30, height))
            draw.rectangle((left, top, right, bottom), panel if generator.random() < 0.5 else colour)
            write(draw, (left + 4, top + 4, right - 4, bottom), ink, generator)
        yield picture


def gradients(generator: np.random.Generator) -> Iterator[Image.Image]:
    """From one colour to another, around a point."""
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    for _ in range(COUNT):
        start, end = generator.integers(0, 256, (2, 3))
        far = np.hypot(x - generator.uniform(-1, 1), y - generator.uniform(-1, 1))[..., None] / 8**0.5
        yield Image.fromarray((start + (end - start) * far).astype(np.uint8))


def no_garments() -> dict[str, Iterator[Image.Image]]:
    generator = np.random.default_rng(0)
    return {
        "handwritten digits": digits(),
        "printed letters": letters(),
        "sections of two photographs": sceneries(generator),
        "noise": noise(generator),
        "ellipses, rectangles and lines": shapes(generator),
        "pages of text": pages(np.random.default_rng(1)),
        "screens with boxes and text": screens(np.random.default_rng(2)),
        "colour gradients": gradients(np.random.default_rng(3)),
    }


# --- garments -----------------------------------------------------------------------------------


def photographs(images: np.ndarray) -> Iterator[Image.Image]:
    """Images (N, 28, 28) as the shop's photographs: dark on #fdfdfd, 762 × 1000 pixels."""
    for image in images:
        enlarged = Image.fromarray(255 - image).resize((672, 672), Image.Resampling.BICUBIC)
        picture = Image.new("L", (762, 1000), 0xFD)
        picture.paste(enlarged, (45, 164))
        yield picture.convert("RGB")


def white_on_white(images: np.ndarray) -> Iterator[Image.Image]:
    """As `photographs`, with a 15th of their contrast."""
    for photograph in photographs(images):
        yield photograph.point(lambda value: round(0xFD - (0xFD - value) / 15))


VARIANTS = (
    "without a change", "one speck of 2 × 2 pixels", "two specks", "a shadow beside the garment", "light from one side",
    "dark corners", "on wood", "without a margin", "on their side",
)  # fmt: skip


def altered(images: np.ndarray, variant: str) -> Iterator[Image.Image]:
    """Images (N, 28, 28) as photographs of 381 × 500 pixels, in one of VARIANTS."""
    generator, (width, height, side) = np.random.default_rng(0), (381, 500, 336)
    left, top = (width - side) // 2, (height - side) // 2
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    for image in images:
        upright = np.rot90(image).copy() if variant == "on their side" else image
        canvas = Image.new("L", (width, height))
        canvas.paste(Image.fromarray(upright).resize((side, side), Image.Resampling.BICUBIC), (left, top))
        outline = canvas.point(lambda value: min(255, 12 * value))
        ground = np.full((height, width, 3), 0xFD, float)
        if variant == "a shadow beside the garment":
            soft = np.asarray(outline.filter(ImageFilter.GaussianBlur(8))) / 255
            away = (int(generator.integers(8, 20)), int(generator.integers(-16, 17)))
            ground *= 1 - 0.25 * np.roll(soft, away, (0, 1))[..., None]
        elif variant == "on wood":
            grain = 8 * np.sin(50 * y + 3 * np.sin(2 * x + generator.uniform(0, 6)))
            ground = (205, 172, 130) + (grain + generator.normal(0, 4, grain.shape))[..., None]
        opaque = np.asarray(outline)[..., None] / 255
        picture = opaque * (255 - np.asarray(canvas, float)[..., None]) + (1 - opaque) * ground  # (H, W, 3)
        if variant == "light from one side":
            angle = generator.uniform(0, 2 * np.pi)
            picture *= 0.85 + 0.1 * (np.cos(angle) * x + np.sin(angle) * y)[..., None]
        elif variant == "dark corners":
            picture *= 1 - 0.075 * (x**2 + y**2)[..., None]
        for _ in range({"one speck of 2 × 2 pixels": 1, "two specks": 2}.get(variant, 0)):
            near = generator.integers(4, 30, 2)  # pixels from a corner
            row, column = np.where(generator.random(2) < 0.5, near, (height - 2, width - 2) - near)
            picture[row : row + 2, column : column + 2] = 60
        photograph = Image.fromarray(picture.clip(0, 255).astype(np.uint8))
        bounds = (left, top, left + side, top + side)
        yield photograph.crop(bounds) if variant == "without a margin" else photograph
