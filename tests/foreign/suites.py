"""The suites: which archive, which part of it, what it needs, and what of it can't run here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.foreign.archive import Archive

# The broker's port, where a suite has it written into its tests.
WRITTEN_PORT = "5672"
PYTEST = ("pytest>=8.4,<10", "pytest-timeout>=2.3")


@dataclass(frozen=True)
class Suite:
    """One library's functional tests.

    `members` are the parts of the archive that are unpacked, `tests` what pytest is given, `installed` what goes into
    the virtual environment. `left_out` maps a test, file or word to the reason why it can't run here, either way.
    `container_as` is where the file with the stand-in for a container goes. A suite that is `rewritten` has the port in
    its text; the others read it from the environment.
    """

    name: str
    archive: Archive
    members: tuple[str, ...]
    tests: tuple[str, ...]
    installed: tuple[str, ...]
    left_out: dict[str, str]
    container_as: Path | None = None
    rewritten: bool = False

    @property
    def needs_tls(self) -> bool:
        """Does it connect by TLS as well?"""
        return self.container_as is not None

    @property
    def selection(self) -> list[str]:
        """What pytest is told to leave out: a file, one test, or every test whose name has a word in it."""
        chosen = []
        words = []
        for what in self.left_out:
            if "::" in what:
                chosen.append(f"--deselect={what}")
            elif what.endswith(".py"):
                chosen.append(f"--ignore={what}")
            else:
                words.append(what)
        return chosen + (["-k", f"not ({' or '.join(words)})"] if words else [])


PIKA = Suite(
    name="pika",
    archive=Archive(
        name="python-pika_1.3.2.orig.tar.gz",
        sha256="5eb71b9a0047c77d99378e525a2041fc50aae4a177b060f9825b3e2fdcc96fc4",
        package="python-pika",
        debian="trixie",
    ),
    members=("tests/",),
    tests=(
        "tests/acceptance/async_adapter_tests.py",
        "tests/acceptance/blocking_adapter_test.py",
        "tests/acceptance/enforce_one_basicget_test.py",
    ),
    installed=("pika==1.3.2", "gevent", "tornado", "twisted"),
    left_out={
        "tests/acceptance/twisted_adapter_tests.py": "runs by nose only, which does not run on Python 3.11",
        "tests/acceptance/io_services_tests.py": "talks to sockets of its own and to a host on the internet, no broker",
    },
    rewritten=True,
)
AIORMQ = Suite(
    name="aiormq",
    archive=Archive(
        name="aiormq-7.2.4.tar.gz",
        sha256="5fd20bb9583d73de85572198496b65cf028f27527c1733c9840d458e0b40e8fa",
        package="aiormq==7.2.4",
    ),
    members=("tests/", "pyproject.toml"),
    tests=("tests",),
    installed=("aiormq==7.2.4", "aiomisc", "aiomisc-pytest>=2,<3"),
    left_out={},
    container_as=Path("conftest.py"),
)
AIO_PIKA = Suite(
    name="aio-pika",
    archive=Archive(
        name="aio_pika-10.2.1.tar.gz",
        sha256="e4f77afd9179a3cca5a904c3b0a1190256a36d9f90650db908b1b2245eb27487",
        package="aio-pika==10.2.1",
    ),
    members=("tests/", "pyproject.toml"),
    tests=("tests",),
    installed=("aio-pika==10.2.1", "aiormq==7.2.4", "aiomisc", "aiomisc-pytest", "shortuuid", "timeout-decorator"),
    left_out={"tests/test_robust_recovery.py": "restarts a broker of its own by Docker"},
    container_as=Path("tests/docker_client.py"),
)
PY_AMQP = Suite(
    name="py-amqp",
    archive=Archive(
        name="amqp-5.4.2.tar.gz",
        sha256="9362660c4a31150cf18e78cae2ce8aa1e929fc6c6739e69f6dd5dbea9c3edc82",
        package="amqp==5.4.2",
    ),
    members=("t/", "setup.cfg"),
    tests=("t/integration",),
    installed=("amqp==5.4.2",),
    left_out={"tls": "the certificates are not in the archive"},
)
KOMBU = Suite(
    name="kombu",
    archive=Archive(
        name="kombu-5.7.0.tar.gz",
        sha256="31e62fdfd2381caa3422f8e02b84a491d9a2180ddda74507b57f4cb1e1c2c2c9",
        package="kombu==5.7.0",
    ),
    members=("t/", "setup.cfg"),
    tests=("t/integration/test_py_amqp.py",),
    installed=("kombu==5.7.0", "amqp==5.4.2"),
    left_out={},
)
SUITES = {suite.name: suite for suite in (PIKA, AIORMQ, AIO_PIKA, PY_AMQP, KOMBU)}
