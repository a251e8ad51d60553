"""The page in a real browser on a real run: what a reader does, and what must not happen."""

import re
import shutil
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from page_server import HOSTILE, PLANTED, Served, Watched, serving
from playwright.sync_api import Browser, Page, expect

from monosem.app.page.latents import LatentFiles
from monosem.app.page.library import Library
from monosem.app.page.playground import PlaygroundTab
from monosem.app.page.render import short

pytestmark = pytest.mark.browser
Browse = Callable[..., Watched]


def choose(page: Page, latent: int) -> None:
    """Click a latent of the list and wait for its card."""
    page.locator(f'.ms-hits a[data-latent="{latent}"]').click()
    page.locator(f'[data-latent-shown="{latent}"]').wait_for()


def search(page: Page, words: str) -> list[int]:
    """Search, and wait until the list has changed."""
    before = page.locator(".ms-count").inner_text()
    page.get_by_label("Search").fill(words)
    expect(page.locator(".ms-count")).not_to_have_text(before)
    return [int(link.get_attribute("data-latent") or -1) for link in page.locator(".ms-hits a").all()]


def write(page: Page, prompt: str, tokens: int = 12) -> tuple[str, str]:
    """Write plain and steered; gives both texts, prompt included."""
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_label("number input for New tokens, at most").fill(str(tokens))
    page.get_by_label("number input for New tokens, at most").press("Tab")
    page.get_by_role("button", name="Write").click()
    page.get_by_text("writing …").first.wait_for()
    expect(page.get_by_text("writing …")).to_have_count(0, timeout=60_000)
    return text_of(page, "plain"), text_of(page, "steered")


def text_of(page: Page, column: str) -> str:
    return page.locator(f"[data-column={column}] .ms-text").inner_text()


def steer(page: Page, latent: int) -> None:
    page.get_by_label("Steer a latent").fill(str(latent))
    page.get_by_role("button", name="Add", exact=True).click()
    page.locator(f'[data-edit="{latent}"]').wait_for()


def slide(page: Page, latent: int, value: float) -> None:
    """Move a latent's slider as a keyboard or a mouse would: with events."""
    page.locator(f'[data-edit="{latent}"] input').evaluate(
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input', {bubbles: true})) }", value
    )


def live(served: Served, place: int = 0) -> int:
    """A latent that fires often."""
    density = LatentFiles(served.run).figures().density
    return int((-density).argsort()[20 + place])


def test_a_search_that_finds_nothing_says_what_to_do(browse: Browse) -> None:
    page = browse().open()
    expect(page.locator(".ms-guide:visible")).to_contain_text("Search for a word")
    assert search(page, "zzzquux") == []
    expect(page.locator(".ms-line:visible")).to_contain_text("Nothing says “zzzquux”")


def test_every_tab_opens(browse: Browse) -> None:
    watched = browse()
    page = watched.open()
    watched.tab("Test text")
    expect(page.get_by_role("button", name="Read")).to_be_visible()
    watched.tab("Playground")
    expect(page.get_by_role("button", name="Write")).to_be_visible()
    watched.tab("Training")
    expect(page.get_by_role("img", name="Loss over training")).to_be_visible()
    expect(page.get_by_text("finished")).to_be_visible()
    watched.tab("Explore")
    expect(page.get_by_label("Search")).to_be_visible()


def test_search_finds_a_planted_and_a_real_concept(browse: Browse, served: Served) -> None:
    page = browse().open()
    assert search(page, "Quagga")[0] == PLANTED
    explanations = LatentFiles(served.run).explanations
    assert explanations is not None
    latent, text = next(one for one in explanations.texts.items() if re.search(r'"[a-z]{6,}"', one[1]))
    word = re.findall(r'"([a-z]{6,})"', text)[0]
    assert latent in search(page, word)


