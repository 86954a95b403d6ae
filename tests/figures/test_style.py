"""How methods and their variants look."""

from __future__ import annotations

from figures.style import METHODS, looks


def test_a_variant_shares_no_marker_with_a_method_beside_it():
    own = ["diswm", "dreamerv2", "dv2_finetune", "apv"]
    variants = [("diswm", f"variant {n}") for n in range(4)]
    found = looks([*variants, *((name, name) for name in own)])
    assert [found[name, name] for name in own] == [METHODS[name] for name in own]
    assert len({look.marker for look in found.values()}) == 8
    assert len({look.color for look in found.values()}) == 8
    assert found[variants[0]].label == "variant 0"
