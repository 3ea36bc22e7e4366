// The charts of the report in Vega-Lite (https://vega.github.io/vega-lite/docs/), from what tools/report.py counts.
// A class stands where its label does, in every chart. Colours and fonts are those of the page, see config().
const room = { zero: false, nice: false, padding: 12 };  // pixels, so that no mark is cut at the edge
const zoomable = [{ name: "zoom", select: "interval", bind: "scales" }];
const row = 28;  // pixels of a class
const figure = (field, title = field) => ({ field, title, format: ".4f" });
const legend = { title: null, legend: { orient: "bottom" } };
const nominal = (field, more) => ({ field, type: "nominal", ...more });
const quantity = (field, title, more) => ({ field, title, type: "quantitative", scale: room, ...more });
const over = (values, layer) => (values.length ? [{ data: { values }, ...layer }] : []);

// The interval of each part as a bar, every seed as a ring, this model as a diamond.
function spread({ results, runs }) {
  const x = quantity("accuracy", null, { axis: { format: ".1%", tickCount: 4 } });
  const interval = [figure("accuracy_low", "from"), figure("accuracy_high", "to")];
  const part = nominal("part");
  return {
    data: { values: results }, height: 44 * results.length,
    encoding: { y: nominal("part", { title: null, sort: null }), color: nominal("part", { sort: null, legend: null }) },
    layer: [
      {
        mark: { type: "bar", size: 20, opacity: .25 },
        encoding: { x: { ...x, field: "accuracy_low" }, x2: { field: "accuracy_high" }, tooltip: [part, ...interval] },
      },
      ...over(runs, {
        mark: { type: "point", size: 60 }, encoding: { x, tooltip: [part, nominal("seed"), figure("accuracy")] },
      }),
      { mark: { type: "point", shape: "diamond", size: 140, filled: true }, encoding: { x, tooltip: [part, figure("accuracy")] } },
    ],
  };
}

// Train and val by epoch; a rule stands where the first epochs, with smaller images, end.
function curves(points, unit, small) {
  const label = unit === "accuracy" ? { y: "height", dy: -14 } : { y: 0, dy: 14 };  // where the curves are not
  const x = quantity("step", "epoch", { axis: { tickMinStep: 1, grid: false } });
  const ends = small > 0 && points.some(({ step }) => step > small) ? [{ step: small + .5 }] : [];
  return {
    data: { values: points }, height: 300,
    encoding: { x },
    layer: [
      {
        params: zoomable, mark: { type: "line", point: true },
        encoding: {
          y: quantity("value", unit), color: nominal("part", legend),
          tooltip: [nominal("part"), { field: "step", title: "epoch" }, figure("value", unit)],
        },
      },
      ...over(ends, { mark: { type: "rule", strokeDash: [4, 4] } }),
      ...over(ends, { mark: { type: "text", ...label, dx: -5, align: "right", text: "images at full size →" } }),
    ],
  };
}

// Images of each true class by predicted class; the colour is the share that was taken for another class.
function confusion(predictions, names) {
  const axis = (field, title, more) => nominal(field, { title, sort: names, ...more });
  return {
    data: { values: predictions }, height: row * new Set(predictions.map(({ label }) => label)).size,
    transform: [
      { joinaggregate: [{ op: "sum", field: "images", as: "all" }], groupby: ["label"] },
      { calculate: "datum.images / datum.all", as: "share" },
      { calculate: "datum.label === datum.predicted ? 0 : datum.share", as: "wrong" },
    ],
    encoding: {
      x: axis("predicted", "taken for", { axis: { labelAngle: -60, labelOverlap: false } }), y: axis("label", "true class"),
      tooltip: [nominal("label"), nominal("predicted"), { field: "images" }, { field: "share", format: ".1%" }],
    },
    layer: [
      { mark: "rect", encoding: { color: { field: "wrong", type: "quantitative", scale: { interpolate: "rgb" }, legend: null } } },
      { mark: { type: "text", fontSize: 10 }, encoding: { text: { field: "images", format: ",d" } } },
    ],
  };
}

