"""Street-like scenes with 11 classes and void, of which the rarest has a thousandth of the
commonest one's pixels: a stand-in for street data sets, which may not be shipped.

    python -m benchmarks.street_scenes street            # 240 training and 60 validation scenes
    python -m benchmarks.street_scenes large --scale 2.75     # the same of 704 x 968 pixels
    python -m jobs.train --data street --output model --max-minutes 20
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import yaml

NAMES = (
    "sky", "building", "road", "pavement", "tree", "fence", "car", "pedestrian", "cyclist", "pole",
    "sign",
)  # fmt: skip
VOID = 255
HEIGHT, WIDTH = 256, 352

# Red, green, blue of each class; those of buildings, cars, people and signs vary from one to the
# next, so that colour alone does not tell the classes apart.
COLOURS = {
    "sky": (150, 180, 215), "road": (105, 100, 105), "pavement": (150, 135, 130),
    "tree": (70, 95, 55), "fence": (120, 100, 80), "pole": (85, 85, 85),
}  # fmt: skip


def make_scene(seed: int, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) image and (H, W) class ids with VOID along the edges of things."""
    rng = np.random.default_rng(seed)
    scene = _Scene(rng, scale)
    height, width = scene.height, scene.width
    horizon = int(rng.uniform(0.38, 0.55) * height)
    scene.fill("sky", [(0, 0), (width, 0), (width, horizon), (0, horizon)])
    _buildings(scene, horizon)
    vanishing = (int(rng.uniform(0.3, 0.7) * width), horizon)
    scene.fill("pavement", [(0, horizon), (width, horizon), (width, height), (0, height)])
    left, right = rng.uniform(-0.3, 0.15) * width, rng.uniform(0.85, 1.3) * width
    scene.fill("road", [(vanishing[0] - 8, horizon), (vanishing[0] + 8, horizon),
                        (right, height), (left, height)])  # fmt: skip
    for _ in range(rng.integers(2, 6)):
        _tree(scene, horizon)
    if rng.uniform() < 0.6:
        _fence(scene, horizon)
    for _ in range(rng.integers(1, 4)):
        _pole(scene, horizon)
    for _ in range(rng.integers(1, 5)):
        _car(scene, horizon)
    for _ in range(rng.integers(0, 4)):
        _person(scene, horizon, cycling=False)
    if rng.uniform() < 0.5:
        _person(scene, horizon, cycling=True)
    return scene.photograph(), scene.labels()


class _Scene:
    def __init__(self, rng: np.random.Generator, scale: float) -> None:
        self.rng, self.scale = rng, scale
        self.height, self.width = round(HEIGHT * scale), round(WIDTH * scale)
        self.image = np.zeros((self.height, self.width, 3), np.float32)
        self.ids = np.zeros((self.height, self.width), np.uint8)

    def blank(self) -> np.ndarray:
        return np.zeros((self.height, self.width), np.uint8)

    def uniform(self, low: float, high: float) -> float:
        """In pixels of a scene of scale 1."""
        return self.scale * self.rng.uniform(low, high)

    def paint(self, name: str, mask: np.ndarray, colour: tuple[float, ...] | None = None) -> None:
        """Lay a surface of a class over what is there, with a texture of its own."""
        base = np.array(COLOURS[name] if colour is None else colour, np.float32)
        base = base * self.rng.uniform(0.85, 1.15) + self.rng.uniform(-12, 12, 3)
        rough = {"tree": 28, "building": 8, "road": 7, "fence": 16}.get(name, 5)
        grain = cv2.GaussianBlur(
            self.rng.standard_normal(self.ids.shape).astype(np.float32), (0, 0), 1.5 * self.scale
        )
        inside = mask > 0
        self.image[inside] = (base + 3 * rough * grain[..., None])[inside]
        self.ids[inside] = NAMES.index(name)

    def fill(self, name: str, corners: list[tuple[float, float]], colour=None) -> None:
        mask = self.blank()
        cv2.fillPoly(mask, [np.array(corners, np.float32).round().astype(np.int32)], 1)
        self.paint(name, mask, colour)

    def colour(self) -> tuple[float, ...]:
        return tuple(self.rng.uniform(40, 220, 3))

    def photograph(self) -> np.ndarray:
        light = self.rng.uniform(0.75, 1.2) * self.rng.uniform(0.92, 1.08, 3)
        fall = np.linspace(self.rng.uniform(0.85, 1.1), self.rng.uniform(0.85, 1.1), self.width)
        lens = 0.7 * self.scale**0.35  # larger pictures are sharper as a whole
        image = cv2.GaussianBlur(self.image * light * fall[:, None], (0, 0), lens)
        noise = self.rng.normal(0, self.rng.uniform(2, 8), image.shape)
        return np.clip(image + noise, 0, 255).astype(np.uint8)

    def labels(self) -> np.ndarray:
        ids = self.ids.copy()
        side = 2 * round(0.7 * self.scale) + 1
        kernel = np.ones((side, side), np.uint8)
        edges = cv2.dilate(self.ids, kernel) != cv2.erode(self.ids, kernel)
        # Annotators leave some edges undecided: here a part of the large surfaces' ones.
        large = np.isin(self.ids, [NAMES.index(n) for n in ("sky", "building", "road", "tree")])
        ids[edges & large & (self.rng.uniform(size=ids.shape) < 0.6)] = VOID
        return ids


