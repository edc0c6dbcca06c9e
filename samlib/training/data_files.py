"""Read and check the files of data sets. ``samlib.training.data`` is the front door.

Row i of a set is image i of its files. A folder has no order of its own, so its images are dealt in
turn: the first of each class, then the second of each, and so on.

``sha256`` is that of the whole set as read, before any subset: of the raw files one after the other
(train images, train labels, test images, test labels; for CIFAR the train batches, the test batch,
the names of the classes); of the ``.zip``; of what
``find train test -type f | LC_ALL=C sort | xargs sha256sum`` prints for a folder of images; for the
digits of their 1797 × 64 pixels and then their 1797 labels, one byte each; for modular addition and
the karate club likewise of x and labels, training before test.
"""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
from collections.abc import Callable
from functools import partial
from io import BytesIO
from itertools import groupby, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from joblib import Memory  # type: ignore[import-untyped]
from numpy.typing import NDArray

from samlib.errors import BadInput

Bytes = NDArray[np.uint8]
Labels = NDArray[np.int64]
PathLike = str | os.PathLike[str]
Readers = dict[str, Callable[[], bytes]]  # what reads each image, by its name

_KIND = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}  # in torchvision.datasets
_KIND |= {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}
NAMES = ("digits", *_KIND, "karate")
# md5 of the unpacked originals, in torchvision's order; it lists those of the .gz files only.
_MD5 = {
    "mnist": "6bbc9ace898e44ae57da46a324031adb a25bea736e30d166cdddb491f175f624"
    " 2646ac647ad5339dbf082846283269ea 27ae3e4e09519cfbb04c329615203637",
    "fashion-mnist": "f4a8712d7a061bf5bd6d2ca38dc4d50a 9018921c3c673c538a1fc5bad174d6f9"
    " 8181f5470baa50b63fa0f6fddb340f0a 15d484375f8d13e6eb1aabb0c3f46965",
}
# Where images lie, in a .zip perhaps in a folder of its own. Hidden files are no images.
_IMAGE = re.compile(r"([^/]+/)?(train|test)/[^/]+/[^/.][^/]*")


class Missing(BadInput):
    """The files of a data set are not there."""


class Corrupt(BadInput):
    """A file of a data set is not what it should be."""


class Raw(NamedTuple):
    """A whole set as read: y int64 (N,); x uint8 (N, C, H, W), contiguous: sums have one order."""

    x_train: Bytes
    y_train: Labels
    x_test: Bytes
    y_test: Labels
    class_names: tuple[str, ...]
    sha256: str
    top: int = 255  # the largest value a pixel can have
    form: str = "images"  # or tokens, nodes: numbers that are no pixels, (N, k, 1, 1)


def read(name: PathLike, root: PathLike | None = None, download: bool = False) -> tuple[str, Raw]:
    """Find, check and read the set of that name or path; return its title and content.

    Missing if a file is absent, Corrupt if it is not what it should be, BadInput if the name is
    unknown.
    """
    try:
        return _read(str(name), root, download)
    except OSError as error:
        remedy = "check that path and its rights"
        why = error.strerror or type(error).__name__
        raise Corrupt(f"data set {str(name)[:99]!r} cannot be read: {why}; {remedy}") from None


