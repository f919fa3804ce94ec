"""The status page: the facts of the API, for a person with a browser. Read-only, no script, nothing from outside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape

from proxy.ops.vitals import DETACHED, Condition, Load, Vitals

# The page brings its own few styles and may load or run nothing else, whatever a broker or a client is called.
CONTENT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="5">
<meta name="viewport" content="width=device-width"><title>Sidehop</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem }}
table {{ border-collapse: collapse; width: 100% }}
th, td {{ text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #8884 }}
.up {{ color: #087f3f }} .suspect, .draining {{ color: #a05a00 }} .down, .ejected {{ color: #b3261e }}
</style></head><body>
<h1>Sidehop {version}</h1>
<p>{readiness}</p>
<h2>Brokers</h2>
<p>{discovery}</p>
{endpoints}
<h2>Sessions</h2>
{sessions}
<p><a href="/api/v1/endpoints">endpoints</a> · <a href="/api/v1/sessions">sessions</a> ·
<a href="/metrics">metrics</a></p>
</body></html>
"""


def render_page(vitals: Vitals, condition: Condition, loads: Mapping[str, Load], now: float) -> str:
    """Describe the sidecar in one page of HTML."""
    reasons = vitals.not_ready(condition)
    status = vitals.discovery
    age = "never answered" if status.synced_at is None else f"answered {now - status.synced_at:.0f} s ago"
    told = [f"Discovery: {status.source}, {age}"]
    told += ["the last good endpoints are in use"] if status.stale else []
    told += [f"{len(vitals.rejected)} entries could not be understood"] if vitals.rejected else []
    return _PAGE.format(
        version=escape(vitals.build.version),
        readiness=escape("Not ready: " + "; ".join(reasons) if reasons else "Ready."),
        discovery=escape("; ".join(told)) + ".",
        endpoints=_table(
            ("name", "address", "state", "cause", "zone", "weight", "for"),
            (
                (view.name, view.address, view.state, view.cause, view.zone, view.weight, f"{view.since_s:.0f} s")
                for view in condition.endpoints
            ),
        ),
        sessions=_table(
            ("broker", "sessions", "channels", "consumers", "unsettled publishes", "outstanding deliveries"),
            (
                (
                    name,
                    load.sessions,
                    load.channels,
                    load.consumers,
                    load.unsettled_publishes,
                    load.outstanding_deliveries,
                )
                for name, load in loads.items()
                if load.sessions or name != DETACHED
            ),
        ),
    )


def _table(heads: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    states = ("up", "suspect", "draining", "down", "ejected")
    lines = ["<table><tr>" + "".join(f"<th>{head}</th>" for head in heads) + "</tr>"]
    for row in rows:
        cells = [escape(str(value)) for value in row]
        lines.append("<tr>" + "".join(f'<td class="{c if c in states else ""}">{c}</td>' for c in cells) + "</tr>")
    return "\n".join([*lines, "</table>"])
