// What the page holds: whole numbers in base64, as lifting/drawing/viewer.py packs them, become metres and pixels.
const data = JSON.parse(document.getElementById("data").textContent);
const [FRAMES, PEOPLE] = data.counts;
const JOINTS = data.joints.length;
const MISSING = -32768;

function unpacked({ shape, unit, data: text }) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  const values = new Float32Array(bytes.length / 2);
  for (let i = 0; i < values.length; i++) {
    const step = view.getInt16(2 * i, true);
    values[i] = step === MISSING ? NaN : step * unit;
  }
  return { shape, values };
}

const arrays = Object.fromEntries(Object.entries(data.arrays).map(([name, packed]) => [name, unpacked(packed)]));

/** The values of one array for a person in a frame, as a part of the array and not a copy. */
function at(name, frame, person) {
  const { shape, values } = arrays[name];
  const size = shape.slice(2).reduce((product, side) => product * side, 1);
  const [t, p] = [shape[0] === 1 ? 0 : frame, shape[1] === 1 ? 0 : person];
  return values.subarray((t * shape[1] + p) * size, (t * shape[1] + p + 1) * size);
}

const present = (frame, person) => Number.isFinite(at("joints", frame, person)[0]);

/** The standard deviation of each joint in metres: the root of the sum of its three variances. NaN without sigma. */
function jointDeviations(frame, person) {
  if (!arrays.deviation) return new Float32Array(JOINTS).fill(NaN);
  const deviation = at("deviation", frame, person);
  return Float32Array.from({ length: JOINTS }, (_, j) => Math.hypot(...deviation.subarray(3 * j, 3 * j + 3)));
}

/** The distance of each joint from the ground truth in metres, both relative to the pelvis. NaN where none is known. */
function errors(frame, person) {
  if (!arrays.truth) return new Float32Array(JOINTS).fill(NaN);
  const [joints, truth] = [at("joints", frame, person), at("truth", frame, person)];
  return Float32Array.from({ length: JOINTS }, (_, j) =>
    Math.hypot(joints[3 * j] - truth[3 * j], joints[3 * j + 1] - truth[3 * j + 1], joints[3 * j + 2] - truth[3 * j + 2]));
}

function mean(values) {
  let [sum, count] = [0, 0];
  for (const value of values) if (Number.isFinite(value)) { sum += value; count += 1; }
  return count ? sum / count : NaN;
}

/** Which share of the joints with ground truth lies in the ellipsoid of so many standard deviations; of all but the root. */
function shareInside(reach, people) {
  if (!arrays.truth || !arrays.deviation) return NaN;
  let [inside, count] = [0, 0];
  for (const p of people) for (let t = 0; t < FRAMES; t++) {
    const [joints, truth, deviation, axes] = ["joints", "truth", "deviation", "axes"].map((name) => at(name, t, p));
    for (let j = 1; j < JOINTS; j++) {
      let square = 0;
      for (let i = 0; i < 3; i++) {
        let along = 0;
        for (let a = 0; a < 3; a++) along += axes[3 * a + i] * (truth[3 * j + a] - joints[3 * j + a]);
        square += (along / deviation[3 * j + i]) ** 2;
      }
      if (Number.isFinite(square)) { count += 1; inside += square <= reach ** 2; }
    }
  }
  return count ? inside / count : NaN;
}

/** Means over the joints, for each frame of each person, in metres. */
const series = { deviation: [], error: [] };
for (let p = 0; p < PEOPLE; p++) {
  series.deviation.push(Float32Array.from({ length: FRAMES }, (_, t) => mean(jointDeviations(t, p))));
  series.error.push(Float32Array.from({ length: FRAMES }, (_, t) => mean(errors(t, p))));
}

/** Whether the 2D input shows each joint of a person. */
const isSeen = (frame, person) => {
  const points = at("points", frame, person);
  return Array.from({ length: JOINTS }, (_, j) => Number.isFinite(points[2 * j]));
};

/** Whether some joint of somebody is missing in the 2D input, so that there are rings to explain. */
function someMissing() {
  for (let t = 0; t < FRAMES; t++) for (let p = 0; p < PEOPLE; p++)
    if (present(t, p) && isSeen(t, p).includes(false)) return true;
  return false;
}
const hasMissing = someMissing();

const shownPeople = (chosen) => (chosen < 0 ? [...Array(PEOPLE).keys()] : [chosen]);
const personName = (p) => (/^\d+$/.test(data.people[p]) ? `Person ${data.people[p]}` : data.people[p]);
const shortened = (name, longest = 24) => (name.length > longest ? `${name.slice(0, longest - 1)}…` : name);
const counted = (count, one, many) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
const millimetres = (metres) => (Number.isFinite(metres) ? String(Math.round(1000 * metres)) : "–");
