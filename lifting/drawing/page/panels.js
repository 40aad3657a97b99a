// What stands beside the scene: the picture with its keypoints, the chart over time, the joints, the legend.

/** Fits a canvas to its place on the page and clears it; returns its context and size in CSS pixels. */
function fitted(canvas, height = null) {
  const ratio = Math.min(devicePixelRatio || 1, 3);
  if (height !== null && Math.abs(parseFloat(canvas.style.height) - height) > 0.5 || (height !== null && !canvas.style.height))
    canvas.style.height = `${height}px`;
  const [w, h] = [canvas.clientWidth, canvas.clientHeight];
  const [pixelsX, pixelsY] = [Math.round(w * ratio), Math.round(h * ratio)];
  if (canvas.width !== pixelsX || canvas.height !== pixelsY) [canvas.width, canvas.height] = [pixelsX, pixelsY];
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, w, h);
  return [context, w, h];
}

/** [left, top, right, bottom] in pixels of all keypoints of these people. */
function bounds(people) {
  const box = [Infinity, Infinity, -Infinity, -Infinity];
  for (const p of people) for (let t = 0; t < FRAMES; t++) {
    const points = at("points", t, p);
    for (let i = 0; i < 2 * JOINTS; i += 2) if (Number.isFinite(points[i])) {
      box[0] = Math.min(box[0], points[i]); box[1] = Math.min(box[1], points[i + 1]);
      box[2] = Math.max(box[2], points[i]); box[3] = Math.max(box[3], points[i + 1]);
    }
  }
  return box[0] < Infinity ? box : [0, 0, 1, 1];
}

const boundsOf = new Map();
const around = (chosen) => boundsOf.get(chosen) ?? boundsOf.set(chosen, bounds(shownPeople(chosen))).get(chosen);
const wholePicture = data.size ? [0, 0, ...data.size] : padded(around(-1), 0.08, null);

/** A box with a margin around it; with `shape`, also widened to that ratio of width to height. */
function padded([left, top, right, bottom], margin, shape) {
  let [w, h] = [right - left, bottom - top];
  const side = Math.max(w, h, 1) * margin;
  [w, h] = [w + 2 * side, h + 2 * side];
  if (shape) [w, h] = [Math.max(w, h * shape), Math.max(h, w / shape)];
  const [x, y] = [(left + right) / 2, (top + bottom) / 2];
  return [x - w / 2, y - h / 2, x + w / 2, y + h / 2];
}

function drawPicture(canvas, palette, frame, chosen, closer, hover) {
  const ratio = Math.min(Math.max((wholePicture[3] - wholePicture[1]) / (wholePicture[2] - wholePicture[0]), 0.5), 0.86);
  const [context, w, h] = fitted(canvas, Math.round(canvas.clientWidth * ratio));
  const box = closer ? padded(around(chosen), 0.12, w / h) : padded(wholePicture, 0, w / h);
  const scale = w / (box[2] - box[0]);
  const place = (x, y) => [(x - box[0]) * scale, (y - box[1]) * scale];
  const [left, top] = place(wholePicture[0], wholePicture[1]);
  const [right, bottom] = place(wholePicture[2], wholePicture[3]);
  context.fillStyle = tinted(palette.glow, 0, 0.75);
  context.fillRect(left, top, right - left, bottom - top);
  for (const p of shownPeople(-1)) drawKeypoints(context, palette, place, frame, p, chosen < 0 || p === chosen ? 1 : 0.25, hover);
}

function drawKeypoints(context, palette, place, frame, person, alpha, hover) {
  const [points, scores] = [at("points", frame, person), arrays.scores && at("scores", frame, person)];
  const strength = (j) => alpha * (scores ? 0.25 + 0.75 * scores[j] : 1);
  const known = (j) => Number.isFinite(points[2 * j]);
  context.lineCap = "round";
  for (const pass of [0, 1]) for (let j = 1; j < JOINTS; j++) {
    const parent = data.parents[j];
    if (!known(j) || !known(parent)) continue;
    context.beginPath();
    context.moveTo(...place(points[2 * parent], points[2 * parent + 1]));
    context.lineTo(...place(points[2 * j], points[2 * j + 1]));
    context.lineWidth = pass ? 2.4 : 4.4;
    context.strokeStyle = pass ? tinted(palette[data.sides[j]], 0, Math.min(strength(j), strength(parent))) : tinted(palette.glow, 0, alpha);
    context.stroke();
  }
  for (let j = 0; j < JOINTS; j++) if (known(j)) {
    const [x, y] = place(points[2 * j], points[2 * j + 1]);
    context.beginPath();
    context.arc(x, y, j === hover && alpha === 1 ? 6 : 3, 0, 2 * Math.PI);
    context.fillStyle = tinted(palette[data.sides[j]], 0, strength(j));
    context.fill();
    context.lineWidth = 1;
    context.strokeStyle = tinted(palette.glow, 0, alpha);
    context.stroke();
  }
}

