"""A person says in words what to look for, of an index whose encoder reads them."""

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Served
from tests.tiny import clip, make_catalog, make_embeddings, picture, random_vector
from ucdr_ray.index.build import build
from ucdr_ray.index.search import Index


@pytest.fixture(scope="module")
def reading(tmp_path_factory):
    root = tmp_path_factory.mktemp("reading")
    catalog = make_catalog(root / "catalog", {"photo": 30, "sketch": 20}, side=64)
    embeddings = make_embeddings(
        root / "embeddings", catalog, lambda id_: random_vector(id_, clip().dim), made_by=clip()
    )
    build(embeddings, catalog, root / "index")
    running = Served(root / "index")
    yield running.address, root / "index"
    running.stop()


@pytest.mark.parametrize("width", [1200, 375])
def test_words_find_images_and_the_address_says_them(browser, reading, width):
    address, index = reading
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto(address)
    page.get_by_label("Or say what you look for").fill(" a cat & a tree ")
    page.keyboard.press("Enter")
    photos = page.get_by_role("region", name="photo").get_by_role("listitem")
    expect(photos).to_have_count(12)
    expect(page.locator("#how")).to_have_text("“a cat & a tree”")
    expect(page.locator("#query")).to_be_hidden()
    (answer,) = Index.open(index).search(clip().encode_text(["a cat & a tree"]).numpy(), ["photo"], 12, False)
    expect(photos.first).to_contain_text(answer.hits[0].source)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    address_of_it = page.url
    assert address_of_it.endswith("#text=a%20cat%20%26%20a%20tree")
    # On to an image of the answer, back to the words, and the same from the address alone.
    photos.first.get_by_role("button").click()
    expect(page.locator("#query")).to_be_visible()
    expect(page.get_by_label("Or say what you look for")).to_have_value("")
    page.go_back()
    expect(page.get_by_label("Or say what you look for")).to_have_value("a cat & a tree")
    expect(page.locator("#how")).to_have_text("“a cat & a tree”")
    page.close()
    again = browser.new_page()
    again.goto(address_of_it)
    expect(again.get_by_role("region", name="photo").get_by_role("listitem").first).to_contain_text(
        answer.hits[0].source
    )
    again.close()


def test_an_image_takes_the_place_of_words_and_words_that_of_an_image(browser, reading):
    page = browser.new_page()
    page.goto(reading[0])
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": picture(3, 64)})
    expect(page.locator("#how")).to_have_text("a.png")
    page.get_by_label("Or say what you look for").fill("house")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator("#how")).to_have_text("“house”")
    expect(page.locator("#status")).to_contain_text("images in")
    page.get_by_label("Or say what you look for").fill("tree " * 40)
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("tokens; allowed: up to 22")
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": picture(3, 64)})
    expect(page.locator("#status")).to_contain_text("images in")
    expect(page.get_by_label("Or say what you look for")).to_have_value("")
    page.close()


def test_axe_finds_nothing_in_it(browser, reading, axe):
    page = browser.new_page()
    page.goto(f"{reading[0]}/#text=house")
    expect(page.locator("#status")).to_contain_text("images in")
    page.evaluate(axe)
    assert page.evaluate("axe.run().then(result => result.violations.map(one => one.id))") == []
    page.close()


def test_without_such_an_encoder_nobody_is_asked_for_words(browser, served):
    page = browser.new_page()
    page.goto(served.address)
    expect(page.locator("#served")).to_contain_text("images")
    expect(page.get_by_label("Or say what you look for")).to_be_hidden()
    page.close()
