"""Data sets: what they hold, what features mean, and what is said when something is wrong.

Nothing here touches the network: sockets are closed for the whole file. Archives are tiny ones,
written here in the original formats.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
import shutil
import socket
import stat
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_limits

from samlib.errors import BadInput
from samlib.training import data, data_files
from samlib.training.data_files import Corrupt, Missing

ROOT = os.environ.get("SAMLIB_DATA")  # read before the fixture below hides it
SOURCE = load_digits()
same, close = np.testing.assert_array_equal, np.testing.assert_allclose


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    """No network, no user's cache and no SAMLIB_DATA unless a test sets it."""

    def refuse(*args, **kwargs):
        raise OSError("no network\nin tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SAMLIB_DATA", raising=False)
    with threadpool_limits(1):  # threads that wait for each other are slow on a busy machine
        yield


def refused(kind, *parts, **arguments):
    """Assert that load refuses these arguments with one line that holds all parts; return it."""
    with pytest.raises(kind) as error:
        data.load_data(**arguments)
    text = str(error.value)
    for part in parts:
        assert part in text
    assert "\n" not in text
    return text


# ---- digits --------------------------------------------------------------------------------------


def test_digits_split_and_exact_pixels():
    assert data.names() == ["digits", "mnist", "fashion-mnist", "cifar10", "cifar100", "karate"]
    d = data.load_data("digits", features="pixels")
    assert (d.x_train.shape, d.x_test.shape) == ((1437, 64), (360, 64))
    assert d.x_train.dtype == d.x_test.dtype == np.float64
    assert d.y_train.dtype == d.y_test.dtype == np.int64
    # value/16 − 1/4 is exact: undoing it gives the integers back bit for bit
    same((np.vstack([d.x_train, d.x_test]) + 0.25) * 16, SOURCE.data)
    same(np.concatenate([d.y_train, d.y_test]), SOURCE.target)
    assert d.class_names == tuple("0123456789")
    assert d.num_classes == 10


def test_digits_sha256_is_of_the_bytes_as_documented():
    content = bytes(int(v) for v in SOURCE.data.ravel()) + bytes(int(v) for v in SOURCE.target)
    expected = hashlib.sha256(content).hexdigest()
    assert data.load_data("digits").sha256 == expected
    assert (
        data.load_data("digits", n=5, classes=(3, 8)).sha256 == expected
    )  # of the set, not the subset


def test_setting_p_is_the_first_hundred_threes_and_eights():
    rows = [i for i in range(1437) if SOURCE.target[i] in (3, 8)][:100]
    held_out = [i for i in range(1437, 1797) if SOURCE.target[i] in (3, 8)]
    for classes in ((3, 8), [8, 3]):  # relabelled in the order given
        d = data.load_data("digits", n=100, classes=classes, features="pixels")
        same(d.x_train, SOURCE.data[rows] / 16 - 0.25)
        same(d.x_test, SOURCE.data[held_out] / 16 - 0.25)
        same(d.y_train, [classes.index(SOURCE.target[i]) for i in rows])
        same(d.y_test, [classes.index(SOURCE.target[i]) for i in held_out])
        assert d.class_names == tuple(map(str, classes))
        assert d.num_classes == 2


@pytest.mark.slow
def test_digits_need_no_torch():
    load = "from samlib import load_data; load_data('digits')"
    code = f"import sys; {load}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_describe_is_json_and_dataset_is_frozen():
    d = data.load_data("digits", n=30, seed=4, label_noise=0.1, features="pca:5")
    expected = {"name": "digits", "n": 30, "n_test": 360, "num_features": 5, "num_classes": 10}
    expected |= {"features": "pca:5", "sha256": d.sha256, "label_noise": 0.1, "seed": 4}
    assert json.loads(json.dumps(d.describe())) == expected
    with pytest.raises(dataclasses.FrozenInstanceError):
        d.name = "other"


# ---- subsets, noise, features --------------------------------------------------------------------


def test_seeds_choose_subsets():
    whole = data.load_data("digits", features="pixels").x_train
    same(data.load_data("digits", n=40, features="pixels").x_train, whole[:40])
    once, again, other = (
        data.load_data("digits", n=40, seed=s, features="pixels") for s in (1, 1, 2)
    )
    same(once.x_train, again.x_train)
    assert not np.array_equal(once.x_train, other.x_train)
    rows = [int(np.flatnonzero((whole == row).all(axis=1))[0]) for row in once.x_train]
    assert rows == sorted(set(rows))  # different images, kept in file order
    same(data.load_data("digits", seed=7, features="pixels").x_train, whole)


