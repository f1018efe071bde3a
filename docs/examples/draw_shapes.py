"""Make a folder of images to try things with: python docs/examples/draw_shapes.py data/shapes

Circles, squares and triangles of random size, place and colour: 3 x 100 for training and 3 x 40 for
validation, one folder for each class.
"""

import random
import sys
from pathlib import Path

from PIL import Image, ImageDraw

SIDE = 64


def corners(shape: str, x: int, y: int, radius: int) -> list[tuple[int, int]]:
    """The outline of a square or a triangle around (x, y)."""
    if shape == "square":
        return [(x + a * radius, y + b * radius) for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    return [(x, y - radius), (x + radius, y + radius), (x - radius, y + radius)]


def draw(shape: str, rng: random.Random) -> Image.Image:
    """One image [64, 64, 3] of the shape."""
    image = Image.new("RGB", (SIDE, SIDE), tuple(rng.randrange(120, 256) for _ in range(3)))
    radius = rng.randrange(10, 22)
    x, y = (rng.randrange(radius + 2, SIDE - radius - 2) for _ in range(2))
    color = tuple(rng.randrange(0, 110) for _ in range(3))
    pen = ImageDraw.Draw(image)
    if shape == "circle":
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)
    else:
        pen.polygon(corners(shape, x, y, radius), fill=color)
    return image


def main() -> None:
    """Write both parts below the folder that the command line names."""
    rng = random.Random(0)
    for part, count in (("train", 100), ("val", 40)):
        for shape in ("circle", "square", "triangle"):
            folder = Path(sys.argv[1]) / part / shape
            folder.mkdir(parents=True)
            for number in range(count):
                draw(shape, rng).save(folder / f"{number:03d}.png")


if __name__ == "__main__":
    main()
