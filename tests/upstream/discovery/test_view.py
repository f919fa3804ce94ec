"""What is known of a prefix, by lists and by changes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.upstream.discovery.registry import Item, Listing, RegistryError
from proxy.upstream.discovery.view import View

KEYS = ["/p/a", "/p/b", "/p/c"]


def names(view):
    return [endpoint.name for endpoint in view.snapshot().endpoints]


def viewing(*items, revision=1, entries_max=10):
    view = View("/p/", entries_max)
    view.replace(Listing(items, revision))
    return view


def test_a_bad_value_keeps_the_endpoint_before_it_until_the_key_is_deleted():
    view = viewing(Item("/p/a", b"mq1", 1))
    view.apply([Item("/p/a", b"what?", 2)], 2)
    assert names(view) == ["a"]
    assert [entry.key for entry in view.snapshot().rejected] == ["/p/a"]
    view.apply([Item("/p/a", None, 3)], 3)
    view.apply([Item("/p/a", b"what?", 4)], 4)
    assert names(view) == []


def test_a_bad_value_in_a_list_keeps_the_endpoint_before_it():
    view = viewing(Item("/p/a", b"mq1", 1))
    view.replace(Listing((Item("/p/a", b"what?", 2),), 2))
    assert names(view) == ["a"]
    view.replace(Listing((), 3))
    assert names(view) == []


def test_the_prefix_itself_is_not_a_node():
    assert [entry.reason for entry in viewing(Item("/p/", b"mq1", 1)).snapshot().rejected] == [
        "the key has no name after the prefix"
    ]


def test_changes_that_are_older_than_the_list_are_left_alone():
    view = viewing(Item("/p/a", b"mq1:1", 5), revision=5)
    view.apply([Item("/p/a", b"mq1:2", 4)], 4)
    view.apply([Item("/p/a", None, 3)], 3)
    assert [endpoint.port for endpoint in view.snapshot().endpoints] == [1]
    assert view.snapshot().revision == 5


def test_too_many_keys_are_refused():
    with pytest.raises(RegistryError, match="prefix"):
        View("/p/", 2).replace(Listing((), 1, complete=False))
    view = viewing(Item("/p/a", b"mq1", 1), entries_max=1)
    with pytest.raises(RegistryError, match="prefix"):
        view.apply([Item("/p/b", b"mq1", 2)], 2)


@given(st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from([b"mq1", b"mq2:7", None])), max_size=20), st.data())
def test_a_list_and_the_changes_after_it_are_as_good_as_a_later_list(history, data):
    """The promise of list at R and watch from R + 1, wherever R is."""
    puts = [Item(key, value, revision) for revision, (key, value) in enumerate(history, 2)]
    cut = data.draw(st.integers(0, len(puts)))
    followed = View("/p/", 10)
    followed.replace(state(puts[:cut]))
    for put in puts[cut:]:
        followed.apply([put], put.mod_revision)
    listed = View("/p/", 10)
    listed.replace(state(puts))
    assert followed.snapshot().endpoints == listed.snapshot().endpoints
    assert followed.matches(state(puts))


def state(puts):
    """What etcd lists after these puts and deletions."""
    held = {}
    for put in puts:
        held[put.key] = put
    kept = tuple(item for item in held.values() if item.value is not None)
    return Listing(kept, puts[-1].mod_revision if puts else 1)
