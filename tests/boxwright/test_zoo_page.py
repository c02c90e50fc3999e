"""docs/zoo.md is what its command writes."""

import re

import pytest

from boxwright.zoo import page
from boxwright.zoo.catalogue import CATALOGUE, TRUNKS

_ROW = re.compile(r"\| `([\w/.-]+)` \| [\d.]+(?: \w+)? \| ([\d.]+) \| (\d+) \|")


def printed() -> dict[str, tuple[float, float]]:
    return {name: (float(size), float(work)) for name, size, work in _ROW.findall(page.PAGE.read_text())}


def test_the_page_is_the_catalogue_with_its_numbers() -> None:
    assert printed().keys() == CATALOGUE.keys()
    assert page.page(printed()) == page.PAGE.read_text(), "run python -m boxwright.zoo.page"
    assert all(f"`{name}`" in page.PAGE.read_text() for name in TRUNKS)


@pytest.mark.slow
def test_the_numbers_of_the_page_are_counted() -> None:
    for name, (size, work) in page.measured().items():
        assert printed()[name] == (pytest.approx(size, abs=0.051), pytest.approx(work, abs=0.51)), name
