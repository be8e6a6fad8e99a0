"""The embedded data: same pictures from the same seed, different ones otherwise, classes by shape and not by colour."""

import json
from itertools import combinations, islice
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from ucdr_ray.commands.draw import draw as draw_command
from ucdr_ray.drawings.folder import write_folder
from ucdr_ray.drawings.generate import draw, iterate
from ucdr_ray.drawings.objects import OBJECTS
from ucdr_ray.drawings.scene import compose
from ucdr_ray.drawings.styles import STYLES
from ucdr_ray.errors import UserError

PAIRS = [(name, style) for style in STYLES for name in OBJECTS]


@pytest.fixture(scope="module")
def photos() -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """(N, 32, 32, 3) in 0..1 and the class of each."""
    drawings = list(iterate(18, 32, 5, ["photo"]))
    names = sorted(OBJECTS)
    return np.stack([d.pixels for d in drawings]) / 255, np.array([names.index(d.object) for d in drawings])


def test_there_are_enough_classes_and_styles_with_plain_names() -> None:
    assert len(OBJECTS) >= 12 and set(STYLES) == {"clipart", "painting", "photo", "sketch"}
    assert all(name.isalpha() and name.islower() for name in (*OBJECTS, *STYLES))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", OBJECTS)
def test_every_object_is_drawn_in_every_style_at_any_size(name: str, style: str) -> None:
    for size in (16, 33, 64, 100):
        picture = draw(name, style, size, seed=1)
        assert picture.shape == (size, size, 3) and picture.dtype == np.uint8
        assert picture.std() > 5


@pytest.mark.parametrize("style", STYLES)
def test_a_large_drawing_is_the_small_one_with_more_pixels(style: str) -> None:
    small = draw("house", style, 32, seed=2).astype(float)
    large = draw("house", style, 128, seed=2).reshape(32, 4, 32, 4, 3).mean((1, 3))
    other = draw("house", style, 32, seed=3).astype(float)
    assert np.abs(small - large).mean() < 0.5 * np.abs(small - other).mean()


def test_the_same_arguments_give_the_same_picture_whatever_was_drawn_before() -> None:
    first = {pair: draw(*pair, 24, 3, 7) for pair in PAIRS}
    for pair in reversed(PAIRS):
        np.testing.assert_array_equal(draw(*pair, 24, 3, 7), first[pair])


def test_iterate_draws_what_draw_draws() -> None:
    for drawing in islice(iterate(2, 16, 4, ["sketch", "photo"], ["cup", "tree"]), 8):
        again = draw(drawing.object, drawing.style, 16, 4, drawing.index)
        np.testing.assert_array_equal(drawing.pixels, again)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", OBJECTS)
def test_no_two_drawings_are_alike(name: str, style: str) -> None:
    drawn = [draw(name, style, 32, seed, index).astype(float) for seed in (0, 1) for index in range(4)]
    assert min(np.abs(a - b).mean() for a, b in combinations(drawn, 2)) > 4


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_varies_in_shape_place_and_size_and_stays_in_the_picture(name: str) -> None:
    scenes = [compose(OBJECTS[name], np.random.default_rng(seed)) for seed in range(40)]
    outlines = [np.concatenate([part.points for part in scene.parts]) for scene in scenes]
    low, high = (np.stack([f(points, axis=0) for points in outlines]) for f in (np.min, np.max))
    assert low.min() > -0.05 and high.max() < 1.05
    assert ((low + high) / 2).std(0).min() > 0.01
    sides = high - low
    assert sides.max(1).std() > 0.03
    assert (sides[:, 0] / sides[:, 1]).std() > 0.05


def test_a_scene_is_not_shared_between_styles() -> None:
    photo, clipart = (draw("cat", style, 48, 0, 0).mean(2) for style in ("photo", "clipart"))
    assert abs(np.corrcoef(photo.ravel(), clipart.ravel())[0, 1]) < 0.95


def test_styles_differ_in_colour_edges_and_ground() -> None:
    statistics = {}
    for style in STYLES:
        pictures = np.stack([d.pixels for d in iterate(3, 48, 0, [style])]) / 255
        saturation = (pictures.max(3) - pictures.min(3)).mean()
        fine = np.abs(np.diff(pictures.mean(3), axis=2)).mean()
        statistics[style] = (saturation, fine, np.median(pictures, axis=(1, 2)).std())
    saturation, fine, ground = zip(
        *(statistics[style] for style in ("sketch", "photo", "painting", "clipart"))
    )
    assert saturation[0] < 0.5 * min(saturation[1:])
    assert ground[0] < 0.5 * min(ground[1:])
    assert fine[1] < fine[2]  # a lens is softer than a brush
    assert saturation[3] > max(saturation[:3])


