// The list of runs, asked for every few seconds.
(() => {
  const cell = (text, link) => {
    const made = document.createElement("td");
    if (link) {
      const a = document.createElement("a");
      a.href = link;
      a.textContent = text;
      made.append(a);
    } else made.textContent = text ?? "–";
    return made;
  };
  const path = (name) => name.split("/").map(encodeURIComponent).join("/");
  const show = async () => {
    try {
      const runs = await (await fetch("/runs.json")).json();
      document.getElementById("lines").replaceChildren(...runs.map((run) => {
        const row = document.createElement("tr");
        row.append(cell(run.name, `/run/${path(run.name)}`), cell(run.state), cell(run.method), cell(run.epoch?.toFixed(1)), cell(run.loss?.toFixed(3)), cell(run.knn?.toFixed(1)));
        row.append(run.report ? cell("report", `/file/${path(run.name)}/report.html`) : cell(""));
        return row;
      }));
    } catch { /* the server is gone; the next look may find it again */ }
    setTimeout(show, 5000);
  };
  show();
})();
