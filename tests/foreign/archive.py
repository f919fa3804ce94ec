"""Where a suite comes from: one source archive of one version, whose content is known by its hash."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

DEBIAN_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class FetchError(Exception):
    """The archive is not to be had, or it is another one than the one that was looked at."""


@dataclass(frozen=True)
class Archive:
    """A file that `fetch` brings into a folder, once.

    `package` is a requirement with its version, `debian` the release whose source package has the tests when the
    archive in the package index has none. `name` is what the file is called there.
    """

    name: str
    sha256: str
    package: str
    debian: str = ""

    def fetch(self, folder: Path) -> Path:
        """Raises FetchError. Needs the network only when the file is not there yet."""
        file = folder / self.name
        if not file.exists():
            folder.mkdir(parents=True, exist_ok=True)
            if self.debian:
                _from_debian(self.package, self.debian, folder)
            else:
                # Not ":all:": pip runs the archive's build back end to read its metadata, and that may be a wheel.
                pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", self.package.split("==")[0]]
                _call([*pip, "--dest", str(folder), self.package], folder)
        found = hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else "nothing"
        if found != self.sha256:
            file.unlink(missing_ok=True)
            raise FetchError(f"{self.name}: expected sha256 {self.sha256}, found {found}")
        return file


def unpack(file: Path, members: tuple[str, ...], folder: Path) -> None:
    """Lay the members that begin so into an empty folder, without the archive's own top folder.

    Only the tests: the library itself is the installed one, and must not be hidden by its source.
    """
    with tarfile.open(file) as archive:
        for member in archive.getmembers():
            member.name = member.name.partition("/")[2]
            if member.name.startswith(members):
                archive.extract(member, folder, filter="data")


def _from_debian(package: str, release: str, folder: Path) -> None:
    """The upstream tarball of a source package, from the site that apt on this machine uses, whatever its release."""
    sites = _call(["apt-get", "indextargets", "--format", "$(SITE)|$(LABEL)"], folder).splitlines()
    site = next((line.partition("|")[0] for line in sites if line.endswith("|Debian")), None)
    if site is None or not DEBIAN_KEYRING.exists():
        raise FetchError(f"{package} comes from Debian's source packages, and apt knows no Debian here")
    state = folder / "apt"
    (state / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    sources = state / "sources.list"
    sources.write_text(f"deb-src [signed-by={DEBIAN_KEYRING}] {site} {release} main\n")
    options = {
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": state / "lists",
        "Dir::Cache": state,
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", "--quiet", *(part for key, value in options.items() for part in ("-o", f"{key}={value}"))]
    _call([*apt, "update"], folder)
    _call([*apt, "source", "--download-only", "--tar-only", package], folder)


def _call(command: list[str], folder: Path) -> str:
    try:
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FetchError(f"{command[0]}: {error}") from error
    if done.returncode:
        raise FetchError(f"{' '.join(command)}: {done.stderr.strip()[-800:]}")
    return done.stdout
