"""When UEM's second stage begins."""

import pytest
import torch

from ucdr_ray.config import load_config
from ucdr_ray.methods.switch import Switch

STABLE, ONE, FIRST = torch.tensor([0.95, 0.9]), torch.tensor([0.95, 0.89]), torch.tensor([torch.nan, 1.0])


def switch(*settings: str) -> Switch:
    given = ["stages={idse: 10, cdsm: 5}", *settings]
    return Switch(load_config(None, ["method.name=uem", *[f"method.{setting}" for setting in given]]).method)


def ended(made: Switch, *seen: torch.Tensor, first: int = 0) -> int:
    for epoch, stability in enumerate(seen, first):
        if epoch < made.epochs:
            made.look(epoch, stability)
    return made.epochs


def test_set_by_hand_nothing_ends_it_sooner() -> None:
    assert ended(switch(), *[STABLE] * 10) == 10


def test_stable_in_a_row_from_the_middle_on_it_ends() -> None:
    made = switch("switch=stable", "stable_for=2")
    assert ended(made, *[STABLE] * 5) == 10
    assert ended(made, STABLE, ONE, STABLE, first=5) == 10
    assert ended(made, STABLE, first=8) == 9


@pytest.mark.parametrize(("wanted", "expected"), [(1, 1), (3, 3)])
def test_it_may_count_from_the_beginning(wanted: int, expected: int) -> None:
    assert ended(switch("switch=stable", "stable_from=0", f"stable_for={wanted}"), *[STABLE] * 10) == expected


def test_never_stable_it_ends_where_it_was_set() -> None:
    assert ended(switch("switch=stable"), *[FIRST, *[ONE] * 9]) == 10


def test_a_number_that_is_none_is_not_stable() -> None:
    assert ended(switch("switch=stable", "stable_from=0", "stable_for=1", "stable_at=0"), *[FIRST] * 10) == 10


def test_it_is_remembered() -> None:
    made = switch("switch=stable", "stable_for=2")
    ended(made, STABLE, first=6)
    again = switch("switch=stable", "stable_for=2")
    again.load_state_dict(made.state_dict())
    assert ended(again, STABLE, first=7) == 8
