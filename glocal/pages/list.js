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
  const said = document.getElementById("said");
  const show = async () => {
    try {
      const answer = await fetch("/runs.json");
      if (!answer.ok) throw new Error(await answer.text());
      const runs = await answer.json();
      document.getElementById("lines").replaceChildren(...runs.map((run) => {
        const row = document.createElement("tr");
        row.append(cell(run.name, `/run/${run.place}`), cell(run.state), cell(run.method), cell(run.epoch?.toFixed(1)), cell(run.loss?.toFixed(3)), cell(run.knn?.toFixed(1)));
        row.append(run.report ? cell("report", `/file/${run.place}/report.html`) : cell(""));
        return row;
      }));
      said.textContent = "";
    } catch (error) { said.textContent = `The list cannot be had: ${error.message}`; }
    setTimeout(show, 5000);
  };
  show();
})();
