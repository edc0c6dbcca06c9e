"""Read and check the files of data sets. ``samlib.data`` is the front door.

torch is imported only where torchvision reads or downloads: for CIFAR, for image folders, and for
``download=True``; MNIST's files are plain enough to be read, checked and hashed in one pass here.

Row i of a set is image i of its files. A folder has no order of its own, so its images are dealt in
turn: the first of each class, then the second of each, and so on.

``sha256`` is that of the whole set as read, before any subset: of the raw files one after the other
(train images, train labels, test images, test labels; for CIFAR the train batches, the test batch,
the names of the classes); of the ``.zip``; of what
``find train test -type f | LC_ALL=C sort | xargs sha256sum`` prints for a folder; for the digits of
their 1797 × 64 pixels and then their 1797 labels, one byte each.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from samlib.errors import BadInput

_CLASS_OF = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}  # in torchvision.datasets
_CLASS_OF |= {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}
_IDX = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
# md5 of the unpacked originals, in the order of _IDX; torchvision has those of the .gz files only.
_MD5 = {
    "mnist": "6bbc9ace898e44ae57da46a324031adb a25bea736e30d166cdddb491f175f624"
    " 2646ac647ad5339dbf082846283269ea 27ae3e4e09519cfbb04c329615203637",
    "fashion-mnist": "f4a8712d7a061bf5bd6d2ca38dc4d50a 9018921c3c673c538a1fc5bad174d6f9"
    " 8181f5470baa50b63fa0f6fddb340f0a 15d484375f8d13e6eb1aabb0c3f46965",
}
_CLASSES = {
    "mnist": "0,1,2,3,4,5,6,7,8,9",
    "fashion-mnist": "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot",
}


class Missing(BadInput):
    """The files of a data set are not there."""


class Corrupt(BadInput):
    """A file of a data set is not what it should be."""


class Raw(NamedTuple):
    """A whole set as read: x uint8 (N, C, H, W), y int64 (N,)."""

    x_train: NDArray[np.uint8]
    y_train: NDArray[np.int64]
    x_test: NDArray[np.uint8]
    y_test: NDArray[np.int64]
    class_names: tuple[str, ...]
    sha256: str
    top: int = 255  # the largest value a pixel can have


def known() -> list[str]:
    """Return the names of the sets that can be read by name."""
    return ["digits", *_CLASS_OF]


def read(
    name: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    download: bool = False,
) -> tuple[str, Raw]:
    """Find, check and read the set of that name or path; return its title and content.

    Raises
    ------
    Missing, Corrupt, BadInput
        If a file is absent, if a file is not what it should be, if the name is not known.
    """
    text = os.fspath(name) if isinstance(name, str | os.PathLike) else repr(name)
    home = Path(root or os.environ.get("SAMLIB_DATA") or "~/.cache/samlib").expanduser()
    if text == "digits":
        return text, _digits()
    if text in _CLASS_OF:
        reader = _mnist if text in _MD5 else _cifar
        return text, reader(text, home, download)
    places = [p for p in (Path(text).expanduser(), home / text) if text and p.exists()]
    if places:
        path = places[0].resolve()
        return path.stem if path.is_file() else path.name, _images(path, home)
    if os.sep in text or text.endswith(".zip"):
        hint = "give the path of an image folder or of a .zip of one"
        raise Missing(f"{text} is missing, here and under {home}; {hint}")
    choice = f"{', '.join(known())}, or the path of an image folder or of a .zip of one"
    raise BadInput(f"data set {text!r} is not known; use {choice}")


@lru_cache(maxsize=1)
def _digits() -> Raw:
    from sklearn.datasets import load_digits

    source = load_digits()
    x, y = source.data.astype(np.uint8).reshape(-1, 1, 8, 8), source.target.astype(np.int64)
    sha256 = hashlib.sha256(x.tobytes() + y.astype(np.uint8).tobytes()).hexdigest()
    return Raw(x[:1437], y[:1437], x[1437:], y[1437:], tuple("0123456789"), sha256, top=16)


def _sha256(files: Iterable[Path]) -> str:
    """Return the sha256 of the files' bytes one after the other."""
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                total.update(block)
    return total.hexdigest()