/** The standard deviation as a filled area and the error as a line, the same frames below each other as on the slider. */
function drawChart(canvas, palette, frame, chosen) {
  const [context, w, h] = fitted(canvas);
  const inset = 8;  // half of the slider's thumb
  const columns = Math.max(Math.min(FRAMES, Math.floor(w - 2 * inset)), 1);
  const people = shownPeople(chosen);
  const curve = (values) => Array.from({ length: columns }, (_, i) => {
    const [from, to] = [Math.floor((i * FRAMES) / columns), Math.max(Math.floor(((i + 1) * FRAMES) / columns), Math.floor((i * FRAMES) / columns) + 1)];
    return mean(people.flatMap((p) => [...values[p].subarray(from, to)]));
  });
  const key = `${chosen} ${columns}`;
  if (drawChart.key !== key) Object.assign(drawChart, { key, deviation: curve(series.deviation), error: curve(series.error) });
  const { deviation, error } = drawChart;
  const largest = Math.max(...[...deviation, ...error].filter(Number.isFinite), 1e-3);
  const x = (i) => inset + (columns > 1 ? (i / (columns - 1)) * (w - 2 * inset) : (w - 2 * inset) / 2);
  const y = (value) => h - 1 - (value / largest) * (h - 14);
  for (const level of gridLevels(largest)) {
    context.fillStyle = tinted(palette.line, 0, 1);
    context.fillRect(inset, Math.round(y(level)), w - 2 * inset, 1);
  }
  runs(deviation, (from, to) => {
    context.beginPath();
    context.moveTo(x(from), h);
    for (let i = from; i <= to; i++) context.lineTo(x(i), y(deviation[i]));
    context.lineTo(x(to), h);
    context.fillStyle = tinted(palette.deviation, 0, 0.28);
    context.fill();
  });
  for (const [values, colour, width] of [[deviation, palette.deviation, 1.2], [error, palette.error, 1.5]]) runs(values, (from, to) => {
    context.beginPath();
    for (let i = from; i <= to; i++) context.lineTo(x(i), y(values[i]));
    context.lineWidth = width;
    context.lineJoin = "round";
    context.strokeStyle = tinted(colour, 0, 1);
    context.stroke();
  });
  context.font = "11px system-ui, sans-serif";
  context.textAlign = "left";
  for (const level of gridLevels(largest)) {
    const label = `${millimetres(level)} mm`;
    context.lineWidth = 3;
    context.strokeStyle = tinted(palette.panel, 0, 0.9);
    context.strokeText(label, inset + 2, y(level) - 3);
    context.fillStyle = tinted(palette.quiet, 0, 1);
    context.fillText(label, inset + 2, y(level) - 3);
  }
  context.fillStyle = tinted(palette.accent, 0, 1);
  context.fillRect(inset + (FRAMES > 1 ? frame / (FRAMES - 1) : 0.5) * (w - 2 * inset) - 0.75, 0, 1.5, h);
}

/** One round number, at 45 to 99 % of the largest value. */
function gridLevels(largest) {
  const power = 10 ** Math.floor(Math.log10(largest));
  return [[5, 2, 1].map((step) => step * power).find((level) => level <= 0.99 * largest) ?? 0.5 * power];
}

function runs(values, draw) {
  let start = -1;
  for (let i = 0; i <= values.length; i++) {
    const known = i < values.length && Number.isFinite(values[i]);
    if (known && start < 0) start = i;
    if (!known && start >= 0) { draw(start, i - 1); start = -1; }
  }
}

const element = (name, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};
const byId = (id) => document.getElementById(id);

