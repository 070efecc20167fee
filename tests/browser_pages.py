"""What a page shows, asked of the browser that the fixture `open_page` opens."""


def shown(page):
    return page.eval_on_selector_all(".item", "all => all.map(e => e.dataset.id)")


def settle(page):
    page.wait_for_function("[...document.images].some(i => i.complete && i.naturalWidth > 0)")