def _need(name: str, files: Sequence[Path], home: Path, download: bool) -> None:
    """Raise Missing where a file is absent, after torchvision fetched it if that is asked for."""
    if download and not all(file.is_file() for file in files):
        from torchvision import datasets

        try:
            getattr(datasets, _CLASS_OF[name])(home, download=True)
        except (OSError, RuntimeError) as error:
            why = " ".join(str(error).split())
            hint = f"check the network, or put the files of torchvision into {files[0].parent}"
            raise Missing(f"{name}: the download failed: {why}; {hint}") from error
    for file in files:
        if not file.is_file():
            hint = f"get it with `samlib data {name} --download`, or set SAMLIB_DATA to its root"
            raise Missing(f"{name}: {file} is missing; {hint}")


def _corrupt(name: str, file: Path, expected: str, found: str) -> Corrupt:
    hint = f"delete it and run `samlib data {name} --download`"
    return Corrupt(f"{name}: {file} is corrupt: expected {expected}, found {found}; {hint}")


def _mnist(name: str, home: Path, download: bool) -> Raw:
    """Read MNIST or Fashion-MNIST from IDX files: bytes 0 0 8 ndim, big-endian sizes, values."""
    files = [home / _CLASS_OF[name] / "raw" / f"{stem}-ubyte" for stem in _IDX]
    _need(name, files, home, download)
    total, arrays = hashlib.sha256(), []
    for file, md5 in zip(files, _MD5[name].split(), strict=True):
        data, ndim = file.read_bytes(), int(file.name[-7])
        total.update(data)
        magic, start = bytes((0, 0, 8, ndim)), 4 + 4 * ndim
        if data[:4] != magic or len(data) < start:
            found = f"{data[:start].hex(' ') or 'nothing'}"
            raise _corrupt(name, file, f"a {start}-byte header {magic.hex(' ')} …", found)
        shape = tuple(int.from_bytes(data[i : i + 4], "big") for i in range(4, start, 4))
        size = start + int(np.prod(shape))
        if len(data) != size:
            raise _corrupt(name, file, f"{size} bytes", f"{len(data)}")
        # Smaller sets in the same format are welcome; one of the original's size must be it.
        if shape[0] in (60_000, 10_000) and (got := hashlib.md5(data).hexdigest()) != md5:
            raise _corrupt(name, file, f"md5 {md5}", got)
        arrays.append(np.frombuffer(data, np.uint8, offset=start).reshape(shape))
    for images, labels, file in zip(arrays[::2], arrays[1::2], files[1::2], strict=True):
        largest = labels.max(initial=0)
        if len(images) != len(labels) or largest > 9:
            expected = f"{len(images)} labels from 0 to 9"
            raise _corrupt(name, file, expected, f"{len(labels)} up to {largest}")
    x, y, t, u = arrays
    classes = tuple(_CLASSES[name].split(","))
    parts = (x[:, None], y.astype(np.int64), t[:, None], u.astype(np.int64))
    return Raw(*parts, classes, total.hexdigest())


def _cifar(name: str, home: Path, download: bool) -> Raw:
    """Read CIFAR-10 or CIFAR-100 through torchvision, which checks md5 before it unpickles."""
    from torchvision import datasets

    kind = getattr(datasets, _CLASS_OF[name])
    listed = [*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])]
    files = [home / kind.base_folder / file for file, _ in listed]
    _need(name, files, home, download)
    try:
        train, test = kind(home, train=True), kind(home, train=False)
    except RuntimeError as error:
        for file, (_, md5) in zip(files, listed, strict=True):
            if (got := hashlib.md5(file.read_bytes()).hexdigest()) != md5:
                size = f"{got} ({file.stat().st_size} bytes)"
                raise _corrupt(name, file, f"md5 {md5}", size) from error
        raise
    x, t = (np.ascontiguousarray(part.data.transpose(0, 3, 1, 2)) for part in (train, test))
    y, u = (np.array(part.targets, dtype=np.int64) for part in (train, test))
    return Raw(x, y, t, u, tuple(train.classes), _sha256(files))


