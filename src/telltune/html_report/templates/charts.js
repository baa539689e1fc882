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
  renderer: "svg",
  tooltip: { disableDefaultStyle: true },
};

for (const figure of document.querySelectorAll("figure")) {
  const spec = JSON.parse(figure.querySelector("script").textContent);
  window.vegaEmbed(figure.querySelector(".chart"), spec, options).catch(console.error);
}
