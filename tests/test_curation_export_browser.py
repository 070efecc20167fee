"""The page of an export in a real browser: rows by verdict, reason and category, in any order."""

import json

import pytest

from editmgt_lib.curation.export import ExportOptions, export

from .browser_pages import settle, shown
from .curated_folder import Curated, Edits, Quality

pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("curation")
    curated = Curated(
        pictures=4,
        edits=Edits(broken=frozenset({"001.png"})),
        quality=Quality(undone=frozenset({("003.png", "add")})),
        keep={"images": {"short_side": ">= 16", "colours": "flag >= 1000"}},
    )
    with pytest.MonkeyPatch.context() as patch:
        export(curated.make(folder, patch), folder / "out", ExportOptions())
    return folder / "out"


def count(page):
    return page.inner_text("#count")


def test_rows_by_verdict_reason_and_category(out, open_page):
    page = open_page(out / "rows.html")
    settle(page)
    assert count(page) == "12 of 12 items"
    page.select_option("#status", "failed")
    assert count(page) == "3 of 12 items"
    first = page.locator(".item").first
    assert "no after" in first.inner_text() and "the editor said no" in first.inner_text()
    page.select_option("#category", "remove")
    assert count(page) == "1 of 12 items"
    page.select_option("#status", "")
    page.select_option("#category", "")
    page.select_option("#reason", "quality: noop")
    (only,) = shown(page)
    text = page.locator(".item").inner_text()
    assert "drop" in text and "kept are == 0" in text and "flagged: images.colours" in text
    page.select_option("#reason", "")
    page.fill("#search", only)
    assert shown(page) == [only]
    assert page.locator(".item figcaption").all_inner_texts() == ["before", "after"]


def test_rows_in_the_order_of_a_value(out, open_page):
    page = open_page(out / "rows.html")
    data = json.loads(page.text_content("#data"))
    names = [metric["name"] for metric in data["metrics"]]
    place = names.index("quality.noop")
    page.select_option("#metric", label="quality.noop")
    page.select_option("#order", "high")
    values = {item["id"]: item["values"][0][place] for item in data["items"]}
    found = [values[id] for id in shown(page)]
    assert found == [1, *[0] * 8, *[None] * 3]  # what has no value comes last, either way
    page.select_option("#order", "low")
    assert [values[id] for id in shown(page)] == [*[0] * 8, 1, *[None] * 3]


@pytest.mark.parametrize("width", (1280, 480))
def test_nothing_is_wider_than_the_window(out, open_page, width):
    page = open_page(out / "rows.html")
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator("summary").click()
    assert page.locator("details tr").count() > 8
    assert page.evaluate("document.documentElement.scrollWidth") <= width
