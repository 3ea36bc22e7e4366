from collections.abc import Callable, Iterator
from pathlib import Path

from common import classes

import numpy as np
import pandas as pd
import pytest
from matplotlib import font_manager, get_data_path
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from analysis import figures

NAMES = list(classes.FASHION_MNIST)
GENERATOR = np.random.default_rng(0)
LABELS = np.arange(60, dtype=np.uint8) % 10
PROBABILITIES = GENERATOR.dirichlet(np.ones(10), 60)


def images(count: int, channels: int = 1) -> np.ndarray:
    return GENERATOR.integers(0, 256, (count, 12, 10, channels), np.uint8)


def table(counts: dict[str, list[int]], names: list[str]) -> pd.DataFrame:
    """As `prepare.summarise` writes it."""
    rows = [
        {"part": part, "class": name, "images": count}
        for part, numbers in counts.items()
        for name, count in zip(["all", *names], [sum(numbers), *numbers], strict=True)
    ]
    return pd.DataFrame(rows)


Draw = Callable[[Path], None]


def titled(shown: np.ndarray, labels: np.ndarray, names: list[str], path: Path) -> None:
    """As `prepare` draws the first images."""
    figures.titled(shown, [names[label] for label in labels], path, columns=3, inches=2.0)


def first_images(count: int, channels: int = 1) -> Draw:
    shown = images(count, channels)
    return lambda path: titled(shown, LABELS[:count], NAMES, path)


def class_means(count: int, channels: int = 1, labels: np.ndarray = LABELS) -> Draw:
    shown = images(count, channels)
    return lambda path: figures.class_means(shown, labels[:count], NAMES, path)


def mistakes(count: int, channels: int = 1) -> Draw:
    shown = images(count, channels)
    return lambda path: figures.mistakes(shown, LABELS[:count], PROBABILITIES[:count], NAMES, path)


def no_mistakes(path: Path) -> None:
    figures.mistakes(images(10), LABELS[:10], np.eye(10)[LABELS[:10]], NAMES, path)


def class_counts(counts: dict[str, list[int]]) -> Draw:
    content = table(counts, NAMES[: len(counts["train"])])
    return lambda path: figures.class_counts(content, path)


@pytest.fixture(autouse=True)
def all_figures_are_closed() -> Iterator[None]:
    """Else a long run fills the memory."""
    yield
    assert not plt.get_fignums()


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Figure]]:
    """The figures, kept instead of saved."""
    kept: list[Figure] = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: kept.append(figure))
    yield kept
    plt.close("all")


@pytest.mark.parametrize(
    "draw",
    [
        pytest.param(first_images(6), id="first images"),
        pytest.param(first_images(2, 3), id="first images, colour"),
        pytest.param(first_images(1), id="first images, one"),
        pytest.param(first_images(4), id="first images, a row not full"),
        pytest.param(class_means(60), id="class means"),
        pytest.param(class_means(3, 3), id="class means, colour"),
        pytest.param(class_means(1), id="class means, one image"),
        pytest.param(class_means(60, 1, LABELS // 2), id="class means, classes without images"),
        pytest.param(class_counts({"train": [5] * 10, "test": [2] * 10}), id="class counts"),
        pytest.param(class_counts({"train": [1, 0], "test": [0, 0]}), id="class counts, none"),
        pytest.param(mistakes(8), id="mistakes"),
        pytest.param(mistakes(6, 3), id="mistakes, colour"),
        pytest.param(mistakes(1), id="mistakes, one"),
        pytest.param(no_mistakes, id="no mistakes"),
    ],
)
def test_a_png_with_the_same_bytes_twice(tmp_path: Path, draw: Draw) -> None:
    draw(tmp_path / "1.png")
    draw(tmp_path / "2.png")
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()
    with Image.open(tmp_path / "1.png") as image:
        image.load()
        assert image.format == "PNG"
        assert image.info.keys() <= {"dpi"}  # no version, no date
        assert np.asarray(image).std() > 0  # something is drawn


def titles(figure: Figure) -> list[str]:
    return [place.get_title() for place in figure.axes if place.get_title()]


def shown(figure: Figure) -> list[np.ndarray]:
    return [np.asarray(place.images[0].get_array()) for place in figure.axes if place.images]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 9])
def test_first_images_are_in_order_and_named(drawn: list[Figure], count: int) -> None:
    content = images(count)
    titled(content, LABELS[:count], NAMES, Path())
    assert titles(drawn[0]) == NAMES[:count]
    for seen, expected in zip(shown(drawn[0]), content, strict=True):
        np.testing.assert_array_equal(seen, expected[..., 0])


def test_class_means_are_the_means_of_the_classes_that_have_images(drawn: list[Figure]) -> None:
    labels = np.array([7, 2, 7, 2, 2], np.uint8)
    content = images(5, 3)
    figures.class_means(content, labels, NAMES, Path())
    assert titles(drawn[0]) == [NAMES[2], NAMES[7]]
    for seen, label in zip(shown(drawn[0]), (2, 7), strict=True):
        np.testing.assert_array_equal(seen, content[labels == label].mean(0).astype(np.uint8))


