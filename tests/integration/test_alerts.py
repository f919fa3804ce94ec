"""The alert rules speak of metrics that a running Sidehop exports."""

from __future__ import annotations

import re
from collections.abc import Callable

import yaml

from tests.support.cluster import Cluster
from tests.support.sidehop import ROOT, Sidehop


def test_every_metric_of_the_alert_rules_is_exported(cluster: Cluster, start_sidehop: Callable[..., Sidehop]) -> None:
    # Some are there with several workers only.
    sidehop = start_sidehop("--node", cluster.addresses[0], env={"SIDEHOP_LISTEN__WORKERS": "2"})
    rules = (ROOT / "deploy" / "prometheus" / "alerts.yaml").read_text()
    expressions = [rule["expr"] for group in yaml.safe_load(rules)["groups"] for rule in group["rules"]]
    wanted = {name for expression in expressions for name in re.findall(r"\bsidehop_\w+", expression)}
    # A counter without a sample yet is there by its description.
    exported = set(re.findall(r"^(?:# TYPE )?(sidehop_\w+)", sidehop.text("/metrics"), re.MULTILINE))
    assert wanted - exported == set()
