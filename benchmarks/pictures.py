"""How predict.py judges pictures that are not images of the dataset.

- How often it calls them out of distribution: things that are not garments, and garments that are upside
  down or on their side.
- Its accuracy on val images turned back into photographs: enlarged, on the shop's light grey, as JPEG. That
  measures what the conversion to 28 × 28 costs; it says nothing about real photographs.

All pictures are drawn here, or come with scikit-learn and Matplotlib. No choice depends on them.

`python benchmarks/pictures.py` (after `make repro`) prints and writes benchmarks/pictures.json.
"""

import argparse
import io
import string
from collections.abc import Iterable, Iterator
from pathlib import Path

from common import arrays, files

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_digits, load_sample_images

import benchmark_files
from analysis.figures import mpl
from inference.classifier import Classifier, Prediction

MODEL = Path("models/model.onnx")
RESULTS = Path("benchmarks/pictures.json")
SIDE = 280  # pixels
COUNT = 1000  # pictures of each kind that is drawn at random


def as_file(picture: Image.Image, form: str = "PNG") -> io.BytesIO:
    content = io.BytesIO()
    picture.save(content, form, quality=90)
    return content


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
    faces = sorted(Path(mpl.get_data_path(), "fonts/ttf").glob("DejaVuS*.ttf"))
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


def photographs(images: np.ndarray) -> Iterator[Image.Image]:
    """Images (N, 28, 28) as the shop's photographs: dark on #fdfdfd, 762 × 1000 pixels."""
    for image in images:
        enlarged = Image.fromarray(255 - image).resize((672, 672), Image.Resampling.BICUBIC)
        picture = Image.new("L", (762, 1000), 0xFD)
        picture.paste(enlarged, (45, 164))
        yield picture.convert("RGB")


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    classifier = Classifier(MODEL)
    images, labels = arrays.load("train")
    rows = arrays.load_rows("val", len(images))
    val, val_labels = images[rows][..., 0], labels[rows]  # (N, 28, 28), (N,)

    def predictions(pictures: Iterable[Image.Image], form: str = "PNG") -> list[Prediction]:
        return [classifier.predict(as_file(picture, form), "the picture") for picture in pictures]

    def accuracy(said: list[Prediction]) -> float:
        names = [prediction.likeliest[0][0] for prediction in said]
        right = np.array(classifier.class_names)[val_labels[: len(names)]] == np.array(names)
        return round(float(right.mean()), 4)

    generator = np.random.default_rng(0)
    turned = [np.ascontiguousarray(np.rot90(val[:COUNT], turns, (1, 2))) for turns in (1, 2)]
    kinds: dict[str, Iterable[Image.Image]] = {
        "handwritten digits": digits(),
        "printed letters": letters(),
        "sections of two photographs": sceneries(generator),
        "noise": noise(generator),
        "ellipses, rectangles and lines": shapes(generator),
        "val images on their side": map(Image.fromarray, turned[0]),
        "val images on their head": map(Image.fromarray, turned[1]),
    }
    unlike = {}
    for kind, pictures in kinds.items():
        said = [prediction.out_of_distribution for prediction in predictions(pictures)]
        unlike[kind] = {"pictures": len(said), "unlike": round(sum(said) / len(said), 4)}
        print(f"{kind}: {unlike[kind]['unlike']:.1%} of {len(said):,} called unlike")
    direct = predictions(map(Image.fromarray, val))
    again = predictions(photographs(val), "JPEG")
    remade = {
        "images": len(val),
        "accuracy": accuracy(direct),
        "accuracy as photographs": accuracy(again),
        "unlike": round(sum(prediction.out_of_distribution for prediction in direct) / len(direct), 4),
        "unlike as photographs": round(sum(each.out_of_distribution for each in again) / len(again), 4),
    }
    print(remade)
    files.write_json(RESULTS, {"training": benchmark_files.training_key(), "unlike": unlike, "val": remade})


if __name__ == "__main__":
    main()
