"""Data sets as plain arrays: read, checked, cut to size, made into features.

``load_data(name)`` knows ``digits`` (the 1,797 digits inside scikit-learn), ``mnist``,
``fashion-mnist``, ``cifar10``, ``cifar100`` (in torchvision's files and folders), and the path of a
folder of images or of a ``.zip`` of one, with ``train/<class>/`` and ``test/<class>/`` in it; also
``karate`` (Zachary's club: whom does a member follow?) and ``modular-addition-P`` with a prime P up
to 251 (pairs of numbers: what is their sum mod P?), one half of each for training. Files are looked
for under ``root``: the argument, else the environment variable SAMLIB_DATA, else
``~/.cache/samlib``. Nothing is downloaded unless ``download=True``. How files are read, in which
order their images come and what exactly ``sha256`` covers stands in ``samlib.training.data_files``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samlib.errors import BadInput, check_number, check_whole
from samlib.training.data_files import NAMES, Bytes, Corrupt, Labels, Missing, PathLike, read

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Data ready for training: x float64 (N, d), or (N, C, H, W) for "image"; y int64 (N,).

    Of karate a row of x has a one where the member is (features "nodes"); of modular addition it is
    the pair of numbers (features "tokens").
    """

    name: str
    x_train: Floats
    y_train: Labels
    x_test: Floats
    y_test: Labels
    class_names: tuple[str, ...]
    sha256: str
    features: str
    label_noise: float
    seed: int

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    def describe(self) -> dict[str, Any]:
        """Return what a record keeps of the data, ready for JSON."""
        kept = ("name", "num_classes", "features", "sha256", "label_noise", "seed")
        sizes = {"n": len(self.x_train), "n_test": len(self.x_test)}
        sizes["num_features"] = int(np.prod(self.x_train.shape[1:]))
        return {field: getattr(self, field) for field in kept} | sizes


def names() -> list[str]:
    """Return the names ``load`` knows; it also takes modular-addition-P and paths of images."""
    return list(NAMES)


def load_data(
    name: PathLike,
    root: PathLike | None = None,
    n: int | None = None,
    seed: int = 0,
    *,
    classes: Sequence[int] | None = None,
    features: str = "standard",
    label_noise: float = 0.0,
    download: bool = False,
) -> Dataset:
    """Read a data set and make it ready for training.

    classes : keep only these, relabelled 0, 1, … in the order given, in training and test set.
    n, seed : how many training images, counted after ``classes``; None takes all. seed 0 takes the
        first n in file order, any other seed a random n, kept in file order. The test set is the
        whole held-out part (of the digits the last 360).
    features : ``pixels``: flattened x/16 − 1/4 for digits (exact), else x/255 − 1/4. ``standard``:
        each colour channel as a whole has mean 0, variance 1 over the training images taken, and a
        constant one becomes 0; not each pixel by itself, because dividing rarely lit ones by their
        tiny deviation gives values of 20 and more, which changes what training does. ``image``: the
        same, as (N, C, H, W). ``pca:K``: the first K principal components of the training images
        taken, each scaled to variance 1, its largest loading positive, rounded to 3 decimals; the
        test set is projected likewise. What is no image has one form only: leave it at the default.
    label_noise : this fraction (to a whole number) of training labels, drawn with ``seed``, becomes
        another class drawn uniformly; test labels stay.

    BadInput if an argument is unusable; its kinds ``Missing`` and ``Corrupt`` if a file is.
    """
    label_noise = check_number("label_noise", label_noise, 0, 1, remedy="0 adds no noise")
    if not re.fullmatch(r"standard|pixels|image|pca:[1-9]\d{0,8}", str(features)):
        want = "standard, pixels, image or pca:K with a whole number K ≥ 1"
        raise BadInput(f"features = {repr(features)[:40]} is not known; use {want}")
    seed = check_whole("seed", seed, 0, remedy="0 takes the first n images")
    title, raw = read(name, root, download)
    if raw.form != "images":
        if features != "standard":
            raise BadInput(f"features = {features!r} is for images; leave it out for {title}")
        features = raw.form
    keep = _keep(classes, len(raw.class_names))
    relabel = np.array([keep.index(k) if k in keep else -1 for k in range(len(raw.class_names))])
    y_train, y_test = relabel[raw.y_train], relabel[raw.y_test]
    rows, test = _take(np.flatnonzero(y_train >= 0), n, seed), np.flatnonzero(y_test >= 0)
    x_train, x_test = _features(raw.x_train[rows], raw.x_test[test], features, raw.top)
    y_train, y_test = _noisy(y_train[rows], label_noise, len(keep), seed), y_test[test]
    return Dataset(
        title,
        x_train,
        y_train,
        x_test,
        y_test,
        class_names=tuple(raw.class_names[k] for k in keep),
        sha256=raw.sha256,
        features=features,
        label_noise=label_noise,
        seed=seed,
    )