def test_class_counts_shows_each_class_once_and_all_of_its_images(drawn: list[Figure]) -> None:
    counts = {"train": [30, 0, 20], "test": [3, 5, 0]}
    figures.class_counts(table(counts, ["c", "a", "b"]), Path())
    axes = drawn[0].axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["c", "a", "b"]
    assert axes.yaxis_inverted()  # the first one at the top
    legend = axes.get_legend()
    assert legend is not None
    parts = [text.get_text() for text in legend.get_texts()]
    assert parts == ["train", "test"]
    widths = [[bar.get_width() for bar in bars] for bars in axes.containers]
    assert dict(zip(parts, widths, strict=True)) == counts


def test_mistakes_are_the_most_confident_ones(drawn: list[Figure]) -> None:
    content = images(60)
    figures.mistakes(content, LABELS, PROBABILITIES, NAMES, Path())
    predicted, confidence = PROBABILITIES.argmax(1), PROBABILITIES.max(1)
    worst = sorted((row for row in range(60) if predicted[row] != LABELS[row]), key=lambda row: -confidence[row])[:25]
    assert len(worst) == 25
    assert titles(drawn[0]) == [
        f"true: {NAMES[LABELS[row]]}\nsaid: {NAMES[predicted[row]]} {confidence[row]:.2f}" for row in worst
    ]
    for seen, row in zip(shown(drawn[0]), worst, strict=True):
        np.testing.assert_array_equal(seen, content[row, ..., 0])


def test_equally_confident_mistakes_keep_their_order(drawn: list[Figure]) -> None:
    content = images(500)
    labels = np.zeros(500, np.uint8)
    confidence = GENERATOR.choice([0.6, 0.9], 500)
    probabilities = np.stack([1 - confidence, confidence], 1)
    figures.mistakes(content, labels, probabilities, NAMES, Path())
    for seen, expected in zip(shown(drawn[0]), content[confidence == 0.9], strict=False):
        np.testing.assert_array_equal(seen, expected[..., 0])


def test_no_mistakes_are_said_so(drawn: list[Figure]) -> None:
    no_mistakes(Path())
    assert titles(drawn[0]) == ["none"]
    assert shown(drawn[0]) == []
    assert len(drawn[0].axes) == 1  # no empty places


def test_colours_and_shades_are_those_of_the_image(drawn: list[Figure]) -> None:
    """Not stretched to the darkest and brightest pixel of each image."""
    titled(np.full((1, 4, 4, 1), 100, np.uint8), LABELS, NAMES, Path())
    titled(np.full((1, 4, 4, 3), (10, 100, 200), np.uint8), LABELS, NAMES, Path())
    for figure, colour in zip(drawn, [(100, 100, 100), (10, 100, 200)], strict=True):
        picture = figure.axes[0].images[0]
        rgba = picture.to_rgba(np.asarray(picture.get_array()), bytes=True, norm=True)
        assert abs(rgba[0, 0, :3].astype(int) - colour).max() <= 1


@pytest.mark.parametrize(
    "names", [NAMES, [f"Ground beetle, kind {label}" for label in range(10)]], ids=["Fashion-MNIST", "longer"]
)
def test_titles_do_not_overlap(drawn: list[Figure], names: list[str]) -> None:
    probabilities = np.eye(10)[(LABELS + 1) % 10]
    figures.mistakes(images(6), LABELS[:6], probabilities[:6], names, Path())
    titled(images(4), LABELS[:4], names, Path())
    figures.class_means(images(6), LABELS[:6], names, Path())
    for figure in drawn:
        figure.canvas.draw()
        boxes = [place.title.get_window_extent() for place in figure.axes if place.get_title()]
        whole = figure.bbox
        for number, box in enumerate(boxes):
            assert whole.x0 <= box.x0
            assert box.x1 <= whole.x1
            assert not any(box.overlaps(other) for other in boxes[:number])


@pytest.mark.parametrize("name", ["$\\frac$", "$x$ and $y$"])
def test_class_names_are_text_and_not_formulas(tmp_path: Path, drawn: list[Figure], name: str) -> None:
    names = [name, *NAMES[1:]]
    titled(images(1), LABELS[:1], names, Path())
    figures.class_means(images(1), LABELS[:1], names, Path())
    figures.mistakes(images(1), LABELS[:1], np.eye(10)[[1]], names, Path())
    figures.class_counts(table({"train": [1, 2], "test": [1, 1]}, names[:2]), Path())
    for figure in drawn:
        figure.savefig(tmp_path / "a.png")
        texts = [text for text in figure.findobj(plt.Text) if "$" in text.get_text()]
        seen = [text for text in texts if text.get_visible()]  # an axis has labels on both sides
        assert seen
        for text in seen:
            assert not text.get_parse_math() or "$" not in text.get_text().replace("\\$", "")


def test_only_matplotlibs_own_fonts_draw() -> None:
    """Here Matplotlib was imported before figures.py, and so knows the fonts of the machine too."""
    families = [font_manager.FontProperties([name]) for name in font_manager.get_font_names()]
    found = {font_manager.findfont(family) for family in families}
    assert [path for path in found if not path.startswith(get_data_path())] == []