def test_one_load_leaves_the_next_alone():
    first = data.load_data("digits", features="pixels")
    first.y_train[:], first.x_train[:] = -5, np.nan
    second = data.load_data("digits", features="pixels")
    same(second.y_train, SOURCE.target[:1437])
    assert np.isfinite(second.x_train).all()


@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.5, 0.99, 1])
def test_label_noise_moves_a_fraction_to_other_classes(fraction):
    clean = data.load_data("digits", n=1000)
    noisy, again = (data.load_data("digits", n=1000, label_noise=fraction) for _ in range(2))
    assert (clean.y_train != noisy.y_train).sum() == round(1000 * fraction)
    same(noisy.y_train, again.y_train)
    same(noisy.y_test, clean.y_test)
    same(noisy.x_train, clean.x_train)
    assert set(np.unique(noisy.y_train)) <= set(range(10))


def test_label_noise_is_seeded_and_uniform_over_the_other_classes():
    clean, shifts = SOURCE.target[:1437], np.zeros(10)
    noisy = [data.load_data("digits", seed=seed, label_noise=0.9).y_train for seed in range(1, 9)]
    assert not np.array_equal(noisy[0], noisy[1])
    for y in noisy:
        shifts += np.bincount((y - clean) % 10, minlength=10)
    expected = shifts[1:].sum() / 9
    chi2 = ((shifts[1:] - expected) ** 2 / expected).sum()
    assert chi2 < 26.1  # the 99.9 % point for 8 degrees of freedom; the draw is seeded


