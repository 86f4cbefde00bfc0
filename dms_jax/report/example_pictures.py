"""Images with the boxes of their objects, and with what networks find, side by side."""

import base64
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from dms_jax import reading
from dms_jax.data.pictures import decoded
from dms_jax.errors import UserError
from dms_jax.reading import listing, mapping, number, record, text, whole
from dms_jax.report.drawing import GREEN, ORANGE, WIDTH, new_figure, place, printable, styled
from dms_jax.report.run_files import Record

FILE = "examples.json"
TRUTH = "truth"
MOST_SIDE = 1024
MOST_IMAGES, MOST_NETWORKS, MOST_OBJECTS = 16, 5, 300

_PIXEL = number(-1e5, 1e5)
_OBJECTS = listing(
    record({"box": listing(_PIXEL, 4, 4), "class": whole(0, 2**31)}, {"score": number(0, 1)}), most=MOST_OBJECTS
)
EXAMPLES = record(
    {
        "images": listing(
            record(
                {
                    "png": text(2**24),
                    "size": whole(1, MOST_SIDE),
                    "objects": mapping(_OBJECTS, most=MOST_NETWORKS + 1),
                }
            ),
            least=1,
            most=MOST_IMAGES,
        )
    }
)


def read_examples(directory: Path) -> Record | None:
    """What a run directory has of images with detections; None: nothing.

    Raises:
      UserError: what is there is not what a job writes.
    """
    path = directory / FILE
    if not path.exists():
        return None
    content = reading.read_json(path, EXAMPLES, hint="the job writes it when it ends", title="a file of examples")
    for image in content["images"]:
        if _pixels(image).shape[:2] != (image["size"],) * 2:
            raise UserError(f"{path} has a picture of another size than it says; the job writes it when it ends")
        if list(image["objects"]) != list(content["images"][0]["objects"]):
            raise UserError(f"{path} has other networks for one image than for another; the job writes it when it ends")
    return content


@styled
def examples(content: Record) -> Figure:
    """Draws a row for every image: its objects, and beside them what every network finds.

    Args:
      content: of `examples.json`.
    """
    images = content["images"]
    names = list(images[0]["objects"])
    side = min((WIDTH - 0.15 * (len(names) - 1)) / len(names), 2.6)
    step = side + 0.15
    subtitle = "Green: the objects. Orange: detections, with class and score, as opaque as they are sure."
    figure = new_figure(0.25 + len(images) * step, "Detections in test images", subtitle)
    for row, image in enumerate(images):
        pixels = _pixels(image)
        for column, name in enumerate(names):
            axes = place(figure, column * step, 0.25 + row * step, side, side)
            axes.imshow(pixels, extent=(0, image["size"], image["size"], 0), interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_xlim(0, image["size"])
            axes.set_ylim(image["size"], 0)
            if row == 0:
                axes.set_title("objects" if name == TRUTH else printable(name, 40), fontsize=8, loc="left")
            for entry in reversed(image["objects"][name]):  # the surest on top
                _draw(axes, entry, image["size"])
    return figure


def _draw(axes: Axes, entry: Record, size: int) -> None:
    left, upper, right, lower = entry["box"]
    score = entry.get("score")
    color, alpha = (GREEN, 1.0) if score is None else (ORANGE, 0.25 + 0.75 * score)
    corner, width, height = (left, upper), right - left, lower - upper
    axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=color, linewidth=1.2, alpha=alpha))
    label = str(entry["class"]) if score is None else f"{entry['class']}: {score:.2f}"
    beside = "top" if upper < size / 15 else "bottom"  # inside the box where there is no room above
    axes.text(left, upper, label, color="white", fontsize=6, va=beside, clip_on=True, alpha=alpha).set_bbox(
        {"facecolor": color, "edgecolor": "none", "pad": 0.6, "alpha": alpha}
    )


def _pixels(image: Record) -> np.ndarray:
    try:
        return np.asarray(decoded(base64.b64decode(image["png"], validate=True)))
    except ValueError as error:  # Unreadable is one
        raise UserError(f"{FILE} has a picture that cannot be read ({error}); the job writes it when it ends") from None
