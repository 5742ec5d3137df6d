"""The page in a real browser."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from tests.helpers.frames import trials
from tests.helpers.page_frames import HOSTILE, history, render, some

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
FLAGS = """--no-sandbox --disable-gpu --disable-background-networking --disable-component-update
    --disable-sync --no-first-run"""
PHONE = {"width": 390, "height": 844}

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the path")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cells = some()
    keys = [key for cell in cells for key in cell["key"] if cell["status"].iloc[0] == "done"]
    curves = pd.concat([history(key, 20) for key in keys])
    picture = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 300"/>'
    text = render(*cells, histories=curves, pictures={"curves.svg": picture}, log=HOSTILE)
    path = tmp_path_factory.mktemp("page") / "leaderboard.html"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def page(browser: Browser, file: Path) -> Iterator[Page]:
    """The page, opened; what it asks the network for or complains of fails the test."""
    page = browser.new_page(color_scheme="light")
    told: list[str] = []
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("request", lambda asked: told.append(asked.url))
    page.goto(file.as_uri())
    yield page
    assert page.evaluate("window.broken") is None
    page.close()
    left = [text for text in told if not text.startswith(("data:", file.as_uri()))]
    assert left == []


def methods(page: Page, view: str) -> list[str]:
    """The rows that are shown, in their order."""
    rows = page.locator(f"[data-view={view}] tbody tr:visible > th")
    return [text.strip() for text in rows.all_text_contents()]


def header(page: Page, view: str, column: str) -> Locator:
    return page.locator(f"[data-view={view}] thead th", has=page.locator(f'[data-sort="{column}"]'))


def show_list(page: Page) -> None:
    page.get_by_role("radio", name="List").check()


def test_a_header_sorts_best_first_then_the_other_way_then_not(page: Page) -> None:
    show_list(page)
    as_written = methods(page, "list")
    head = header(page, "list", "mean")
    expect(head).to_have_attribute("aria-sort", "none")
    head.get_by_role("button").click()
    expect(head).to_have_attribute("aria-sort", "descending")
    assert methods(page, "list") == ["Full precision", "Beta", "Beta", "Alpha", HOSTILE]
    head.get_by_role("button").click()
    expect(head).to_have_attribute("aria-sort", "ascending")
    assert methods(page, "list") == [HOSTILE, "Alpha", "Beta", "Beta", "Full precision"]
    head.get_by_role("button").click()
    expect(head).to_have_attribute("aria-sort", "none")
    assert methods(page, "list") == as_written


def test_what_has_no_number_comes_last_in_either_order(page: Page) -> None:
    page.get_by_label("show what has no number").check()
    for _ in range(2):
        header(page, "grid", "2/2").get_by_role("button").click()
        assert methods(page, "grid")[0] == "Beta"


def test_filters_leave_what_fits_and_the_address_keeps_them(page: Page) -> None:
    assert methods(page, "grid") == ["Alpha", "Beta", HOSTILE]
    page.get_by_label("Search").fill("ALPHA")
    assert methods(page, "grid") == ["Alpha"]
    show_list(page)
    assert methods(page, "list") == ["Alpha"]
    expect(page.locator("#count")).to_have_text("1 of 7 results")
    page.get_by_label("show what has no number").check()
    assert methods(page, "list") == ["Alpha", "Alpha"]
    page.get_by_role("combobox", name="Bits").select_option("2/2")
    assert methods(page, "list") == ["Alpha"]
    page.reload()
    assert methods(page, "list") == ["Alpha"]
    expect(page.get_by_label("Search")).to_have_value("ALPHA")
    page.get_by_role("button", name="Clear").click()
    assert len(methods(page, "list")) == 5
    page.get_by_role("combobox", name="Method").select_option(HOSTILE)
    assert methods(page, "list") == [HOSTILE]
    page.get_by_label("Search").fill("nothing like this")
    expect(page.get_by_text("Nothing fits these filters.")).to_be_visible()


def test_a_published_number_is_shown_before_its_trials_are_run(
    browser: Browser, tmp_path: Path
) -> None:
    claim: dict[str, Any] = {"published_value": 69.1, "source": "a paper, Table 2"}
    file = tmp_path / "claims.html"
    waiting, other = trials("A", "missing", **claim), trials("B", "missing")
    file.write_text(render(waiting, other), encoding="utf-8")
    page = browser.new_page()
    page.goto(file.as_uri())
    assert methods(page, "grid") == ["A"]
    page.get_by_role("button", name="… published 69.1").hover()
    expect(page.get_by_role("tooltip")).to_contain_text("69.1 (a paper, Table 2)")
    page.close()


def test_groups_of_columns_can_be_hidden(page: Page) -> None:
    show_list(page)
    expect(header(page, "list", "drop")).to_be_visible()
    page.get_by_label("accuracy", exact=True).uncheck()
    expect(header(page, "list", "drop")).to_be_hidden()
    expect(header(page, "list", "mean")).to_be_visible()
    page.reload()
    expect(header(page, "list", "drop")).to_be_hidden()


def test_a_trial_is_opened_and_closed_by_keyboard(page: Page) -> None:
    value = page.get_by_role("button", name="97.83 ± 0.76")
    value.focus()
    expect(page.get_by_role("tooltip")).to_contain_text("n = 3 of 3 seeds (97.00, 98.00, 98.50)")
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Beta · 1/32 · net")
    expect(dialog).to_be_visible()
    expect(dialog.get_by_role("img", name="top-1 accuracy in % by epoch")).to_be_visible()
    assert dialog.locator(".charts path").count() == 3 * 2 + 3  # soft, hard, loss
    dialog.locator("summary", has_text="Seed 1").focus()
    page.keyboard.press("Enter")
    opened = dialog.locator("details.trial[open]")
    expect(opened).to_contain_text("recipe.milestones[3, 4]")
    opened.locator("summary", has_text="Audit").click()
    expect(opened).to_contain_text("3 of 4")
    opened.locator("summary", has_text="Log").click()
    expect(opened.locator("pre")).to_have_text(HOSTILE)
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(value).to_be_focused()


def test_arrow_keys_go_from_value_to_value(page: Page) -> None:
    page.get_by_role("button", name="97.83 ± 0.76").focus()
    for key, text in (("Right", "95.67 ± 0.76"), ("Up", "–"), ("Left", "92.00 ± 1.00†")):
        page.keyboard.press(f"Arrow{key}")
        expect(page.locator(":focus")).to_have_text(text)
    page.keyboard.press("ArrowUp")
    expect(page.locator(":focus")).to_have_text("92.00 ± 1.00†")


def test_an_address_opens_the_trial_that_it_names(page: Page) -> None:
    page.get_by_role("button", name="97.83 ± 0.76").click()
    page.reload()
    expect(page.get_by_role("dialog")).to_contain_text("Beta · 1/32")
    page.get_by_role("button", name="Close").click()
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page).not_to_have_url(re.compile("open="))
    page.evaluate("location.hash = 'q=beta'")
    expect(page.get_by_label("Search")).to_have_value("beta")


def test_a_failed_result_shows_its_reason(page: Page) -> None:
    page.get_by_label("show what has no number").check()
    page.get_by_role("button", name="failed").click()
    expect(page.get_by_role("dialog").locator("#about")).to_contain_text("broke: </script><img")


def test_light_and_dark_follow_the_system_until_one_is_chosen(page: Page) -> None:
    def ground() -> int:
        color = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return int(re.findall(r"\d+", color)[0])

    assert ground() > 200
    page.emulate_media(color_scheme="dark")
    assert ground() < 60
    page.get_by_role("button", name="Dark").click()
    assert ground() > 200
    expect(page.get_by_role("button", name="Dark")).to_have_attribute("aria-pressed", "false")
    page.reload()
    assert ground() > 200


@pytest.mark.parametrize("view", ["grid", "list"])
def test_a_phone_scrolls_sideways_in_the_table_only(page: Page, view: str) -> None:
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    page.locator(f"[name=view][value={view}]").check()
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    page.locator(f"[data-view={view}] tbody .value:visible").first.click()
    box = page.get_by_role("dialog").bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= PHONE["width"]


def test_every_control_can_be_reached_by_tab_and_shows_focus(page: Page) -> None:
    names = []
    for _ in range(12):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.outerHTML.slice(0, 60)"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", names[-1]
    assert len(set(names)) == 12


def test_the_methods_stay_in_front_when_a_table_is_scrolled(page: Page) -> None:
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    show_list(page)
    page.locator("[data-view=list].scroll").evaluate("box => box.scrollLeft = 300")
    name = page.locator("[data-view=list] tbody th .value:visible").first
    name.scroll_into_view_if_needed()
    box = name.bounding_box()
    assert box is not None
    at = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    seen = page.evaluate("({x, y}) => document.elementFromPoint(x, y).textContent.trim()", at)
    assert seen == "Full precision"


def test_no_figure_is_white_in_the_dark(browser: Browser, file: Path) -> None:
    page = browser.new_page(color_scheme="dark")
    page.goto(file.as_uri())
    picture = page.locator("figure img")
    expect(picture).to_have_css("filter", "invert(0.9) hue-rotate(180deg)")
    page.get_by_role("button", name="Dark").click()  # to the light theme
    expect(picture).to_have_css("filter", "none")
    page.close()
