"""What all sessions of a process share."""

from __future__ import annotations

import random
from dataclasses import dataclass

from proxy.net.budget import Budget
from proxy.net.census import Census
from proxy.net.dialler import Dialler
from proxy.reports import ReportSink
from proxy.session.credentials import Face
from proxy.session.policy import SessionPolicy
from proxy.upstream.pool import Pool


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Handed to every driver."""

    policy: SessionPolicy
    pool: Pool
    dialler: Dialler
    census: Census
    budget: Budget
    face: Face
    rng: random.Random
    report: ReportSink
