// The curves: a thin line a seed, a thick one for the mean, and a legend with the values at a step.

const COLOURS = 8;
// a line is known by its dashes as well as by its colour
const DASHES = ["", "7 3", "2 3", "9 3 2 3", "4 4", "1 4"];

// ---------------------------------------------------------------- curves: the numbers

const LINES = DATA.curves.lines;
const METHODS = unique(LINES.map(line => line.method));
const LINES_OF = METHODS.map(method => LINES.filter(line => line.method === method));
const STEPS = unique(LINES.flatMap(line => line.steps)).sort((a, b) => a - b);

// A mean over the last `width` points; a gap stays a gap.
function smoothed(values, width) {
  return values.map((value, i) => {
    if (value === null) return null;
    const window = values.slice(Math.max(0, i - width + 1), i + 1);
    return mean(window.filter(x => x !== null));
  });
}

// step -> value of one seed.
function pointsOf(line, width) {
  const values = smoothed(line.values[state.metric], width);
  return new Map(values.map((value, i) => [line.steps[i], value]));
}

// step -> mean of the seeds that have a value there.
function meanOfSeeds(seeds) {
  const points = new Map();
  for (const step of STEPS) {
    const here = seeds.map(seed => seed.get(step)).filter(isNumber);
    if (here.length) points.set(step, mean(here));
  }
  return points;
}

// Of each method: its seeds, their mean at each step, and whether it is shown.
function series() {
  const width = Number(state.smooth) || 1;
  return METHODS.map((method, index) => {
    const lines = LINES_OF[index].filter(line => line.values[state.metric]);
    const seeds = lines.map(line => pointsOf(line, width));
    const shown = !state.off.includes(method);
    return {method, index, seeds, points: meanOfSeeds(seeds), shown};
  });
}

// Round numbers between two: 1, 2 or 5 times a power of ten.
function ticks(low, high, count = 5) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const gap = power * [1, 2, 5, 10].find(k => k * power >= rough);
  const marks = [];
  for (let i = Math.ceil(low / gap); i * gap <= high + gap * 1e-9; i++) marks.push(i * gap);
  return marks;
}

// ---------------------------------------------------------------- curves: the drawing

// Where the chart stands in its picture, and how steps and values become places.
function frameFor(values) {
  const wide = Math.max(280, $("chart").clientWidth);
  const high = Math.round(Math.min(380, Math.max(220, wide * .45)));
  let [low, top] = [Math.min(...values), Math.max(...values)];
  if (top - low < 1e-9) [low, top] = [low - .5, top + .5];
  const [first, last] = [STEPS[0], STEPS.at(-1)];
  const [left, right, up, down] = [52, wide - 16, 10, high - 34];
  const along = step => last > first ? (step - first) / (last - first) : .5;
  return {
    wide, high, low, top, first, last, left, right, up, down,
    x: step => left + (right - left) * along(step),
    y: value => down - (down - up) * (value - low) / (top - low),
  };
}

function axes(frame) {
  const {x, y, left, right, down, first, last} = frame;
  const text = (what, place) => svg("text", {class: "tick", ...place}, what);
  const parts = [];
  for (const v of ticks(frame.low, frame.top)) {
    parts.push(svg("line", {class: "grid", x1: left, x2: right, y1: y(v), y2: y(v)}));
    parts.push(text(short(v), {x: left - 6, y: y(v) + 4, "text-anchor": "end"}));
  }
  const end = last > first ? last : first + 1;
  const steps = ticks(first, end, Math.max(3, frame.wide / 110));
  for (const step of steps.filter(step => step <= last)) {
    parts.push(text(short(step), {x: x(step), y: down + 16, "text-anchor": "middle"}));
  }
  const below = {x: (left + right) / 2, y: frame.high - 3, "text-anchor": "middle"};
  return [...parts, text("training step", below)];
}

// A line through the points, broken where a value is missing.
function path(points, {x, y}) {
  let pen = "M";
  let drawn = "";
  for (const [step, value] of points) {
    if (value !== null) drawn += `${pen}${x(step).toFixed(1)} ${y(value).toFixed(1)}`;
    pen = value === null ? "M" : "L";
  }
  return drawn;
}

const colourOf = index => `c${index % COLOURS}`;
const dashesOf = index => ({"stroke-dasharray": DASHES[index % DASHES.length]});