def _depth(scene: _Scene, horizon: int) -> tuple[float, float]:
    """A foot point's height in the image, and how large things are there."""
    share = scene.rng.uniform(0.08, 1.0)
    return horizon + share * 0.9 * (scene.height - horizon), scene.scale * (0.25 + 0.75 * share)


def _buildings(scene: _Scene, horizon: int) -> None:
    k = scene.scale
    x = -20.0 * k
    while x < scene.width:
        wide = scene.uniform(35, 110)
        top = horizon - scene.rng.uniform(0.15, 0.95) * horizon
        if scene.rng.uniform() < 0.8:
            walls = scene.colour()
            scene.fill("building", [(x, top), (x + wide, top), (x + wide, horizon), (x, horizon)],
                       walls)  # fmt: skip
            for wy in np.arange(top + 6 * k, horizon - 8 * k, 14 * k):
                for wx in np.arange(x + 5 * k, x + wide - 7 * k, 12 * k):
                    cv2.rectangle(scene.image, (int(wx), int(wy)),
                                  (int(int(wx) + 5 * k), int(int(wy) + 7 * k)),
                                  [0.5 * v for v in walls], -1)  # fmt: skip
        x += wide


def _tree(scene: _Scene, horizon: int) -> None:
    foot, size = _depth(scene, horizon)
    x = scene.rng.uniform(0, scene.width)
    mask = scene.blank()
    for _ in range(14):
        at = scene.rng.normal((x, foot - 75 * size), (15 * size, 13 * size))
        radius = scene.rng.uniform(8, 18) * size
        cv2.circle(mask, tuple(int(v) for v in at), int(radius), 1, -1)
    cv2.line(mask, (int(x), int(foot)), (int(x), int(foot - 70 * size)), 1, max(2, int(7 * size)))
    scene.paint("tree", mask)


def _fence(scene: _Scene, horizon: int) -> None:
    k = scene.scale
    y = horizon + scene.uniform(6, 25)
    start = scene.uniform(-20, WIDTH / 2)
    end, tall = start + scene.uniform(60, 180), scene.uniform(12, 22)
    scene.fill("fence", [(start, y - tall), (end, y - tall), (end, y), (start, y)])
    for x in np.arange(start, end, 5 * k):
        cv2.line(scene.image, (int(x), int(y - tall)), (int(x), int(y)), (60, 50, 45), round(k))


