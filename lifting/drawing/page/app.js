// What the person who looks at the page does: time, view, choice of people.
const canvas = byId("scene");
const orbit = new Orbit();
const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
const asked = new URLSearchParams(location.hash.slice(1));  // such as #frame=120, which a link to one pose has
const state = { frame: 0, person: PEOPLE === 1 ? 0 : -1, playing: false, speed: 1, turning: false, reach: arrays.deviation ? 1 : 0,
  hover: -1, hoverPerson: -1, closer: isSmall(), palette: readPalette(), dirty: true, points: [], fit: 4 };

/** Whether people fill less than half of the picture, so that a closer look is better to begin with. */
function isSmall() {
  const box = around(-1);
  return Math.max((box[2] - box[0]) / (wholePicture[2] - wholePicture[0]), (box[3] - box[1]) / (wholePicture[3] - wholePicture[1])) < 0.6;
}

const VIEWS = { camera: [0, 0.06], side: [Math.PI / 2 - 0.25, 0.16], top: [0, 1.45] };

/** Frames all chosen people over the whole clip, or one of them, whom the eye then follows. */
function fitView() {
  const people = shownPeople(state.person);
  const box = [[Infinity, -Infinity], [Infinity, -Infinity], [Infinity, -Infinity]];
  const follow = state.person >= 0;
  for (let t = 0; t < FRAMES; t += Math.ceil(FRAMES / 400)) for (const p of people) if (present(t, p)) {
    for (const joint of placed("joints", t, p)) joint.forEach((value, a) => {
      const offset = follow && a !== 1 ? value - at("place", t, p)[a] : value;
      box[a] = [Math.min(box[a][0], offset), Math.max(box[a][1], offset)];
    });
  }
  if (!(box[1][0] < Infinity)) box.splice(0, 3, [-0.5, 0.5], [0, 1.7], [-0.5, 0.5]);
  const low = Math.min(box[1][0], 0);
  const across = Math.hypot(box[0][1] - box[0][0], box[2][1] - box[2][0]);
  const tall = box[1][1] - low;
  orbit.middle = [(box[0][0] + box[0][1]) / 2, (low + box[1][1]) / 2 - 0.03, (box[2][0] + box[2][1]) / 2];
  if (follow) orbit.middle[0] = orbit.middle[2] = 0;
  const [w, h] = [canvas.clientWidth, canvas.clientHeight];
  orbit.look(w, h);
  const [roomX, roomY] = [Math.max(w - 40, 80), Math.max(h - (w < 600 ? 180 : 120), 80)];
  orbit.distance = state.fit = orbit.focal * Math.max((follow ? Math.min(across, 1.5) : across) / roomX, tall / roomY) + across / 4;
  orbit.pan = [0, 0, 0];
  orbit.floor = Math.max(1.6, across / 2 + 0.9);
  aim();
}

/** Points the eye at its target: the middle of the scene, or the person it follows. */
function aim() {
  let place = [0, 0, 0];
  if (state.person >= 0) {
    const there = nearestPresent(state.frame, state.person);
    place = there < 0 ? place : at("place", there, state.person);
  }
  orbit.target = plus([place[0] + orbit.middle[0], orbit.middle[1], place[2] + orbit.middle[2]], orbit.pan);
}

function nearestPresent(frame, person) {
  for (let away = 0; away < FRAMES; away++) for (const t of [frame - away, frame + away])
    if (t >= 0 && t < FRAMES && present(t, person)) return t;
  return -1;
}

function draw() {
  state.dirty = false;
  const { palette, frame, person, reach, hover } = state;
  const [context, w, h] = fitted(canvas);
  aim();
  orbit.look(w, h);
  drawFloor(context, orbit, palette, [orbit.target[0], orbit.target[2]], 0.5, orbit.floor);
  const people = shownPeople(person).filter((p) => present(frame, p));
  const near = (p) => orbit.project(at("place", frame, p))[2];
  people.sort((a, b) => near(a) - near(b));
  for (const p of people) drawShadow(context, orbit, placed("joints", frame, p), palette);
  if (data.camera) drawCamera(context, orbit, palette);
  state.points = [];
  for (const p of people) state.points[p] = drawPerson(context, orbit, palette, frame, p,
    { reach, hover: p === state.hoverPerson || (person >= 0 && state.hoverPerson < 0) ? hover : -1 });
  if (PEOPLE > 1) for (const p of people) drawName(context, state.points[p],
    state.points[p][0][2] < 150 ? shortened(data.people[p], 7) : shortened(personName(p)), palette);
  const tools = document.querySelector(".tools");
  drawAxes(context, orbit, palette, people.length ? at("axes", frame, people[0]) : data.cameraAxes.flat(),
    [52, tools.offsetLeft < 120 ? tools.offsetTop - 56 : h - 56]);
  drawPicture(byId("picture"), palette, frame, person, state.closer, hover);
  if (arrays.deviation || arrays.truth) drawChart(byId("chart"), palette, frame, person);
  fillBars(frame, detailed(), hover);
  if (!byId("tip").hidden) {
    if (hover >= 0 && present(frame, state.hoverPerson)) describe(byId("tip"), hover, state.hoverPerson);
    else leave();
  }
  write();
}