def test_enter_opens_the_first_that_is_found(browse: Browse) -> None:
    page = browse().open()
    search(page, "Quagga")
    page.get_by_label("Search").press("Enter")
    page.locator(f'[data-latent-shown="{PLANTED}"]').wait_for()
    search(page, "zzzquux")
    page.get_by_label("Search").press("Enter")
    page.wait_for_timeout(300)
    expect(page.locator(f'[data-latent-shown="{PLANTED}"]')).to_be_visible()
    page.get_by_label("Search").fill("99999")
    expect(page.locator(".ms-line:visible")).to_have_text("There is no latent 99999: the run has 0 to 511.")


def test_the_list_is_one_stop_of_the_tab_key(browse: Browse) -> None:
    page = browse().open()
    links = page.locator(".ms-hits a")
    assert page.locator(".ms-hits a[tabindex='0']").count() == 1
    page.get_by_label("Order").focus()
    for _ in range(4):  # density, certainty and score
        page.keyboard.press("Tab")
    page.wait_for_timeout(300)
    assert page.get_by_role("option").count() == 0, "lists of options close behind the Tab key"
    links.first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    expect(links.nth(2)).to_be_focused()
    page.keyboard.press("Enter")
    page.locator(f'[data-latent-shown="{links.nth(2).get_attribute("data-latent")}"]').wait_for()
    expect(links.nth(2)).to_have_attribute("aria-current", "true")
    assert page.locator(".ms-hits a[tabindex='0']").count() == 1


def test_the_search_stays_in_sight_beside_a_long_card(browse: Browse, served: Served) -> None:
    page = browse().open(f"?run=small&latent={live(served)}")
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.wait_for_timeout(200)
    assert page.evaluate("scrollY") > 300
    expect(page.get_by_label("Search")).to_be_in_viewport()
    expect(page.locator(".ms-hits a").first).to_be_in_viewport()


def test_the_strongest_token_is_the_stored_one(browse: Browse, served: Served) -> None:
    latent = live(served)
    page = browse().open(f"?run=small&latent={latent}")
    best = LatentFiles(served.run).card(latent, 1).examples["max"][0]
    strongest = max(best.tokens, key=lambda token: token.value)
    marks = page.locator("[data-of-way=max] li").first.locator("mark")
    shown = [(float(mark.evaluate("e => e.style.getPropertyValue('--strength')")), mark) for mark in marks.all()]
    mark = max(shown, key=lambda one: one[0])[1]
    assert mark.inner_text() == best.text[strongest.start : strongest.end]
    assert mark.get_attribute("data-value") == short(strongest.value)


def test_a_link_brings_its_latent_back(browse: Browse, served: Served) -> None:
    watched = browse()
    page = watched.open()
    second = int(page.locator(".ms-hits a").nth(2).get_attribute("data-latent") or -1)
    choose(page, second)
    expect(page).to_have_url(re.compile(rf"run=small&latent={second}$"))
    page.reload()
    page.locator(f'[data-latent-shown="{second}"]').wait_for()
    page.get_by_role("button", name="Next").click()
    expect(page.locator(f'[data-latent-shown="{second}"]')).to_have_count(0)
    page.go_back()
    page.locator(f'[data-latent-shown="{second}"]').wait_for()


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("?run=small&latent=99999", "latent 99999 is out of range: small has latents 0 to 511"),
        ("?run=small&latent=-1", "latent -1 is out of range"),
        ("?latent=seven", "latent 'seven' is not a number"),
        ("?run=other&latent=3", "no run 'other' on this page; there are small"),
    ],
)
def test_a_wrong_link_is_one_line(browse: Browse, query: str, says: str) -> None:
    page = browse().open(query)
    expect(page.locator("#ms-card .ms-error")).to_contain_text(says)


def test_hostile_explanations_show_as_text(browse: Browse) -> None:
    page = browse().open(f"?run=small&latent={HOSTILE}")
    expect(page.locator(".ms-says").first).to_contain_text(
        "<script>document.title='owned'</script> **bold** ${1+1} {{value}}"
    )
    assert page.locator("#ms-card img, #ms-card script").count() == 0
    assert page.title() != "owned"