/** One bar for each joint but the pelvis, which has no error by definition. */
const rows = data.joints.map((name, j) => {
  const dot = element("i", { className: "dot" });
  dot.style.background = `var(--${data.sides[j]})`;
  const row = { fill: element("i"), mark: element("u"), number: element("span", { className: "number" }) };
  row.item = element("li", {}, element("span", {}, dot, name),
    element("span", { className: "bar" }, row.fill, row.mark), row.number);
  if (j) byId("bars").append(row.item);
  return row;
});
const longest = Math.max(0.05, ...[0.98].map((share) => {  // metres at the end of a bar; a few are longer
  const all = [];
  for (let p = 0; p < PEOPLE; p++) for (let t = 0; t < FRAMES; t += Math.ceil(FRAMES / 300))
    all.push(...jointDeviations(t, p), ...errors(t, p));
  const known = all.filter(Number.isFinite).sort((a, b) => a - b);
  return known.length ? known[Math.floor(share * (known.length - 1))] : 0;
}));

function fillBars(frame, person, hover) {
  const there = person >= 0 && present(frame, person);
  const [deviation, error] = there ? [jointDeviations(frame, person), errors(frame, person)] : [[], []];
  const seen = there ? isSeen(frame, person) : [];
  rows.forEach((row, j) => {
    const length = (value) => `${100 * Math.min((Number.isFinite(value) ? value : 0) / longest, 1)}%`;
    row.fill.style.width = length(deviation[j]);
    row.mark.style.left = length(error[j]);
    row.mark.hidden = !Number.isFinite(error[j]);
    row.number.textContent = !there ? "" : arrays.truth ? `${millimetres(deviation[j])} · ${millimetres(error[j])}` : `${millimetres(deviation[j])} mm`;
    row.item.classList.toggle("hover", j === hover);
    row.item.classList.toggle("unseen", there && !seen[j]);
  });
}

function explain(reach) {
  const list = byId("explained");
  const line = (look, text, quiet = false) => {
    const mark = element("i", { className: look.name ?? "" });
    if (look.colour) mark.style.background = look.colour;
    list.append(element("li", {}, mark, element("span", { className: quiet ? "quiet" : "", textContent: text })));
  };
  list.replaceChildren();
  explainShort(reach);
  line({ colour: "linear-gradient(to right, var(--left) 33%, var(--middle) 33% 66%, var(--right) 66%)" },
    "The person's left, middle and right");
  if (arrays.deviation) {
    const [k, plural, gaussian] = reach === 2 ? [2, "s", 74] : [1, "", 20];
    const share = shareInside(k, shownPeople(-1));
    line({ name: "bubble" }, `How far off a joint may be: the ellipsoid reaches ${k} standard deviation${plural} along each axis. `
      + `If errors were Gaussian, ${gaussian} % of joints would lie inside.`
      + (Number.isFinite(share) ? ` Here ${Math.round(100 * share)} % do.` : ""));
    line({ colour: "var(--deviation)" }, "Standard deviation of a joint: root of the sum of its three variances. The number above the scene is its mean over the joints.");
  } else line({ name: "none" }, "This lifter predicts no sigma, so there are no ellipsoids.", true);
  if (arrays.truth) {
    line({ colour: "var(--truth)" }, "Ground truth, with the pelvis at the same place");
    line({ colour: "var(--error)" }, "Error: distance of a joint from the ground truth. The number above the scene is its mean over the joints (MPJPE).");
  }
  if (hasMissing) line({ name: "ring" }, "A joint that is missing in the 2D input: its place is estimated from the others.");
  line({ name: "none" }, data.frame === "ray"
    ? "Axes of the file: x right, y down, z along the line of sight to the person's pelvis. Metres."
    : "Axes of the file: x right, y down, z away from the camera. Metres.", true);
  line({ name: "none" }, data.camera
    ? "Places come from the camera's focal length; a dashed outline says how well they are known."
    : "Without a focal length nobody's place is known: people stand side by side, the lowest joint on the floor.", true);
  line({ name: "none" }, "A square of the floor is half a metre wide."
    + (data.tilt >= 0.5 ? ` The scene is turned by ${data.tilt}°, so that those who stand are upright.` : ""), true);
  line({ name: "none" }, `Lifted by ${data.checkpoint}.`, true);
}

/** The same in a few words, in a corner of the scene. */
function explainShort(reach) {
  const key = byId("key");
  key.replaceChildren();
  const add = (look, ...text) => key.append(element("span", {}, element("i", { className: look }), ...text));
  add("left", "left");
  add("right", "right");
  if (arrays.truth) add("truth", "ground truth");
  if (arrays.deviation && reach) add("bubble", `${reach} standard deviation${reach > 1 ? "s" : ""}`);
  if (hasMissing) add("ring", "missing", element("em", { textContent: " in the 2D input" }));
}
