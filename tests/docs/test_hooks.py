"""The parts of pages that are made from the code."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from dat.recipes import EngineSettings
from docs.hooks.build import fill
from docs.hooks.included import with_links_to_pages
from docs.hooks.settings_tables import Setting, field_docstrings, settings_of, table, value_text


@dataclass(frozen=True, kw_only=True, slots=True)
class Inner:
    """The inner one."""

    mode: Literal["fast", "slow"] = "fast"
    """How it is
    done; a | b."""
    switch: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Outer:
    """The outer one."""

    radius: float = 8 / 255
    inner_part: Inner = field(default_factory=Inner)
    limit: int | None = None
    """How many; None: all."""


def test_settings_take_defaults_from_the_value_and_meanings_from_the_source():
    found = list(settings_of(Outer(limit=3, inner_part=Inner(switch=False))))
    assert found == [
        Setting(name="radius", type="number", default="8/255", meaning=""),
        Setting(name="inner-part.mode", type="`fast` or `slow`", default="fast", meaning="How it is done; a | b."),
        Setting(name="inner-part.switch", type="yes or no", default="no", meaning=""),
        Setting(name="limit", type="whole number or none", default="3", meaning="How many; None: all."),
    ]


def test_a_table_has_one_row_per_setting_and_keeps_its_columns():
    header, rule, row = table(iter(list(settings_of(Inner()))[:1])).splitlines()
    assert header.count("|") == rule.count("|") == row.replace("\\|", "").count("|")
    assert row.startswith("| `--mode` |")


def test_docstrings_of_fields_belong_to_the_field_above():
    assert field_docstrings(Outer) == {"limit": "How many; None: all."}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (8 / 255, "8/255"),
        (0.1, "0.1"),
        (15.0, "15"),
        (5e-4, "0.0005"),
        (None, "none"),
        (True, "yes"),
        ((100, 110), "100 110"),
    ],
)
def test_values_are_written_as_one_would_type_them(value, text):
    assert value_text(value) == text


def bent(markdown: str) -> str:
    return with_links_to_pages(
        markdown,
        document="kernels/a/README.md",
        page="kernels/a.md",
        pages={"kernels/b/README.md": "kernels/b.md"},
        pictures={"bench/p.svg": "measured/p.svg"},
    )


def test_links_of_an_included_document_lead_to_pages():
    assert bent("[b](../b/README.md#limits)") == "[b](b.md#limits)"
    assert bent("![p](../../bench/p.svg)") == "![p](../measured/p.svg)"
    assert bent("[the code](op.py)") == "the code (`kernels/a/op.py`)"
    assert bent("[x](https://example.org/x)") == "[x](https://example.org/x)"


def test_code_of_an_included_document_is_left_alone():
    code = "```python\nvalue = table[0](x.md)\n```\n"
    assert bent(code) == code


def test_a_picture_that_the_site_lacks_is_an_error():
    with pytest.raises(ValueError, match="no copy"):
        bent("![p](../bench/p.svg)")


def test_requests_are_answered():
    text = fill("<!-- method settings: dat -->\n\n<!-- recipe table -->", page="x.md", pages={})
    assert "| `--dat.beta` | number | `15` |" in text and "| `digits-resnet` | digits |" in text and "<!--" not in text


def test_fields_that_a_group_takes_over_have_their_meaning_too():
    rows = list(settings_of(EngineSettings()))
    assert {"padded-stem", "execution"} < {row.name for row in rows} and all(row.meaning for row in rows)
