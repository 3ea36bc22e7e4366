"""What the exported model says of pictures: `python src/predict.py PICTURE…`, files or whole folders.

A picture is brought to the form of the training images (src/inference/pictures.py), and its three
likeliest classes are printed. `unlike the training images` is said where the energy is above that of 99
in 100 of them; what was measured of that is in MODEL_CARD.md. What is no picture gets one line, the
others go on, and the exit status is 1.
"""

from common import errors  # first: from here on an interruption is one line

# isort: split
import argparse
import csv
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from common import files
from common.errors import InputError
from inference.classifier import Classifier, Prediction

MODEL = Path("models/model.onnx")
COLUMNS = (
    "picture",
    *(f"{what}_{rank}" for rank in (1, 2, 3) for what in ("class", "probability")),
    "energy",
    "unlike",
)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pictures", nargs="+", type=Path, metavar="PICTURE")
    parser.add_argument(
        "--model", type=Path, default=MODEL, help="as make export writes it (default: %(default)s)"
    )
    parser.add_argument(
        "--seen", type=Path, metavar="FOLDER", help="write each image that the model saw there"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one list of objects")
    form.add_argument("--csv", action="store_true", help="one row a picture")
    return parser.parse_args()


def found(given: list[Path]) -> Iterator[tuple[Path, Path]]:
    """Each picture, and its place below the folder that was given, or its bare name."""
    for path in given:
        if not path.is_dir():
            yield path, Path(path.name)
            continue
        places = [file.relative_to(path) for file in sorted(path.rglob("*")) if file.is_file()]
        places = [place for place in places if not any(part[0] == "." for part in place.parts)]
        # a folder without any is one thing that is no picture
        yield from ((path / place, place) for place in places or [Path()])


def shown(path: Path) -> str:
    """The path on one line, whatever bytes the file system allowed in it."""
    return " ".join(os.fsencode(path).decode("utf-8", "replace").splitlines())


def as_object(path: Path, prediction: Prediction) -> dict[str, object]:
    return {
        "picture": shown(path),
        "classes": [
            {"name": name, "probability": round(probability, 4)}
            for name, probability in prediction.likeliest
        ],
        "energy": round(prediction.energy, 4),
        "unlike": prediction.unlike,
    }


def as_row(path: Path, prediction: Prediction) -> dict[str, object]:
    row = {
        "picture": shown(path),
        "energy": f"{prediction.energy:.4f}",
        "unlike": prediction.unlike,
    }
    for rank, (name, probability) in enumerate(prediction.likeliest, start=1):
        row |= {f"class_{rank}": name, f"probability_{rank}": f"{probability:.4f}"}
    return row


def as_line(path: Path, prediction: Prediction) -> str:
    classes = ", ".join(f"{name} {probability:.1%}" for name, probability in prediction.likeliest)
    unlike = " (unlike the training images)" if prediction.unlike else ""
    return f"{shown(path)}: {classes}{unlike}"


def write_seen(folder: Path, place: Path, prediction: Prediction) -> None:
    image = prediction.image
    with files.whole_file(folder / place.with_name(f"{place.name}.png")) as part:
        Image.fromarray(image if image.shape[-1] == 3 else image[..., 0]).save(part, "PNG")


def main() -> None:
    chosen = arguments()
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # names that a terminal cannot show
    classifier = Classifier(chosen.model)
    given = list(found(chosen.pictures))
    if chosen.seen and len({place for _, place in given}) < len(given):
        raise InputError("pictures must have different names for --seen; received some twice")
    table = csv.DictWriter(sys.stdout, COLUMNS, restval="", lineterminator="\n")
    if chosen.csv:
        table.writeheader()
    objects, failed = [], False
    for path, place in given:
        try:
            if path.is_dir():
                raise InputError(f"{shown(path)} must hold at least one picture; received none")
            prediction = classifier.predict(path)
        except InputError as error:
            print(f"error: {' '.join(str(error).splitlines())}", file=sys.stderr)
            failed = True
            continue
        if chosen.seen:
            write_seen(chosen.seen, place, prediction)
        if chosen.json:
            objects.append(as_object(path, prediction))
        elif chosen.csv:
            table.writerow(as_row(path, prediction))
        else:
            print(as_line(path, prediction))
    if chosen.json:
        print(json.dumps(objects, indent=2, ensure_ascii=False))
    sys.exit(failed)


if __name__ == "__main__":
    main()
