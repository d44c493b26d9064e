"""`get_file` and the data sets, on small files served from this machine."""

import contextlib
import gzip
import hashlib
import io
import json
import os
import pickle
import shutil
import socketserver
import tarfile
import threading
import time
import zipfile

import numpy as np
import pytest
from mlxfunc import datasets, utils


@pytest.fixture
def source(tmp_path):
    """A file and its URL."""
    path = tmp_path / "numbers.txt"
    path.write_text("1 2 3")
    return path, path.as_uri()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("MLXFUNC_CACHE", str(folder))
    return folder


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_is_fetched_once(source, cache):
    path, url = source
    got = utils.get_file(origin=url, file_hash=sha256(path))
    assert got == str(cache / "datasets" / "numbers.txt")
    kept = sha256(path)
    path.write_text("changed at its source")
    assert utils.get_file(origin=url, file_hash=kept) == got
    with open(got) as file:
        assert file.read() == "1 2 3"


def test_a_changed_copy_is_fetched_again(source):
    path, url = source
    got = utils.get_file(origin=url, file_hash=sha256(path))
    with open(got, "w") as file:
        file.write("spoilt")
    utils.get_file(origin=url, file_hash=hashlib.md5(path.read_bytes()).hexdigest())
    assert utils.get_file(origin=url, file_hash=sha256(path).upper()) == got
    with open(got) as file:
        assert file.read() == "1 2 3"


def test_a_wrong_hash_keeps_nothing(source, cache):
    _, url = source
    with pytest.raises(ValueError, match="get_file: expected .* with hash 0000.*, got "):
        utils.get_file(origin=url, file_hash="0" * 64)
    assert list((cache / "datasets").iterdir()) == []


@pytest.mark.parametrize("url", ["http://localhost:9/x.bin", "file:///no/such/file"])
def test_offline_says_where_to_put_the_file(url, cache):
    where = rf"Connect to the network, or put the file at {cache}/datasets/data.bin yourself"
    with pytest.raises(ConnectionError, match=rf"get_file: expected to download {url}.*{where}"):
        utils.get_file("data.bin", url)
    assert list((cache / "datasets").iterdir()) == []


def head(*lines, status=b"HTTP/1.1 200 OK"):
    return b"\r\n".join([status, *lines, b"", b""])


# What a peer may send.
PEERS = {
    "too little": head(b"Content-Length: 1000") + b"too little",
    "nothing": b"",
    "no HTTP": b"hello\r\n",
    "a bad status": head(status=b"HTTP/1.1 OK"),
    "an error": head(status=b"HTTP/1.1 500 Oops"),
    "half a chunk": head(b"Transfer-Encoding: chunked") + b"ff\r\nshort",
    "a bad chunk": head(b"Transfer-Encoding: chunked") + b"zz\r\nshort\r\n",
    "a circle": head(b"Location: /data.bin", status=b"HTTP/1.1 302 Found"),
    "another scheme": head(b"Location: data:text/plain,x", status=b"HTTP/1.1 302 Found"),
    "many lines": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200,
}


@pytest.fixture
def peer():
    """Starts a server that answers each request with bytes, and with `more` until it is left."""
    servers = []

    def start(answer, more=b""):
        class Peer(socketserver.BaseRequestHandler):
            def handle(self):
                self.request.recv(65536)
                self.request.sendall(answer)
                with contextlib.suppress(OSError):
                    while more:
                        self.request.sendall(more)
                        time.sleep(0.05)

        server = socketserver.ThreadingTCPServer(("localhost", 0), Peer)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://localhost:{server.server_address[1]}/data.bin"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("answer", PEERS.values(), ids=PEERS)
def test_whatever_a_peer_sends_is_a_connection_error(cache, peer, answer):
    with pytest.raises(ConnectionError, match="get_file: expected to download http.* yourself"):
        utils.get_file(origin=peer(answer))
    assert list((cache / "datasets").iterdir()) == []


def test_a_download_has_a_limit_of_time(cache, peer):
    start = time.perf_counter()
    with pytest.raises(ConnectionError, match=r"bytes in 0\.5 seconds"):
        utils.get_file(origin=peer(head(), more=b"x"), timeout=0.5)
    assert time.perf_counter() - start < 5
    assert list((cache / "datasets").iterdir()) == []


def test_a_full_disk_is_not_the_networks_fault(cache, peer, monkeypatch):
    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left") as caught:
        utils.get_file(origin=peer(head(b"Content-Length: 4") + b"data"))
    assert not isinstance(caught.value, ConnectionError)


