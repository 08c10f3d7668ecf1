"""What is not bundled is found, fetched, or missed in one line, and never waited for in vain."""

import gzip
import io
import os
import pickle
import socket
import tarfile
import time

import numpy as np
import pytest
import torch

from dai_lab.data import cifar10, cifar100, downloads, emnist, fashion_mnist, fetching, mnist
from dai_lab.data.cards import file_hash

ALL = {
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "emnist": emnist,
}


def send_all_to(monkeypatch, address):
    """Point every one of torchvision's sources at ``address``."""
    from torchvision import datasets

    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(datasets.MNIST, "mirrors", [address])
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [address])
    for kind in (datasets.CIFAR10, datasets.CIFAR100, datasets.EMNIST):
        monkeypatch.setattr(kind, "url", f"{address}file.zip")


@pytest.fixture
def no_debian(monkeypatch, tmp_path):
    monkeypatch.setattr(downloads, "DEBIAN", tmp_path / "nothing")


def idx(array):
    header = bytes([0, 0, 8, array.ndim])
    return header + b"".join(int(size).to_bytes(4, "big") for size in array.shape) + array.tobytes()


def tiny(classes=10, examples=20):
    images = np.random.default_rng(0).integers(0, 256, (examples, 28, 28), dtype=np.uint8)
    return images, (np.arange(examples) % classes).astype(np.uint8)


def write_idx(folder, prefixes, first=0, compress=False):
    folder.mkdir(parents=True)
    images, labels = tiny()
    for prefix in prefixes:
        for name, array in (("images-idx3", images), ("labels-idx1", labels + first)):
            content = idx(array.astype(np.uint8))
            path = folder / f"{prefix}-{name}-ubyte{'.gz' * compress}"
            path.write_bytes(gzip.compress(content, mtime=0) if compress else content)
    return torch.from_numpy(images), torch.from_numpy(labels).long()


@pytest.mark.parametrize("name", ALL)
def test_without_internet_there_is_one_line_and_no_wait(name, monkeypatch, tmp_path, no_debian):
    send_all_to(monkeypatch, "http://127.0.0.1:9/")
    start = time.monotonic()
    with pytest.raises(ValueError, match=f"data={name} .* could .* be downloaded") as caught:
        ALL[name](root=str(tmp_path / "cache"))
    assert time.monotonic() - start < 60
    line = str(caught.value)
    assert "\n" not in line and "internet" in line and "refused" in line
    assert caught.value.__suppress_context__
    if name == "fashion_mnist":
        assert "apt install dataset-fashion-mnist" in line


def test_a_server_that_never_answers_is_given_up(monkeypatch, tmp_path):
    monkeypatch.setattr(fetching, "PATIENCE", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        send_all_to(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}/")
        start = time.monotonic()
        with pytest.raises(ValueError, match=r"data=cifar10 .*timed out"):
            cifar10(root=str(tmp_path))
        assert time.monotonic() - start < 60
    assert socket.getdefaulttimeout() is None


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "taken").write_text("a file, not a folder")
    with pytest.raises(ValueError, match=r"data=mnist .*taken") as caught:
        mnist(root=str(tmp_path / "taken"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "kind"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_what_torchvision_has_fetched_is_used(name, kind, tmp_path, no_debian):
    images, labels = write_idx(tmp_path / kind / "raw", ("train", "t10k"))
    data = ALL[name](root=str(tmp_path))
    mean, deviation = {"mnist": (0.1307, 0.3081), "fashion_mnist": (0.2860, 0.3530)}[name]
    expected = (images[:, None] / 255 - mean) / deviation
    torch.testing.assert_close(data.train.inputs, expected)
    assert torch.equal(data.test.targets, labels)
    assert data.classes == 10 == len(data.names["classes"])


def test_debians_fashion_is_the_same_as_torchvisions(monkeypatch, tmp_path):
    write_idx(tmp_path / "debian", ("train", "t10k"), compress=True)
    write_idx(tmp_path / "FashionMNIST" / "raw", ("train", "t10k"))
    monkeypatch.setattr(downloads, "DEBIAN", tmp_path / "debian")
    one = fashion_mnist(root=str(tmp_path / "elsewhere"))
    monkeypatch.setattr(downloads, "DEBIAN", tmp_path / "nothing")
    other = fashion_mnist(root=str(tmp_path))
    assert torch.equal(one.train.inputs, other.train.inputs)
    assert one.card == other.card and one.names == other.names
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("content", [b"", b"not gzip", gzip.compress(b"not idx", mtime=0), None])
def test_a_damaged_debian_package_is_one_line(content, monkeypatch, tmp_path):
    write_idx(tmp_path / "debian", ("train", "t10k"), compress=True)
    monkeypatch.setattr(downloads, "DEBIAN", tmp_path / "debian")
    path = tmp_path / "debian" / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:999] if content is None else content)
    with pytest.raises(ValueError, match=r"data=fashion_mnist: .* is damaged .*reinstall"):
        fashion_mnist()