def _home(path: PathLike) -> Path:
    """The path with ~ expanded."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise BadInput(f"{str(path)!r} names no user's folder; write the whole path") from None


def _read(text: str, root: PathLike | None, download: bool) -> tuple[str, Raw]:
    home = _home(root or os.environ.get("SAMLIB_DATA") or "~/.cache/samlib")
    if text == "digits":
        return text, _digits()
    if text in _KIND:
        return text, _archive(text, home, download)
    if text == "karate":
        return text, _karate()
    if addition := re.fullmatch(r"modular-addition-(\d{1,9})", text):
        return text, _addition(int(addition[1]))
    for path in (_home(text).resolve(), (home / text).resolve()):
        if text and path.exists():
            if not (path.is_dir() or path.is_file()):
                raise BadInput(
                    f"{path} is neither a folder nor a file; use an image folder or .zip"
                )
            return path.stem if path.is_file() else path.name, _images(path)
    kind = Missing if os.sep in text or text.endswith(".zip") else BadInput
    choice = f"{', '.join(NAMES)}, modular-addition-P, or the path of an image folder or its .zip"
    raise kind(
        f"data set {text[:99]!r} is not known, nor a path here or under {home}; use {choice}"
    )


def _digits() -> Raw:
    from sklearn.datasets import load_digits

    source = load_digits()
    x, y = source.data.astype(np.uint8).reshape(-1, 1, 8, 8), source.target.astype(np.int64)
    sha256 = hashlib.sha256(x.tobytes() + y.astype(np.uint8).tobytes()).hexdigest()
    return Raw(x[:1437], y[:1437], x[1437:], y[1437:], tuple("0123456789"), sha256, top=16)


def _halves(x: Bytes, y: Labels, classes: tuple[str, ...], form: str) -> Raw:
    """Shuffle once and for all; the first half, rounded up, is for training."""
    order = np.random.default_rng(0).permutation(len(y))
    x, y, cut = np.ascontiguousarray(x[order, :, None, None]), y[order], (len(y) + 1) // 2
    sha256 = hashlib.sha256(x.tobytes() + y.astype(np.uint8).tobytes()).hexdigest()
    return Raw(x[:cut], y[:cut], x[cut:], y[cut:], classes, sha256, form=form)


def _karate() -> Raw:
    """Zachary's club (1977): member 0 is the instructor, "Mr. Hi", and member 33 the officer."""
    import networkx

    sides = networkx.karate_club_graph().nodes(data="club")
    y = np.array([int(side == "Officer") for _, side in sides])
    return _halves(np.eye(len(y), dtype=np.uint8), y, ("instructor", "officer"), "nodes")


def _addition(p: int) -> Raw:
    if not (2 <= p <= 251 and all(p % k for k in range(2, p))):
        raise BadInput(f"modular-addition-{p}: {p} is no prime from 2 to 251; use 23, for example")
    a, b = np.divmod(np.arange(p * p), p)
    x = np.stack([a, b], 1).astype(np.uint8)
    return _halves(x, (a + b) % p, tuple(map(str, range(p))), "tokens")


def _archive(name: str, home: Path, download: bool) -> Raw:
    """Read one of torchvision's sets from its original files, whose md5 is checked first."""
    from torchvision import datasets

    kind = getattr(datasets, _KIND[name])
    if name in _MD5:
        folder, names = home / _KIND[name] / "raw", (file[:-3] for file, _ in kind.resources)  # .gz
        md5s = dict(zip(names, _MD5[name].split(), strict=True))
    else:
        folder = home / kind.base_folder
        md5s = dict([*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])])
    command = f"`samlib data {name} --download`"
    if download and not all((folder / file).is_file() for file in md5s):
        try:
            kind(home, download=True)
        except (OSError, RuntimeError) as error:
            why = " ".join(str(error).split())
            raise Missing(f"{name}: download failed: {why}; try again, or fill {folder}") from error
    contents = []
    for file, md5 in md5s.items():
        path = folder / file
        if not path.is_file():
            raise Missing(f"{name}: {path} is missing; run {command}, or set SAMLIB_DATA")
        contents.append(path.read_bytes())
        if (got := hashlib.md5(contents[-1]).hexdigest()) != md5:
            found = f"expected md5 {md5}, found {got} ({len(contents[-1])} bytes)"
            raise Corrupt(f"{name}: {path} is corrupt: {found}; delete it and run {command}")
    sha256 = hashlib.sha256(b"".join(contents)).hexdigest()
    if name in _MD5:  # after a header of 4 + 4 · ndim bytes an IDX file holds the plain values
        x, t = (np.frombuffer(c, np.uint8, offset=16).reshape(-1, 1, 28, 28) for c in contents[::2])
        y, u = (np.frombuffer(c, np.uint8, offset=8).astype(np.int64) for c in contents[1::2])
        return Raw(x, y, t, u, tuple(c.split(" - ")[0] for c in kind.classes), sha256)
    halves = kind(home, train=True), kind(home, train=False)
    x, t = (np.ascontiguousarray(half.data.transpose(0, 3, 1, 2)) for half in halves)
    y, u = (np.array(half.targets, dtype=np.int64) for half in halves)
    return Raw(x, y, t, u, tuple(halves[0].classes), sha256)