def test_a_note_is_kept_apart(browse: Browse, served: Served) -> None:
    latent = live(served, 3)
    before = (served.run / "explanations" / "explanations.jsonl").read_bytes()
    page = browse().open(f"?run=small&latent={latent}")
    page.get_by_role("button", name="Your note on this latent").click()
    page.get_by_label("partly right").check()
    page.get_by_label("A better explanation").fill("<b>okapi</b>")
    page.get_by_role("button", name="Keep this note").click()
    expect(page.locator(".ms-says").first).to_have_text("<b>okapi</b>")
    assert search(page, "okapi") == [latent]
    assert (served.run / "explanations" / "explanations.jsonl").read_bytes() == before


def test_a_text_and_the_latents_at_its_tokens(browse: Browse) -> None:
    watched = browse()
    watched.open()
    page = watched.tab("Test text")
    page.get_by_label("Text", exact=True).fill("The <b>river</b> flows through Vienna.")
    page.get_by_role("button", name="Read").click()
    tokens = page.locator(".ms-token:visible")
    tokens.first.wait_for()
    assert "".join(tokens.all_inner_texts()).strip().startswith("The <b>river</b>")
    token = page.locator(".ms-token:visible", has_text="Vienna")
    token.click()
    expect(page.locator(".ms-rank:visible h3").first).to_contain_text("Vienna")
    ranked = page.locator("[aria-label='Latents at a token']:visible .value").all_inner_texts()
    assert [float(value) for value in ranked] == sorted((float(value) for value in ranked), reverse=True)
    token.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.locator(".ms-rank:visible h3").first).not_to_contain_text("Vienna")
    page.locator("[data-shade]:visible").first.click()
    expect(page.get_by_text("lit by latent")).to_be_visible()
    page.locator("[aria-label='Latents at a token']:visible a").first.click()
    expect(page.get_by_role("tab", name="Explore")).to_have_attribute("aria-selected", "true")


def test_what_is_asked_for_while_the_model_reads_is_read_next(browse: Browse) -> None:
    watched = browse()
    watched.open()
    page = watched.tab("Test text")
    for text in ("the river " * 300, "Vienna."):
        page.get_by_label("Text", exact=True).fill(text)
        page.get_by_role("button", name="Read").click()
    expect(page.locator(".ms-text:visible")).to_have_text(re.compile("^Vienna.$"), timeout=60_000)


def test_texts_that_cannot_be_read(browse: Browse) -> None:
    watched = browse()
    watched.open()
    page = watched.tab("Test text")
    for text, says in (("", "the text is empty"), ("word " * 9000, "cut it"), ("x" * 200_000, "200,000 characters")):
        page.get_by_label("Text", exact=True).fill(text)
        page.get_by_role("button", name="Read").click()
        expect(page.locator(".ms-error:visible")).to_contain_text(says)


def test_a_slider_changes_the_steered_text_and_not_the_plain_one(browse: Browse, served: Served) -> None:
    latent = live(served)
    watched = browse()
    watched.open()
    page = watched.tab("Playground")
    steer(page, latent)
    slide(page, latent, 0)
    first, same = write(page, "I think that")
    assert first == same
    slide(page, latent, 5)
    plain, steered = write(page, "I think that")
    assert plain == first
    assert steered != plain
    for column in ("plain", "steered"):
        for name in ("perplexity", "concept"):
            assert page.locator(f"[data-column={column}] [data-measure={name}]").inner_text()
    page.locator("[data-column=steered] .ms-token").nth(3).click()
    expect(page.locator("[aria-label='Latents at a token']:visible a").first).to_be_visible()


def test_text_comes_before_the_end(browse: Browse) -> None:
    watched = browse()
    watched.open()
    page = watched.tab("Playground")
    page.get_by_label("Prompt", exact=True).fill("The history of")
    page.get_by_role("button", name="Write").click()
    page.locator("#ms-texts .ms-token").first.wait_for()
    seen = set()
    while page.get_by_text("writing …").count():
        seen.add(page.locator("#ms-texts .ms-token").count())
    assert len(seen) > 3, seen


