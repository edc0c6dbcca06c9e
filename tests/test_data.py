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
import re
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
from sklearn.datasets import load_digits

from samlib import data, data_files
from samlib.data_files import Corrupt, Missing
from samlib.errors import BadInput

ROOT = os.environ.get("SAMLIB_DATA")  # read before the fixture below hides it


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    """No network, no user's cache and no SAMLIB_DATA unless a test sets it."""

    def refuse(*args, **kwargs):
        raise OSError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SAMLIB_DATA", raising=False)
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(proxy, raising=False)


# ---- digits --------------------------------------------------------------------------------------


def test_names():
    assert data.names() == ["digits", "mnist", "fashion-mnist", "cifar10", "cifar100"]


def test_digits_split_and_exact_pixels():
    source = load_digits()
    d = data.load("digits", features="pixels")
    assert (d.x_train.shape, d.x_test.shape) == ((1437, 64), (360, 64))
    assert d.x_train.dtype == d.x_test.dtype == np.float64
    assert d.y_train.dtype == d.y_test.dtype == np.int64
    # value/16 − 1/4 is exact: undoing it gives the integers back bit for bit
    np.testing.assert_array_equal((np.vstack([d.x_train, d.x_test]) + 0.25) * 16, source.data)
    np.testing.assert_array_equal(np.concatenate([d.y_train, d.y_test]), source.target)
    assert d.class_names == tuple("0123456789")
    assert d.num_classes == 10


def test_digits_sha256_is_of_the_bytes_as_documented():
    source = load_digits()
    content = bytes(int(v) for v in source.data.ravel()) + bytes(int(v) for v in source.target)
    expected = hashlib.sha256(content).hexdigest()
    assert data.load("digits").sha256 == expected
    assert data.load("digits", n=5, classes=(3, 8)).sha256 == expected  # of the set, not the subset


def test_setting_p_is_the_first_hundred_threes_and_eights():
    source = load_digits()
    rows = [i for i in range(1437) if source.target[i] in (3, 8)][:100]
    d = data.load("digits", n=100, classes=(3, 8), features="pixels")
    np.testing.assert_array_equal(d.x_train, source.data[rows] / 16 - 0.25)
    np.testing.assert_array_equal(d.y_train, [0 if source.target[i] == 3 else 1 for i in rows])
    held_out = [i for i in range(1437, 1797) if source.target[i] in (3, 8)]
    np.testing.assert_array_equal(d.x_test, source.data[held_out] / 16 - 0.25)
    assert d.num_classes == 2
    assert d.class_names == ("3", "8")


def test_classes_are_relabelled_in_the_order_given():
    a = data.load("digits", n=50, classes=(3, 8))
    b = data.load("digits", n=50, classes=[8, 3])
    np.testing.assert_array_equal(a.x_train, b.x_train)
    np.testing.assert_array_equal(a.y_train, 1 - b.y_train)
    assert b.class_names == ("8", "3")


def test_digits_need_no_torch():
    code = "import sys; from samlib import data; data.load('digits'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_describe_is_json_and_dataset_is_frozen():
    d = data.load("digits", n=30, seed=4, label_noise=0.1, features="pca:5")
    told = json.loads(json.dumps(d.describe()))
    assert told == {
        "name": "digits",
        "n": 30,
        "n_test": 360,
        "num_features": 5,
        "num_classes": 10,
        "features": "pca:5",
        "sha256": d.sha256,
        "label_noise": 0.1,
        "seed": 4,
    }
    with pytest.raises(dataclasses.FrozenInstanceError):
        d.name = "other"


# ---- subsets, noise, features --------------------------------------------------------------------


def test_seeds_choose_subsets():
    whole = data.load("digits", features="pixels").x_train
    np.testing.assert_array_equal(data.load("digits", n=40, features="pixels").x_train, whole[:40])
    once, again, other = (data.load("digits", n=40, seed=s, features="pixels") for s in (1, 1, 2))
    np.testing.assert_array_equal(once.x_train, again.x_train)
    assert not np.array_equal(once.x_train, other.x_train)
    rows = [int(np.flatnonzero((whole == row).all(axis=1))[0]) for row in once.x_train]
    assert rows == sorted(set(rows))  # different images, kept in file order
    np.testing.assert_array_equal(data.load("digits", seed=7, features="pixels").x_train, whole)


