"""The quickest of the suites that client libraries ship, on both ways; `make foreign` runs them all."""

from __future__ import annotations

import pytest

from tests.foreign.outcomes import Comparison, surprises_of
from tests.foreign.suites import PY_AMQP
from tests.foreign.workshop import Address, Workshop
from tests.support.cluster import Cluster
from tests.support.sidehop import Sidehop


@pytest.fixture(scope="module")
def workshop() -> Workshop:
    """`make test` has fetched what this needs; a first run by pytest alone fetches it here."""
    workshop = Workshop(PY_AMQP)
    workshop.prepare()
    return workshop


def test_the_tests_of_py_amqp_end_through_sidehop_as_they_end_directly(
    workshop: Workshop, cluster: Cluster, sidehop: Sidehop
) -> None:
    direct = workshop.run("direct", Address(cluster.amqp_port(1)))
    through = workshop.run("sidehop", Address(sidehop.port))

    assert surprises_of(Comparison(PY_AMQP.name, workshop.version, direct, through), {}) == []
    assert set(through.values()) == {"passed"}
