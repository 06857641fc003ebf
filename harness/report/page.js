// Draws the page's figures as they come near, again when the colour scheme changes, and all of them for a printer;
// makes tables and CSV files of their numbers; filters and sorts the points; keeps over a reload what the reader did.
(() => {
  const dark = matchMedia("screen and (prefers-color-scheme: dark)");
  // Panels that stand side by side on a wide page stand below each other on a narrow one; the style has both heights.
  const narrow = matchMedia("screen and (max-width: 52rem)");
  const told = id => JSON.parse(document.getElementById(id).textContent);
  const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const resolved = value => {
    if (typeof value === "string") {
      const name = /^var\((--[a-z0-9_-]+)\)$/.exec(value);
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
  const stack = whole => {
    const rows = whole.grid.rows;
    const panels = whole.annotations.length;
    whole.grid = { ...whole.grid, rows: panels, columns: 1 };
    if (whole.legend?.y) whole.legend.y = 1 + (whole.legend.y - 1) * rows / panels;
  };
  const layout = own => {
    const whole = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest",
      font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: colour("--text") },
      hoverlabel: {
        bgcolor: colour("--panel"), bordercolor: colour("--rule"), font: { color: colour("--text") }, align: "left",
      },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--muted"), activecolor: colour("--text") },
      margin: { l: 64, r: 24, t: 56, b: 56 },
      ...resolved(own),
    };
    delete whole.height;
    const stacked = whole.grid && narrow.matches;
    if (stacked) stack(whole);
    whole.legend = { orientation: "h", x: 0, y: 1, yanchor: "bottom", ...whole.legend };
    for (const key of Object.keys(whole)) {
      if (/^[xy]axis\d*$/.test(key)) {
        whole[key] = { ...axis(), ...whole[key], title: { ...axis().title, ...whole[key].title } };
        if (stacked) whole[key].showticklabels = true;
      }
    }
    return whole;
  };

  const drawn = new Set();
  const draw = plot => {
    drawn.add(plot);
    const figure = told(`${plot.id}-data`);
    Plotly.react(plot, resolved(figure.data), layout(figure.layout), {
      displaylogo: false, responsive: true, modeBarButtons: [["toImage", "resetScale2d"]],
    });
  };
  const plots = [...document.querySelectorAll(".plot")];
  const near = new IntersectionObserver(
    entries => entries.filter(entry => entry.isIntersecting).forEach(({ target }) => {
      near.unobserve(target);
      // each in a task of its own, so that the first is painted before the next is drawn
      setTimeout(() => drawn.has(target) || draw(target));
    }),
    { rootMargin: "100%" },
  );
  const unpack = async id => {
    const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), letter => letter.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  };
  unpack("plotly").then(text => {
    const script = document.createElement("script");
    script.textContent = text;
    document.head.append(script);
    script.remove();
    for (const plot of plots) near.observe(plot);
    for (const change of [narrow, dark]) change.addEventListener("change", () => drawn.forEach(draw));
    addEventListener("beforeprint", () => {
      for (const more of document.querySelectorAll(".more")) more.open = true;
      plots.filter(plot => !drawn.has(plot)).forEach(draw);
    });
  });

  // A spreadsheet takes a text that begins like this for a formula.
  const formula = /^\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|^[\t\r\n]/;
  const field = value => {
    if (value === null) return "";
    const text = typeof value === "string" && formula.test(value) ? `'${value}` : String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const save = (name, { heads, lines }) => {
    const text = [heads, ...lines].map(line => `${line.map(field).join(",")}\r\n`).join("");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    link.download = `${name}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };
  const line = (row, values, cell) => {
    for (const [index, value] of values.entries()) {
      const made = row.appendChild(document.createElement(index ? cell : "th"));
      if (made.tagName === "TH") made.scope = cell === "th" ? "col" : "row";
      if (typeof value === "number") made.className = "number";
      made.textContent = value ?? "–";
    }
  };
  const tabulate = (place, label, { heads, lines }) => {
    const table = document.createElement("table");
    line(table.createTHead().insertRow(), heads, "th");
    const body = table.createTBody();
    for (const values of lines) line(body.insertRow(), values, "td");
    Object.assign(place.appendChild(document.createElement("div")), { className: "scroll", tabIndex: 0, role: "region" });
    place.lastChild.setAttribute("aria-labelledby", label);
    place.lastChild.append(table);
  };
  for (const figure of document.querySelectorAll("figure")) {
    const button = figure.querySelector(".csv");
    const details = figure.querySelector("details");
    button.addEventListener("click", () => save(button.dataset.name, told(`${figure.id}-numbers`)));
    details.addEventListener(
      "toggle", () => tabulate(details, `${figure.id}-title`, told(`${figure.id}-numbers`)), { once: true },
    );
  }

  const points = document.querySelector("#points table");
  const bodies = [...points.tBodies];
  const search = document.querySelector(".filters input");
  const lists = [...document.querySelectorAll(".filters select")];
  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const body of bodies) {
      const text = words.length ? body.textContent.toLowerCase() : "";
      const fits = lists.every(list => !list.value || body.dataset[list.dataset.key] === list.value);
      body.hidden = !(fits && words.every(word => text.includes(word)));
      shown += !body.hidden;
    }
    document.querySelector(".filters output").textContent =
      `${shown.toLocaleString("en")} of ${bodies.length.toLocaleString("en")} points`;
  };
  for (const control of [search, ...lists]) control.addEventListener("input", filter);
  filter();

  // What stands first in a cell; a number where the column has numbers, and what is not known always last.
  const key = (body, column, numeric) => {
    const text = body.rows[0].cells[column].firstChild?.textContent ?? "";
    if (!numeric) return text;
    const found = parseFloat(text.replaceAll(",", ""));
    return Number.isNaN(found) ? null : found;
  };
  const heads = [...points.tHead.rows[0].cells];
  const sort = (head, falling) => {
    const column = heads.indexOf(head);
    const numeric = head.classList.contains("number");
    const keys = new Map(bodies.map(body => [body, key(body, column, numeric)]));
    const sign = falling ? -1 : 1;
    bodies.sort((a, b) => {
      const [one, other] = [keys.get(a), keys.get(b)];
      if (one === null || other === null) return (one === null) - (other === null);
      return sign * (numeric ? one - other : one.localeCompare(other, "en", { numeric: true }));
    });
    for (const each of heads) each.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", falling ? "descending" : "ascending");
    points.append(...bodies);
  };
  for (const head of heads) {
    head.firstChild.addEventListener("click", () => sort(head, head.getAttribute("aria-sort") === "ascending"));
  }

  // In this tab alone, under the page's own key; a browser that refuses to store anything keeps nothing.
  const own = `harness report ${location.pathname} ${document.title}`;
  const keep = () => {
    const sorted = heads.find(head => head.hasAttribute("aria-sort"));
    const at = document.activeElement;
    const place = at.closest("[id]");
    // what is above it may have grown by then
    const seen = document.elementFromPoint(innerWidth / 2, innerHeight / 2)?.closest("main > [id]");
    const done = {
      text: search.value,
      lists: Object.fromEntries(lists.map(list => [list.dataset.key, list.value])),
      sorted: sorted && { head: sorted.textContent, falling: sorted.getAttribute("aria-sort") === "descending" },
      open: [...document.querySelectorAll("details[open]")].map(details => details.id),
      focused: place && {
        place: place.id, tag: at.tagName, index: [...place.querySelectorAll(at.tagName)].indexOf(at),
        caret: [at.selectionStart, at.selectionEnd],
      },
      seen: { place: seen?.id ?? "", top: (seen ?? document.documentElement).getBoundingClientRect().top },
    };
    try { sessionStorage.setItem(own, JSON.stringify(done)); } catch { /* refused */ }
  };
  const kept = () => {
    try { return JSON.parse(sessionStorage.getItem(own)); } catch { return null; }
  };
  const restore = ({ text, lists: chosen, sorted, open }) => {
    search.value = text;
    for (const list of lists) {
      // what was chosen may be gone from the study
      if ([...list.options].some(({ value }) => value === chosen[list.dataset.key])) list.value = chosen[list.dataset.key];
    }
    filter();
    const head = sorted && heads.find(({ textContent }) => textContent === sorted.head);
    if (head) sort(head, sorted.falling);
    for (const details of document.querySelectorAll("details")) {
      details.open = open.includes(details.id);
      // its table at once, for the page to have its height
      if (details.open) details.dispatchEvent(new Event("toggle"));
    }
  };
  const resume = ({ focused, seen }) => {
    const spot = focused && document.getElementById(focused.place)?.querySelectorAll(focused.tag)[focused.index];
    spot?.focus({ preventScroll: true });
    spot?.setSelectionRange?.(...focused.caret);
    scrollBy(0, (document.getElementById(seen.place) ?? document.documentElement).getBoundingClientRect().top - seen.top);
  };
  // a browser by itself may scroll elsewhere once the page has grown
  history.scrollRestoration = "manual";
  const before = kept();
  if (before) restore(before);
  if (before && performance.getEntriesByType("navigation")[0].type !== "navigate") resume(before);
  // at once, for a page that is loaded anew may read before the old one hears that it goes
  addEventListener("input", keep);
  addEventListener("click", keep);
  addEventListener("toggle", keep, true);
  addEventListener("beforeunload", keep);
})();