def _images(path: Path, home: Path) -> Raw:
    """Read a folder of images or a .zip of one; what was decoded once is kept under ``home``.

    The copy is one .npz named after the sha256 of the .zip, or of the folder's path and its files'
    names, sizes and times. A ``home`` that is marked read-only stays so: ~/.cache/samlib serves.
    """
    sealed = home.exists() and not (home.stat().st_mode & 0o222 and os.access(home, os.W_OK))
    cache = (Path("~/.cache/samlib").expanduser() if sealed else home) / "decoded-images"
    cache.mkdir(parents=True, exist_ok=True)
    is_zip = path.is_file()
    key = _sha256([path]) if is_zip else _manifest(path)
    kept = cache / f"{key[:32]}.npz"
    try:
        with np.load(kept) as copy:
            x, y, t, u = (copy[field] for field in Raw._fields[:4])
            return Raw(x, y, t, u, tuple(map(str, copy["class_names"])), str(copy["sha256"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        pass  # No copy yet, or one that cannot be read: it is made (again).
    # Unpacked files are used once and dropped; the copy gets its name only when it is complete.
    with tempfile.TemporaryDirectory(prefix="partial-", dir=cache) as scratch:
        folder = _unpack(path, Path(scratch) / "files") if is_zip else path
        raw = _decode(path, folder, key)
        partial = Path(scratch) / "copy.npz"
        np.savez(partial, **raw._asdict())
        os.replace(partial, kept)
    return raw


def _listing(folder: Path) -> list[Path]:
    """Return the files under train/ and test/, relative to folder, sorted by name."""
    walks = (step for split in ("train", "test") for step in os.walk(folder / split))
    files = (Path(place, file) for place, _, inside in walks for file in inside)
    return sorted((f.relative_to(folder) for f in files), key=Path.as_posix)


def _manifest(folder: Path) -> str:
    stats = ((file, (folder / file).stat()) for file in _listing(folder))
    lines = [f"{file} {s.st_size} {s.st_mtime_ns}" for file, s in stats]
    return hashlib.sha256("\n".join([str(folder), *lines]).encode()).hexdigest()


def _unpack(path: Path, into: Path) -> Path:
    """Unpack a .zip all of whose members stay inside; return the folder that holds train/."""
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                parts = PurePosixPath(member.filename.replace("\\", "/")).parts
                if ".." in parts or parts[:1] == ("/",) or stat.S_ISLNK(member.external_attr >> 16):
                    hint = "a link or leads outside; make the .zip of plain files"
                    raise Corrupt(f"{path} is refused: its member {member.filename!r} is {hint}")
            archive.extractall(into)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        found = f"expected a whole .zip, found: {error}; fetch or make it again"
        raise Corrupt(f"{path} is corrupt: {found}") from error
    nested = sorted(into.glob("*/train"))
    return into if (into / "train").is_dir() or not nested else nested[0].parent


def _decode(path: Path, folder: Path, key: str) -> Raw:
    """Decode all images of a folder, which is path itself or was unpacked from it (sha256 key)."""
    from torchvision.datasets import ImageFolder

    want = "train/<class>/ and test/<class>/ with images, two or more classes, the same in both"
    layout = f"{path} is no image folder: expected {want}; found"
    try:
        halves = [ImageFolder(folder / split) for split in ("train", "test")]
    except OSError as error:
        raise Corrupt(f"{layout}: {str(error).replace(f'{folder}{os.sep}', '')}") from error
    classes = halves[0].classes
    if classes != halves[1].classes or len(classes) < 2:
        raise Corrupt(f"{layout} {classes} and {halves[1].classes}")
    images = [_image(half, file, folder, path) for half in halves for file, _ in half.samples]
    for image, (file, _) in zip(images, halves[0].samples + halves[1].samples, strict=True):
        if image.shape != images[0].shape:
            shown = f"{path}: {Path(file).relative_to(folder)}"
            sizes = f"expected height and width {images[0].shape[:2]}, found {image.shape[:2]}"
            raise Corrupt(f"{shown} has another size: {sizes}; resize it")
    x, t = np.stack(images[: len(halves[0])]), np.stack(images[len(halves[0]) :])
    del images
    parts = []
    for pixels, half in ((x, halves[0]), (t, halves[1])):
        labels = np.array(half.targets, dtype=np.int64)
        rank = np.arange(len(labels)) - np.searchsorted(labels, labels)  # they come class by class
        deal = np.lexsort((labels, rank))
        parts.append((pixels.transpose(0, 3, 1, 2)[deal], labels[deal]))
    if folder == path:
        lines = (f"{_sha256([folder / file])}  {file.as_posix()}\n" for file in _listing(folder))
        key = hashlib.sha256("".join(lines).encode()).hexdigest()
    return Raw(*parts[0], *parts[1], tuple(classes), key)


def _image(half: Any, file: str, folder: Path, path: Path) -> NDArray[np.uint8]:
    try:
        return np.asarray(half.loader(file), dtype=np.uint8)
    except (OSError, SyntaxError, ValueError) as error:
        shown = f"{path}: {Path(file).relative_to(folder)}"
        found = f"expected an image, found: {str(error).replace(file, 'it')}; repair or remove it"
        raise Corrupt(f"{shown} is corrupt: {found}") from error
