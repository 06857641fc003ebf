// Draws the figures of the page, those far below the view once they come near, and again when the colour scheme changes.
(() => {
  const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const resolved = value => {
    if (typeof value === "string") {
      const name = /^var\((--[a-z0-9-]+)\)$/.exec(value);
      return name ? colour(name[1]) : value;
    }
    if (Array.isArray(value)) return value.map(resolved);
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, part]) => [key, resolved(part)]));
    }
    return value;
  };
  const axis = () => ({
    gridcolor: colour("--rule"), linecolor: colour("--rule"), zerolinecolor: colour("--rule"),
    tickcolor: colour("--rule"), title: { font: { size: 13 } }, automargin: true,
  });
  // Panels that stand side by side on a wide page stand below each other on a narrow one.
  const narrow = matchMedia("(max-width: 52rem)");
  const stack = whole => {
    const rows = whole.grid.rows;
    const panels = whole.annotations.length;
    whole.grid = { ...whole.grid, rows: panels, columns: 1 };
    whole.height *= panels / rows;
  };
  const layout = own => {
    const whole = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest",
      font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: colour("--text") },
      hoverlabel: {
        bgcolor: colour("--panel"), bordercolor: colour("--rule"), font: { color: colour("--text") }, align: "left",
      },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--rule"), activecolor: colour("--text") },
      margin: { l: 64, r: 24, t: 56, b: 56 },
      ...resolved(own),
    };
    if (whole.grid && narrow.matches) stack(whole);
    whole.legend = { orientation: "h", x: 0, y: 1, yanchor: "bottom", ...whole.legend };
    for (const key of Object.keys(whole)) {
      if (/^[xy]axis\d*$/.test(key)) {
        whole[key] = { ...axis(), ...whole[key], title: { ...axis().title, ...whole[key].title } };
      }
    }
    return whole;
  };
  const draw = plot => {
    const figure = JSON.parse(document.getElementById(`${plot.id}-data`).textContent);
    Plotly.react(plot, resolved(figure.data), layout(figure.layout), {
      displaylogo: false, responsive: true, modeBarButtons: [["toImage", "resetScale2d"]],
    });
  };
  // The figures of a thousand points take longer to draw than a person waits, and lie below a long table.
  const waiting = new Set(document.querySelectorAll(".plot"));
  const drawWithin = pixels => {
    const near = [...waiting].filter(plot => plot.getBoundingClientRect().top < pixels);
    for (const plot of near) {
      waiting.delete(plot);
      draw(plot);
    }
  };
  const drawNear = () => drawWithin(innerHeight + 6000);
  const drawAgain = () => document.querySelectorAll(".plot").forEach(plot => waiting.has(plot) || draw(plot));
  drawNear();
  for (const moved of ["scroll", "resize"]) addEventListener(moved, drawNear, { passive: true });
  addEventListener("beforeprint", () => drawWithin(Infinity));
  for (const change of [narrow, matchMedia("(prefers-color-scheme: dark)")]) change.addEventListener("change", drawAgain);
})();