def test_one_load_leaves_the_next_alone():
    first = data.load("digits", features="pixels")
    kept = first.y_train.copy()
    first.y_train[:] = -5
    first.x_train[:] = np.nan
    second = data.load("digits", features="pixels")
    np.testing.assert_array_equal(second.y_train, kept)
    assert np.isfinite(second.x_train).all()


@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.5, 0.99])
def test_label_noise_moves_a_fraction_to_other_classes(fraction):
    clean = data.load("digits", n=1000)
    noisy = data.load("digits", n=1000, label_noise=fraction)
    again = data.load("digits", n=1000, label_noise=fraction)
    assert (clean.y_train != noisy.y_train).sum() == round(1000 * fraction)
    np.testing.assert_array_equal(noisy.y_train, again.y_train)
    np.testing.assert_array_equal(noisy.y_test, clean.y_test)
    np.testing.assert_array_equal(noisy.x_train, clean.x_train)
    assert set(np.unique(noisy.y_train)) <= set(range(10))


def test_label_noise_is_uniform_over_the_other_classes():
    shifts = np.zeros(10)
    for seed in range(1, 9):
        clean = data.load("digits", seed=seed)
        noisy = data.load("digits", seed=seed, label_noise=0.9)
        shifts += np.bincount((noisy.y_train - clean.y_train) % 10, minlength=10)
    expected = shifts[1:].sum() / 9
    chi2 = ((shifts[1:] - expected) ** 2 / expected).sum()
    assert chi2 < 26.1  # the 99.9 % point for 8 degrees of freedom; the draw is seeded


def test_noise_differs_between_seeds_on_the_same_images():
    one, two = (data.load("digits", seed=s, label_noise=0.3).y_train for s in (1, 2))
    assert not np.array_equal(one, two)


def test_standard_is_by_pixel_with_the_training_subsets_moments():
    source = load_digits()
    train, test = source.data[:200], source.data[1437:]
    d = data.load("digits", n=200)
    for j in range(64):
        column = train[:, j]
        mean, std = sum(column) / 200, np.sqrt(sum((column - sum(column) / 200) ** 2) / 200)
        if std == 0:
            assert not d.x_train[:, j].any()
            assert not d.x_test[:, j].any()
        else:
            np.testing.assert_allclose(d.x_train[:, j], (column - mean) / std, atol=1e-12)
            np.testing.assert_allclose(d.x_test[:, j], (test[:, j] - mean) / std, atol=1e-12)
    assert (train.std(axis=0) == 0).any()  # the constant case did occur


def test_a_pixel_constant_in_training_is_zero_even_where_the_test_set_varies():
    source = load_digits()
    d = data.load("digits", n=2)
    constant = np.flatnonzero(source.data[:2].std(axis=0) == 0)
    assert source.data[1437:, constant].std(axis=0).max() > 0
    assert not d.x_test[:, constant].any()


def test_image_is_by_channel():
    source = load_digits()
    d = data.load("digits", n=100, features="image")
    train = source.data[:100]
    assert d.x_train.shape == (100, 1, 8, 8)
    expected = (train - train.mean()) / train.std()
    np.testing.assert_allclose(d.x_train.reshape(100, 64), expected, atol=1e-12)
    assert d.describe()["num_features"] == 64


@pytest.mark.parametrize(("n", "k"), [(60, 4), (30, 8), (500, 20), (1437, 10)])
def test_pca_against_the_covariance(n, k):
    source = load_digits()
    train, test = source.data[:n], source.data[1437:]
    mean = train.mean(axis=0)
    covariance = (train - mean).T @ (train - mean) / n
    variance, vectors = np.linalg.eigh(covariance)
    d = data.load("digits", n=n, features=f"pca:{k}")
    assert d.x_train.shape == (n, k)
    for j in range(k):
        v = vectors[:, -1 - j] * np.sign(vectors[np.abs(vectors[:, -1 - j]).argmax(), -1 - j])
        scale = np.sqrt(variance[-1 - j])
        # half a unit of the third decimal, and a hair for the two ways to compute it
        np.testing.assert_allclose(d.x_train[:, j], (train - mean) @ v / scale, atol=5.001e-4)
        np.testing.assert_allclose(d.x_test[:, j], (test - mean) @ v / scale, atol=5.001e-4)
    np.testing.assert_allclose((d.x_train**2).mean(axis=0), 1, atol=2e-3)
    for part in (d.x_train, d.x_test):
        np.testing.assert_array_equal(part, np.round(part, 3))
        assert not np.signbit(part[part == 0]).any()


