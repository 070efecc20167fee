"""The page of a report in a real browser: it opens without errors or requests, sorts, filters, and
draws only what is in view."""

import os
import shutil
from math import inf

import pytest
from PIL import Image

from editmgt_lib.evaluation.report import write_comparison, write_report

from .reported_runs import L1, PSNR, add_baseline, write_run

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
COUNT = 130


@pytest.fixture(scope="module")
def browser():
    play = pytest.importorskip("playwright.sync_api", reason="the package playwright is not here")
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed; CHROMIUM can name one")
    with play.sync_playwright() as started:
        options = ["--no-sandbox", "--disable-gpu"]
        opened = started.chromium.launch(
            executable_path=CHROMIUM, headless=True, args=options, timeout=300_000
        )
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser):
    """Open a file; when the test ends there must have been no error and no request elsewhere."""
    troubles, pages = [], []

    def opening(path, **options):
        page = browser.new_page(viewport={"width": 1280, "height": 900}, **options)
        page.set_default_timeout(120_000)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("console", lambda message: troubles.append(message.text))
        page.on("request", lambda r: r.url.startswith("http") and troubles.append(r.url))
        page.goto(path.resolve().as_uri())
        pages.append(page)
        return page

    yield opening
    for page in pages:
        page.close()
    assert troubles == []


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Item k has L1 k / 1000; the hundredth failed, and the last has no PSNR."""
    values = [k / 1000 for k in range(COUNT)]
    values[100] = "failed"
    psnr = [inf, *[30.0] * (COUNT - 2), "n/a"]
    tasks = ["first" if k % 2 == 0 else "second" for k in range(COUNT)]
    folder = tmp_path_factory.mktemp("run") / "run"
    run = write_run(folder, {L1: values, PSNR: psnr}, tasks, pictures=[(48, 32), (32, 48)])
    run.picture(run.items()[100]).unlink()
    add_baseline(run, "copy", {L1: [0.0] * COUNT})
    write_report(run, {"draws": 200})
    return run


def shown(page):
    return page.eval_on_selector_all(".item", "all => all.map(e => e.dataset.id)")


def settle(page):
    page.wait_for_function("[...document.images].some(i => i.complete && i.naturalWidth > 0)")


def test_failed_items_come_first_and_the_rest_is_drawn_when_needed(run, open_page):
    page = open_page(run.path / "report.html")
    settle(page)
    ids = [item.id for item in run.items()]
    assert shown(page)[:3] == [ids[100], ids[0], ids[1]]
    assert len(shown(page)) < COUNT
    assert page.inner_text("#count") == f"{COUNT} of {COUNT} items"
    first = page.locator(".item").first
    assert "failed" in first.inner_text() and "no result" in first.inner_text()
    assert "why failed" in first.inner_text()
    for _ in range(60):
        if len(shown(page)) == COUNT:
            break
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        page.wait_for_timeout(100)
    assert len(shown(page)) == COUNT


def test_pictures_belong_to_their_items(run, open_page):
    page = open_page(run.path / "report.html")
    name = run.items()[90].id
    page.fill("#search", name)
    assert shown(page) == [name]
    image = page.locator(".item img").first
    image.scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('.item img').complete")
    color = image.evaluate(
        """image => {
          const canvas = document.createElement("canvas");
          const context = canvas.getContext("2d");
          context.drawImage(image, 0, 0);
          return [...context.getImageData(5, 5, 1, 1).data].slice(0, 3);
        }"""
    )
    with Image.open(run.locate(run.items()[90].source)) as source:
        assert color == pytest.approx(source.getpixel((5, 5)), abs=6)


def test_filters_and_orders(run, open_page):
    page = open_page(run.path / "report.html")
    ids = [item.id for item in run.items()]
    page.select_option("#task", "second")
    assert page.inner_text("#count") == f"{COUNT // 2} of {COUNT} items"
    assert shown(page)[0] == ids[1]
    page.select_option("#task", "")
    page.select_option("#metric", label=L1)
    assert shown(page)[:3] == [ids[100], ids[129], ids[128]]  # lower is better: worst first
    page.select_option("#order", "best")
    assert shown(page)[:2] == [ids[0], ids[1]]
    page.select_option("#metric", label=PSNR)
    assert shown(page)[0] == ids[0]  # infinite
    page.select_option("#status", "n/a")
    assert shown(page) == [ids[129]]
    page.select_option("#status", "failed")
    assert shown(page) == []
    assert page.inner_text("#count") == f"0 of {COUNT} items"


def test_a_picture_enlarges_and_the_theme_switches(run, open_page):
    page = open_page(run.path / "report.html", color_scheme="light")
    settle(page)
    page.locator(".item .frame").first.click()
    assert page.locator("dialog[open] img").count() >= 1
    page.locator("dialog button").click()
    assert page.locator("dialog[open]").count() == 0
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.click("#theme")
    assert page.evaluate(ground) != light
    page.click("#theme")
    assert page.evaluate(ground) == light


@pytest.mark.parametrize("width", (1280, 480))
def test_nothing_is_wider_than_the_window(run, open_page, width):
    page = open_page(run.path / "report.html")
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("abbr[title*='better']").count() > 4
    assert page.locator("svg.chart").count() == 4


def test_a_comparison_begins_with_the_largest_change(run, tmp_path, open_page):
    values = [k / 1000 for k in range(COUNT)]
    values[7] = 0.5
    tasks = [item.task for item in run.items()]
    other = write_run(tmp_path / "other", {L1: values}, tasks, pictures=[(48, 32)])
    write_comparison(run, other, tmp_path / "out", {"draws": 200}, metrics=(L1,))
    page = open_page(tmp_path / "out" / "compare.html")
    settle(page)
    ids = [item.id for item in run.items()]
    assert shown(page)[:2] == [ids[100], ids[7]]  # a failure counts as the worst value
    captions = page.locator(".item").nth(1).locator("figcaption").all_inner_texts()
    assert captions == ["source", "run", "other"]
    assert "+0.493" in page.locator(".item").nth(1).inner_text()
    page.select_option("#order", "down")
    assert shown(page)[0] == ids[7]
    page.select_option("#order", "up")
    assert shown(page)[0] == ids[100]