/** The person of whom the joints are listed: the chosen one, or the first who is there. */
const detailed = () => (state.person >= 0 ? state.person : state.hoverPerson >= 0 ? state.hoverPerson
  : shownPeople(-1).find((p) => present(state.frame, p)) ?? -1);

function write() {
  const { frame } = state;
  const people = shownPeople(state.person);
  const [error, deviation] = ["error", "deviation"].map((name) => mean(people.map((p) => series[name][p][frame])));
  const figures = [];
  const add = (kind, value, text) => figures.push(element("div", { className: `figure ${kind}` },
    element("b", {}, millimetres(value), element("small", { textContent: "mm" })), element("span", { textContent: text })));
  const whole = (name) => millimetres(mean(people.flatMap((p) => [...series[name][p]])));
  if (arrays.truth) add("error", error, `error, mean ${write.error ??= whole("error")}`);
  if (arrays.deviation) add("deviation", deviation, `standard deviation, mean ${write.deviation ??= whole("deviation")}`);
  byId("figures").replaceChildren(...figures);
  byId("time").value = frame;
  byId("time").style.setProperty("--done", `${FRAMES > 1 ? (100 * frame) / (FRAMES - 1) : 0}%`);
  const name = data.frames ? data.frames[frame] : `frame ${frame}`;
  byId("clock").replaceChildren(name, element("span", { textContent: ` of ${FRAMES}` }),
    element("span", { className: "seconds", textContent: data.rateKnown ? `, ${(frame / data.rate).toFixed(2)} s` : "" }));
  byId("clock").title = name;
  const who = detailed();
  const unseen = who >= 0 && present(frame, who) ? data.joints.filter((_, j) => !isSeen(frame, who)[j]) : null;
  byId("missing").textContent = unseen === null ? (PEOPLE === 1 || state.person >= 0 ? "Nobody in this frame" : "")
    : unseen.length ? `Missing: ${unseen.join(", ")}` : data.size ? `${data.size[0]} × ${data.size[1]} pixels` : "Size of the picture unknown";
  byId("jointsKey").textContent = (PEOPLE > 1 && who >= 0 ? `${personName(who)}: ` : "") + (arrays.deviation ? "standard deviation" : "") + (arrays.deviation && arrays.truth ? " · " : "") + (arrays.truth ? "error, mm" : "");
  const play = byId("play");
  play.classList.toggle("playing", state.playing);
  play.setAttribute("aria-label", state.playing ? "Pause" : "Play");
  byId("turning").setAttribute("aria-pressed", state.turning);
  byId("closer").setAttribute("aria-pressed", state.closer);
}

const change = (values) => { Object.assign(state, values); state.dirty = true; };

function setFrame(frame) {
  change({ frame: Math.min(Math.max(Math.round(frame), 0), FRAMES - 1) });
}

function setPlaying(playing) {
  if (playing && state.frame === FRAMES - 1) setFrame(0);
  change({ playing: playing && FRAMES > 1 });
}

function setPerson(person) {
  write.error = write.deviation = undefined;
  change({ person, hover: -1, hoverPerson: -1 });
  for (const button of byId("people").children) button.setAttribute("aria-pressed", Number(button.dataset.person) === person);
  if (person >= 0 && !present(state.frame, person)) setFrame(Math.max(nearestPresent(state.frame, person), 0));
  fitView();
}

function setReach(reach) {
  change({ reach });
  for (const button of byId("reach").children) button.setAttribute("aria-pressed", Number(button.dataset.reach) === reach);
  explain(reach);
}

