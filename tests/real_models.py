"""Models that people use: files out of packages on PyPI, which are downloaded once and not part of this repository."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest


def member(requirement, name):
    """The path of a file of a package, such as ``member("resemblyzer==0.1.4", "resemblyzer/pretrained.pt")``.

    It is kept in the user's cache folder. The package is not installed. The test is skipped where it cannot be had.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lstmx-tests" / requirement
    kept = cache / Path(name).name
    if not kept.exists():
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--retries", "1", "--dest", str(cache)]
        done = subprocess.run([*command, requirement], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"pip cannot download {requirement}: {done.stderr.strip().splitlines()[-1:]}")
        package = next(path for path in cache.iterdir() if path.suffix in (".whl", ".gz"))
        part = kept.with_suffix(f".{os.getpid()}")
        part.write_bytes(_read(package, name))
        part.replace(kept)  # another test may be doing the same
    return kept


def _read(package, name):
    """A file of a wheel, or of a source archive, whose names all begin with the name of the package."""
    if package.suffix == ".whl":
        with zipfile.ZipFile(package) as archive:
            return archive.read(name)
    with tarfile.open(package) as archive:
        found = next(one for one in archive.getmembers() if one.name.partition("/")[2] == name)
        return archive.extractfile(found).read()
