"""A person searches for what the gallery lacks, and is told so, and why."""

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Served
from tests.categories import built_index
from tests.tiny import picture


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A service of two domains that have some categories in common, and images of one that they do not."""
    embeddings, _, path, _ = built_index(tmp_path_factory.mktemp("null"))
    running = Served(path)
    yield running.address, embeddings.ids("sketch").to_pylist()
    running.stop()


@pytest.mark.parametrize("width", [1200, 375])
def test_nothing_here_matches_and_why(browser, shared, width):
    address, ids = shared
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto(f"{address}/#{ids[-1]}")
    expect(page.get_by_role("region", name="photo")).to_contain_text("Nothing here matches.")
    expect(page.get_by_role("region", name="sketch").get_by_role("button")).to_have_count(12)
    page.get_by_role("checkbox", name="sketch").uncheck()
    expect(page.get_by_role("region", name="Nothing here matches")).to_be_visible()
    expect(page.locator("#reason")).to_have_text(
        "Images of sketch like this one have no counterpart in photo."
    )
    expect(page.locator("#status")).to_contain_text("Judged as sketch.")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(
        "document.querySelector('#how').scrollWidth <= document.querySelector('#how').clientWidth"
    )
    page.get_by_role("checkbox", name="Say where nothing matches").uncheck()
    expect(page.get_by_role("region", name="photo").get_by_role("button")).to_have_count(12)
    expect(page.locator("#status")).not_to_contain_text("Judged")
    page.close()


def test_axe_finds_nothing_in_it(browser, shared, axe):
    address, ids = shared
    page = browser.new_page()
    page.goto(f"{address}/#{ids[-1]}")
    page.get_by_role("checkbox", name="sketch").uncheck()
    expect(page.get_by_role("region", name="Nothing here matches")).to_be_visible()
    page.evaluate(axe)
    assert page.evaluate("axe.run().then(result => result.violations.map(one => one.id))") == []
    page.close()


def test_what_a_query_is_from_can_be_said(browser, shared):
    address, _ = shared
    page = browser.new_page()
    page.goto(address)
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": picture(3, 64)})
    expect(page.locator("#status")).to_contain_text("images in")
    page.get_by_label("The image is from").select_option("sketch")
    expect(page.locator("#status")).to_contain_text("Judged as sketch.")
    page.close()
