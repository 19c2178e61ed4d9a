"""Sections: what is built, how errors are told, and what the documentation of a field says."""

import dataclasses
from typing import Literal

import pytest
from pydantic import Field

from hut_jax.core.errors import UserError
from hut_jax.core.sections import attributes, build, defaults, fields_of, meaning, section
from hut_jax.transforms import TRANSFORMS


@section
class Oven:
    """An oven."""

    heat: float = Field(default=180.0, gt=0, le=300, description="degrees")
    mode: Literal["bake", "grill"] = Field(default="bake", description="where the heat comes from")
    dishes: tuple[str, ...] = Field(default=(), description="what is in it")
    minutes: int = Field(ge=1, description="how long")

    def __post_init__(self):
        if self.mode == "grill" and self.minutes > 30:
            raise UserError("oven.minutes is too long for a grill")


def test_a_section_is_frozen_and_compares_by_value():
    oven = build(Oven, {"minutes": 5, "heat": 200}, "oven")
    assert oven == Oven(minutes=5, heat=200.0)
    assert isinstance(oven.heat, float)
    with pytest.raises(AttributeError):
        oven.minutes = 6
    assert {name: value for name, value in defaults(Oven).items() if name != "minutes"} == {
        "heat": 180.0,
        "mode": "bake",
        "dishes": (),
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "oven.minutes is missing"),
        ({"minutes": 5, "haet": 3.0}, "unknown field oven.haet; did you mean 'heat'?"),
        ({"minutes": 0}, "oven.minutes is 0; it must be at least 1"),
        ({"minutes": 5, "heat": 301.0}, "oven.heat is 301.0; it must be above 0 and at most 300"),
        ({"minutes": 5, "heat": float("nan")}, "oven.heat is nan; it must be finite"),
        ({"minutes": "5"}, "oven.minutes is '5'; it must be a whole number"),
        ({"minutes": 5, "mode": "gril"}, "oven.mode is 'gril'; did you mean 'grill'?"),
        ({"minutes": 5, "dishes": ("pie", 3)}, "oven.dishes is ('pie', 3); it must be a tuple of texts"),
        ({"minutes": 31, "mode": "grill"}, "oven.minutes is too long for a grill"),
    ],
)
def test_what_is_wrong_is_one_line(fields, message):
    with pytest.raises(UserError) as caught:
        build(Oven, fields, "oven")
    assert str(caught.value) == message


def test_a_field_says_what_it_means_and_which_values_it_takes():
    assert [meaning(info) for info in fields_of(Oven).values()] == [
        "degrees (above 0 and at most 300)",
        "where the heat comes from ('bake' or 'grill')",
        "what is in it",
        "how long (at least 1)",
    ]


@pytest.mark.parametrize("name", TRANSFORMS)
def test_every_setting_of_a_transformation_is_documented(name):
    assert attributes(TRANSFORMS[name]).keys() >= {field.name for field in dataclasses.fields(TRANSFORMS[name])}


def test_attributes_are_those_of_the_docstring_and_of_bases():
    class Base:
        """A base.

        Attributes:
            one: the first,
                on two lines.
            two: the second.

        Raises:
            three: no attribute.
        """

    class Derived(Base):
        """One more.

        Attributes:
            two: another.
        """

    assert attributes(Derived) == {"one": "the first, on two lines", "two": "another"}