def _pole(scene: _Scene, horizon: int) -> None:
    foot, size = _depth(scene, horizon)
    x = scene.uniform(8, WIDTH - 8)
    top, half = foot - scene.rng.uniform(90, 140) * size, max(1.0, 2.5 * size)
    scene.fill("pole", [(x - half, top), (x + half, top), (x + half, foot), (x - half, foot)])
    if scene.rng.uniform() < 0.3:
        side = scene.rng.uniform(4.5, 6) * max(size, 0.6 * scene.scale)
        bright = [(200, 30, 35), (30, 60, 190), (230, 200, 30)][scene.rng.integers(3)]
        scene.fill("sign", [(x, top - side), (x + side, top), (x, top + side), (x - side, top)],
                   bright)  # fmt: skip


def _car(scene: _Scene, horizon: int) -> None:
    foot, size = _depth(scene, horizon)
    x, long, tall = scene.rng.uniform(0, scene.width), 75 * size, 24 * size
    body = scene.colour()
    scene.fill(
        "car", [(x, foot - tall), (x + long, foot - tall), (x + long, foot), (x, foot)], body
    )
    scene.fill("car", [(x + 0.2 * long, foot - 1.75 * tall), (x + 0.75 * long, foot - 1.75 * tall),
                       (x + 0.9 * long, foot - tall), (x + 0.1 * long, foot - tall)],
               (50, 60, 70))  # fmt: skip
    for share in (0.2, 0.8):
        mask = scene.blank()
        cv2.circle(mask, (int(x + share * long), int(foot)), max(2, int(7 * size)), 1, -1)
        scene.paint("car", mask, (25, 25, 25))


def _person(scene: _Scene, horizon: int, *, cycling: bool) -> None:
    foot, size = _depth(scene, horizon)
    x, tall = scene.uniform(10, WIDTH - 10), 48 * max(size, 0.4 * scene.scale)
    name = "cyclist" if cycling else "pedestrian"
    mask = scene.blank()
    if cycling:
        for side in (-1, 1):
            at = (int(x + side * 0.28 * tall), int(foot - 0.16 * tall))
            cv2.circle(mask, at, max(2, int(0.17 * tall)), 1, max(1, int(0.05 * tall)))
    middle, axes = (int(x), int(foot - 0.52 * tall)), (int(0.13 * tall), int(0.3 * tall))
    cv2.ellipse(mask, middle, axes, 18 if cycling else 0, 0, 360, 1, -1)
    if not cycling:
        for side in (-1, 1):
            hip, toe = (int(x), int(foot - 0.3 * tall)), (int(x + side * 0.09 * tall), int(foot))
            cv2.line(mask, hip, toe, 1, max(1, int(0.08 * tall)))
    scene.paint(name, mask, scene.colour())
    head = scene.blank()
    cv2.circle(head, (int(x), int(foot - 0.9 * tall)), max(1, int(0.09 * tall)), 1, -1)
    scene.paint(name, head, (205, 165, 140))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--train", type=int, default=240)
    parser.add_argument("--val", type=int, default=60)
    parser.add_argument("--scale", type=float, default=1.0)
    args = parser.parse_args()
    for folder in ("images", "semantic"):
        (args.output / folder).mkdir(parents=True, exist_ok=True)
    counts = np.zeros(256, np.int64)
    lines = ["name,split"]
    for seed in range(args.train + args.val):
        image, ids = make_scene(seed, args.scale)
        name = f"street-{seed:04d}"
        cv2.imwrite(str(args.output / f"images/{name}.png"), image[..., ::-1])
        cv2.imwrite(str(args.output / f"semantic/{name}.png"), ids)
        counts += np.bincount(ids.ravel(), minlength=256)
        lines.append(f"{name},{'train' if seed < args.train else 'val'}")
    (args.output / "manifest.csv").write_text("\n".join(lines) + "\n")
    classes = [{"id": i, "name": name, "kind": "stuff"} for i, name in enumerate(NAMES)]
    (args.output / "classes.yaml").write_text(yaml.safe_dump({"classes": classes, "void": VOID}))
    shares = counts / counts.sum()
    for i, name in [*enumerate(NAMES), (VOID, "void")]:
        print(f"{name:12} {shares[i]:9.5%}")
    print(f"commonest : rarest = {shares[: len(NAMES)].max() / shares[: len(NAMES)].min():.0f}")


if __name__ == "__main__":
    main()
