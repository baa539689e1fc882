// Each figure holds its specification as JSON beside the box to draw it in.
const config = {
  background: null,
  font: "system-ui, sans-serif",
  padding: { left: 2, top: 6, right: 6, bottom: 6 },
  autosize: { type: "fit-x", contains: "padding" },
  view: { stroke: null },
  axis: {
    domainColor: "var(--line)",
    gridColor: "var(--line)",
    tickColor: "var(--line)",
    labelColor: "var(--muted)",
    titleColor: "var(--muted)",
    labelFontSize: 12,
    titleFontSize: 12,
    titleFontWeight: "normal",
    labelPadding: 6,
    titlePadding: 10,
    ticks: false,
  },
  axisX: { grid: false, domainColor: "var(--muted)", labelFlush: false, labelSeparation: 8 },
  axisY: { domain: false, tickCount: 6 },
};

// `ast`: expressions are interpreted, as the page's policy forbids making code from text.
const options = {
  actions: false,
  ast: true,
  config,
  // Errors only: Vega warns of scales without values, as when no method is chosen.
  logLevel: 1,
  renderer: "svg",
  tooltip: { disableDefaultStyle: true },
};

// The filter of methods; pages without one show everything.
const boxes = [...document.querySelectorAll(".filter input")];
const views = [];

function chosen() {
  return boxes.filter((box) => box.checked).flatMap((box) => [box.value, box.dataset.name]);
}

function hide(root) {
  const shown = new Set(chosen());
  for (const each of root.querySelectorAll("[data-method]"))
    each.hidden = boxes.length > 0 && !shown.has(each.dataset.method);
  for (const body of root.querySelectorAll("tbody:has([data-method])"))
    body.hidden = !body.querySelector("[data-method]:not([hidden])");
}

function update({ view, rows }) {
  const shown = chosen();
  if (rows) view.height(30 * rows.filter((row) => shown.includes(row)).length);
  return view.signal("shown", shown).runAsync();
}

function draw(root) {
  for (const figure of root.querySelectorAll("figure")) {
    const spec = JSON.parse(figure.querySelector("script").textContent);
    spec.params = [{ name: "shown", value: chosen() }];
    window
      .vegaEmbed(figure.querySelector(".chart"), spec, options)
      .then((found) => {
        views.push({ view: found.view, rows: spec.usermeta?.rows });
        return update(views.at(-1));
      })
      .catch(console.error);
  }
  hide(root);
}

function choose() {
  hide(document);
  views.forEach(update);
}

for (const box of boxes) box.addEventListener("change", choose);
for (const button of document.querySelectorAll(".filter button"))
  button.addEventListener("click", () => {
    for (const box of button.parentElement.querySelectorAll("input"))
      box.checked = Boolean(button.dataset.check);
    choose();
  });

// Figures of a closed `details` element are drawn when it is opened first.
for (const details of document.querySelectorAll("details"))
  details.addEventListener("toggle", () => {
    for (const template of details.querySelectorAll("template")) {
      const figures = template.content.firstElementChild;
      template.replaceWith(figures);
      draw(figures);
    }
  });

// A link of the contents opens what it leads to.
for (const link of document.querySelectorAll("nav a"))
  link.addEventListener("click", () => {
    const first = document.querySelector(`${link.getAttribute("href")} > details:first-child`);
    if (first) first.open = true;
  });

draw(document);