def test_standard_has_the_moments_of_all_training_pixels_together():
    d = data.load_data("digits", n=200)
    values = [int(v) for v in SOURCE.data[:200].ravel()]
    mean = sum(values) / len(values)
    deviation = (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5
    close(d.x_train, (SOURCE.data[:200] - mean) / deviation, atol=1e-12)
    close(d.x_test, (SOURCE.data[1437:] - mean) / deviation, atol=1e-12)
    image = data.load_data("digits", n=200, features="image")
    assert image.x_train.shape == (200, 1, 8, 8)
    same(image.x_train.reshape(200, 64), d.x_train)
    assert image.describe()["num_features"] == 64


@pytest.mark.parametrize(("n", "k"), [(60, 4), (30, 8), (500, 20), (1437, 10)])
def test_pca_against_the_covariance(n, k):
    train, test = SOURCE.data[:n], SOURCE.data[1437:]
    mean = train.mean(axis=0)
    variance, vectors = np.linalg.eigh((train - mean).T @ (train - mean) / n)
    d = data.load_data("digits", n=n, features=f"pca:{k}")
    assert d.x_train.shape == (n, k)
    for j in range(k):
        v = vectors[:, -1 - j] * np.sign(vectors[np.abs(vectors[:, -1 - j]).argmax(), -1 - j])
        scale = np.sqrt(variance[-1 - j])
        # half a unit of the third decimal, and a hair for the two ways to compute it
        close(d.x_train[:, j], (train - mean) @ v / scale, atol=5.001e-4)
        close(d.x_test[:, j], (test - mean) @ v / scale, atol=5.001e-4)
    close((d.x_train**2).mean(axis=0), 1, atol=2e-3)
    for part in (d.x_train, d.x_test):
        same(part, np.round(part, 3))
        assert not np.signbit(part[part == 0]).any()


# ---- MNIST, Fashion-MNIST and CIFAR --------------------------------------------------------------

# the files that sha256 covers, in their order
IDX = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]
ORDER = {"cifar10": BATCHES, "cifar100": ["train", "test", "meta"]}
ORDER |= {key: [f"{part}-ubyte" for part in IDX] for key in ("mnist", "fashion-mnist")}
FOLDER = {"mnist": "MNIST/raw", "fashion-mnist": "FashionMNIST/raw"}
FOLDER |= {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
SETS = list(FOLDER)


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """Return what writes a tiny set in its original format: 40 images and 8, with their labels.

    The md5 sums of the originals are replaced by those of the tiny files; the check stays on.
    """
    from torchvision import datasets

    def write(name, root=tmp_path):
        rng, kind = np.random.default_rng(5), getattr(datasets, data_files._KIND[name])
        count, contents = 100 if name == "cifar100" else 10, []
        side = (1, 28, 28) if "mnist" in name else (3, 32, 32)
        x = rng.integers(0, 256, (48, *side)).astype(np.uint8)
        y = rng.integers(0, count, 48)
        if "mnist" in name:
            for part in (slice(40), slice(40, 48)):
                images, labels = x[part].tobytes(), bytes(y[part].tolist())
                contents.append(struct.pack(">4I", 0x803, len(labels), 28, 28) + images)
                contents.append(struct.pack(">2I", 0x801, len(labels)) + labels)
        else:
            key, batches = "fine_labels" if count == 100 else "labels", len(ORDER[name]) - 2
            for rows in [*np.split(np.arange(40), batches), np.arange(40, 48)]:
                batch = {"data": x[rows].reshape(len(rows), -1), key: y[rows].tolist()}
                contents.append(pickle.dumps(batch, protocol=2))
            labels = {kind.meta["key"]: [f"class {k}" for k in range(count)]}
            contents.append(pickle.dumps(labels, protocol=2))
        base, sums = root / FOLDER[name], {}
        base.mkdir(parents=True)
        for file, content in zip(ORDER[name], contents, strict=True):
            (base / file).write_bytes(content)
            sums[file] = hashlib.md5(content).hexdigest()
        if "mnist" in name:
            monkeypatch.setitem(data_files._MD5, name, " ".join(sums.values()))
        else:
            *listed, (meta, md5) = sums.items()
            monkeypatch.setattr(kind, "train_list", listed[:-1])
            monkeypatch.setattr(kind, "test_list", listed[-1:])
            monkeypatch.setattr(kind, "meta", {**kind.meta, "filename": meta, "md5": md5})
        return base, x, y

    return write


@pytest.mark.parametrize("name", SETS)
def test_tiny_archives(tmp_path, archive, name):
    base, x, y = archive(name)
    d = data.load_data(name, tmp_path, features="pixels")
    same(d.x_train, x[:40].reshape(40, -1) / 255 - 0.25)  # channel, row, column
    same(d.x_test, x[40:].reshape(8, -1) / 255 - 0.25)
    same(np.concatenate([d.y_train, d.y_test]), y)
    assert d.y_train.dtype == d.y_test.dtype == np.int64
    assert d.num_classes == len(d.class_names) == (100 if name == "cifar100" else 10)
    expected = {"mnist": "3", "fashion-mnist": "Dress"}.get(name, "class 3")
    assert d.class_names[3] == expected
    content = b"".join((base / file).read_bytes() for file in ORDER[name])
    assert d.sha256 == hashlib.sha256(content).hexdigest()
    image, flat = (data.load_data(name, tmp_path, n=12, features=f) for f in ("image", "standard"))
    for c in range(x.shape[1]):
        channel = x[:12, c].astype(float)
        mean, std = channel.mean(), channel.std()
        close(image.x_train[:, c], (channel - mean) / std, atol=1e-12)
        close(image.x_test[:, c], (x[40:, c] - mean) / std, atol=1e-12)
    same(flat.x_train, image.x_train.reshape(12, -1))
    same(flat.x_test, image.x_test.reshape(8, -1))


def test_root_comes_from_argument_then_environment_then_home(tmp_path, archive, monkeypatch):
    archive("mnist", tmp_path / "env")
    processed = tmp_path / "env" / "MNIST" / "processed"  # where an old torchvision put its copy
    processed.mkdir()
    for file in ("training.pt", "test.pt"):
        (processed / file).write_bytes(b"not a tensor, and not to be read")
    refused(Missing, str(tmp_path / "home" / ".cache" / "samlib"), name="mnist")
    monkeypatch.setenv("SAMLIB_DATA", str(tmp_path / "env"))
    assert len(data.load_data("mnist").x_train) == 40
    refused(Missing, "elsewhere", name="mnist", root=tmp_path / "elsewhere")


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize(
    "damage",
    [lambda b: b[:-7], lambda b: b + b"\0", lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b""],
    ids=["shorter", "longer", "flipped", "empty"],
)
def test_a_damaged_file_is_named(tmp_path, archive, name, damage):
    base, _, _ = archive(name)
    for file in (ORDER[name][0], ORDER[name][-1]):
        good = (base / file).read_bytes()
        bad = damage(good)
        (base / file).write_bytes(bad)
        expected, found = (hashlib.md5(b).hexdigest() for b in (good, bad))
        says = f"expected md5 {expected}, found {found} ({len(bad)} bytes)"
        remedy = f"delete it and run `samlib data {name} --download`"
        refused(Corrupt, str(base / file), says, remedy, name=name, root=tmp_path)
        (base / file).write_bytes(good)


def test_a_pickle_that_is_not_the_original_is_never_opened(tmp_path, archive):
    base, _, _ = archive("cifar10")
    trap = tmp_path / "sprung"
    (base / "data_batch_2").write_bytes(f"cos\nmkdir\n(V{trap}\ntR.".encode())
    refused(Corrupt, "data_batch_2", name="cifar10", root=tmp_path)
    assert not trap.exists()


@pytest.mark.parametrize("name", SETS)
def test_nothing_is_downloaded_unless_asked(tmp_path, archive, monkeypatch, name):
    from torchvision import datasets

    base, _, _ = archive(name)
    file, kind, asked = base / ORDER[name][-1], getattr(datasets, data_files._KIND[name]), []
    content = file.read_bytes()
    monkeypatch.setattr(kind, "download", lambda self: asked.append(self.root))
    data.load_data(name, tmp_path, download=True)  # all is there
    file.unlink()
    refused(Missing, str(file), f"`samlib data {name} --download`", name=name, root=tmp_path)
    assert asked == []
    refused(Missing, "download failed", name=name, root=tmp_path, download=True)
    assert asked == [tmp_path]
    monkeypatch.setattr(kind, "download", lambda self: file.write_bytes(content))
    assert len(data.load_data(name, tmp_path, download=True).x_train) == 40


def test_offline_download_is_one_clear_line(tmp_path):
    says = ("download failed", "no network in tests", "try again, or fill", str(tmp_path))
    refused(Missing, *says, name="mnist", root=tmp_path, download=True)


@pytest.mark.slow
@pytest.mark.skipif(not ROOT, reason="SAMLIB_DATA is not set: the real MNIST is not at hand")
def test_the_real_mnist():
    if not (Path(ROOT) / "MNIST").is_dir():
        pytest.skip("SAMLIB_DATA holds no MNIST folder")
    _, raw = data_files.read("mnist", ROOT)
    assert (raw.x_train.shape, raw.x_test.shape) == ((60_000, 1, 28, 28), (10_000, 1, 28, 28))
    assert list(raw.y_train[:10]) == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert round(float(raw.x_train.mean()) / 255, 4) == 0.1307
    counts = np.bincount(raw.x_train.ravel(), minlength=256)
    second = float(counts @ np.arange(256.0) ** 2 / counts.sum())
    assert round((second - float(raw.x_train.mean()) ** 2) ** 0.5 / 255, 4) == 0.3081


# ---- image folders -------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """A folder of 3 images 4 × 5 for each of 2 classes in each half, and a hidden file."""
    rng, root = np.random.default_rng(8), tmp_path / "insects"
    for split in ("train", "test"):
        for k, name in enumerate(("ant", "bee")):
            place = root / split / name
            place.mkdir(parents=True)
            (place / ".hidden").write_text("no image")
            for i in range(3):
                pixels = rng.integers(0, 256, (4, 5, 3)).astype(np.uint8)
                pixels[0, 0] = (k, i, split == "test")  # so that a test can tell them apart
                Image.fromarray(pixels).save(place / f"{i}.png")
    return root


def zip_of(folder: Path, prefix: str = "") -> Path:
    target = folder.parent / "set.zip"
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr(f"__MACOSX/{prefix}train/ant/._0.png", "no image")
        for file in sorted(folder.rglob("*")):
            archive.write(file, prefix + file.relative_to(folder).as_posix())
    return target


def test_folder_images_are_dealt_in_turn(folder):
    d = data.load_data(folder, features="pixels")
    assert d.name == "insects"
    assert d.class_names == ("ant", "bee")
    assert d.y_train.dtype == np.int64
    for x, y, half in ((d.x_train, d.y_train, 0), (d.x_test, d.y_test, 1)):
        same(y, [0, 1, 0, 1, 0, 1])
        corner = np.round((x.reshape(6, 3, 4, 5)[:, :, 0, 0] + 0.25) * 255)
        same(corner, [[k, i, half] for i in range(3) for k in range(2)])


def test_a_channel_constant_in_training_is_zero_even_where_the_test_set_varies(folder):
    for i, file in enumerate(sorted(folder.rglob("*.png"))):
        pixels = np.array(Image.open(file))
        pixels[..., 2] = 7 if "train" in file.parts else 10 * i
        Image.fromarray(pixels).save(file)
    d = data.load_data(folder, features="image")
    for x in (d.x_train, d.x_test):
        assert not x[:, 2].any()
    close(d.x_train[:, :2].mean(axis=(0, 2, 3)), 0, atol=1e-12)
    close(d.x_train[:, :2].var(axis=(0, 2, 3)), 1, atol=1e-12)


def test_folder_sha256_is_what_sha256sum_prints(folder):
    lines = ""
    for file in sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.png")):
        lines += f"{hashlib.sha256((folder / file).read_bytes()).hexdigest()}  {file}\n"
    expected = hashlib.sha256(lines.encode()).hexdigest()
    for _ in range(2):  # decoded, then from the copy
        assert data.load_data(folder).sha256 == expected


@pytest.mark.parametrize("prefix", ["", "insects/"])
def test_zip_holds_the_same_images_as_its_folder(folder, prefix):
    archive = zip_of(folder, prefix)
    a, b = data.load_data(folder), data.load_data("set.zip", folder.parent)  # relative to the root
    for field in ("x_train", "y_train", "x_test", "y_test", "class_names"):
        same(getattr(a, field), getattr(b, field))
    assert b.name == "set"
    assert b.sha256 == hashlib.sha256(archive.read_bytes()).hexdigest()


def kept_files() -> list[Path]:
    return [f for f in Path("~/.cache/samlib").expanduser().rglob("*.pkl") if f.is_file()]


def test_decoded_once_and_again_where_the_copy_is_spoilt(folder, monkeypatch):
    archive = zip_of(folder)
    first = data.load_data(archive)
    (kept,) = kept_files()
    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", None)  # a second decoding would fail
        second = data.load_data(archive)
    for field in ("x_train", "y_train", "x_test", "y_test", "class_names", "sha256"):
        same(getattr(first, field), getattr(second, field))
    good = kept.read_bytes()
    flips = [
        good[:i] + bytes([good[i] ^ 4]) + good[i + 1 :] for i in (len(good) // 2, len(good) - 9)
    ]
    for bad in (*flips, good[: len(good) // 2], b"", b"junk"):
        kept.write_bytes(bad)
        same(data.load_data(archive).x_train, first.x_train)
        assert kept.read_bytes() != bad


def test_a_changed_folder_is_read_again(folder):
    file, other = folder / "train/ant/0.png", folder / "train/ant/1.png"
    before, times = data.load_data(folder), file.stat()
    content = bytearray(other.read_bytes())
    file.write_bytes(bytes(content))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # the content counts, not the time
    after = data.load_data(folder)
    assert after.sha256 != before.sha256
    same(after.x_train[0], after.x_train[2])
    shutil.copy(file, folder / "train/ant/9.png")
    assert len(data.load_data(folder).x_train) == 7


def test_an_interrupted_decoding_leaves_nothing_to_be_mistaken(folder, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", stop)
        with pytest.raises(KeyboardInterrupt):
            data.load_data(zip_of(folder))
    assert kept_files() == []
    assert len(data.load_data(folder.parent / "set.zip").x_train) == 6


def test_nothing_of_a_zip_is_unpacked_and_no_link_followed(folder):
    archive, root, link = zip_of(folder), folder.parent, zipfile.ZipInfo("train/ant/link.png")
    with zipfile.ZipFile(archive, "a") as more:
        for member in ("../evil.png", "train/../../evil.png", "/evil.png", "..\\evil"):
            more.writestr(member, b"x")
    before = {f for f in root.rglob("*") if f.is_file()}
    assert len(data.load_data(archive, root / "root").x_train) == 6
    new = {f for f in root.rglob("*") if f.is_file()} - before
    assert new
    assert all(root / "home/.cache/samlib" in f.parents for f in new)
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(archive, "a") as more:
        more.writestr(link, str(folder / "train/ant/0.png"))
    refused(Corrupt, "train/ant/link.png is corrupt: expected an image", name=archive)


def test_damaged_zips(folder):
    archive = zip_of(folder)
    good = archive.read_bytes()
    flipped = bytearray(good)
    flipped[good.index(b"IDAT") + 9] ^= 0xFF  # inside an image: its checksum no longer holds
    for bad in (good[:-300], b"PK", b""):
        archive.write_bytes(bad)
        refused(Corrupt, str(archive), "whole .zip", "fetch or make it again", name=archive)
    archive.write_bytes(bytes(flipped))
    refused(Corrupt, str(archive), "0.png is corrupt", "repair or remove it", name=archive)


def test_unusable_images_are_named(folder):
    file = folder / "test/bee/1.png"
    half = file.read_bytes()[:60]
    Image.new("RGB", (7, 6)).save(file)
    other = "found: shape (6, 7, 3), not (4, 5, 3)"
    for content, says in (
        (file.read_bytes(), other),
        (half, "found: "),
        (b"no", "cannot identify"),
    ):
        file.write_bytes(content)
        start = "insects: test/bee/1.png is corrupt: expected an image"
        refused(Corrupt, start, says, "repair or remove it", name=folder)


@pytest.mark.parametrize("gone", ["test", "train", "train/ant", "test/bee", "*/bee", "*/*"])
def test_folder_without_its_parts(folder, gone):
    for place in folder.glob(gone):
        shutil.rmtree(place)
    says = "is no image folder: expected train/<class>/ and test/<class>/ with images, two or more"
    refused(Corrupt, says, name=folder)
    refused(Corrupt, says, name=zip_of(folder))


def test_a_zip_of_two_sets_is_refused(folder):
    shutil.copytree(folder / "train", folder / "old" / "train")
    shutil.rmtree(folder / "test")
    refused(Corrupt, "is no image folder", name=zip_of(folder))


# ---- verify --------------------------------------------------------------------------------------


def test_verify(tmp_path, archive):
    def told(name, status, sha256=None):
        row = data.verify(name, tmp_path)
        reason = row.pop("reason")
        assert row == {"name": name, "status": status, "sha256": sha256}
        return reason

    assert told("digits", "present", data.load_data("digits").sha256) == ""
    assert "--download" in told("mnist", "absent")
    base, _, _ = archive("mnist")
    assert told("mnist", "present", data.load_data("mnist", tmp_path).sha256) == ""
    with (base / "train-images-idx3-ubyte").open("ab") as file:
        file.write(b"x")
    assert "train-images-idx3-ubyte is corrupt" in told("mnist", "corrupt")
    assert "nor a path" in told("nowhere.zip", "absent")
    with pytest.raises(BadInput, match="not known"):
        data.verify("mnits")


# ---- what is said of unusable arguments ----------------------------------------------------------


@pytest.mark.parametrize("name", ["mnits", "", None, 7, "nowhere/set", "nowhere.zip"])
def test_unknown_names_and_missing_paths(name):
    kind = Missing if "nowhere" in str(name) else BadInput
    said = refused(kind, ", ".join(data.names()), "image folder", "or under", name=name)
    assert said.startswith(f"data set {str(name)!r} is not known, nor a path here")


def test_n_counts_after_classes():
    available = int(np.isin(SOURCE.target[:1437], (3, 8)).sum())
    assert len(data.load_data("digits", n=available, classes=(3, 8)).x_train) == available
    says = f"from 1 to {available}; the training set holds {available}"
    refused(BadInput, says, name="digits", n=available + 1, classes=(3, 8))


PLURAL = "two or more different whole numbers from 0 to 9, such as (0, 1)"
FEATURES = "use standard, pixels, image or pca:K"
REFUSED = {
    "n": ([0, -3, 1438, 2.0, "10", True, float("nan")], "whole number from 1 to 1437"),
    "classes": ([(3,), (), (3, 3), (3, 10), (-1, 3), (0.0, 1.0)], PLURAL),
    "classes ": (["38", 3, (True, False), [[0], [1]]], PLURAL),
    "features": (["raw", "pca", "pca:", "pca:0", "pca:-1", "pca:2.5", "", None], FEATURES),
    "label_noise": ([-0.1, 1.5, float("nan"), float("inf"), "a", None], "number in [0, 1]"),
    "seed": ([-1, 1.0, None, "0", True], "is not a whole number ≥ 0"),
}


@pytest.mark.parametrize(
    ("argument", "value", "says"),
    [(key.strip(), value, says) for key, (values, says) in REFUSED.items() for value in values],
)
def test_unusable_arguments(argument, value, says):
    refused(BadInput, f"{argument} = {value!r}", says, name="digits", **{argument: value})


@pytest.mark.parametrize(("n", "k", "most"), [(10, 10, 9), (10, 11, 9), (1000, 65, 61), (1, 1, 0)])
def test_pca_of_more_components_than_there_are(n, k, most):
    assert np.linalg.matrix_rank(SOURCE.data[:n] - SOURCE.data[:n].mean(axis=0)) == most
    says = (f"'pca:{k}' is out of range", f"use K ≤ {most} or a larger n")
    refused(BadInput, *says, name="digits", n=n, features=f"pca:{k}")