def _images(path: Path) -> Raw:
    """Read a folder of images or a .zip of one; of a .zip nothing is unpacked onto the disc.

    Decoded images are kept in ~/.cache/samlib, so that the same sha256 is decoded once only, and
    compressed, so that a damaged copy is noticed (zlib sums it) and made again.
    """
    sha256, readers = _files(path)
    memory = Memory(Path("~/.cache/samlib").expanduser(), compress=True, verbose=0)
    return Raw(*memory.cache(_decode, ignore=["path", "readers"])(path, readers, sha256))


def _files(path: Path) -> tuple[str, Readers]:
    """Return the sha256 of a folder or .zip of images, and the readers of its images."""
    if path.is_dir():
        files = {f.relative_to(path).as_posix(): f for f in path.glob("*/*/*") if f.is_file()}
        readers = {name: files[name].read_bytes for name in sorted(files) if _IMAGE.fullmatch(name)}
        lines = (f"{hashlib.sha256(get()).hexdigest()}  {name}\n" for name, get in readers.items())
        return hashlib.sha256("".join(lines).encode()).hexdigest(), readers
    content = path.read_bytes()
    try:
        archive = zipfile.ZipFile(BytesIO(content))
    except zipfile.BadZipFile as error:
        found = f"expected a whole .zip, found: {error}; fetch or make it again"
        raise Corrupt(f"{path} is corrupt: {found}") from error
    names = list(filter(_IMAGE.fullmatch, sorted(archive.namelist())))
    if twice := [a for a, b in pairwise(names) if a == b]:
        raise Corrupt(f"{path} is corrupt: it holds {twice[0]!r} twice; make it again")
    return hashlib.sha256(content).hexdigest(), {f: partial(archive.read, f) for f in names}


def _decode(path: Path, readers: Readers, sha256: str) -> Raw:
    """Decode the images of the folder or .zip at path, all of one size."""
    from PIL import Image

    groups = [(k, list(names)) for k, names in groupby(readers, lambda f: f.split("/")[-3:-1])]
    found, classes = sorted(key for key, _ in groups), sorted({label for (_, label), _ in groups})
    if len(classes) < 2 or found != [[half, c] for half in ("test", "train") for c in classes]:
        want = "train/<class>/ and test/<class>/ with images, two or more classes, the same in both"
        raise Corrupt(f"{path} is no image folder: expected {want}; found {found}")
    # Test comes before train; then the first of each class, the second of each, and so on.
    rows = sorted((split, i, c, f) for (split, c), names in groups for i, f in enumerate(names))
    pixels: list[Bytes] = []
    for *_, name in rows:
        try:
            pixels.append(np.asarray(Image.open(BytesIO(readers[name]())).convert("RGB")))
            if pixels[-1].shape != pixels[0].shape:
                raise ValueError(f"shape {pixels[-1].shape}, not {pixels[0].shape}")
        except Exception as error:  # decoders raise all kinds
            why = f"expected an image like the others, found: {error}"
            raise Corrupt(f"{path}: {name} is corrupt: {why}; repair or remove it") from error
    x = np.ascontiguousarray(np.stack(pixels).transpose(0, 3, 1, 2))
    y = np.array([classes.index(label) for _, _, label, _ in rows])
    cut = sum(split == "test" for split, *_ in rows)
    return Raw(x[cut:], y[cut:], x[:cut], y[:cut], tuple(classes), sha256)
