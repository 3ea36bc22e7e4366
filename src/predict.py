"""Classifies pictures with the exported model: `python src/predict.py PICTURE…`, files or whole folders.

Each picture is brought to the form of the training images (src/inference/pictures.py), and its three
likeliest classes are printed. A picture is marked as out of distribution, that is unlike the training
images, where its distance from them is higher than that of 98 in 100 val images; MODEL_CARD.md says how well
this works. A file that is no picture gives one line on stderr and exit status 1; the rest is classified.
"""

import argparse
import csv
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from common import files, image_folder
from common.errors import InputError, one_line

from tqdm import tqdm

from inference.classifier import Classifier, Prediction

CLASSES = [f"{name}_{rank}" for rank in (1, 2, 3) for name in ("class", "probability")]
COLUMNS = ["picture", *CLASSES, "distance", "out_of_distribution"]
MANY = 100  # pictures, above which a bar on stderr shows how far it is
FORMULA = ("=", "+", "-", "@")  # with which a spreadsheet lets a formula begin
MARK = " (out of distribution: unlike the training images)"


def find_pictures(paths: list[str]) -> Iterator[tuple[Path, Path]]:
    """Each picture with its path below the given folder, or its bare name; also a folder that is not looked into."""
    if "" in paths:
        raise InputError("PICTURE must name a file or a folder; received ''")
    for path in map(Path, paths):
        if not os.path.isdir(path):  # which no name makes fail
            yield path, Path(path.name)
            continue
        names = [
            file.relative_to(path)
            for file in sorted(path.rglob("*"))
            if os.path.islink(file) or not os.path.isdir(file) or not os.access(file, os.R_OK | os.X_OK)
        ]
        names = [name for name in names if not any(part[0] == "." for part in name.parts)]
        # an empty folder stands for itself, and is refused later
        yield from ((path / name, name) for name in names or [Path()])


def printable(path: Path) -> str:
    """The path on one line, whatever bytes the file system allowed in it."""
    return one_line(os.fsencode(path).decode("utf-8", "replace"))


def as_object(path: Path, prediction: Prediction) -> dict[str, object]:
    return {
        "picture": printable(path),
        "classes": [{"name": name, "probability": round(probability, 4)} for name, probability in prediction.likeliest],
        "distance": round(prediction.distance, 4),
        "out_of_distribution": prediction.out_of_distribution,
    }


def as_row(path: Path, prediction: Prediction) -> dict[str, object]:
    classes = (cell for name, probability in prediction.likeliest for cell in (one_line(name), f"{probability:.4f}"))
    texts = (f"'{text}" if text.startswith(FORMULA) else text for text in (printable(path), *classes))
    row: dict[str, object] = dict(zip(COLUMNS, texts, strict=False))
    return row | {"distance": f"{prediction.distance:.4f}", "out_of_distribution": prediction.out_of_distribution}


def as_line(path: Path, prediction: Prediction) -> str:
    classes = ", ".join(f"{one_line(name)} {probability:.1%}" for name, probability in prediction.likeliest)
    return f"{printable(path)}: {classes}{MARK if prediction.out_of_distribution else ''}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="+", metavar="PICTURE", help="a file or a folder")
    parser.add_argument("--model", type=Path, default="models/model.onnx", help="of make export (default: %(default)s)")
    parser.add_argument("--save-inputs", type=Path, metavar="FOLDER", help="write there what the model sees")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one list of objects")
    form.add_argument("--csv", action="store_true", help="one row a picture; a ' leads what looks like a formula")
    chosen = parser.parse_args()
    classifier = Classifier(chosen.model)
    found = list(find_pictures(chosen.pictures))
    targets = {path: chosen.save_inputs / f"{name}.png" for path, name in found if chosen.save_inputs and name.name}
    if len({*targets.values()}) < len(targets):
        raise InputError("pictures must have unique names for --save-inputs; received some twice")
    if lost := {*map(os.path.realpath, targets.values())} & {*map(os.path.realpath, targets)}:
        raise InputError(f"--save-inputs must overwrite no given picture; received {printable(Path(min(lost)))}")
    output = sys.stdout or sys.exit("error: the output must go somewhere; received a closed one")
    table = csv.DictWriter(output, COLUMNS, restval="", lineterminator="\n")
    if chosen.csv:
        table.writeheader()
    objects, failed = [], False
    has_bar = len(found) > MANY and sys.stderr.isatty() and (chosen.json or not sys.stdout.isatty())
    for path, _ in tqdm(found, disable=not has_bar, leave=False, unit=" pictures"):
        try:
            if os.path.isdir(path):
                raise InputError(f"{printable(path)} must hold a picture, and be no link in a folder; received none")
            prediction = classifier.predict(path)
            if targets:
                with files.atomic_file(targets[path]) as part:
                    image_folder.to_picture(prediction.image).save(part, "PNG")
        except (InputError, OSError) as error:
            tqdm.write(f"error: {error}", file=sys.stderr)
            failed = True
            continue
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
