"""The map of a sample: hover shows the image, a click lists its neighbours, colours go by class, folder or cluster."""

from __future__ import annotations

from collections import Counter
from typing import Any

from bokeh.models import ColumnDataSource, CustomJS, HoverTool
from bokeh.plotting import figure

from glocal.pages.curves import COLOURS, plain
from glocal.pages.sample import Sample
from glocal.pages.sprites import SIDE, Sprites

_MOST = 20  # groups with a colour of their own
OTHERS = "#999999"
_TIP = (
    '<div style="display:flex;gap:6px;max-width:260px"><div style="flex:none;'
    f"width:{SIDE}px;height:{SIDE}px;background-image:var(--sheet-@sheet);"
    'background-position:-@left{0}px -@top{0}px"></div><div style="overflow-wrap:anywhere;min-width:110px">@key<br>'
    "<b>@group</b></div></div>"
)


def draw_map(sample: Sample, sprites: Sprites, number: int, *, height: int = 560) -> Any:
    """A map as a Bokeh figure; the page's script (`page.js`) does what follows a click.

    Args:
        sample: the images.
        sprites: their thumbnails.
        number: of the map on the page.
        height: in pixels.
    """
    first = next(iter(sample.groups))
    colours = colours_of(sample.groups[first])
    sheets, lefts, tops = zip(*sprites.places, strict=True)
    source = ColumnDataSource(
        {
            "x": sample.points[:, 0],
            "y": sample.points[:, 1],
            "colour": [colours[group] for group in sample.groups[first]],
            "group": sample.groups[first],
            "key": sample.keys,
            "sheet": sheets,
            "left": lefts,
            "top": tops,
        },
        name=f"points-{number}",
    )
    plot = figure(
        height=height,
        sizing_mode="stretch_width",
        tools="pan,wheel_zoom,box_zoom,tap,reset",
        active_scroll=None,  # else the page would not scroll where the mouse lies on the map
        active_tap="tap",
        match_aspect=True,
        output_backend="webgl",
        name=f"map-{number}",
    )
    plain(plot)
    plot.toolbar.autohide = False
    plot.axis.visible = False
    plot.grid.grid_line_color = None
    size = max(4.0, min(9.0, 400 / len(sample) ** 0.5))
    points = plot.scatter(
        "x",
        "y",
        source=source,
        color="colour",
        size=size,
        alpha=0.8,
        line_color=None,
        selection_line_color="#000000",
        selection_fill_alpha=1.0,
        nonselection_fill_alpha=0.35,
        nonselection_line_color=None,
    )
    plot.add_tools(HoverTool(renderers=[points], tooltips=_TIP, attachment="horizontal"))
    code = f"window.glocal.chosen({number}, cb_obj.indices)"
    source.selected.js_on_change("indices", CustomJS(code=code))
    return plot


def colours_of(groups: list[str]) -> dict[str, str]:
    """A colour for each group: the largest ones have their own, all others are grey; the names stay in order."""
    largest = {name for name, _ in Counter(groups).most_common(_MOST)}
    colours, place = {}, 0
    for name in sorted(set(groups)):
        colours[name] = OTHERS
        if name in largest:
            shade = place // len(COLOURS)
            colours[name] = COLOURS[place % len(COLOURS)] if shade == 0 else _lighter(COLOURS[place % len(COLOURS)])
            place += 1
    return colours


def _lighter(colour: str) -> str:
    parts = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    return "#" + "".join(f"{(part + 255) // 2:02x}" for part in parts)


def data_of(sample: Sample) -> dict[str, Any]:
    """What the page's script needs of a map, as JSON."""
    return {
        "keys": sample.keys,
        "neighbors": sample.neighbors.tolist(),
        "similarity": [[round(value, 3) for value in row] for row in sample.similarity.tolist()],
        "groups": sample.groups,
        "colours": {by: colours_of(groups) for by, groups in sample.groups.items()},
    }