def test_a_chat_answers_and_goes_on(browse: Browse) -> None:
    watched = browse()
    watched.open()
    page = watched.tab("Playground")
    page.get_by_label("Chat").check()
    page.get_by_label("System message").fill("You answer in one word.")
    for turn, said in enumerate(("What is the capital of France?", "And of <i>Italy</i>?"), start=1):
        page.get_by_label("Prompt", exact=True).fill(said)
        page.get_by_role("button", name="Write").click()
        expect(page.locator(".ms-exchange")).to_have_count(turn)
        expect(page.get_by_text("writing …")).to_have_count(0, timeout=60_000)
        expect(page.get_by_label("Prompt", exact=True)).to_have_value("")
    expect(page.locator(".ms-asked").nth(1)).to_contain_text("And of <i>Italy</i>?")
    page.get_by_role("button", name="Clear").click()
    expect(page.locator(".ms-exchange")).to_have_count(0)


def test_prompts_that_cannot_be_written_on(browse: Browse) -> None:
    watched = browse()
    watched.open()
    page = watched.tab("Playground")
    for prompt, says in (("", "the prompt is empty"), ("word " * 9000, "fit the context")):
        page.get_by_label("Prompt", exact=True).fill(prompt)
        page.get_by_role("button", name="Write").click()
        expect(page.locator(".ms-error:visible")).to_contain_text(says)


def test_a_steering_set_is_saved_and_taken_up(browse: Browse, served: Served, tmp_path: Path) -> None:
    from monosem.completion import SteeringSet

    first, second = live(served), live(served, 1)
    watched = browse()
    watched.open()
    page = watched.tab("Playground")
    steer(page, first)
    steer(page, second)
    slide(page, first, 2.5)
    page.locator(f'[data-edit="{second}"] select').select_option("ablate")
    page.get_by_label("is taken away").check()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save steering").click()
    file = tmp_path / "calm.toml"
    download.value.save_as(file)
    assert tomllib.loads(file.read_text())["replace"] is True
    kept = SteeringSet.load(file)
    assert [(edit.latent, edit.mode) for edit in kept.edits] == [(first, "add"), (second, "ablate")]
    assert kept.edits[0].value == 2.5
    page.locator("[data-remove]").first.click()
    expect(page.locator("[data-edit]")).to_have_count(1)
    page.locator("input[type=file]").set_input_files(file)
    expect(page.locator("[data-edit]")).to_have_count(2)
    expect(page.locator(f'[data-edit="{first}"] output')).to_have_text(re.compile("^2.5 . max$"))
    broken = tmp_path / "broken.toml"
    broken.write_text("[[edit]]\nlatent = 99999\n")
    page.locator("input[type=file]").set_input_files(broken)
    expect(page.locator(".ms-error:visible")).to_contain_text("broken.toml")


def test_a_card_sends_its_latent_to_the_playground(browse: Browse, served: Served) -> None:
    latent = live(served)
    page = browse().open(f"?run=small&latent={latent}")
    page.get_by_role("button", name="Steer with it").click()
    expect(page.locator(f'[data-edit="{latent}"]')).to_be_visible()


def test_two_browsers_never_mix(browse: Browse, served: Served) -> None:
    watched = [browse(apart=True), browse(apart=True)]
    latents = live(served), live(served, 1)
    for one, latent in zip(watched, latents, strict=True):
        one.open()
        page = one.tab("Playground")
        steer(page, latent)
        slide(page, latent, 5)
    alone = [write(one.page, "I think that") for one in watched]
    for one in watched:
        one.page.get_by_role("button", name="Write").click()
    for one in watched:
        one.page.get_by_text("writing …").first.wait_for()
    for one in watched:
        expect(one.page.get_by_text("writing …")).to_have_count(0, timeout=60_000)
    together = [(text_of(one.page, "plain"), text_of(one.page, "steered")) for one in watched]
    assert together == alone
    assert alone[0][0] == alone[1][0]
    assert alone[0][1] != alone[1][1]
    for one, latent in zip(watched, latents, strict=True):
        assert one.page.locator("[data-edit]").evaluate_all("all => all.map(e => +e.dataset.edit)") == [latent]