@pytest.mark.parametrize(
    "options",
    [
        {"fname": "../x"}, {"fname": "/etc/x"}, {"fname": "a/../../x"}, {"fname": ".."},
        {"cache_subdir": "../.."}, {"cache_subdir": "/tmp"}, {"origin": "http://localhost:9/%2e%2e"},
        {"origin": "http://localhost:9/"}, {"fname": "a\0b"},
    ],
    ids=str,
)  # fmt: skip
def test_no_name_leads_out_of_the_cache(cache, options):
    with pytest.raises(ValueError, match="get_file: expected a name in the cache"):
        utils.get_file(**{"origin": "http://localhost:9/x", **options})
    assert not cache.exists() or not any(cache.iterdir())


@pytest.mark.parametrize("ending", ["tar.gz", "zip", "tar"])
@pytest.mark.parametrize("part", [0, 0.2, 0.5])
def test_a_damaged_archive_is_refused(tmp_path, source, cache, ending, part):
    path, _ = source
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    kinds = {"tar.gz": ("gztar", "a.tar.gz"), "zip": ("zip", "a.zip"), "tar": ("tar", "a.tar")}
    kind, name = kinds[ending]
    shutil.make_archive(str(tmp_path / "a"), kind, path.parent, path.name)
    damaged = tmp_path / name
    damaged.write_bytes(damaged.read_bytes()[: int(damaged.stat().st_size * part)])
    with pytest.raises(ValueError, match="get_file: expected a tar or zip archive"):
        utils.get_file(origin=damaged.as_uri(), extract=True)
    assert [p.name for p in (cache / "datasets").iterdir()] == [name]


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_archives_are_unpacked(tmp_path, source, kind):
    path, _ = source
    archive = tmp_path / f"a.{kind}"
    if kind == "tar":
        with tarfile.open(archive, "w:gz") as file:
            file.add(path, "inner/numbers.txt")
    else:
        with zipfile.ZipFile(archive, "w") as file:
            file.write(path, "inner/numbers.txt")
    folder = utils.get_file(origin=archive.as_uri(), extract=True)
    with open(f"{folder}/inner/numbers.txt") as file:
        assert file.read() == "1 2 3"