function setView(name) {
  [orbit.yaw, orbit.pitch] = VIEWS[name];
  orbit.distance = state.fit;
  orbit.pan = [0, 0, 0];
  change({ turning: false });
  leave();
}

let [before, owed] = [0, 0];
function tick(now) {
  const passed = Math.min((now - before) / 1000, 0.25);
  before = now;
  if (state.playing) {
    owed += passed * data.rate * state.speed;
    const steps = Math.floor(owed);
    owed -= steps;
    if (steps) change({ frame: (state.frame + steps) % FRAMES });
  }
  if (state.turning) { orbit.yaw += 0.35 * passed; state.dirty = true; }
  if (state.dirty) draw();
  requestAnimationFrame(tick);
}

/** Turning, moving and zooming with any number of pointers. */
const pointers = new Map();
canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, [event.clientX, event.clientY]);
  change({ turning: false });
});
canvas.addEventListener("pointermove", (event) => {
  const last = pointers.get(event.pointerId);
  if (!last) { if (event.pointerType === "mouse") hoverAt(event); return; }
  const here = [event.clientX, event.clientY];
  const [dx, dy] = [here[0] - last[0], here[1] - last[1]];
  if (pointers.size === 2) {
    const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
    const apart = (p) => Math.max(Math.hypot(p[0] - other[0], p[1] - other[1]), 1);
    zoom(apart(last) / apart(here));
    move(dx / 2, dy / 2);
  } else if (event.shiftKey || event.buttons & 6) move(dx, dy);
  else {
    orbit.yaw -= dx * 0.008;
    orbit.pitch = Math.min(Math.max(orbit.pitch + dy * 0.006, -0.25), 1.5);
  }
  pointers.set(event.pointerId, here);
  state.dirty = true;
});
for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => pointers.delete(event.pointerId));
canvas.addEventListener("pointerleave", leave);
canvas.addEventListener("contextmenu", (event) => event.preventDefault());
canvas.addEventListener("wheel", (event) => { event.preventDefault(); zoom(Math.exp(event.deltaY * (event.deltaMode ? 0.04 : 0.0014))); }, { passive: false });
canvas.addEventListener("dblclick", (event) => {
  const found = closest(event);
  if (PEOPLE > 1 && found.person >= 0) setPerson(state.person === found.person ? -1 : found.person);
  else fitView();
  state.dirty = true;
});

function leave() {
  byId("tip").hidden = true;
  change({ hover: -1, hoverPerson: -1 });
}

function zoom(factor) {
  orbit.distance = Math.min(Math.max(orbit.distance * factor, state.fit / 8), state.fit * 5);
  state.dirty = true;
}

function move(dx, dy) {
  const scale = orbit.distance / orbit.focal;
  orbit.pan = [0, 1, 2].map((a) => orbit.pan[a] + scale * (dy * orbit.up[a] - dx * orbit.right[a]));
}

function closest(event) {
  const frame = canvas.getBoundingClientRect();
  const [x, y] = [event.clientX - frame.left, event.clientY - frame.top];
  const best = { away: 18, joint: -1, person: -1, x, y };
  state.points.forEach((points, person) => points.forEach((point, joint) => {
    const away = Math.hypot(point[0] - x, point[1] - y);
    if (away < best.away) Object.assign(best, { away, joint, person });
  }));
  return best;
}

function hoverAt(event) {
  const { joint, person, x, y } = closest(event);
  const tip = byId("tip");
  tip.hidden = joint < 0;
  if (joint !== state.hover || person !== state.hoverPerson) change({ hover: joint, hoverPerson: person });
  if (joint < 0) return;
  describe(tip, joint, person);
  tip.style.left = `${Math.min(x + 16, canvas.clientWidth - tip.offsetWidth - 8)}px`;
  tip.style.top = `${Math.min(y + 14, canvas.clientHeight - tip.offsetHeight - 8)}px`;
}

function describe(tip, joint, person) {
  const axes = at("axes", state.frame, person);
  const point = at("joints", state.frame, person).subarray(3 * joint, 3 * joint + 3);
  const own = [0, 1, 2].map((i) => point[0] * axes[i] + point[1] * axes[3 + i] + point[2] * axes[6 + i]);
  const lines = [`x, y, z  ${own.map(millimetres).join(", ")} mm`];
  if (arrays.deviation) lines.push(`standard deviation  ${[...at("deviation", state.frame, person).subarray(3 * joint, 3 * joint + 3)].map(millimetres).join(", ")} mm`);
  if (arrays.truth) lines.push(`error  ${millimetres(errors(state.frame, person)[joint])} mm`);
  if (!isSeen(state.frame, person)[joint]) lines.push("missing in the 2D input");
  tip.replaceChildren(element("b", { textContent: data.joints[joint] }), `\n${lines.join("\n")}`);
}