# ---- MNIST and Fashion-MNIST ---------------------------------------------------------------------

FOLDER = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write uint8 values in IDX format: 0 0 8 ndim, big-endian sizes, values."""
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def tiny_mnist(root: Path, name: str = "mnist") -> tuple[Path, list[np.ndarray]]:
    rng = np.random.default_rng(5)
    arrays = []
    for count in (30, 20):
        arrays += [rng.integers(0, 256, (count, 28, 28)), np.arange(count) % 10]
    raw = root / FOLDER[name] / "raw"
    raw.mkdir(parents=True)
    for stem, array in zip(data_files._IDX, arrays, strict=True):
        write_idx(raw / f"{stem}-ubyte", array)
    return raw, arrays


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_tiny_idx_archives(tmp_path, name):
    raw, (x, y, t, u) = tiny_mnist(tmp_path, name)
    d = data.load(name, tmp_path, features="pixels")
    np.testing.assert_array_equal(d.x_train, x.reshape(30, 784) / 255 - 0.25)
    np.testing.assert_array_equal(d.x_test, t.reshape(20, 784) / 255 - 0.25)
    np.testing.assert_array_equal(d.y_train, y)
    np.testing.assert_array_equal(d.y_test, u)
    parts = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    content = b"".join((raw / f"{part}-ubyte").read_bytes() for part in parts)
    assert d.sha256 == hashlib.sha256(content).hexdigest()


def test_idx_is_read_as_torchvision_reads_it(tmp_path):
    from torchvision import datasets

    tiny_mnist(tmp_path, "fashion-mnist")
    d = data.load("fashion-mnist", tmp_path, features="pixels")
    theirs = datasets.FashionMNIST(tmp_path, train=True)
    ours = np.round((d.x_train + 0.25) * 255).reshape(-1, 28, 28)
    np.testing.assert_array_equal(ours, theirs.data.numpy())
    np.testing.assert_array_equal(d.y_train, theirs.targets.numpy())
    assert list(d.class_names) == theirs.classes


def test_large_sets_are_standardised_as_a_whole(tmp_path):
    _, (x, _, t, _) = tiny_mnist(tmp_path)
    d = data.load("mnist", tmp_path, n=12)
    mean, std = x[:12].mean(), x[:12].std()
    np.testing.assert_allclose(d.x_train, (x[:12].reshape(12, 784) - mean) / std, atol=1e-12)
    np.testing.assert_allclose(d.x_test, (t.reshape(20, 784) - mean) / std, atol=1e-12)


def test_root_comes_from_argument_then_environment_then_home(tmp_path, monkeypatch):
    tiny_mnist(tmp_path / "env")
    with pytest.raises(Missing, match=re.escape(str(tmp_path / "home" / ".cache" / "samlib"))):
        data.load("mnist")
    monkeypatch.setenv("SAMLIB_DATA", str(tmp_path / "env"))
    assert len(data.load("mnist").x_train) == 30
    with pytest.raises(Missing, match="elsewhere"):
        data.load("mnist", tmp_path / "elsewhere")


def test_torchvisions_old_processed_files_are_not_read(tmp_path):
    tiny_mnist(tmp_path)
    processed = tmp_path / "MNIST" / "processed"
    processed.mkdir()
    for name in ("training.pt", "test.pt"):
        (processed / name).write_bytes(b"not a tensor")
    assert len(data.load("mnist", tmp_path).x_train) == 30


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda b: b[:-7], "expected 23536 bytes, found 23529"),
        (lambda b: b + b"\0", "expected 23536 bytes, found 23537"),
        (
            lambda b: b"\x1f\x8b" + b[2:],
            "expected a 16-byte header 00 00 08 03 …, found 1f 8b 08 03",
        ),
        (lambda b: b[:9], "expected a 16-byte header 00 00 08 03 …, found 00 00 08 03"),
        (lambda b: b"", "found nothing"),
    ],
)
def test_damaged_images(tmp_path, damage, says):
    raw, _ = tiny_mnist(tmp_path)
    file = raw / "train-images-idx3-ubyte"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(Corrupt) as error:
        data.load("mnist", tmp_path)
    text = str(error.value)
    assert str(file) in text
    assert says in text
    assert "delete it and run `samlib data mnist --download`" in text
    assert "\n" not in text


@pytest.mark.parametrize("labels", [np.arange(29) % 10, np.full(30, 10)])
def test_labels_that_do_not_fit(tmp_path, labels):
    raw, _ = tiny_mnist(tmp_path)
    write_idx(raw / "train-labels-idx1-ubyte", labels)
    with pytest.raises(Corrupt, match=r"train-labels.*expected 30 labels from 0 to 9, found"):
        data.load("mnist", tmp_path)


def test_a_full_size_file_must_be_the_original(tmp_path):
    raw, _ = tiny_mnist(tmp_path)
    write_idx(raw / "t10k-labels-idx1-ubyte", np.zeros(10_000))
    with pytest.raises(Corrupt, match="expected md5 27ae3e4e09519cfbb04c329615203637, found"):
        data.load("mnist", tmp_path)


def test_absent_names_the_file_and_the_command(tmp_path):
    raw, _ = tiny_mnist(tmp_path)
    (raw / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(Missing) as error:
        data.load("mnist", tmp_path)
    assert str(raw / "t10k-labels-idx1-ubyte") in str(error.value)
    assert "`samlib data mnist --download`" in str(error.value)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "cifar100"])
def test_nothing_is_downloaded_unless_asked(tmp_path, monkeypatch, name):
    from torchvision import datasets

    asked = []
    kind = getattr(datasets, data_files._CLASS_OF[name])
    monkeypatch.setattr(kind, "download", lambda self: asked.append(name))
    with pytest.raises(Missing, match=f"`samlib data {name} --download`"):
        data.load(name, tmp_path)
    assert asked == []
    with pytest.raises(Missing):
        data.load(name, tmp_path, download=True)
    assert asked == [name]


def test_download_writes_where_load_reads(tmp_path, monkeypatch):
    from torchvision import datasets

    source, _ = tiny_mnist(tmp_path / "server")
    monkeypatch.setattr(
        datasets.MNIST, "download", lambda self: shutil.copytree(source, self.raw_folder)
    )
    assert len(data.load("mnist", tmp_path / "user", download=True).x_train) == 30


def test_offline_download_is_one_clear_line(tmp_path):
    with pytest.raises(Missing) as error:
        data.load("mnist", tmp_path, download=True)
    assert "the download failed" in str(error.value)
    assert "check the network" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(not ROOT, reason="SAMLIB_DATA is not set: the real MNIST is not at hand")
def test_the_real_mnist():
    if not (Path(ROOT) / "MNIST").is_dir():
        pytest.skip("SAMLIB_DATA holds no MNIST folder")
    d = data.load("mnist", ROOT, features="pixels")
    assert (d.x_train.shape, d.x_test.shape) == ((60_000, 784), (10_000, 784))
    assert list(d.y_train[:10]) == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert round(float(d.x_train.mean()) + 0.25, 4) == 0.1307
    assert round(float(d.x_train.std()), 4) == 0.3081
    assert data.verify("mnist", ROOT)["status"] == "present"


# ---- CIFAR ---------------------------------------------------------------------------------------


def tiny_cifar(root: Path, name: str, monkeypatch) -> tuple[Path, np.ndarray, list[int]]:
    """Write pickled batches as the original archives hold them and list their md5 in torchvision.

    torchvision checks md5 sums of the original files; that check stays on, for these files' sums.
    """
    from torchvision import datasets

    kind = getattr(datasets, data_files._CLASS_OF[name])
    base = root / kind.base_folder
    base.mkdir(parents=True)
    count, key = (10, "labels") if name == "cifar10" else (100, "fine_labels")
    rng, images, labels, sums = np.random.default_rng(3), [], [], {}

    def dump(file: str, content: dict) -> None:
        (base / file).write_bytes(pickle.dumps(content, protocol=2))
        sums[file] = hashlib.md5((base / file).read_bytes()).hexdigest()

    for file, _ in [*kind.train_list, *kind.test_list]:
        x, y = rng.integers(0, 256, (8, 3072)).astype(np.uint8), rng.integers(0, count, 8).tolist()
        dump(file, {"data": x, key: y, "batch_label": file})
        images.append(x)
        labels += y
    dump(kind.meta["filename"], {kind.meta["key"]: [f"class {k}" for k in range(count)]})
    for which in ("train_list", "test_list"):
        patched = [[file, sums[file]] for file, _ in getattr(kind, which)]
        monkeypatch.setattr(kind, which, patched)
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": sums[kind.meta["filename"]]})
    return base, np.vstack(images), labels


@pytest.mark.parametrize(("name", "n", "count"), [("cifar10", 40, 10), ("cifar100", 8, 100)])
def test_tiny_cifar_archives(tmp_path, monkeypatch, name, n, count):
    base, x, y = tiny_cifar(tmp_path, name, monkeypatch)
    d = data.load(name, tmp_path, features="pixels")
    np.testing.assert_array_equal(d.x_train, x[:n] / 255 - 0.25)  # channel, row, column
    np.testing.assert_array_equal(d.x_test, x[n:] / 255 - 0.25)
    np.testing.assert_array_equal(np.concatenate([d.y_train, d.y_test]), y)
    assert d.num_classes == count
    assert d.class_names[3] == "class 3"
    order = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch", "batches.meta"]
    if name == "cifar100":
        order = ["train", "test", "meta"]
    content = b"".join((base / file).read_bytes() for file in order)
    assert d.sha256 == hashlib.sha256(content).hexdigest()
    image = data.load(name, tmp_path, features="image").x_train
    channels = x[:n].reshape(n, 3, 32, 32).astype(float)
    for c in range(3):
        expected = (channels[:, c] - channels[:, c].mean()) / channels[:, c].std()
        np.testing.assert_allclose(image[:, c], expected, atol=1e-12)


@pytest.mark.parametrize("damage", [lambda b: b[:-100], lambda b: b[:-1] + b"?"])
def test_damaged_cifar(tmp_path, monkeypatch, damage):
    base, _, _ = tiny_cifar(tmp_path, "cifar100", monkeypatch)
    good = hashlib.md5((base / "test").read_bytes()).hexdigest()
    (base / "test").write_bytes(damage((base / "test").read_bytes()))
    bad = hashlib.md5((base / "test").read_bytes()).hexdigest()
    with pytest.raises(Corrupt) as error:
        data.load("cifar100", tmp_path)
    for part in (str(base / "test"), f"expected md5 {good}", f"found {bad}", "delete it and run"):
        assert part in str(error.value)


def test_a_pickle_that_is_not_the_original_is_never_opened(tmp_path, monkeypatch):
    base, _, _ = tiny_cifar(tmp_path, "cifar10", monkeypatch)
    trap = tmp_path / "sprung"
    (base / "data_batch_2").write_bytes(f"cos\nmkdir\n(V{trap}\ntR.".encode())
    with pytest.raises(Corrupt, match="data_batch_2"):
        data.load("cifar10", tmp_path)
    assert not trap.exists()


# ---- image folders -------------------------------------------------------------------------------


def tiny_folder(root: Path, per_class: int = 3) -> Path:
    from PIL import Image

    rng = np.random.default_rng(8)
    for split in ("train", "test"):
        for k, name in enumerate(("ant", "bee")):
            place = root / split / name
            place.mkdir(parents=True)
            for i in range(per_class):
                pixels = rng.integers(0, 256, (4, 5, 3)).astype(np.uint8)
                pixels[0, 0] = (k, i, split == "test")  # so that a test can tell them apart
                Image.fromarray(pixels).save(place / f"{i}.png")
    return root


def zip_of(folder: Path, target: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, prefix + file.relative_to(folder).as_posix())
    return target


def test_folder_images_are_dealt_in_turn(tmp_path):
    folder = tiny_folder(tmp_path / "insects")
    d = data.load(folder, tmp_path / "root", features="pixels")
    assert d.name == "insects"
    assert d.class_names == ("ant", "bee")
    assert list(d.y_train) == [0, 1, 0, 1, 0, 1]
    corner = np.round((d.x_train.reshape(6, 3, 4, 5)[:, :, 0, 0] + 0.25) * 255)
    np.testing.assert_array_equal(corner, [[k, i, 0] for i in range(3) for k in range(2)])
    assert (np.round((d.x_test.reshape(6, 3, 4, 5)[:, 2, 0, 0] + 0.25) * 255) == 1).all()


def test_folder_sha256_is_what_sha256sum_prints(tmp_path):
    folder = tiny_folder(tmp_path / "insects")
    lines = ""
    for file in sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.png")):
        lines += f"{hashlib.sha256((folder / file).read_bytes()).hexdigest()}  {file}\n"
    expected = hashlib.sha256(lines.encode()).hexdigest()
    for _ in range(2):  # decoded, then from the copy
        assert data.load(folder, tmp_path / "root").sha256 == expected


@pytest.mark.parametrize("prefix", ["", "insects/"])
def test_zip_holds_the_same_images_as_its_folder(tmp_path, prefix):
    folder = tiny_folder(tmp_path / "insects")
    archive = zip_of(folder, tmp_path / "set.zip", prefix)
    a = data.load(folder, tmp_path / "root")
    b = data.load(archive, tmp_path / "root")
    np.testing.assert_array_equal(a.x_train, b.x_train)
    np.testing.assert_array_equal(a.x_test, b.x_test)
    np.testing.assert_array_equal(a.y_train, b.y_train)
    assert b.name == "set"
    assert b.sha256 == hashlib.sha256(archive.read_bytes()).hexdigest()


def test_a_path_may_be_relative_to_the_root(tmp_path):
    zip_of(tiny_folder(tmp_path / "insects"), tmp_path / "set.zip")
    assert len(data.load("set.zip", tmp_path).x_train) == 6


def test_decoded_once(tmp_path, monkeypatch):
    archive = zip_of(tiny_folder(tmp_path / "insects"), tmp_path / "set.zip")
    first = data.load(archive, tmp_path / "root")
    monkeypatch.setattr(data_files, "_decode", None)  # a second decoding would fail
    second = data.load(archive, tmp_path / "root")
    np.testing.assert_array_equal(first.x_train, second.x_train)
    assert second.sha256 == first.sha256
    assert second.class_names == first.class_names
    kept = list((tmp_path / "root" / "decoded-images").iterdir())
    assert [file.suffix for file in kept] == [".npz"]  # nothing half-done is left beside it


@pytest.mark.parametrize("what", ["size", "time"])
def test_a_changed_file_is_read_again(tmp_path, what):
    folder = tiny_folder(tmp_path / "insects")
    file, other = folder / "train/ant/0.png", folder / "train/ant/1.png"
    file.write_bytes(file.read_bytes() + b"\0" * 99)  # room, so that lengths can be made equal
    told = file.stat()
    before = data.load(folder, tmp_path / "root")
    # another image: of the old time but longer, or of the old length but a second younger
    content = other.read_bytes().ljust(told.st_size + 9 * (what == "size"), b"\0")
    file.write_bytes(content)
    os.utime(file, ns=(told.st_atime_ns, told.st_mtime_ns + (what == "time") * 10**9))
    after = data.load(folder, tmp_path / "root")
    assert (file.stat().st_size == told.st_size) == (what == "time")
    assert after.sha256 != before.sha256
    assert not np.array_equal(after.x_train, before.x_train)


def test_a_changed_folder_is_read_again(tmp_path):
    folder = tiny_folder(tmp_path / "insects")
    before = data.load(folder, tmp_path / "root").sha256
    shutil.copy(folder / "train/ant/0.png", folder / "train/ant/9.png")
    after = data.load(folder, tmp_path / "root")
    assert len(after.x_train) == 7
    assert after.sha256 != before


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"junk"])
def test_a_spoilt_copy_is_made_again(tmp_path, damage):
    archive = zip_of(tiny_folder(tmp_path / "insects"), tmp_path / "set.zip")
    first = data.load(archive, tmp_path / "root")
    (kept,) = (tmp_path / "root" / "decoded-images").iterdir()
    good = kept.read_bytes()
    kept.write_bytes(damage(good))
    second = data.load(archive, tmp_path / "root")
    np.testing.assert_array_equal(first.x_train, second.x_train)
    assert len(kept.read_bytes()) == len(good)


def test_an_interrupted_unpacking_leaves_nothing_to_be_mistaken(tmp_path, monkeypatch):
    archive = zip_of(tiny_folder(tmp_path / "insects"), tmp_path / "set.zip")

    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(data_files, "_image", stop)
        with pytest.raises(KeyboardInterrupt):
            data.load(archive, tmp_path / "root")
    assert list((tmp_path / "root" / "decoded-images").iterdir()) == []
    # and what a killed process cannot clear away is not looked at either
    (tmp_path / "root" / "decoded-images" / "partial-xyz" / "files" / "train").mkdir(parents=True)
    assert len(data.load(archive, tmp_path / "root").x_train) == 6


def test_a_root_marked_read_only_stays_as_it_is(tmp_path):
    root = tmp_path / "sealed"
    root.mkdir()
    zip_of(tiny_folder(tmp_path / "insects"), root / "set.zip")
    root.chmod(0o555)
    try:
        assert len(data.load("set.zip", root).x_train) == 6
        assert [file.name for file in root.iterdir()] == ["set.zip"]
    finally:
        root.chmod(0o755)
    assert len(list((tmp_path / "home/.cache/samlib/decoded-images").glob("*.npz"))) == 1


@pytest.mark.parametrize("member", ["../evil.png", "train/../../evil.png", "/evil.png", "..\\evil"])
def test_a_zip_that_leads_outside_is_refused(tmp_path, member):
    archive = zip_of(tiny_folder(tmp_path / "insects"), tmp_path / "set.zip")
    with zipfile.ZipFile(archive, "a") as more:
        more.writestr(member, b"x")
    with pytest.raises(Corrupt, match="a link or leads outside"):
        data.load(archive, tmp_path / "root")
    assert not list(tmp_path.rglob("evil*"))
    assert list((tmp_path / "root" / "decoded-images").iterdir()) == []


def test_a_zip_with_a_link_is_refused(tmp_path):
    archive = zip_of(tiny_folder(tmp_path / "insects"), tmp_path / "set.zip")
    link = zipfile.ZipInfo("train/ant/link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(archive, "a") as more:
        more.writestr(link, "/etc/hostname")
    with pytest.raises(Corrupt, match=r"link\.png' is a link or leads outside"):
        data.load(archive, tmp_path / "root")


def test_damaged_zips(tmp_path):
    archive = zip_of(tiny_folder(tmp_path / "insects"), tmp_path / "set.zip")
    good = archive.read_bytes()
    flipped = bytearray(good)
    flipped[100] ^= 0xFF  # inside the first image: its checksum no longer holds
    for bad in (good[:-300], b"PK", bytes(flipped)):
        archive.write_bytes(bad)
        with pytest.raises(Corrupt) as error:
            data.load(archive, tmp_path / "root")
        assert str(archive) in str(error.value)
        assert "fetch or make it again" in str(error.value)


def test_damaged_image_is_named(tmp_path):
    folder = tiny_folder(tmp_path / "insects")
    bad = folder / "test/bee/1.png"
    for content in (bad.read_bytes()[:40], b"no image"):
        bad.write_bytes(content)
        with pytest.raises(Corrupt, match=r"insects: test/bee/1\.png is corrupt.*repair or remove"):
            data.load(folder, tmp_path / "root")


def test_images_of_another_size_are_named(tmp_path):
    from PIL import Image

    folder = tiny_folder(tmp_path / "insects")
    Image.new("RGB", (7, 6)).save(folder / "test/bee/1.png")
    says = r"test/bee/1\.png has another size: expected height and width \(4, 5\), found \(6, 7\)"
    with pytest.raises(Corrupt, match=says):
        data.load(folder, tmp_path / "root")


@pytest.mark.parametrize("gone", ["test", "train", "train/ant", "test/bee"])
def test_folder_without_its_parts(tmp_path, gone):
    folder = tiny_folder(tmp_path / "insects")
    shutil.rmtree(folder / gone)
    with pytest.raises(
        Corrupt, match="is no image folder: expected train/<class>/ and test/<class>"
    ):
        data.load(folder, tmp_path / "root")


def test_one_class_is_too_few(tmp_path):
    folder = tiny_folder(tmp_path / "insects")
    for split in ("train", "test"):
        shutil.rmtree(folder / split / "bee")
    with pytest.raises(Corrupt, match="two or more classes"):
        data.load(folder, tmp_path / "root")


# ---- verify --------------------------------------------------------------------------------------


def test_verify(tmp_path):
    assert data.verify("digits")["status"] == "present"
    absent = data.verify("mnist", tmp_path)
    assert (absent["status"], absent["sha256"]) == ("absent", None)
    assert "--download" in absent["reason"]
    raw, _ = tiny_mnist(tmp_path)
    present = data.verify("mnist", tmp_path)
    sha256 = data.load("mnist", tmp_path).sha256
    assert present == {"name": "mnist", "status": "present", "sha256": sha256, "reason": ""}
    with (raw / "train-images-idx3-ubyte").open("ab") as file:
        file.write(b"x")
    corrupt = data.verify("mnist", tmp_path)
    assert (corrupt["status"], corrupt["sha256"]) == ("corrupt", None)
    assert "train-images-idx3-ubyte" in corrupt["reason"]
    with pytest.raises(BadInput, match="not known"):
        data.verify("mnits")


# ---- what is said of unusable arguments ----------------------------------------------------------


@pytest.mark.parametrize("name", ["mnits", "", None, 7])
def test_unknown_name_lists_the_names(name):
    with pytest.raises(BadInput) as error:
        data.load(name)
    assert ", ".join(data.names()) in str(error.value)
    assert "image folder" in str(error.value)


@pytest.mark.parametrize("name", ["nowhere/set", "nowhere.zip"])
def test_missing_path(name, tmp_path):
    with pytest.raises(Missing, match="is missing, here and under"):
        data.load(name, tmp_path)


@pytest.mark.parametrize("n", [0, -3, 1438, 2.0, "10", True, float("nan")])
def test_n(n):
    with pytest.raises(BadInput, match="from 1 to 1437: digits has 1437 training images"):
        data.load("digits", n=n)


def test_n_counts_after_classes():
    available = int(np.isin(load_digits().target[:1437], (3, 8)).sum())
    assert len(data.load("digits", classes=(3, 8)).x_train) == available
    with pytest.raises(BadInput, match=f"from 1 to {available}"):
        data.load("digits", n=available + 1, classes=(3, 8))


@pytest.mark.parametrize(
    "classes", [(3,), (), (3, 3), (3, 10), (-1, 3), (0.0, 1.0), "38", 3, (True, False), [[0], [1]]]
)
def test_classes(classes):
    with pytest.raises(BadInput, match="two or more different whole numbers from 0 to 9") as error:
        data.load("digits", classes=classes)
    assert repr(classes) in str(error.value)


@pytest.mark.parametrize("features", ["raw", "pca", "pca:", "pca:0", "pca:-1", "pca:2.5", "", None])
def test_features(features):
    with pytest.raises(BadInput, match="use standard, pixels, image or pca:K") as error:
        data.load("digits", features=features)
    assert repr(features) in str(error.value)


@pytest.mark.parametrize(("n", "k", "most"), [(10, 10, 9), (10, 11, 9), (1000, 65, 61), (1, 1, 0)])
def test_pca_of_more_components_than_there_are(n, k, most):
    rank = np.linalg.matrix_rank(load_digits().data[:n] - load_digits().data[:n].mean(axis=0))
    assert rank == most
    with pytest.raises(BadInput, match=f"'pca:{k}' is out of range.*use K ≤ {most} or a larger n"):
        data.load("digits", n=n, features=f"pca:{k}")


@pytest.mark.parametrize("noise", [-0.1, 1, 1.5, float("nan"), float("inf"), "a", None, True])
def test_label_noise(noise):
    with pytest.raises(BadInput, match=r"is not a number in \[0, 1\)"):
        data.load("digits", label_noise=noise)


@pytest.mark.parametrize("seed", [-1, 1.0, None, "0", True])
def test_seed(seed):
    with pytest.raises(BadInput, match="is not a whole number ≥ 0"):
        data.load("digits", seed=seed)