def held_out_accuracy(features: NDArray[np.float64], classes: NDArray[np.intp]) -> float:
    train = np.arange(len(classes)) % 3 > 0
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(features[train], classes[train])
    return float((model.predict(features[~train]) == classes[~train]).mean())


def oriented_edges(grey: NDArray[np.float64]) -> NDArray[np.float64]:
    """Edge strength by direction (4) and place (4 × 4), as unit rows: shape without colour."""
    down, right = np.gradient(grey, axis=(1, 2))
    strength, angle = np.hypot(down, right), np.arctan2(down, right)
    facing = [strength * np.maximum(np.cos(2 * (angle - turn)), 0) for turn in np.arange(4) * np.pi / 4]
    cells = np.stack(facing, 1).reshape(len(grey), 4, 4, 8, 4, 8).mean((3, 5)).reshape(len(grey), -1)
    return cells / np.linalg.norm(cells, axis=1, keepdims=True)


def test_shape_tells_the_class_and_colour_does_not(
    photos: tuple[NDArray[np.float64], NDArray[np.intp]],
) -> None:
    pictures, classes = photos
    chance = 1 / len(OBJECTS)
    colour = np.concatenate(
        [pictures.mean((1, 2)), pictures.std((1, 2)), np.median(pictures, (1, 2))], axis=1
    )
    assert held_out_accuracy(oriented_edges(pictures.mean(3)), classes) > 5 * chance
    assert held_out_accuracy(colour, classes) < 3 * chance


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("dragon", "photo"), "no object is named 'dragon'; there are airplane"),
        (("cat", "etching"), "no style is named 'etching'; there are clipart, painting, photo, sketch"),
        (("cat", "photo", 8), "size 8: a drawing has 16 to 1024 pixels a side"),
        (("cat", "photo", 64, -1), "seed -1"),
    ],
)
def test_wrong_arguments_are_named(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        draw(*arguments)


def test_the_command_writes_readable_files_by_style_and_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "some" / "drawings"
    draw_command(out, per_class=2, size=16, seed=9, styles="sketch, photo", objects="car,cup")
    written = sorted(str(path.relative_to(out)) for path in out.rglob("*.png"))
    expected = [f"{s}/{o}/{n:04}.png" for s in ("photo", "sketch") for o in ("car", "cup") for n in (0, 1)]
    assert written == expected
    with Image.open(out / "photo" / "cup" / "0001.png") as image:
        np.testing.assert_array_equal(np.asarray(image), draw("cup", "photo", 16, 9, 1))
    assert json.loads((out / "drawings.json").read_text())["seed"] == 9
    assert capsys.readouterr().out.startswith("8 drawings (2 × 2 objects × 2 styles, 16 px)")


def test_drawing_again_replaces_the_old_drawings(tmp_path: Path) -> None:
    out = tmp_path / "drawings"
    draw_command(out, per_class=2, size=16, styles="sketch", objects="car,cup")
    draw_command(out, per_class=1, size=24, styles="clipart", objects="car")
    assert [path.name for path in out.rglob("*.png")] == ["0000.png"]
    assert [path.name for path in tmp_path.iterdir()] == ["drawings"]


def test_an_interrupted_run_leaves_the_old_drawings_and_nothing_half_written(tmp_path: Path) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "drawings"
    draw_command(out, per_class=1, size=16, styles="sketch", objects="car")
    before = (out / "sketch" / "car" / "0000.png").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write_folder(out, 1, 16, 1, ["sketch"], ["car"], interrupt)
    assert (out / "sketch" / "car" / "0000.png").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["drawings"]


def test_a_folder_of_something_else_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("keep me")
    for target in (tmp_path, tmp_path / "precious.txt"):
        with pytest.raises(UserError, match="holds no drawings"):
            draw_command(target, per_class=1, size=16, styles="sketch", objects="car")
    assert (tmp_path / "precious.txt").read_text() == "keep me"


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't write drawings to"):
        draw_command(tmp_path / "file" / "below", per_class=1, size=16, styles="sketch", objects="car")


@pytest.mark.parametrize("styles", ["", "photo,,sketch", "photo,photo"])
def test_a_malformed_list_of_names_is_refused(tmp_path: Path, styles: str) -> None:
    with pytest.raises(UserError, match="--styles .*: it takes different names with commas between them"):
        draw_command(tmp_path / "drawings", per_class=1, size=16, styles=styles)


@pytest.mark.parametrize(
    ("setting", "message"), [({"per_class": 0}, "0 drawings per class"), ({"seed": -3}, "seed -3")]
)
def test_a_count_out_of_range_writes_nothing(tmp_path: Path, setting: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        draw_command(tmp_path / "drawings", **setting)
    assert list(tmp_path.iterdir()) == []