const KEYS = { " ": () => setPlaying(!state.playing), ArrowLeft: (step) => setFrame(state.frame - step), ArrowRight: (step) => setFrame(state.frame + step),
  Home: () => setFrame(0), End: () => setFrame(FRAMES - 1), t: () => change({ turning: !state.turning }) };
addEventListener("keydown", (event) => {
  const act = KEYS[event.key];
  if (!act || event.target.tagName === "SELECT" || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === " " && event.target.tagName === "BUTTON") return;  // a button takes the key itself
  event.preventDefault();
  if (event.key.startsWith("Arrow")) change({ playing: false });
  act(event.shiftKey ? 10 : 1);
});

function scrub(event) {
  const frame = byId("chart").getBoundingClientRect();
  change({ playing: false });
  setFrame(((event.clientX - frame.left - 8) / Math.max(frame.width - 16, 1)) * (FRAMES - 1));
}
byId("chart").addEventListener("pointerdown", (event) => { byId("chart").setPointerCapture(event.pointerId); scrub(event); });
byId("chart").addEventListener("pointermove", (event) => { if (event.buttons) scrub(event); });
byId("time").max = FRAMES - 1;
byId("time").addEventListener("input", (event) => { change({ playing: false }); setFrame(Number(event.target.value)); });
byId("play").addEventListener("click", () => setPlaying(!state.playing));
for (const [id, step] of [["back", -1], ["next", 1]]) byId(id).addEventListener("click", () => { change({ playing: false }); setFrame(state.frame + step); });
byId("speed").addEventListener("change", (event) => change({ speed: Number(event.target.value) }));
byId("turning").addEventListener("click", () => change({ turning: !state.turning }));
for (const button of document.querySelectorAll("[data-view]")) button.addEventListener("click", () => setView(button.dataset.view));
for (const button of byId("reach").children) button.addEventListener("click", () => setReach(Number(button.dataset.reach)));
byId("closer").addEventListener("click", () => change({ closer: !state.closer }));
rows.forEach((row, j) => {
  row.item.addEventListener("pointerenter", () => change({ hover: j, hoverPerson: detailed() }));
  row.item.addEventListener("pointerleave", () => change({ hover: -1, hoverPerson: -1 }));
});

byId("title").textContent = data.title;
byId("subtitle").textContent = [data.input, counted(PEOPLE, "person", "people"), counted(FRAMES, "frame", "frames")
  + (FRAMES === 1 ? "" : data.rateKnown ? ` at ${+data.rate.toFixed(2)} per second` : `, played at ${data.rate} per second (the input has no rate)`),
  arrays.deviation ? "a standard deviation for every joint" : "no sigma, since this lifter predicts none"].filter(Boolean).join(" · ");
if (PEOPLE > 1) for (const p of [-1, ...shownPeople(-1)]) {
  const button = element("button", { textContent: p < 0 ? "All" : personName(p) });
  button.dataset.person = p;
  button.addEventListener("click", () => setPerson(p));
  byId("people").append(button);
}
byId("reach").hidden = !arrays.deviation;
document.querySelector(".chart").hidden = byId("keys").hidden = byId("joints").hidden = !arrays.deviation && !arrays.truth;
for (const [name, look] of [["deviation", ""], ["error", "line"]]) if (name === "deviation" ? arrays.deviation : arrays.truth) {
  const mark = element("i", { className: look });
  mark.style.background = `var(--${name})`;
  byId("keys").append(element("span", {}, mark, name === "error" ? name : "standard deviation"));
}
byId("transport").hidden = FRAMES === 1;

new ResizeObserver(() => { const zoomed = orbit.distance / state.fit; fitView(); orbit.distance = zoomed * state.fit; state.dirty = true; }).observe(canvas);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => change({ palette: readPalette() }));
setPerson(state.person);
setReach(state.reach);
setFrame(asked.has("frame") ? Number(asked.get("frame")) || 0 : 0);
setPlaying(!asked.has("frame") && !calm);
change({ turning: !asked.has("frame") && !calm });
window.viewer = { state, orbit, data, at };  // for whoever opens the console, and for tests
requestAnimationFrame(tick);