@pytest.mark.skipif(not downloads.DEBIAN.is_dir(), reason="dataset-fashion-mnist not installed")
def test_the_real_fashion_mnist_has_7000_pictures_of_each_kind():
    data = fashion_mnist()
    assert data.train.targets.bincount().tolist() == [6000] * 10
    assert data.test.targets.bincount().tolist() == [1000] * 10
    assert abs(float(data.train.inputs.mean())) < 1e-3
    assert float(data.train.inputs.std()) == pytest.approx(1, abs=1e-3)


def test_emnist_letters_count_from_zero_and_stand_upright(tmp_path):
    images, labels = write_idx(
        tmp_path / "EMNIST" / "raw", ("emnist-letters-train", "emnist-letters-test"), first=1
    )
    data = emnist(root=str(tmp_path), part="letters")
    assert torch.equal(data.train.targets, labels)
    assert data.classes == 26 and data.names["classes"][0] == "a"
    upright = images.transpose(1, 2)[:, None] / 255
    torch.testing.assert_close(
        data.train.inputs, (upright - upright.mean()) / upright.std(), atol=1e-4, rtol=1e-4
    )
    with pytest.raises(ValueError, match=r"data.part must be one of .* got 'runes'"):
        emnist(part="runes")


class Planted:
    """Something that acts when it is unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def archive_cifar(monkeypatch, folder, batch, known=True):
    """Archive ``batch`` as both parts of CIFAR-10; ``known`` makes it the published archive."""
    from torchvision.datasets import CIFAR10

    files = {"batch": batch, "meta": {"label_names": [*"abcdefghij"]}}
    archive = folder / CIFAR10.filename
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{CIFAR10.base_folder}/{name}")
            packed = pickle.dumps(content)
            member.size = len(packed)
            tar.addfile(member, io.BytesIO(packed))
    monkeypatch.setattr(CIFAR10, "train_list", [["batch", None]])
    monkeypatch.setattr(CIFAR10, "test_list", [["batch", None]])
    monkeypatch.setattr(CIFAR10, "meta", {"filename": "meta", "key": "label_names", "md5": None})
    monkeypatch.setattr(CIFAR10, "tgz_md5", None)
    if known:
        monkeypatch.setitem(fetching.PICKLED, "CIFAR10", file_hash(archive))


def test_cifar_is_channels_first_and_each_channel_has_its_own_scale(monkeypatch, tmp_path):
    flat = np.random.default_rng(0).integers(0, 256, (6, 3072), dtype=np.uint8)
    archive_cifar(monkeypatch, tmp_path, {"data": flat, "labels": [0, 1, 2, 3, 4, 9]})
    data = cifar10(root=str(tmp_path))
    assert data.shape == (3, 32, 32) and data.classes == 10
    pixels = torch.from_numpy(flat).view(6, 3, 32, 32) / 255
    for channel, (mean, scale) in enumerate(((0.4914, 0.2470), (0.4822, 0.2435), (0.4465, 0.2616))):
        torch.testing.assert_close(
            data.train.inputs[:, channel], (pixels[:, channel] - mean) / scale
        )
    assert data.train.targets.tolist() == [0, 1, 2, 3, 4, 9]
    assert not [one for one in tmp_path.iterdir() if one.is_dir()]


def test_a_pickle_beside_the_archive_is_never_read(monkeypatch, tmp_path):
    from torchvision.datasets import CIFAR10

    flat = np.zeros((2, 3072), dtype=np.uint8)
    archive_cifar(monkeypatch, tmp_path, {"data": flat, "labels": [0, 1]})
    planted = tmp_path / CIFAR10.base_folder
    planted.mkdir()
    for name in ("batch", "meta"):
        (planted / name).write_bytes(pickle.dumps(Planted(tmp_path / "ran")))
    assert len(cifar10(root=str(tmp_path)).train) == 2
    assert not (tmp_path / "ran").exists()


def test_an_archive_of_another_hash_is_refused_before_anything_in_it_runs(monkeypatch, tmp_path):
    # Without its MD5 torchvision takes it as it is.
    archive_cifar(monkeypatch, tmp_path, Planted(tmp_path / "ran"), known=False)
    with pytest.raises(ValueError, match=r"data=cifar10 .*not the published one") as caught:
        cifar10(root=str(tmp_path))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()
    # The same archive does run where its hash is the known one: the trap works.
    monkeypatch.setitem(fetching.PICKLED, "CIFAR10", file_hash(tmp_path / "cifar-10-python.tar.gz"))
    with pytest.raises((TypeError, ValueError)):
        cifar10(root=str(tmp_path))
    assert (tmp_path / "ran").is_dir()


def test_a_half_fetched_file_is_one_line(tmp_path, no_debian):
    folder = tmp_path / "FashionMNIST" / "raw"
    write_idx(folder, ("train", "t10k"))
    path = folder / "train-images-idx3-ubyte"
    os.truncate(path, 5000)
    with pytest.raises(ValueError, match="data=fashion_mnist is neither whole in") as caught:
        fashion_mnist(root=str(tmp_path))
    assert "\n" not in str(caught.value)
