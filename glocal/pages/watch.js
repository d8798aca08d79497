// Asks for a run's curves every few seconds and puts them into the charts; a chart that is new reloads the page.
(() => {
  const place = document.body.dataset.curves;
  const model = (name) => Bokeh.documents.map((page) => page.get_model_by_name(name)).find((found) => found);
  const ask = async () => {
    try {
      const answer = await fetch(place);
      if (answer.ok) {
        const { curves, verdict } = await answer.json();
        for (const [name, [epoch, value]] of Object.entries(curves)) {
          const source = model(name);
          if (!source) return location.reload();
          source.data = { ...source.data, epoch, value };
        }
        document.querySelector("ul.verdict").replaceChildren(...verdict.map(([mood, text, command]) => {
          const line = document.createElement("li");
          line.className = mood;
          line.textContent = text;
          if (command) {
            const typed = document.createElement("code");
            typed.textContent = command;
            line.append(" ", typed);
          }
          return line;
        }));
      }
      document.title = document.title.replace(/^(\(gone\) )?/, answer.ok ? "" : "(gone) ");
    } catch { document.title = document.title.replace(/^(\(gone\) )?/, "(gone) "); }
    setTimeout(ask, 5000);
  };
  setTimeout(ask, 5000);
})();
