"""A person searches: by upload, by example, from a result, by keyboard; and is told what goes wrong."""

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Served
from tests.tiny import picture

TOKEN = "a-token-for-searching"


def upload(page, image=None, name="query.png"):
    page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": image or picture(3, 64)})


def test_an_upload_finds_images_by_domain(page):
    upload(page)
    expect(page.locator("#results section")).to_have_count(3)
    expect(page.get_by_role("region", name="photo").get_by_role("button")).to_have_count(12)
    expect(page.get_by_role("region", name="oil painting").get_by_role("button")).to_have_count(9)
    expect(page.get_by_alt_text("Your image query.png")).to_be_visible()
    expect(page.locator("#status")).to_contain_text("33 images in")
    expect(page.locator("#status")).to_contain_text("encode")
    expect(page.locator("#served")).to_contain_text("Index version 1-")
    expect(page.locator("#served")).to_contain_text("random:resnet-mini")
    scores = [
        float(text) for text in page.get_by_role("region", name="photo").locator(".score").all_inner_texts()
    ]
    assert scores == sorted(scores, reverse=True)
    first = page.get_by_role("region", name="photo").locator("img").first
    page.wait_for_function("image => image.complete && image.naturalWidth > 0", arg=first.element_handle())
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_domains_and_number_can_be_chosen(page):
    upload(page)
    expect(page.locator("#results section")).to_have_count(3)
    page.get_by_role("checkbox", name="photo").uncheck()
    expect(page.locator("#results section")).to_have_count(2)
    expect(page.get_by_role("region", name="photo")).to_have_count(0)
    page.get_by_label("Images of each").fill("2")
    page.get_by_label("Images of each").press("Enter")
    expect(page.get_by_role("region", name="sketch").get_by_role("button")).to_have_count(2)
    page.get_by_role("checkbox", name="sketch").uncheck()
    page.get_by_role("checkbox", name="oil painting").uncheck()
    expect(page.get_by_role("alert")).to_have_text("Choose at least one domain to search in.")


def test_a_result_is_searched_from_and_back_leads_back(page):
    page.locator("#examples button").first.click()
    expect(page.locator("#results section")).to_have_count(3)
    first = page.url
    photo = page.get_by_role("region", name="photo").get_by_role("button").nth(3)
    source = photo.locator(".source").inner_text()
    photo.click()
    expect(page.locator("#how")).to_have_text(source)
    best = page.get_by_role("region", name="photo").get_by_role("button").first
    expect(best.locator(".score")).to_have_text("1.000")
    assert page.url != first
    page.go_back()
    expect(page.locator("#how")).not_to_have_text(source)
    assert page.url == first


def test_a_search_survives_a_reload_and_can_be_passed_on(page, browser):
    page.locator("#examples button").nth(1).click()
    expect(page.locator("#results section")).to_have_count(3)
    how = page.locator("#how").inner_text()
    page.reload()
    expect(page.locator("#results section")).to_have_count(3)
    expect(page.locator("#how")).to_have_text(how)
    other = browser.new_page()
    other.goto(page.url)
    expect(other.locator("#results section")).to_have_count(3)
    best = other.locator("#results .score").first
    expect(best).to_have_text("1.000")
    other.close()
    page.go_back()
    expect(page.locator("#results section")).to_have_count(0)
    expect(page.locator("#examples button").first).to_be_visible()


def test_a_picture_that_comes_late_does_not_stand_for_another_query(browser, index):
    """With a token, pictures are fetched: here the query's comes after another query was chosen."""
    running = Served(index, tokens=(TOKEN,))
    page = browser.new_page()
    page.goto(running.address)
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_label("Token").press("Enter")
    page.wait_for_selector("#examples:not([hidden])")
    page.evaluate(
        """() => {
          const usual = window.fetch;
          window.fetch = async (path, options) => {
            if (String(path).includes("/v1/images/")) await new Promise((done) => setTimeout(done, 500));
            return usual(path, options);
          };
        }"""
    )
    page.locator("#examples button").first.click()
    upload(page)
    expect(page.locator("#results section")).to_have_count(3)
    own = page.locator("#query").get_attribute("src")
    page.wait_for_timeout(1_500)
    assert page.locator("#query").get_attribute("src") == own
    page.close()
    running.stop()


def test_many_domains_can_be_chosen(page):
    """As many fields as a form may have are no limit to them."""
    page.evaluate(
        """() => {
          const boxes = document.getElementById("domains");
          for (let n = 0; n < 30; n++) boxes.append(boxes.firstElementChild.cloneNode(true));
        }"""
    )
    page.get_by_role("checkbox", name="sketch").uncheck()
    upload(page)
    expect(page.locator("#results section")).to_have_count(2)


