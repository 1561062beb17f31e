"""The page: what it says, and how a browser shows it with the network off.

The browser's tests need Chromium with its driver, selenium, and axe-core's `axe.min.js`: in `node_modules` of a folder
above this file, or where AXE_CORE says.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from fedsim.compare import compare
from tests.support.waiting import wait_for

pytest.importorskip("plotly", reason="fedsim[report] is not installed")
from fedsim.compare.report import page_of


@pytest.fixture(scope="session")
def page(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page_of(compare([runs])), encoding="utf-8")
    return path


class Links(HTMLParser):
    """Collects ids, inner links, and whatever a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.targets: set[str] = set()
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        if found.get("id"):
            self.ids.append(str(found["id"]))
        target = found.get("href") or found.get("src")
        if target and target.startswith("#"):
            self.targets.add(target[1:])
        elif target:
            self.loaded.append(target)


def test_nothing_is_loaded_and_every_link_lands(page: Path) -> None:
    links = Links()
    text = page.read_text()
    links.feed(re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL))
    assert links.loaded == []
    assert len(links.ids) == len(set(links.ids))
    assert links.targets <= set(links.ids)
    assert {"frontier", "group-1", "run-9"} <= set(links.ids)
    assert "default-src 'none'" in text


def test_every_epsilon_stands_with_what_belongs_to_it(page: Path, runs: Path) -> None:
    text = page.read_text()
    for run in sorted((runs / "runs").glob("dp-*")):
        for name, entry in json.loads((run / "manifest.json").read_text())["epsilon"].items():
            said = "none" if entry["epsilon"] == "infinite" else f"{entry['epsilon']:.4g}"
            row = rf"<td>{name}</td><td class=\"number\">{re.escape(said)}</td>\s*<td class=\"number\">0.001</td>"
            assert re.search(row + rf"<td class=\"number\">{entry['noise-multiplier']:.4g}</td>", text), (
                run,
                name,
            )


def test_what_runs_say_can_not_end_a_script_or_make_a_tag(runs: Path, tmp_path: Path) -> None:
    evil = shutil.copytree(runs / "runs" / "none-s0", tmp_path / "</script><b>x")
    text = page_of(compare([evil]))
    assert "<b>x" not in text
    assert "&lt;/script&gt;&lt;b&gt;x" in text


# --- in a browser ---------------------------------------------------------------------------------------


def axe() -> str:
    """Return axe-core's source."""
    folders = [Path(os.environ["AXE_CORE"])] if "AXE_CORE" in os.environ else []
    folders += [parent / "node_modules" / "axe-core" for parent in Path(__file__).parents]
    for folder in folders:
        if (folder / "axe.min.js").is_file():
            return (folder / "axe.min.js").read_text(encoding="utf-8")
    pytest.skip("axe-core is not installed: npm install axe-core, or AXE_CORE=its folder")


Open = Callable[..., Any]


@pytest.fixture
def opened(page: Path) -> Iterator[Open]:
    """Return what opens the page in Chromium without network, at a width and height in CSS pixels."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("no Chromium with its driver is here: chromium, chromedriver")
    drivers = []

    def open_(width: int = 1280, height: int = 900, dark: bool = False) -> Any:
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
        drivers.append(driver)
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        driver.execute_cdp_cmd("Network.enable", {})
        driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        driver.get(page.as_uri())
        wait_for(lambda: driver.find_elements("css selector", "#frontier-chart .main-svg"))
        return driver

    yield open_
    for driver in drivers:
        driver.quit()


def click(driver: Any, element: Any) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(driver).move_to_element(element).pause(0.3).click().perform()


@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, False), (1280, True)])
def test_the_page_is_accessible(opened: Open, width: int, dark: bool) -> None:
    source = axe()
    driver = opened(width, dark=dark)
    driver.execute_script(source)
    run = "const done = arguments[arguments.length - 1]; axe.run().then(done)"
    found = driver.execute_async_script(run)
    assert found["violations"] == []
    assert len(found["passes"]) > 20
    # The same rules see what is wrong.
    driver.execute_script(
        "document.querySelector('select').closest('label').replaceWith(document.querySelector('select'))"
    )
    assert "select-name" in {found["id"] for found in driver.execute_async_script(run)["violations"]}


@pytest.mark.slow
def test_it_opens_without_network_and_fits_a_phone(opened: Open) -> None:
    driver = opened(390, 800)
    assert driver.get_log("browser") == []
    assert driver.execute_script("return document.documentElement.scrollWidth") == 390


@pytest.mark.slow
def test_a_point_leads_to_its_runs(opened: Open) -> None:
    driver = opened()
    lines = driver.execute_script(
        "return document.getElementById('frontier-chart').data.map((line) => [line.mode, line.customdata])"
    )
    traces = driver.find_elements("css selector", "#frontier-chart .scatterlayer .trace")
    assert len(traces) == len(lines)
    for kind in ("lines+markers", "markers"):
        place, anchors = next((place, a) for place, (mode, a) in enumerate(lines) if mode == kind)
        click(driver, traces[place].find_elements("css selector", ".points path.point")[0])
        wait_for(lambda wanted=anchors[0]: driver.execute_script("return location.hash") == f"#{wanted}")
        focused = driver.execute_script("return document.activeElement.id")
        assert focused == anchors[0]
        top = driver.execute_script("return document.activeElement.getBoundingClientRect().top")
        assert 0 <= top < 900
        driver.execute_script("scrollTo(0, 0)")


@pytest.mark.slow
def test_filters_hide_and_say_so(opened: Open) -> None:
    from selenium.webdriver.support.ui import Select

    driver = opened()

    def shown() -> set[str]:
        rows = driver.find_elements("css selector", "#frontier tbody tr")
        return {row.get_attribute("data-mechanism") for row in rows if row.is_displayed()}

    assert shown() == {"no privacy", "dp-fedavg", "local-dp"}
    driver.find_element("css selector", "input[value='dp-fedavg']").click()
    assert shown() == {"no privacy", "local-dp"}
    assert not driver.find_element("css selector", ".group[data-mechanism='dp-fedavg']").is_displayed()
    driver.find_element("css selector", "input[value='dp-fedavg']").click()
    Select(driver.find_element("name", "adversary")).select_by_visible_text("server")
    assert shown() == {"no privacy", "local-dp"}
    assert "No epsilon against this adversary with this protection: dp-fedavg." in driver.page_source
    titles = driver.execute_script("return document.getElementById('frontier-chart').layout.xaxis.title.text")
    assert titles == "epsilon against server, of all data of one client"
    for box in driver.find_elements("name", "mechanism"):
        box.click()
    assert shown() == set()
    assert driver.get_log("browser") == []


@pytest.mark.slow
def test_the_keyboard_reaches_a_points_runs(opened: Open) -> None:
    from selenium.webdriver import ActionChains, Keys

    driver = opened()
    for _ in range(60):
        ActionChains(driver).send_keys(Keys.TAB).perform()
        target = driver.execute_script("return document.activeElement.getAttribute('href')") or ""
        if target.startswith("#group-"):
            break
    ActionChains(driver).send_keys(Keys.ENTER).perform()
    wait_for(lambda: driver.execute_script("return location.hash") == target)
    assert target.startswith("#group-")
