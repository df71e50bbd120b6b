"""The ring keeps the tail of a product's events, with all events of the latest apply."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.engine.ring import Ring
from tests.unit.node.engine.test_feed import encoded, opened


class TestRing:
    @given(capacity=st.integers(1, 200), start=st.integers(1, 50), sizes=st.lists(st.integers(1, 300), max_size=12))
    def test_a_ring_is_the_tail_of_a_list_with_whole_applies(self, capacity: int, start: int, sizes: list[int]) -> None:
        everything: list[bytes] = []
        ring = Ring(capacity, start)
        for size in sizes:
            events = encoded(*(opened(ring.next_sequence + place) for place in range(size)))[1]
            everything += events
            ring.extend(events)
            kept = everything[ring.first_sequence - start :]
            assert len(kept) >= min(len(everything), capacity)
            assert len(kept) <= capacity + max(sizes) + capacity // 8
            for offset in range(0, len(kept), 7):
                part = ring.slice(ring.first_sequence + offset, 5)
                assert part == kept[offset : offset + len(part)]
                assert 1 <= len(part) <= 5
            assert ring.slice(ring.next_sequence, 5) == []
            for count in (1, 10, 10_000):
                assert list(ring.latest(count)) == kept[-count:]

    def test_the_events_of_one_entry_stay_in_the_ring_until_its_capacity_of_later_events_has_arrived(self) -> None:
        ring = Ring(100)
        ring.extend(encoded(*(opened(sequence) for sequence in range(1, 1_001)))[1])
        assert ring.first_sequence == 1
        for sequence in range(1_001, 1_101):
            assert ring.first_sequence == 1
            ring.extend(encoded(opened(sequence))[1])
        assert ring.first_sequence == 1_001

    def test_a_ring_continues_from_saved_events(self) -> None:
        events = encoded(*(opened(sequence) for sequence in range(31, 41)))[1]
        ring = Ring(20, 41, events)
        assert (ring.first_sequence, ring.next_sequence) == (31, 41)
        assert list(ring.latest(20)) == events

    def test_a_gap_is_a_defect(self) -> None:
        ring = Ring(10)
        with pytest.raises(AssertionError):
            ring.extend(encoded(opened(2))[1])
        with pytest.raises(AssertionError):
            ring.extend(encoded(opened(1), opened(3))[1])
