// What happens on the page of a report when one clicks: the map's neighbours and colours. No library but Bokeh.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const model = (name) => {
    for (const page of Bokeh.documents) {
      const found = page.get_model_by_name(name);
      if (found) return found;
    }
    return null;
  };
  const element = (kind, text, style) => {
    const made = document.createElement(kind);
    if (text !== undefined) made.textContent = text;
    if (style) made.setAttribute("style", style);
    return made;
  };
  const thumbnail = (number) => {
    const [sheet, left, top] = data.places[number];
    const made = element("i", undefined, `background-image:var(--sheet-${sheet});background-position:-${left}px -${top}px`);
    made.className = "thumb";
    return made;
  };
  const card = (map, number, text) => {
    const made = element("button");
    made.type = "button";
    made.title = map.keys[number];
    made.append(thumbnail(number), element("small", text));
    made.onclick = () => choose([number]);
    return made;
  };
  const points = (place) => model(`points-${place}`);
  let busy = false;
  const choose = (numbers) => {
    busy = true;
    data.maps.forEach((_, place) => { points(place).selected.indices = numbers; });
    busy = false;
    data.maps.forEach((map, place) => list(map, place, numbers));
  };
  const list = (map, place, numbers) => {
    const box = document.getElementById(`neighbors-${place}`);
    if (!numbers.length) {
      box.replaceChildren(element("p", "Click a point: its nearest neighbours are listed here."));
      return;
    }
    const number = numbers[0];
    const title = element("p");
    title.append(element("b", map.keys[number]), ` · ${Object.entries(map.groups).map(([by, names]) => names[number].startsWith(by) ? names[number] : `${by}: ${names[number]}`).join(" · ")}`);
    const row = element("div");
    row.className = "thumbs";
    row.append(card(map, number, "this"));
    map.neighbors[number].forEach((other, rank) => row.append(card(map, other, map.similarity[number][rank].toFixed(2))));
    box.replaceChildren(title, row);
  };
  const paint = (by) => {
    data.maps.forEach((map, place) => {
      const source = points(place);
      source.data.group = map.groups[by];
      source.data.colour = map.groups[by].map((name) => map.colours[by][name]);
      source.change.emit();
    });
    const legend = document.getElementById("legend");
    const colours = data.maps[0].colours[by];
    legend.replaceChildren(...Object.entries(colours).filter(([, colour]) => colour !== data.others).map(([name, colour]) => {
      const entry = element("span", name);
      entry.prepend(element("i", undefined, `background:${colour}`));
      return entry;
    }));
  };
  window.glocal = { chosen: (place, numbers) => { if (!busy) choose([...numbers].slice(0, 1)); } };
  if (data.maps.length) {
    const select = document.getElementById("colour-by");
    select.onchange = () => paint(select.value);
    data.maps.forEach((map, place) => list(map, place, []));
    const ready = () => (points(0) ? paint(select.value) : setTimeout(ready, 50));
    ready();
  }
})();
