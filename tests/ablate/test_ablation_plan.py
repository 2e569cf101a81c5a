"""The plan of an ablation: the order of its trainings, its points, and what cannot be compared."""

from __future__ import annotations

from typing import Any

import pytest

from codeshell.ablate import plan, selection
from codeshell.errors import UserError
from codeshell.recipe import Recipe, from_tree

ARMS: dict[str, Any] = {"random": {}, "long": {"weights": {"characters": 1.0}}}


def recipe(ablate: dict[str, Any] | None = None, **sections: Any) -> Recipe:
    train = {"steps": 12, "batch_tokens": 64, "phases": [{"share": 1.0, "context": 32}]}
    tree = {
        "seed": 5,
        "model": {"n_layer": 1, "n_embd": 8, "n_head": 2, "num_query_groups": 1, "n_positions": 32},
        "train": train | sections.pop("train", {}),
        "evaluate": {"tasks": ["bits_per_byte"]},
        "ablate": {"arms": ARMS, "seeds": 2, "points": 3} | (ablate or {}),
    }
    return from_tree(tree | sections, "test")


def test_trainings_are_done_seed_by_seed() -> None:
    assert [(one.arm, one.seed) for one in plan.trainings(recipe())] == [
        *(("random", 6), ("long", 6)),
        *(("random", 7), ("long", 7)),
    ]


def test_points_lie_evenly_and_end_with_the_training() -> None:
    assert plan.points(recipe()) == [4, 8, 12]
    assert plan.budget(recipe()) == 12 * 64
    assert plan.budget(recipe({"tokens": 100})) == 100


def test_an_arm_differs_in_its_selection_alone() -> None:
    ours = plan.training_recipe(recipe(), plan.Training("long", 6))
    theirs = plan.training_recipe(recipe(), plan.Training("random", 6))
    assert ours.select != theirs.select
    assert (ours.model, ours.train, ours.seed, ours.evaluate) == (theirs.model, theirs.train, 6, theirs.evaluate)
    assert plan.shared_recipe(recipe()).select == Recipe().select


def test_no_checkpoint_of_a_point_is_pushed_out() -> None:
    """A training that is interrupted after each step saves as many checkpoints, and the trainer keeps the newest."""
    train = plan.training_recipe(recipe(train={"keep_checkpoints": 1}), plan.Training("long", 6)).train
    assert (train.checkpoint_every, train.keep_checkpoints) == (4, 12)


def test_what_decides_a_result_is_recorded() -> None:
    this = plan.record(recipe(), plan.Training("long", 6), {"tokens": "a"})
    others = [
        plan.record(recipe(train={"lr": 0.1}), plan.Training("long", 6), {"tokens": "a"}),
        plan.record(recipe({"tokens": 100}), plan.Training("long", 6), {"tokens": "a"}),
        plan.record(recipe(), plan.Training("long", 6), {"tokens": "b"}),
        plan.record(recipe(), plan.Training("long", 7), {"tokens": "a"}),
        plan.record(recipe(), plan.Training("random", 6), {"tokens": "a"}),
    ]
    assert all(this != other for other in others)
    # More seeds or another arm beside it change nothing of this one.
    more = {"seeds": 9, "arms": ARMS | {"short": {"weights": {"characters": -1.0}}}}
    assert plan.record(recipe(more), plan.Training("long", 6), {"tokens": "a"}) == this


def test_a_setting_that_an_earlier_version_did_not_know_is_its_default() -> None:
    now = plan.record(recipe(), plan.Training("long", 6), {"tokens": "a"})
    assert plan.differing({key: value for key, value in now.items() if key != "train.beta1"}, now) == []
    other = plan.record(recipe(train={"beta1": 0.5, "threads": 2}), plan.Training("long", 6), {"tokens": "a"})
    earlier = {key: value for key, value in now.items() if key != "train.beta1"}
    assert plan.differing(earlier, other) == ["train.beta1", "train.threads"]


@pytest.mark.parametrize(
    ("ablate", "sections", "complaint"),
    [
        ({"arms": {}}, {}, "ablate.arms: 0 arms"),
        ({"arms": {"random": {}}}, {}, "ablate.arms: 1 arms"),
        ({"baseline": "chance"}, {}, "no arm 'chance'; there are random, long"),
        ({"arms": ARMS | {"a/b": {}}}, {}, "the name 'a/b' makes no folder"),
        ({"held_out": {"../x": ["y"]}}, {}, "the name '../x' makes no folder"),
        ({"held_out": {"unfiltered": ["y"]}}, {}, "choose another name"),
        ({"held_out": {"good": []}}, {}, "ablate.held_out.good: names nothing"),
        ({"held_out": {"good": [""]}}, {}, "ablate.held_out.good: names nothing"),
        ({}, {"split": {"test": 0.0}}, "nothing is held out"),
        ({"arms": ARMS | {"some": {"budget": 5}}}, {}, "ablate.arms.some.budget: ablate.tokens is the budget"),
        ({"arms": ARMS | {"some": {"library_cap": 0.5}}}, {}, "ablate.arms.some.library_cap"),
        ({}, {"select": {"budget": 5}}, "each arm has a selection of its own"),
        ({"points": 5}, {}, "train.steps 12 is not a multiple of ablate.points 5"),
        ({}, {"evaluate": {"tasks": []}}, "evaluate.tasks: empty"),
        ({}, {"evaluate": {"tasks": ["positions"]}}, "positions is about one whole run"),
        ({}, {"evaluate": {"tasks": ["positionz"]}}, "did you mean positions"),
    ],
)
def test_what_cannot_be_compared_is_one_line(ablate: dict[str, Any], sections: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError) as caught:
        plan.check(recipe(ablate, **sections))
    assert complaint in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("select", "complaint"),
    [
        ({"weightz": {}}, "ablate.arms.bad: unknown key weightz; did you mean weights?"),
        ({"weights": {"characters": "x"}}, "ablate.arms.bad: weights"),
        ({"lowest": {"*": {"characters": 1.5}}}, "ablate.arms.bad: lowest"),
    ],
)
def test_a_key_that_select_does_not_have_is_named_with_its_arm(select: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError) as caught:
        recipe({"arms": ARMS | {"bad": select}})
    assert complaint in str(caught.value)


def test_a_column_that_no_scorer_gives_is_named_with_its_arm() -> None:
    with pytest.raises(UserError, match=r"ablate\.arms\.bad: select\.weights: no score 'contrast'.*perplexity"):
        selection.check(recipe({"arms": ARMS | {"bad": {"weights": {"contrast": 1.0}}}}))
    selection.check(recipe())