def verify(name: PathLike, root: PathLike | None = None) -> dict[str, Any]:
    """Return name, status (present, absent or corrupt), sha256 or None, and the reason or ""."""
    try:
        title, raw = read(name, root)
    except (Missing, Corrupt) as error:
        status = "absent" if isinstance(error, Missing) else "corrupt"
        return {"name": str(name), "status": status, "sha256": None, "reason": str(error)}
    return {"name": title, "status": "present", "sha256": raw.sha256, "reason": ""}


def _keep(classes: Sequence[int] | None, count: int) -> list[int]:
    """Return the classes to keep, checked, in the order asked for."""
    asked = range(count) if classes is None else classes
    want = f"two or more different whole numbers from 0 to {count - 1}, such as (0, 1)"
    try:
        keep = [check_whole("class", k, 0, count - 1) for k in asked]
    except (BadInput, TypeError):
        keep = []
    if not 2 <= len(keep) == len(set(keep)):
        raise BadInput(f"classes = {classes!r} cannot be used; give {want}")
    return keep


def _take(pool: NDArray[np.intp], n: int | None, seed: int) -> NDArray[np.intp]:
    """Return n of the rows in pool, in file order: the first, or with seed ≠ 0 random ones."""
    have = len(pool)
    size = have if n is None else check_whole("n", n, 1, have, f"the training set holds {have}")
    if seed == 0:
        return pool[:size]
    return np.sort(np.random.default_rng(seed).choice(pool, size, replace=False))


def _features(x: Bytes, t: Bytes, features: str, top: int) -> tuple[Floats, Floats]:
    """Turn training images x and test images t, both (N, C, H, W), into float64 features."""
    flat_x, flat_t = x.reshape(len(x), -1), t.reshape(len(t), -1)
    if features in ("nodes", "tokens"):
        return flat_x.astype(float), flat_t.astype(float)
    if features == "pixels":
        return flat_x / top - 0.25, flat_t / top - 0.25
    if features.startswith("pca:"):
        return _pca(flat_x, flat_t, int(features[4:]))
    mean, std = (f(x, axis=(0, 2, 3), keepdims=True) for f in (np.mean, np.std))
    scale = np.where(std > 0, std, np.inf)
    u, v = (x - mean) / scale, (t - mean) / scale
    return (u, v) if features == "image" else (u.reshape(flat_x.shape), v.reshape(flat_t.shape))


def _pca(x: Bytes, t: Bytes, k: int) -> tuple[Floats, Floats]:
    """Project flat images x and t onto k principal components of x, scaled to variance 1 there."""
    mean = x.mean(axis=0)
    centred = x - mean
    # R of a QR has the same singular values and right vectors, and is small when rows are many.
    _, scale, loadings = np.linalg.svd(np.linalg.qr(centred, mode="r"), full_matrices=False)
    rank = int(np.sum(scale > 1e-9 * max(scale[0], 1)))
    if k > rank:
        why = f"{len(x)} training images of {x.shape[1]} pixels vary in {rank} directions only"
        raise BadInput(f"features = 'pca:{k}' is out of range: {why}; use K ≤ {rank} or a larger n")
    axes = loadings[:k]
    sign = np.sign(axes[np.arange(k), np.abs(axes).argmax(axis=1)])
    project = axes.T * (sign * np.sqrt(len(x)) / scale[:k])
    # + 0.0 turns −0 into 0
    return np.round(centred @ project, 3) + 0.0, np.round((t - mean) @ project, 3) + 0.0


def _noisy(y: Labels, fraction: float, count: int, seed: int) -> Labels:
    """Move round(fraction · N) labels to another class; a stream of its own, apart from _take's."""
    rng = np.random.default_rng((seed, 1))
    hit = rng.choice(len(y), round(fraction * len(y)), replace=False)
    y[hit] = (y[hit] + rng.integers(1, count, len(hit))) % count
    return y