def test_an_archive_that_climbs_out_is_refused(tmp_path, source):
    path, _ = source
    with tarfile.open(tmp_path / "bad.tar", "w") as file:
        file.add(path, "../../escaped.txt")
    with pytest.raises(ValueError, match="get_file: expected a tar or zip archive"):
        utils.get_file(origin=(tmp_path / "bad.tar").as_uri(), extract=True)
    assert not list(tmp_path.rglob("escaped.txt"))


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "expected a URL"),
        ({"origin": "/etc/passwd"}, "expected a URL"),
        ({"origin": "http://x/y", "file_hash": "12"}, "expected a SHA-256 or MD5"),
        ({"origin": "http://x/y", "file_hash": "x" * 32}, "expected a SHA-256 or MD5"),
    ],
)
def test_get_file_refuses(options, message):
    with pytest.raises(ValueError, match=f"get_file: {message}"):
        utils.get_file(**options)


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Puts a small file in the place of a published one."""
    folder = tmp_path / "served"
    folder.mkdir()

    def put(name, content):
        (folder / name).write_bytes(content)
        row = (folder.as_uri() + "/", hashlib.sha256(content).hexdigest())
        monkeypatch.setitem(datasets.FILES, name, row)

    return put


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def lists(*rows):
    array = np.empty(len(rows), object)
    array[:] = rows
    return array


def test_mnist(serve):
    x, y = np.arange(12, dtype=np.uint8).reshape(3, 2, 2), np.array([1, 2, 3], np.uint8)
    serve("mnist.npz", npz(x_train=x, y_train=y, x_test=x[:1], y_test=y[:1]))
    (x_train, y_train), (x_test, y_test) = datasets.mnist.load_data()
    np.testing.assert_array_equal(x_train, x)
    np.testing.assert_array_equal(y_test, y[:1])
    assert len(y_train) == 3
    assert len(x_test) == 1


def test_fashion_mnist(serve):
    for kind, rows in (("train", 2), ("t10k", 1)):
        images = bytes(16) + bytes(range(rows)) * 784
        serve(f"{kind}-images-idx3-ubyte.gz", gzip.compress(images))
        serve(f"{kind}-labels-idx1-ubyte.gz", gzip.compress(bytes(8) + bytes(range(rows))))
    (x_train, y_train), (x_test, y_test) = datasets.fashion_mnist.load_data()
    assert x_train.shape == (2, 28, 28)
    assert y_train.tolist() == [0, 1]
    assert x_test.shape == (1, 28, 28)
    assert y_test.tolist() == [0]


def archive(folder, batches):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, table in batches.items():
            content = pickle.dumps(table, protocol=2)
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def photographs(rows, **labels):
    pixels = np.arange(rows * 3072).reshape(rows, 3072).astype(np.uint8)
    return {b"data": pixels, **{k.encode(): v for k, v in labels.items()}}


def test_cifar10(serve):
    names = [f"data_batch_{i}" for i in range(1, 6)]
    batches = {name: photographs(2, labels=[i, i]) for i, name in enumerate(names)}
    content = archive("cifar-10-batches-py", batches | {"test_batch": photographs(1, labels=[9])})
    serve("cifar-10-python.tar.gz", content)
    (x_train, y_train), (x_test, y_test) = datasets.cifar10.load_data()
    assert x_train.shape == (10, 32, 32, 3)
    assert y_train[:, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert x_test[0, 0, 1].tolist() == [1, 1024 % 256 + 1, 2048 % 256 + 1]
    assert y_test.tolist() == [[9]]


def test_cifar100_labels(serve):
    table = photographs(2, fine_labels=[40, 41], coarse_labels=[4, 5])
    serve("cifar-100-python.tar.gz", archive("cifar-100-python", {"train": table, "test": table}))
    assert datasets.cifar100.load_data()[0][1][:, 0].tolist() == [40, 41]
    assert datasets.cifar100.load_data("coarse")[0][1][:, 0].tolist() == [4, 5]
    with pytest.raises(ValueError, match="cifar100: expected label_mode 'fine' or 'coarse'"):
        datasets.cifar100.load_data("medium")


class Harm:
    def __reduce__(self):
        return print, ("run by loading",)


def test_nothing_in_a_data_set_is_run(serve, capsys):
    table = {b"data": Harm(), b"fine_labels": []}
    serve("cifar-100-python.tar.gz", archive("cifar-100-python", {"train": table}))
    with pytest.raises(pickle.UnpicklingError, match="datasets: expected arrays only, got"):
        datasets.cifar100.load_data()
    assert capsys.readouterr().out == ""


REVIEWS = lists([1, 2, 3], [4, 5], [6], [7, 8, 9, 10])


@pytest.fixture
def imdb(serve):
    y = np.array([0, 1, 0, 1])
    serve("imdb.npz", npz(x_train=REVIEWS, y_train=y, x_test=REVIEWS[:2], y_test=y[:2]))
    return datasets.imdb.load_data


def test_imdb_marks_starts_and_shifts_ranks(imdb):
    (x_train, y_train), (x_test, _) = imdb(num_words=100)
    assert sorted(x_train, key=len)[0] == [1, 9]
    assert [row[0] for row in x_train] == [1, 1, 1, 1]
    found = dict(zip(map(tuple, x_train), y_train, strict=True))
    assert found[(1, 7, 8)] == 1
    assert len(x_test) == 2


def test_imdb_replaces_rare_and_common_words(imdb):
    (x, _), _ = imdb(num_words=9, skip_top=5)
    assert {word for row in x for word in row} <= {2, 5, 6, 7, 8}
    (x, _), _ = imdb(num_words=9, skip_top=5, oov_char=None)
    assert {word for row in x for word in row} <= {5, 6, 7, 8}


def test_imdb_drops_long_reviews(imdb):
    (x, y), _ = imdb(maxlen=4)
    assert sorted(len(row) for row in x) == [2, 3]
    assert len(y) == 2
    with pytest.raises(ValueError, match="imdb: expected rows shorter than maxlen=1, got none"):
        imdb(maxlen=1)


def test_reuters_splits_after_shuffling(serve):
    serve("reuters.npz", npz(x=REVIEWS, y=np.array([10, 11, 12, 13])))
    (x_train, y_train), (x_test, y_test) = datasets.reuters.load_data(test_split=0.25)
    assert len(x_train) == 3
    assert len(x_test) == 1
    assert sorted([*y_train, *y_test]) == [10, 11, 12, 13]


def test_word_index(serve):
    for name in ("imdb", "reuters"):
        serve(f"{name}_word_index.json", json.dumps({"the": 1}).encode())
        assert getattr(datasets, name).get_word_index() == {"the": 1}


def test_housing(serve):
    x, y = np.arange(20.0).reshape(10, 2), np.arange(10.0)
    serve("boston_housing.npz", npz(x=x, y=y))
    serve("california_housing.npz", npz(x=x, y=y))
    for load in (datasets.boston_housing.load_data, datasets.california_housing.load_data):
        (x_train, y_train), (x_test, y_test) = load()
        assert (len(x_train), len(x_test)) == (8, 2)
        np.testing.assert_array_equal(x_train[:, 0], y_train * 2)
        np.testing.assert_array_equal(x_test[:, 0], y_test * 2)
    with pytest.raises(ValueError, match="california_housing: expected version 'large' or 'small'"):
        datasets.california_housing.load_data("tiny")
    with pytest.raises(ValueError, match=r"boston_housing: expected test_split in \[0, 1\), got 1"):
        datasets.boston_housing.load_data(test_split=1)