def test_the_last_domain_stays_refused_though_an_answer_was_under_way(page):
    page.evaluate(
        """() => {
          const usual = window.fetch;
          window.fetch = (path, options) => new Promise((done, failed) => {
            setTimeout(() => usual(path, options).then(done, failed), 300);
            options?.signal?.addEventListener("abort", () => failed(new DOMException("", "AbortError")));
          });
        }"""
    )
    upload(page)
    for name in ("photo", "sketch", "oil painting"):
        page.get_by_role("checkbox", name=name).uncheck()
    page.wait_for_timeout(800)
    expect(page.get_by_role("alert")).to_have_text("Choose at least one domain to search in.")


def test_the_keyboard_is_enough(page):
    page.keyboard.press("Tab")
    expect(page.locator("#file")).to_be_focused()
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('#examples button')"):
            break
    page.keyboard.press("Enter")
    expect(page.locator("#results section")).to_have_count(3)
    for _ in range(
        2
    ):  # what was pressed is gone: the next key starts at the answer, not at the top of the page
        assert page.evaluate("document.activeElement.id") == "status"
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.matches('#results button')")
        page.keyboard.press("Enter")
        page.wait_for_timeout(300)


def test_an_image_can_be_pasted_and_dropped(page):
    for kind in ("paste", "drop"):
        page.evaluate(
            """async ([kind, bytes]) => {
              const data = new DataTransfer();
              data.items.add(new File([new Uint8Array(bytes)], `${kind}ed.png`, {type: "image/png"}));
              const event = kind === "paste"
                ? new ClipboardEvent("paste", {clipboardData: data, bubbles: true})
                : new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true});
              document.body.dispatchEvent(event);
            }""",
            [kind, list(picture(5, 64))],
        )
        expect(page.locator("#how")).to_have_text(f"{kind}ed.png")
        expect(page.locator("#results section")).to_have_count(3)


def test_nothing_here_matches_is_shown_as_such(page):
    upload(page)
    page.get_by_label("Least score").fill("0.99")
    page.get_by_label("Least score").press("Enter")
    expect(page.get_by_role("heading", name="Nothing here matches")).to_be_visible()
    expect(page.locator("#reason")).to_contain_text("No image scores at least 0.99")
    expect(page.locator("#results section")).to_have_count(0)


@pytest.mark.parametrize("query", [False, True])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(page, axe, query, scheme):
    page.emulate_media(color_scheme=scheme)
    if query:
        upload(page)
        expect(page.locator("#results section")).to_have_count(3)
    page.evaluate(axe)
    found = page.evaluate(
        "axe.run().then(result => result.violations.map(one => one.id + ': ' + one.nodes[0].html))"
    )
    assert found == []


def test_what_is_no_image_is_said(browser, served):
    page = browser.new_page()
    page.goto(served.address)
    page.wait_for_selector("#examples:not([hidden])")
    upload(page, b"no image", "letter.png")
    expect(page.get_by_role("alert")).to_contain_text("not an image of a known kind")
    upload(page)
    expect(page.locator("#results section")).to_have_count(3)
    expect(page.get_by_role("alert")).to_have_count(0)
    page.close()


def test_a_service_that_is_gone_is_said(browser, index):
    running = Served(index)
    page = browser.new_page()
    page.goto(running.address)
    page.wait_for_selector("#examples:not([hidden])")
    running.stop()
    upload(page)
    expect(page.get_by_role("alert")).to_have_text("The service does not answer. Is it still running?")
    page.close()


def test_with_tokens_the_page_asks_for_one(browser, index):
    running = Served(index, tokens=(TOKEN,))
    page = browser.new_page()
    page.goto(running.address)
    expect(page.get_by_role("alert")).to_contain_text("a token is needed")
    page.get_by_label("Token").fill("a-token-that-is-wrong")
    page.get_by_role("button", name="Use it").click()
    expect(page.get_by_role("alert")).to_contain_text("a token is needed")
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_label("Token").press("Enter")
    page.locator("#examples button").first.click()
    expect(page.locator("#results section")).to_have_count(3)
    image = page.get_by_role("region", name="photo").locator("img").first
    page.wait_for_function("image => image.complete && image.naturalWidth > 0", arg=image.element_handle())
    assert TOKEN not in page.content()
    page.close()
    running.stop()
