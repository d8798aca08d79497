"""The pages in a browser: nothing fails, hover shows an image, a click lists its neighbours."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from glocal.pages.serving import Server
from tests.pages.browser import CHROMIUM, Browser

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt install chromium)")

_READY = "window.glocal && Bokeh.documents.length && !!Bokeh.documents[0].get_model_by_name('map-0')"
_LIVE = "window.Bokeh && Bokeh.documents.length && !!Bokeh.documents[0].get_model_by_name('loss-0')"
_LINES = "Bokeh.documents[0].get_model_by_name('loss-0').data.epoch.length"

# Where a point of the map lies in the window.
_POINT = """(() => {
  const [page] = Bokeh.documents;
  const plot = page.get_model_by_name("map-0");
  const find = (views) => views.reduce((found, view) =>
    found ?? (view.model === plot ? view : find(view.child_views ?? [])), undefined);
  const view = find([...Bokeh.index]);
  if (!view) return null;
  const { x, y } = page.get_model_by_name("points-0").data;
  const box = view.canvas_view.el.getBoundingClientRect();
  return [box.left + view.frame.x_scale.compute(x[NUMBER]), box.top + view.frame.y_scale.compute(y[NUMBER])];
})()"""

# The pictures that are shown inside of Bokeh's own elements.
_TIPS = """(() => {
  const all = (root) => [...root.querySelectorAll("*")].flatMap((one) =>
    [one, ...(one.shadowRoot ? all(one.shadowRoot) : [])]);
  const inside = [...document.querySelectorAll("*")].flatMap((one) => one.shadowRoot ? all(one.shadowRoot) : []);
  const shown = inside.filter((one) => one.style?.backgroundImage.includes("--sheet-"));
  return shown.length && shown.map((one) => getComputedStyle(one).backgroundImage.slice(0, 30));
})()"""


@pytest.fixture(params=[(1400, False), (390, True)], ids=["wide", "phone, dark"])
def page(request: pytest.FixtureRequest, reported: Path, tmp_path: Path) -> Iterator[Browser]:
    width, dark = request.param
    place = reported.resolve().as_uri()
    with Browser(place, width=width, height=900, folder=tmp_path / "chromium", dark=dark) as found:
        found.wait_for(_READY)
        yield found


def point(page: Browser, number: int) -> tuple[float, float]:
    page.value("document.getElementById('map-of-the-embeddings').scrollIntoView()")
    x, y = page.wait_for(_POINT.replace("NUMBER", str(number)))
    return x, y


def test_a_report_works_from_its_file(page: Browser, reported: Path) -> None:
    keys = page.value("JSON.parse(document.getElementById('data').textContent).maps[0].keys")
    neighbors = page.value("JSON.parse(document.getElementById('data').textContent).maps[0].neighbors")
    x, y = point(page, 7)
    page.move(x - 40, y - 40)
    page.move(x, y)
    assert any("data:image/webp" in tip for tip in page.wait_for(_TIPS))  # hover shows an image
    page.click(x, y)
    chosen = page.wait_for("document.querySelector('#neighbors-0 b')?.textContent")
    number = keys.index(chosen)
    shown = page.value("[...document.querySelectorAll('#neighbors-0 button')].map((b) => b.title)")
    assert shown == [chosen, *(keys[other] for other in neighbors[number])]
    page.value("document.querySelectorAll('#neighbors-0 button')[1].click()")  # a neighbour leads on
    assert page.value("document.querySelector('#neighbors-0 b').textContent") == keys[neighbors[number][0]]

    colours = page.value("[...new Set(Bokeh.documents[0].get_model_by_name('points-0').data.colour)].length")
    page.value("(() => { const s = document.getElementById('colour-by'); s.value = 'cluster'; s.onchange(); })()")
    legend = page.value("[...document.querySelectorAll('#legend span')].map((s) => s.textContent)")
    assert len(legend) == 10
    assert legend[0] == "cluster 0"
    assert colours > 1
    assert page.value("document.documentElement.scrollWidth <= window.innerWidth")  # nothing has to be moved sideways
    assert page.errors == []
    assert page.requested == [reported.resolve().as_uri()]


def test_the_live_page_shows_runs_and_their_curves(trained: Path, tmp_path: Path) -> None:
    with Server(trained.parent, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with Browser(server.address, width=1000, height=800, folder=tmp_path / "chromium") as page:
            row = page.wait_for("document.querySelector('#lines tr')?.innerText")
            assert row.split("\t")[:3] == ["first", "finished", "sce"]
            page.ask("Page.navigate", url=f"{server.address}run/first")
            page.wait_for(_LIVE)
            lines = page.value(_LINES)
            log = trained / "metrics.csv"
            last = log.read_text(encoding="utf-8").splitlines()[-1].split(",")
            with log.open("a", encoding="utf-8") as file:
                file.write(",".join([str(int(last[0]) + 1), *last[1:]]) + "\n")
            page.wait_for(f"{_LINES} === {lines + 1}")
            assert page.errors == []
            assert all(address.startswith(server.address) for address in page.requested)
        server.shutdown()