def test_closing_the_page_stops_its_writing(chromium: Browser, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    tabs: list[PlaygroundTab] = []
    begin = PlaygroundTab.__init__

    def remembered(tab: PlaygroundTab, *arguments) -> None:
        begin(tab, *arguments)
        tabs.append(tab)

    monkeypatch.setattr(PlaygroundTab, "__init__", remembered)
    with serving(served.library, None) as url:
        context = chromium.new_context()
        watched = Watched(context.new_page(), url)
        watched.open()
        page = watched.tab("Playground")
        page.get_by_label("number input for New tokens, at most").fill("1000")
        page.get_by_label("number input for New tokens, at most").press("Tab")
        page.get_by_label("Prompt", exact=True).fill("The history of")
        page.get_by_role("button", name="Write").click()
        page.locator("#ms-texts .ms-token").first.wait_for()
        (desk,) = tabs[0].desks._desks.values()
        assert desk.writing
        context.close()
        deadline = time.monotonic() + 20
        while desk.writing and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not desk.writing
        assert desk.exchanges[0].texts[0].finish == "stopped"
        assert len(desk.exchanges[0].texts[0].tokens) < 900
        assert not tabs[0].desks._desks


def test_a_growing_run_is_drawn_while_one_looks(browse: Browse, served: Served) -> None:
    watched = browse()
    watched.open()
    page = watched.tab("Training")
    expect(page.get_by_role("img", name="Loss over training")).to_be_visible()
    metrics = served.run / "metrics.jsonl"
    whole = metrics.read_bytes()
    try:
        metrics.write_bytes(whole + b'{"step": 987654, "loss": 0.1}\n{"step": 99')
        expect(page.get_by_role("cell", name="987,654")).to_be_visible(timeout=15_000)
    finally:
        metrics.write_bytes(whole)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_axe_finds_nothing_serious_and_nothing_overflows(
    browse: Browse, served: Served, width: int, scheme: str
) -> None:
    watched = browse(width, scheme)
    page = watched.open(f"?run=small&latent={live(served)}")
    for tab in ("Explore", "Test text", "Playground", "Training"):
        watched.tab(tab)
        if tab == "Training":
            page.get_by_role("img", name="Loss over training").wait_for()
        if tab == "Playground":
            steer(page, live(served))
            write(page, "I think that", 6)
            page.locator("[data-column=steered] .ms-token").nth(2).click()
            page.locator("[aria-label='Latents at a token']:visible").wait_for()
        found = Axe().run(page).response["violations"]
        serious = [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")]
        assert serious == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_another_run_has_its_own_latents_and_curves(chromium: Browser, served: Served, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(served.run, other, ignore=shutil.ignore_patterns("activations", "batches", "codes"))
    with serving(Library([served.run, other]), None) as url:
        context = chromium.new_context()
        watched = Watched(context.new_page(), url)
        page = watched.open(f"?run=small&latent={live(served)}")
        page.get_by_role("button", name="Steer with it").click()
        page.locator("[data-edit]").wait_for()
        page.get_by_label("Run", exact=True).click()
        page.get_by_role("option", name="other").click()
        expect(page.get_by_role("heading", name="other")).to_be_visible()
        expect(page.locator("[data-edit]")).to_have_count(0)
        watched.tab("Training")
        expect(page.get_by_role("rowheader", name="other")).to_be_visible()
        expect(page.get_by_role("rowheader", name="small")).to_have_count(0)
        assert watched.errors == []
        context.close()


def test_a_password_is_asked_for(chromium: Browser, served: Served) -> None:
    with serving(Library([served.run]), "sesame") as url:
        context = chromium.new_context()
        page = context.new_page()
        page.goto(url + "?run=small&latent=3")
        page.get_by_label("Password").fill("wrong")
        page.get_by_role("button", name="Open").click()
        expect(page.get_by_role("alert")).to_have_text(re.compile("^Wrong password"))
        page.get_by_label("Password").fill("sesame")
        page.get_by_role("button", name="Open").click()
        page.locator('[data-latent-shown="3"]').wait_for()
        context.close()