// Accuracy against mean confidence with the images of each bin, and the line on which a calibrated model lies.
function reliability(bins) {
  const wide = { scale: { ...room, padding: 24 } };  // for the numbers
  const y = quantity("accuracy", "accuracy of the bin", wide);
  return {
    data: { values: bins }, height: 300,
    encoding: { x: quantity("confidence", "mean confidence of the bin", wide) },
    layer: [
      { mark: { type: "line", strokeDash: [4, 4], color: "grey" }, encoding: { y: { ...y, field: "ideal" } } },
      {
        params: zoomable, mark: { type: "point", filled: true },
        encoding: {
          y, size: { field: "images", type: "quantitative", scale: { type: "log", range: [10, 200] }, legend: null },
          tooltip: [figure("confidence"), figure("accuracy"), { field: "images" }],
        },
      },
      { mark: { type: "text", dy: -13, fontSize: 10 }, encoding: { y, text: { field: "images", format: ",d" } } },
    ],
  };
}

function classes(values, names) {
  return {
    data: { values }, height: row * names.length, params: [{ ...zoomable[0], select: { type: "interval", encodings: ["x"] } }],
    transform: [{ fold: ["precision", "recall", "f1"], as: ["measure", "value"] }],
    mark: { type: "point", filled: true, size: 60 },
    encoding: {
      x: quantity("value", null), y: nominal("class", { title: null, sort: names, axis: { grid: true } }),
      color: nominal("measure", { title: null, legend: { orient: "bottom", labelExpr: "replace(datum.label, 'f1', 'F1')" } }),
      shape: nominal("measure", legend),
      tooltip: [nominal("class"), nominal("measure"), figure("value"), { field: "images" }],
    },
  };
}

function config() {
  const probe = document.createElement("i");
  document.body.append(probe);
  const colour = (name) => {  // of the page, as it is in this light
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };
  const [ink, quiet, line, paper, one, two, three, worst] = "ink quiet grid paper one two three worst".split(" ").map(colour);
  probe.remove();
  const words = { labelColor: quiet, titleColor: quiet, titleFontWeight: "normal", labelFontSize: 11, titleFontSize: 12 };
  return {
    background: "transparent", font: "system-ui, sans-serif", text: { color: ink }, rule: { color: quiet },
    axis: { ...words, gridColor: line, domainColor: line, tickColor: line, titlePadding: 8, labelOverlap: true, labelSeparation: 8 },
    legend: { ...words, symbolStrokeWidth: 2 }, view: { stroke: null }, mark: { color: one }, point: { opacity: 1 },
    range: { category: [one, two, three], heatmap: [paper, worst] },
    selection: { interval: { zoom: "wheel![event.ctrlKey || event.metaKey]" } },  // else the wheel scrolls the page
  };
}

// Each place names a chart, and where there are several of it, a part or a measure.
function spec(name, which) {
  const own = data.tables[which] ?? {};
  const names = own.classes?.map((of) => of.class);
  return {
    spread: () => spread(data),
    curves: () => curves(data.curves[which], { accuracy: "accuracy", loss: "nats" }[which], data.small_epochs),
    confusion: () => confusion(own.predictions, names),
    reliability: () => reliability(own.reliability),
    classes: () => classes(own.classes, names),
  }[name]();
}

const dark = matchMedia("(prefers-color-scheme: dark)");
const size = { width: "container", autosize: { type: "fit-x", contains: "padding" } };
function draw() {
  for (const place of document.querySelectorAll("[data-chart]")) {
    vegaEmbed(place, { ...size, ...spec(place.dataset.chart, place.dataset.which) }, {
      actions: false, config: config(), tooltip: { theme: dark.matches ? "dark" : "light" },
    });
  }
}
dark.addEventListener("change", draw);
draw();
