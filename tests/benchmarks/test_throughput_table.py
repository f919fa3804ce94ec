"""A ratio that compares different rounds would measure the machine's mood; so the table is tested."""

from benchmarks.throughput.rig import Case, Sample
from benchmarks.throughput.table import markdown, rows

CASE = Case("fake", "confirm", 100)


def test_ratios_compare_neighbours_in_time_and_the_median_counts():
    samples = []
    for own, other in ((50.0, 100.0), (10.0, 10.0), (600.0, 800.0)):
        samples += [Sample(CASE, "sidehop", own, 2.0), Sample(CASE, "haproxy", other, 1.0)]
    sidehop, haproxy = rows(samples)
    assert (sidehop["ratio_to_haproxy"], haproxy["ratio_to_haproxy"]) == (0.75, 1.0)
    assert (sidehop["rate"], sidehop["rate_min"], sidehop["rate_max"]) == (50, 10, 600)


def test_without_haproxy_there_is_no_ratio_and_a_dash_says_so():
    table = rows([Sample(CASE, "direct", 5.0, None)])
    assert table[0]["ratio_to_haproxy"] is None
    assert "| fake | confirm | 100 | direct | 5 (5 - 5) | - | - | - | - |" in markdown(table, [])
