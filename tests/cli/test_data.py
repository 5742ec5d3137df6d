"""`qbench data`."""

from __future__ import annotations

import functools
import gzip
import hashlib
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from torchvision.datasets import FashionMNIST

from qbench import registry
from tests.conftest import QbenchHere
from tests.helpers import fashion


class Quiet(SimpleHTTPRequestHandler):
    """A handler of requests that prints nothing."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that torchvision downloads small files of Fashion-MNIST's format from."""
    folder = fashion.write(tmp_path / "mirror")
    resources = []
    for file in sorted(folder.iterdir()):
        packed = gzip.compress(file.read_bytes())
        (folder / f"{file.name}.gz").write_bytes(packed)
        file.unlink()
        resources.append((f"{file.name}.gz", hashlib.md5(packed).hexdigest()))
    handler = functools.partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        monkeypatch.setattr(FashionMNIST, "mirrors", [address])
        monkeypatch.setattr(FashionMNIST, "resources", resources)
        yield folder
        server.shutdown()


def test_fashion_mnist_is_downloaded_to_where_the_dataset_finds_it(
    tmp_path: Path, mirror: Path, qbench_here: QbenchHere
) -> None:
    folder = tmp_path / "data"
    told = qbench_here("data", "fashion-mnist", str(folder))
    assert f"--set data.root={folder}" in told
    dataset = registry.build_dataset("fashion_mnist", {"root": str(folder)})
    assert not dataset.missing()
    assert dataset.sizes() == (40, 20)
    for file in mirror.iterdir():
        file.unlink()
    again = qbench_here("data", "fashion-mnist", str(folder))  # it is there already
    assert told.startswith(again)


def test_a_download_that_fails_or_is_damaged_says_why_and_what_else_there_is(
    tmp_path: Path, mirror: Path, qbench_here: QbenchHere
) -> None:
    file = mirror / "train-images-idx3-ubyte.gz"
    file.write_bytes(gzip.compress(b"something else"))
    told = qbench_here("data", "fashion-mnist", str(tmp_path / "data"), code=2)
    assert "Fashion-MNIST cannot be downloaded" in told
    assert "corrupted" in told
    assert "`apt-get install dataset-fashion-mnist`" in told
    file.unlink()
    assert file.name in qbench_here("data", "fashion-mnist", str(tmp_path / "more"), code=2)