// The lines of a method: each seed, if there are several, and their mean.
function curvesOf({index, seeds, points}, frame) {
  const thin = {class: `run ${colourOf(index)}`};
  const thick = {class: `mean-line ${colourOf(index)}`, ...dashesOf(index)};
  const runs = seeds.length > 1 ? seeds : [];
  return [
    ...runs.map(seed => svg("path", {...thin, d: path(seed, frame)})),
    svg("path", {...thick, d: path(points, frame)}),
  ];
}

function picture(frame) {
  const what = `${label(state.metric)} over training steps ${frame.first} to ${frame.last}`;
  return svg("svg", {
    viewBox: `0 0 ${frame.wide} ${frame.high}`,
    height: frame.high,
    role: "img",
    "aria-label": `${what}; the values stand below`,
  });
}

// The place of the step nearest to the pointer.
function nearestStep(event, image, frame) {
  const inside = event.clientX - image.getBoundingClientRect().left;
  const at = inside * frame.wide / image.clientWidth;
  const away = i => Math.abs(frame.x(STEPS[i]) - at);
  return STEPS.reduce((best, _, i) => away(i) < away(best) ? i : best, 0);
}

// The vertical line at a step; it follows the slider and the pointer.
function addCross(image, frame, drawn) {
  const cross = image.appendChild(svg("line", {class: "cross", y1: frame.up, y2: frame.down}));
  const place = () => {
    const at = frame.x(STEPS[$("step").value]);
    cross.setAttribute("x1", at);
    cross.setAttribute("x2", at);
    legend(drawn);
  };
  const point = event => {
    $("step").value = nearestStep(event, image, frame);
    place();
  };
  image.addEventListener("pointermove", point);
  image.addEventListener("pointerdown", point);
  $("step").oninput = place;
  return place;
}

function drawChart() {
  const drawn = series();
  const shown = drawn.filter(s => s.shown);
  const seeds = shown.flatMap(s => s.seeds);
  const values = seeds.flatMap(seed => [...seed.values()]).filter(v => v !== null);
  if (!values.length) {
    const nothing = "No method shown has values of this metric.";
    $("chart").replaceChildren(el("p", {class: "mute"}, nothing));
    return legend(drawn);
  }
  const frame = frameFor(values);
  const image = picture(frame);
  image.append(...axes(frame), ...shown.flatMap(s => curvesOf(s, frame)));
  const place = addCross(image, frame, drawn);
  $("chart").replaceChildren(image);
  place();
}

// ---------------------------------------------------------------- curves: who is who

function swatch(index) {
  const place = {x1: 0, x2: 30, y1: 6, y2: 6};
  const style = {class: `mean-line ${colourOf(index)}`, ...dashesOf(index)};
  return svg("svg", {viewBox: "0 0 30 12", "aria-hidden": "true"},
    svg("line", {...style, ...place}));
}

function legendEntry({method, index}) {
  const box = el("input", {type: "checkbox"});
  box.onchange = () => {
    const others = state.off.filter(m => m !== method);
    state.off = box.checked ? others : [...others, method];
    writeAddress();
    drawChart();
  };
  return el("label", {}, box, swatch(index), el("span", {}, method), el("output"));
}

// Each method, and its value under the cross.
function legend(drawn) {
  const step = STEPS[$("step").value];
  $("at").value = step;
  $("step").setAttribute("aria-valuetext", `step ${step}`);
  const empty = $("legend").childElementCount === 1;
  if (empty) $("legend").append(...drawn.map(legendEntry));
  [...$("legend").querySelectorAll("label")].forEach((row, i) => {
    row.querySelector("input").checked = drawn[i].shown;
    row.querySelector("output").value = short(drawn[i].points.get(step) ?? null);
  });
}

const label = metric => DATA.names[metric] ? `${DATA.names[metric]} (${metric})` : metric;
const smoothness = k => k === "1" ? "none" : `of ${k} points`;

function showCurves() {
  state.metric = options($("metric"), DATA.curves.metrics, state.metric, label);
  state.smooth = options($("smooth"), ["1", "5", "20"], state.smooth, smoothness);
  drawChart();
}

function startCurves() {
  $("step").max = STEPS.length - 1;
  $("step").value = STEPS.length - 1;
  for (const id of ["metric", "smooth"]) {
    $(id).onchange = () => {
      state[id] = $(id).value;
      writeAddress();
      drawChart();
    };
  }
  new ResizeObserver(drawChart).observe($("chart"));
}
